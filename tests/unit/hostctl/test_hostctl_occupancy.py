# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host holds of guests: read from /proc, and added to readings of a busy pool."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.policy.model import (
    HOST,
    GuestRead,
    HostState,
    Occupancy,
    PoolRead,
    Tick,
)
from hostctl.pressure import occupancy
from hostctl.pressure.occupancy import MOST, Occupancies

MIB = 1 << 20
STATUS = b"Name:\tqemu\nVmPeak:\t 900 kB\nVmRSS:\t     512 kB\nRssAnon: 3 kB\nVmSwap:\t  64 kB\n"


def test_sizes_are_of_memory_and_of_swap() -> None:
    assert occupancy.parse(STATUS) == Occupancy(512 << 10, 64 << 10)


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"Name:\tkthreadd\nState:\tS\n",  # a kernel thread has no memory
        STATUS.replace(b"VmSwap", b"Other"),
        STATUS.replace(b"64 kB", b"64 MB"),
        STATUS.replace(b"64 kB", b"-64 kB"),
    ],
)
def test_what_is_not_told_is_not_known(status: bytes) -> None:
    assert occupancy.parse(status) is None


@given(st.binary() | st.binary().map(lambda tail: STATUS + tail))
def test_any_text_is_read_or_refused(status: bytes) -> None:
    found = occupancy.parse(status)
    assert found is None or (found.resident >= 0 and found.swapped >= 0)


def test_a_process_is_as_large_as_what_it_has_touched() -> None:
    before = occupancy.of_process(os.getpid())
    with mmap.mmap(-1, 64 * MIB) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
        after = occupancy.of_process(os.getpid())
    assert before is not None
    assert after is not None
    grown = after.resident + after.swapped - before.resident - before.swapped
    assert 56 * MIB < grown < 80 * MIB


def test_a_process_that_has_ended_is_not_known(tmp_path: Path) -> None:
    assert occupancy.of_process(1, proc=tmp_path) is None


def state_of(*names: str, pool: str = HOST, pid: int | None = 7) -> HostState:
    state = HostState()
    for name in names:
        read = GuestRead(
            0.0, name, 512 * MIB, 512 * MIB, 512 * MIB, 0, True, True, pool=pool, pid=pid
        )
        state = state.after(read)
    return state


def added(state: HostState, usage: int, swapped: int | None = None) -> dict[str, Occupancy]:
    readings = Occupancies(lambda: state, lambda pid: Occupancy(pid * MIB, MIB))
    event = readings.add(PoolRead(1.0, HOST, 1000, usage, swapped))
    assert isinstance(event, PoolRead)
    return dict(event.occupied)


def test_the_guests_of_a_busy_pool_are_looked_at() -> None:
    state = state_of("a", "b")
    assert added(state, 499) == {}
    assert added(state, 500) == {"a": Occupancy(7 * MIB, MIB), "b": Occupancy(7 * MIB, MIB)}
    assert list(added(state, 300, 200)) == ["a", "b"]


def test_guests_of_other_pools_and_hosts_are_not() -> None:
    assert added(state_of("a", pool="other"), 900) == {}
    assert added(state_of("a", pid=None), 900) == {}


def test_other_events_pass() -> None:
    assert Occupancies(HostState).add(Tick(1.0)) == Tick(1.0)


def test_many_guests_are_looked_at_in_turn() -> None:
    names = [f"g{number:03}" for number in range(MOST + 20)]
    state = state_of(*names)
    readings = Occupancies(lambda: state, lambda _: Occupancy(0, 0))
    seen: list[str] = []
    for turn in range(6):
        event = readings.add(PoolRead(2.0 * turn, HOST, 1000, 900))
        assert isinstance(event, PoolRead)
        assert len(event.occupied) == MOST
        seen += event.occupied
    assert seen == names * 5


def test_the_guest_whose_turn_it_is_may_be_gone() -> None:
    names = [f"g{number:03}" for number in range(MOST + 20)]
    state = state_of(*names)
    readings = Occupancies(lambda: state, lambda _: Occupancy(0, 0))
    readings.add(PoolRead(1.0, HOST, 1000, 900))
    state = state_of(*(name for name in names if name != names[MOST]))
    event = readings.add(PoolRead(3.0, HOST, 1000, 900))
    assert isinstance(event, PoolRead)
    assert list(event.occupied) == names[:MOST]


def test_guests_are_not_looked_at_as_often_as_pressure_has_their_pool_read() -> None:
    state = state_of("a")
    readings = Occupancies(lambda: state, lambda _: Occupancy(0, 0))
    found = [readings.add(PoolRead(5 + tenth / 10, HOST, 1000, 900)) for tenth in range(21)]
    looked = [isinstance(event, PoolRead) and bool(event.occupied) for event in found]
    assert [tenth for tenth, one in enumerate(looked) if one] == [0, 10, 20]
