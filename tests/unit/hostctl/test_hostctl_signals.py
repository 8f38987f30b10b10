# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure from statistics, and the engine that takes it in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hostctl.engine import Engine
from hostctl.guard import Limits
from hostctl.policy import POLICIES, Settings, signals
from hostctl.policy.model import (
    Decision,
    Event,
    GuestMessage,
    GuestRead,
    HostState,
    Level,
    Reason,
    Stats,
    StatsRead,
)

MIB = 1 << 20
RAM = 1024 * MIB
OLD = Stats(
    0.0,
    total=RAM,
    available=RAM // 2,
    swap_in=0,
    major_faults=10,
    oom_kills=0,
    stalls=0,
    scanned=1000,
    reclaimed=900,
)
COUNT = st.one_of(st.none(), st.integers(0, 1 << 64))
STATS = st.builds(Stats, st.floats(0, 1e9), *[COUNT] * 11)


def after(**changes: int | None) -> Stats:
    return replace(OLD, time=10.0, **changes)  # type: ignore[arg-type]


def test_levels_as_vmpressure_has_them() -> None:
    for scanned, reclaimed, level in (
        (511, 0, None),
        (512, 512, Level.LOW),
        (1000, 401, Level.LOW),
        (1000, 400, Level.MEDIUM),
        (1000, 51, Level.MEDIUM),
        (1000, 50, Level.CRITICAL),
        (1000, 2000, Level.LOW),
    ):
        new = after(scanned=1000 + scanned, reclaimed=900 + reclaimed)
        assert signals.level(OLD, new) is level, (scanned, reclaimed)


def test_a_task_that_waited_for_memory_is_low_at_least() -> None:
    assert signals.level(OLD, after(stalls=1)) is Level.LOW
    assert signals.level(OLD, after()) is None


def test_the_oom_killer_is_critical() -> None:
    assert signals.level(OLD, after(oom_kills=1)) is Level.CRITICAL


def test_older_guests_by_what_a_shortage_leaves() -> None:
    old = replace(OLD, scanned=None, reclaimed=None)
    new = replace(old, time=10.0)
    assert signals.level(old, new) is None
    assert signals.level(old, replace(new, swap_in=signals.SWAP_IN)) is Level.MEDIUM
    assert signals.level(old, replace(new, swap_in=signals.SWAP_IN - 1)) is None
    assert signals.level(old, replace(new, major_faults=10 + signals.FAULTS)) is Level.LOW
    assert signals.level(old, replace(new, available=RAM // 21)) is Level.LOW
    assert signals.level(old, replace(new, available=RAM // 19)) is None


def test_statistics_of_one_moment_say_nothing() -> None:
    assert signals.level(OLD, replace(OLD, oom_kills=1)) is None


@given(STATS, STATS)
def test_any_statistics_have_a_level_or_none(old: Stats, new: Stats) -> None:
    found = signals.level(old, new)
    assert found is None or found in Level
    assert found is None or new.time > old.time


@given(STATS, STATS)
def test_counters_that_went_back_are_no_pressure(old: Stats, new: Stats) -> None:
    counters = ("swap_in", "major_faults", "oom_kills", "stalls", "scanned", "reclaimed")
    back = {name: 0 for name in counters}
    booted = replace(new, time=old.time + 1, available=None, **back)
    assert signals.level(old, booted) is None


def engine(*, tells: bool) -> Engine:
    found = Engine(POLICIES["classic"](Settings()), Limits())
    found.take(GuestRead(0.0, "a", RAM, RAM // 2, RAM // 2, 0, True, True, tells=tells))
    found.take(StatsRead(0.0, "a", OLD))
    return found


def test_the_engine_relieves_a_guest_that_cannot_tell() -> None:
    for level, told in (
        (Level.LOW, after(scanned=4000, reclaimed=3800)),
        (Level.MEDIUM, after(scanned=4000, reclaimed=1200)),
        (Level.CRITICAL, after(oom_kills=1)),
    ):
        short = StatsRead(10.5, "a", told)
        host = engine(tells=False)
        (verdict,) = host.take(short)
        assert isinstance(verdict, Decision) and verdict.reason is Reason.GUEST_PRESSURE, level
        guest = host.state.guests["a"]
        assert (guest.last_message, guest.level) == (10.5, level)
        assert engine(tells=True).take(short) == []


def test_a_guest_that_cannot_tell_says_each_level_up_to_its_own() -> None:
    said = []

    class Listener:
        def decide(self, state: HostState, event: Event) -> list[Decision]:
            if isinstance(event, GuestMessage):
                said.append((event.level, event.actual))
            return []

        def closely(self, now: float) -> Collection[str]:
            return ()

    host = engine(tells=False)
    host.change(Listener(), Limits())
    host.take(StatsRead(10.5, "a", after(oom_kills=1)))
    assert said == [(level, RAM // 2) for level in Level]


def test_statistics_that_come_often_are_compared_over_a_time() -> None:
    """Reclaim of 300 pages in 2 s is pressure within 4 s, and that is told once."""
    host = engine(tells=False)
    said = []
    for second in range(0, 22, 2):
        pages = min(second, 8) * 150
        before = host.state.guests["a"].last_message
        told = replace(after(scanned=pages, reclaimed=pages), time=1000.0 + second)
        host.take(StatsRead(1000.0 + second, "a", told))
        if host.state.guests["a"].last_message != before:
            said.append(second)
    assert said == [4, 8]


def test_a_guest_that_has_had_our_driver_is_not_held_to_what_was_before() -> None:
    host = engine(tells=False)
    read = GuestRead(1.0, "a", RAM, RAM // 2, RAM // 2, 0, True, True)
    host.take(read)
    pages = after(scanned=9000, reclaimed=0)
    host.take(StatsRead(50.0, "a", replace(pages, time=50.0)))
    host.take(replace(read, time=60.0, tells=False))
    assert host.take(StatsRead(70.0, "a", replace(pages, time=70.0))) == []
    assert host.state.guests["a"].last_message is None
    more = after(scanned=18000, reclaimed=0)
    host.take(StatsRead(90.0, "a", replace(more, time=90.0)))
    assert host.state.guests["a"].last_message == 90.0


def test_its_last_statistics_with_our_driver_are_what_the_first_without_are_compared_with() -> None:
    host = engine(tells=False)
    read = GuestRead(1.0, "a", RAM, RAM // 2, RAM // 2, 0, True, True)
    host.take(read)
    host.take(StatsRead(50.0, "a", replace(after(scanned=0, reclaimed=0), time=50.0)))
    host.take(replace(read, time=60.0, tells=False))
    host.take(StatsRead(70.0, "a", replace(after(scanned=9000, reclaimed=0), time=70.0)))
    assert host.state.guests["a"].last_message == 70.0


def test_little_memory_available_is_told_in_its_interval() -> None:
    host = engine(tells=False)
    said = []
    low = replace(OLD, scanned=None, reclaimed=None, available=RAM // 50)
    for second in range(0, 32, 2):
        before = host.state.guests["a"].last_message
        host.take(StatsRead(100.0 + second, "a", replace(low, time=100.0 + second)))
        if host.state.guests["a"].last_message != before:
            said.append(second)
    assert said == [0, 10, 20, 30]
