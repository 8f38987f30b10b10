# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host holds of each guest: its QEMU's pages in memory and in swap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from pathlib import Path

from hostctl.policy.model import Event, GuestState, HostState, Occupancy, PoolRead
from hostctl.pressure.cgroups import PROC

MOST = 100
"""Guests that are read with one reading of their pool, in turn: each costs some 50 us."""
BUSY = 0.5
"""Share of the limit in use, swap with it, below which nobody needs to know: transfer takes
nothing there (its reach_room)."""
GAP = 1.0
"""Seconds between two looks at a pool's guests: pressure has the pool read ten times as often."""
KIB = 1 << 10


def of_process(pid: int, proc: Path = PROC) -> Occupancy | None:
    """What the host holds of a process; None: it has ended, or the kernel does not tell.

    Huge pages of hugetlbfs are in neither: they do not swap, and a balloon frees none.
    """
    try:
        return parse((proc / str(pid) / "status").read_bytes())
    except OSError:
        return None


def parse(status: bytes) -> Occupancy | None:
    """VmRSS and VmSwap of /proc/PID/status (proc_pid_status(5)), in bytes; None: not there."""
    found: dict[bytes, int] = {}
    for line in status.splitlines():
        key, _, value = line.partition(b":")
        if key in (b"VmRSS", b"VmSwap"):
            number, _, unit = value.strip().partition(b" ")
            if not number.isdigit() or unit != b"kB":
                return None
            found[key] = int(number) * KIB
    if len(found) < 2:
        return None
    return Occupancy(found[b"VmRSS"], found[b"VmSwap"])


class Occupancies:
    """Adds to a pool's readings what the host holds of its guests."""

    def __init__(
        self, state: Callable[[], HostState], read: Callable[[int], Occupancy | None] = of_process
    ) -> None:
        self._state = state
        self._read = read
        self._next: dict[str, str] = {}
        """Of a pool, the guest that is read next; the first one when it is gone."""
        self._read_at: dict[str, float] = {}

    def add(self, event: Event) -> Event:
        """The event, and if it is a busy pool's reading with its guests' occupancy."""
        if not isinstance(event, PoolRead):
            return event
        if event.usage + (event.swapped or 0) < BUSY * event.limit:
            return event
        if event.time - self._read_at.get(event.pool, -inf) < GAP:
            return event
        self._read_at[event.pool] = event.time
        found = {}
        for guest in self._turn(event.pool, self._state().of_pool(event.pool)):
            if guest.pid is not None and (held := self._read(guest.pid)) is not None:
                found[guest.name] = held
        return replace(event, occupied=found)

    def _turn(self, pool: str, guests: list[GuestState]) -> Iterable[GuestState]:
        """Those whose turn it is."""
        if len(guests) <= MOST:
            return guests
        names = [guest.name for guest in guests]
        wanted = self._next.get(pool)
        begin = names.index(wanted) if wanted in names else 0
        turn = [*guests, *guests][begin : begin + MOST]
        self._next[pool] = names[(begin + MOST) % len(names)]
        return turn
