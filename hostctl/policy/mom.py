# SPDX-License-Identifier: GPL-2.0-or-later
"""oVirt's Memory Overcommitment Manager, for comparison: the rule of its `doc/balloon.rules`.

Read in https://github.com/oVirt/mom (doc/balloon.rules, doc/mom-balloon.conf) and told here in
own words. Every 10 s, if less than 20 % of the host is free, each guest shrinks by 5 % at most
towards what it uses and a free share on top: 20 % of its size, scaled down as the host's free
share falls from 20 %, and at 5 % or less that share less 5 %, which makes the guest swap.
Otherwise each guest with a balloon grows by 5 %, or to what it uses and 20 % at once. Changes of
0.25 % of the guest's size or less are left out. Averages are over the last samples; a guest that
tells no free memory is left alone, as MOM has no data on it then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import inf
from statistics import fmean

from hostctl.policy.model import (
    Decision,
    Event,
    GuestLost,
    GuestState,
    HostState,
    PoolRead,
    PoolState,
    Reason,
    StatsRead,
    Tick,
)

INTERVAL = 10.0
"""Seconds: policy-engine-interval."""
SAMPLES = 10
"""sample-history-length; MOM takes one every 5 s, here they come with readings."""
PRESSURE = 0.20
"""Free share of the host: pressure_threshold."""
CRITICAL = 0.05
"""pressure_critical."""
GUEST_FREE = 0.20
"""min_guest_free_percent."""
CHANGE_MOST = 0.05
"""max_balloon_change_percent."""
CHANGE_LEAST = 0.0025
"""min_balloon_change_percent."""


class Mom:
    """The policy `mom`. A pool is its host."""

    def __init__(self) -> None:
        self._next = -inf
        self._used: dict[str, deque[int]] = {}
        self._free: dict[str, deque[int]] = {}

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """What `event` calls for; `state` is the host after the event."""
        match event:
            case StatsRead() if event.stats.free is not None and event.guest in state.guests:
                used = max(state.guests[event.guest].actual - event.stats.free, 0)
                self._used.setdefault(event.guest, deque(maxlen=SAMPLES)).append(used)
            case PoolRead():
                free = max(event.limit - event.usage, 0)
                self._free.setdefault(event.pool, deque(maxlen=SAMPLES)).append(free)
            case GuestLost():
                self._used.pop(event.guest, None)
            case Tick() if event.time >= self._next:
                self._next = event.time + INTERVAL
                return [one for p in state.pools.values() for one in self._run(state, p)]
        return []

    def closely(self, now: float) -> Collection[str]:
        """Nobody: it goes by its interval."""
        return ()

    def _run(self, state: HostState, pool: PoolState) -> list[Decision]:
        if pool.name not in self._free:
            return []
        free = fmean(self._free[pool.name]) / max(pool.limit, 1)
        found = []
        for guest in state.of_pool(pool.name):
            if not guest.balloon or guest.name not in self._used:
                continue
            size = self._size(guest, free)
            if abs(size - guest.actual) > CHANGE_LEAST * guest.actual and size != guest.target:
                why = f"{free:.0%} of the pool free"
                found.append(Decision(guest.name, guest.target, size, Reason.RULE, why))
        return found

    def _size(self, guest: GuestState, free: float) -> int:
        """The size that the rule gives the guest; its present one for no change."""
        used, now = fmean(self._used[guest.name]), guest.actual
        if free >= PRESSURE:
            wanted = max(guest.floor, used + GUEST_FREE * now)
            return int(min(max(now * (1 + CHANGE_MOST), wanted), guest.ceiling))
        share = free - 0.05 if free <= CRITICAL else GUEST_FREE * free / PRESSURE
        size = max(now * (1 - CHANGE_MOST), guest.floor, used + share * now)
        return int(min(size, now))
