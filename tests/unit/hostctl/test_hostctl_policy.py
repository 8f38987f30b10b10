# SPDX-License-Identifier: GPL-2.0-or-later
"""The classic policy and the guard: examples from the seed, and properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl import guard
from hostctl.policy import POLICIES, Settings
from hostctl.policy.classic import Classic
from hostctl.policy.model import (
    HOST,
    PAGE,
    Decision,
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    GuestState,
    HostPressure,
    HostState,
    Level,
    Reason,
    Stats,
    TargetSent,
)

MIB = 1 << 20
RAM = 1024 * MIB


def guest(
    target: int = RAM,
    actual: int | None = None,
    *,
    last: float | None = None,
    floor: int = 128 * MIB,
    balloon: bool = True,
    fresh: bool = True,
) -> GuestState:
    return GuestState(
        "a", RAM, target if actual is None else actual, target, floor, balloon, fresh, last,
        stats=Stats(0.0),
    )


def decide(state: GuestState, event: Event) -> list[Decision]:
    return Classic().decide(HostState({"a": state}), event)


def pressure(time: float) -> HostPressure:
    return HostPressure(time, Level.LOW, "test")


def message(time: float, level: Level = Level.LOW) -> GuestMessage:
    return GuestMessage(time, "a", level, RAM)


def test_defaults_are_the_seeds() -> None:
    assert Classic() == Classic(step=32 * MIB, hysteresis=60.0)
    assert POLICIES["classic"](Settings(4096, 1.0)) == Classic(4096, 1.0)


def test_host_pressure_inflates_by_a_step() -> None:
    assert decide(guest(), pressure(0)) == [
        Decision("a", RAM, RAM - 32 * MIB, Reason.HOST_PRESSURE)
    ]


def test_ten_host_events_in_a_row_make_ten_steps() -> None:
    state = HostState({"a": guest()})
    for now in range(10):
        for decision in Classic().decide(state, pressure(now)):
            state = state.after(TargetSent(now, "a", decision.new_target))
    assert state.guests["a"].target == RAM - 320 * MIB


def test_hysteresis_ends_after_60_s_and_not_at_60_s() -> None:
    assert decide(guest(last=10.0), pressure(70.0)) == []
    assert len(decide(guest(last=10.0), pressure(70.1))) == 1


def test_inflation_stops_at_the_floor() -> None:
    near = guest(130 * MIB)
    assert decide(near, pressure(0))[0].new_target == 128 * MIB
    assert decide(guest(128 * MIB), pressure(0)) == []
    assert decide(guest(100 * MIB), pressure(0)) == []


def test_message_cancels_an_inflation_under_way() -> None:
    inflating = guest(600 * MIB, 700 * MIB)
    assert decide(inflating, message(1)) == [Decision("a", 600 * MIB, 700 * MIB, Reason.CANCEL)]


def test_message_deflates_by_a_step_and_not_above_ram() -> None:
    assert decide(guest(600 * MIB), message(1)) == [
        Decision("a", 600 * MIB, 632 * MIB, Reason.GUEST_PRESSURE)
    ]
    assert decide(guest(RAM - MIB), message(1))[0].new_target == RAM
    assert decide(guest(), message(1)) == []


def test_only_the_seeds_message_acts() -> None:
    assert decide(guest(600 * MIB), message(1, Level.MEDIUM)) == []
    assert decide(guest(600 * MIB), message(1, Level.CRITICAL)) == []


def test_every_guest_gets_the_rule_on_host_pressure() -> None:
    other = GuestState("b", RAM, RAM, RAM, 128 * MIB)
    found = Classic().decide(HostState({"a": guest(), "b": other}), pressure(0))
    assert [d.guest for d in found] == ["a", "b"]


def test_a_pools_pressure_is_no_other_pools_guests_business() -> None:
    guests = {"a": guest(), "b": replace(guest(), name="b", pool="qemu+ssh://far/system")}
    for pool, name in ((HOST, "a"), ("qemu+ssh://far/system", "b"), ("none", None)):
        event = HostPressure(0.0, Level.LOW, "test", pool)
        found = Classic().decide(HostState(guests), event)
        assert [one.guest for one in found] == ([name] if name else []), pool


def test_guest_without_balloon_is_left_alone() -> None:
    assert decide(guest(balloon=False), pressure(0)) == []
    assert decide(guest(600 * MIB, balloon=False), message(0)) == []


def test_message_of_an_unknown_guest_is_nothing() -> None:
    assert Classic().decide(HostState(), message(0)) == []
    assert HostState().after(message(0)) == HostState()


def test_message_is_remembered_over_a_reading_and_forgotten_with_the_guest() -> None:
    state = HostState({"a": guest()}).after(message(5.0))
    read = GuestRead(6.0, "a", RAM, RAM, RAM, 0, True, True)
    assert state.after(read).guests["a"].last_message == 5.0
    lost = state.after(GuestLost(7.0, "a", "killed"))
    assert lost == HostState()
    assert lost.after(read).guests["a"].last_message is None


def check(state: GuestState | None, new: int) -> Decision | guard.Refusal:
    old = state.target if state else 0
    decision = Decision("a", old, new, Reason.HOST_PRESSURE)
    return guard.Guard(guard.Limits(step_share=1)).check(state, decision, 0.0)


def test_guard_refuses() -> None:
    for state, new in (
        (None, 600 * MIB),
        (guest(balloon=False), 600 * MIB),
        (guest(fresh=False), 600 * MIB),
        (replace(guest(), stats=None), 600 * MIB),
        (replace(guest(), stats=Stats(-31.0)), 600 * MIB),
        (replace(guest(), held="set by hand"), 600 * MIB),
        (replace(guest(600 * MIB), held="set by hand"), RAM),
        (replace(guest(600 * MIB), most=600 * MIB), RAM),
        (replace(guest(600 * MIB), most=500 * MIB), RAM),
        (guest(128 * MIB), 64 * MIB),
        (guest(64 * MIB, floor=128 * MIB), 32 * MIB),
        (guest(), RAM),
        (guest(), 2 * RAM),
    ):
        assert isinstance(check(state, new), guard.Refusal), (state, new)


def test_guard_lets_a_stale_guest_have_memory_back() -> None:
    verdict = check(guest(600 * MIB, fresh=False), 632 * MIB)
    assert isinstance(verdict, Decision) and verdict.new_target == 632 * MIB


def take(keeper: guard.Guard, target: int, new: int, now: float) -> int:
    """What the guard lets the target become; what it is when it refuses."""
    state = replace(guest(target), stats=Stats(now))
    verdict = keeper.check(state, Decision("a", target, new, Reason.HOST_PRESSURE), now)
    return verdict.new_target if isinstance(verdict, Decision) else target


def test_guard_takes_a_step_at_once_and_the_rest_at_the_rate() -> None:
    keeper = guard.Guard(guard.Limits(step_share=0.25, rate_share=0.125))
    assert take(keeper, RAM, 0, 0.0) == RAM * 3 // 4
    assert take(keeper, RAM * 3 // 4, 0, 0.0) == RAM * 3 // 4
    assert take(keeper, RAM * 3 // 4, 0, 1.0) == RAM * 5 // 8
    assert take(keeper, RAM, 0, 100.0) == RAM * 3 // 4


@pytest.mark.parametrize("share", [0.25, 0.01])
def test_guard_does_not_take_a_few_pages_of_what_would_be_more(share: float) -> None:
    keeper = guard.Guard(guard.Limits(step_share=share, rate_share=share))
    target = take(keeper, RAM, 0, 0.0)
    assert RAM - target >= share * RAM - PAGE
    assert take(keeper, target, 0, 0.001) == target
    assert take(keeper, target, target - PAGE, 0.001) == target - PAGE  # all that is wanted
    assert take(keeper, target, 0, 1.0) < target


def test_guard_gives_back_as_much_as_asked_for_at_once() -> None:
    keeper = guard.Guard()
    take(keeper, RAM, 0, 0.0)
    assert take(keeper, 128 * MIB, RAM, 0.0) == RAM


def test_guard_forgets_a_guest_that_is_gone() -> None:
    keeper = guard.Guard()
    take(keeper, RAM, 0, 0.0)
    keeper.forget("a")
    assert take(keeper, RAM, 0, 0.0) == RAM * 3 // 4


def test_an_operator_may_set_a_guest_that_is_held() -> None:
    decision = Decision("a", 600 * MIB, RAM, Reason.OPERATOR)
    assert guard.Guard().check(replace(guest(600 * MIB), held="x"), decision, 0.0) == decision


def test_guard_rounds_in_the_guests_favour() -> None:
    verdict = check(guest(), 600 * MIB + 1)
    assert isinstance(verdict, Decision) and verdict.new_target == 600 * MIB + PAGE


def test_default_floor() -> None:
    assert guard.floor_of(8 << 30, None) == 2 << 30
    assert guard.floor_of(256 * MIB, None) == 128 * MIB
    assert guard.floor_of(64 * MIB, None) == 64 * MIB
    assert guard.floor_of(RAM, 0) == 0
    assert guard.floor_of(RAM, 5) == PAGE
    assert guard.floor_of(RAM, 2 * RAM) == RAM


# Sizes beyond RAM and off page borders as well: the guest and its QEMU are not trusted.
SIZES = st.one_of(
    st.integers(0, 2 * RAM), st.integers(0, RAM // PAGE).map(lambda pages: pages * PAGE)
)
RAMS = st.integers(1, 1 << 42).map(lambda pages: pages * PAGE)
TIMES = st.floats(0, 1e6)
LEVELS = st.sampled_from(list(Level))


@given(
    st.builds(
        GuestState,
        name=st.just("a"),
        ram=RAMS,
        actual=SIZES,
        target=SIZES,
        floor=SIZES,
        balloon=st.booleans(),
        fresh=st.booleans(),
    ),
    st.integers(-(1 << 64), 1 << 64),
)
def test_guard_holds_for_any_state_and_any_decision(state: GuestState, new: int) -> None:
    verdict = check(state, new)
    if isinstance(verdict, guard.Refusal):
        return
    assert state.balloon
    assert verdict.new_target % PAGE == 0
    assert min(state.floor, state.ram) <= verdict.new_target <= state.ram
    assert state.fresh or verdict.new_target >= min(state.target, state.ram)


EVENTS = st.one_of(
    st.builds(HostPressure, st.just(0.0), LEVELS, st.just("test")),
    st.builds(GuestMessage, st.just(0.0), st.just("a"), LEVELS, SIZES),
    st.builds(GuestActual, st.just(0.0), st.just("a"), SIZES),
    st.builds(GuestSilent, st.just(0.0), st.just("a")),
    st.builds(
        GuestRead,
        st.just(0.0),
        st.just("a"),
        st.just(RAM),
        st.integers(0, RAM // PAGE).map(lambda pages: pages * PAGE),
        st.integers(0, RAM // PAGE).map(lambda pages: pages * PAGE),
        st.just(96 * MIB),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(GuestLost, st.just(0.0), st.just("a"), st.just("gone")),
)


@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=40),
    st.integers(1, 1 << 16).map(lambda pages: pages * PAGE),
    st.floats(0, 120),
)
def test_any_sequence_of_events_keeps_the_rules(
    steps: list[tuple[Event, float]], step: int, hysteresis: float
) -> None:
    policy = Classic(step, hysteresis)
    state = HostState({"a": guest(floor=96 * MIB)})
    now, last = 0.0, None
    for event, pause in steps:
        now += pause
        event = type(event)(now, *[getattr(event, f) for f in list(event.__slots__)[1:]])
        state = state.after(event)
        if isinstance(event, GuestLost):
            last = None
        if isinstance(event, GuestMessage) and "a" in state.guests:
            last = now
        for decision in policy.decide(state, event):
            known = state.guests["a"]
            assert decision.old_target == known.target
            inflates = decision.new_target < known.target
            if inflates:
                assert isinstance(event, HostPressure)
                assert decision.reason is Reason.HOST_PRESSURE
                assert known.target - decision.new_target <= step
                assert last is None or now - last > hysteresis
                assert decision.new_target >= 96 * MIB
            else:
                assert isinstance(event, GuestMessage) and event.level is Level.LOW
            if decision.reason is Reason.CANCEL:
                assert known.target < known.actual and decision.new_target == known.actual
            assert decision.new_target <= RAM
            verdict = guard.Guard().check(known, decision, now)
            if isinstance(verdict, Decision):
                assert not inflates or known.fresh
                assert 96 * MIB <= verdict.new_target <= RAM
                assert verdict.new_target % PAGE == 0
                state = state.after(TargetSent(now, "a", verdict.new_target))
