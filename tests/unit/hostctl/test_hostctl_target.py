# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose a target is, and how old statistics are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostctl.guests.freshness import Freshness
from hostctl.guests.target import Guessed, Told
from hostctl.guests.wire import LINE_UNIT, LINES_BURST, LINES_RATE, Budget

MIB = 1 << 20
RAM = 512 * MIB
SIZES = st.integers(0, RAM // MIB).map(lambda n: n * MIB)


def test_what_qemu_has_at_first_is_taken() -> None:
    told = Told()
    assert not told.foreign(RAM, RAM, 300 * MIB)
    assert told.take(RAM, RAM, 300 * MIB) == 300 * MIB
    assert not told.foreign(RAM, RAM, 300 * MIB)
    assert told.foreign(RAM, RAM, 299 * MIB)


def test_a_command_without_an_answer_may_have_been_carried_out_or_not() -> None:
    for found in (RAM, 400 * MIB):
        told = Told()
        told.take(RAM, RAM, RAM)
        told.sending(400 * MIB)
        assert not told.foreign(RAM, RAM, found)
        assert told.foreign(RAM, RAM, 401 * MIB)
        told.take(RAM, RAM, found)
        # Commands are carried out in order: it cannot come later than this reading.
        assert told.foreign(RAM, RAM, RAM + 400 * MIB - found)


def test_memory_that_is_plugged_in_is_nobodys_doing() -> None:
    told = Told()
    told.take(RAM, RAM, 400 * MIB)
    assert not told.foreign(RAM + 64 * MIB, RAM, 464 * MIB)
    assert told.foreign(RAM + 64 * MIB, RAM, 400 * MIB)


def test_an_event_away_from_the_target_is_suspect() -> None:
    told = Told()
    told.take(RAM, RAM, 400 * MIB)
    assert not told.suspect(450 * MIB)
    assert not told.suspect(400 * MIB)
    assert told.suspect(399 * MIB)
    assert told.suspect(380 * MIB)
    assert not told.suspect(390 * MIB)


@given(st.lists(st.tuples(st.booleans(), SIZES, st.booleans()), max_size=12))
def test_told_finds_each_foreign_target_and_no_other(
    steps: list[tuple[bool, int, bool]],
) -> None:
    told = Told()
    truth = told.take(RAM, RAM, RAM)
    for ours, target, answered in steps:
        if ours:
            told.sending(target)
            if answered:
                told.sent(target)
            truth = target
            assert not told.foreign(RAM, RAM, truth)
        else:
            assert told.foreign(RAM, RAM, target) or target == truth or not answered
            truth = target
        assert told.take(RAM, RAM, truth) == truth


@given(st.integers(0, RAM // MIB), st.lists(SIZES, min_size=1, max_size=8), st.data())
def test_guessed_never_accuses_a_guest_that_follows(
    start: int, targets: list[int], data: st.DataObject
) -> None:
    """A guest that moves towards our targets alone, at any pace, is ours."""
    guessed, actual = Guessed(), start * MIB
    guessed.take(RAM, actual, None)
    earlier = actual
    for target in targets:
        guessed.sending(target)
        guessed.sent(target)
        # The step under way when the target changed is finished by the old one.
        low, high = sorted((actual, earlier))
        actual = data.draw(st.integers(low, high))
        for _ in range(data.draw(st.integers(0, 4))):
            assert not guessed.foreign(RAM, actual, None)
            assert guessed.take(RAM, actual, None) == target
            low, high = sorted((actual, target))
            actual = data.draw(st.integers(low, high))
        earlier = target


def test_guessed_sees_a_guest_that_shrinks_below_what_we_asked() -> None:
    guessed = Guessed()
    assert guessed.take(RAM, RAM, None) == RAM
    assert not guessed.foreign(RAM, RAM - MIB, None)  # an inflation from before may be under way
    assert guessed.take(RAM, RAM, None) == RAM
    assert guessed.suspect(RAM - MIB)
    guessed.sending(400 * MIB)
    assert guessed.take(RAM, 450 * MIB, None) == 400 * MIB
    assert not guessed.foreign(RAM, 400 * MIB, None)
    assert guessed.foreign(RAM, 399 * MIB, None)
    # What was found is the truth; where it is going is not known, and it is not told again.
    assert guessed.take(RAM, 399 * MIB, None) == 399 * MIB
    assert not guessed.foreign(RAM, 300 * MIB, None)
    assert guessed.take(RAM, 300 * MIB, None) == 300 * MIB


def test_statistics_are_dated_by_the_clocks() -> None:
    fresh = Freshness()
    assert fresh.read(0, 10.0, 1000.5) is None  # never
    assert fresh.read(1003, 15.0, 1005.0) == 13.0
    assert fresh.read(1003, 20.0, 1010.0) is None  # the driver has not answered since
    assert fresh.read(1012, 25.0, 1015.0) == 22.0


def test_clocks_that_were_set() -> None:
    fresh = Freshness()
    assert fresh.read(5000, 10.0, 1000.0) is None  # from the future: set back, and how long ago?
    assert fresh.read(1001, 15.0, 1003.0) == 13.0
    assert fresh.read(900, 20.0, 904.0) == 16.0  # set back between two readings
    assert fresh.read(905, 25.0, 9909.0) == 20.0  # set forward: at least since the last reading


def test_the_clock_of_another_host_says_nothing() -> None:
    fresh = Freshness()
    assert fresh.read(77, 10.0, None) is None
    assert fresh.read(77, 15.0, None) is None
    assert fresh.read(82, 20.0, None) == 15.0


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.floats(0, 100), st.none() | st.floats(-60, 60)),
        max_size=20,
    )
)
def test_statistics_are_never_from_the_future_nor_twice(
    readings: list[tuple[int, float, float | None]],
) -> None:
    fresh, now, last = Freshness(), 100.0, None
    for date, passed, wall in readings:
        before, now = now, now + passed
        when = fresh.read(date, now, wall)
        if when is not None:
            assert when <= now and date not in (0, last)
            assert last is None or when >= before
        if date:
            last = date


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1 << 17)), max_size=200))
def test_a_budget_is_kept_by_who_waits_for_it(lines: list[tuple[float, int]]) -> None:
    now = 0.0
    budget = Budget(lambda: now)
    cost = 0.0
    for pause, size in lines:
        now += pause
        cost += 1 + size / LINE_UNIT
        now += budget.charge(size)
        assert cost <= LINES_BURST + now * LINES_RATE + 1e-3
