# SPDX-License-Identifier: GPL-2.0-or-later
"""Proxmox VE's automatic memory, for comparison: what pvestatd does every 10 s.

Read in https://github.com/proxmox/pve-manager (PVE/AutoBalloon.pm, PVE/Service/pvestatd.pm) and
told here in own words. The goal is a host with 80 % in use; the difference, if it is more than
10 MiB, is shared among guests by their shares: each is to have its minimum and its part of what
all have above their minima. To grow, guests that are short come first, to shrink those that are
not (more than a quarter of the minimum free); all of them, if the first could not move at all.
Nobody moves by more than 100 MiB a time. Shares are all equal here (Proxmox's default of 1000).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf

from hostctl.policy.model import (
    Decision,
    Event,
    GuestState,
    HostState,
    PoolState,
    Reason,
    Tick,
)

INTERVAL = 10.0
"""Seconds."""
GOAL = 0.8
"""Share of the host that is to be in use."""
CHANGE_MOST = 100 << 20
"""Bytes a guest and time."""
DEAD_BAND = 10 << 20
"""Bytes off the goal that are left alone."""
ENOUGH = 0.25
"""A guest with more free than this share of its minimum is not short."""


class Proxmox:
    """The policy `proxmox`. A pool is its host, and a guest's floor its minimum."""

    def __init__(self) -> None:
        self._next = -inf

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """What `event` calls for; `state` is the host after the event."""
        if not isinstance(event, Tick) or event.time < self._next:
            return []
        self._next = event.time + INTERVAL
        return [one for pool in state.pools.values() for one in _run(state, pool)]

    def closely(self, now: float) -> Collection[str]:
        """Nobody: it goes by its interval."""
        return ()


def _run(state: HostState, pool: PoolState) -> list[Decision]:
    need = int(GOAL * pool.limit) - pool.usage
    if abs(need) <= DEAD_BAND:
        return []
    guests = [guest for guest in state.of_pool(pool.name) if guest.balloon]
    first = [guest for guest in guests if _short(guest) == (need > 0)]
    sizes: dict[str, int] = {}
    if _share(sizes, first, need) == need:
        _share(sizes, guests, need)
    why = f"{need >> 20:+} MiB to the goal"
    return [
        Decision(guest.name, guest.target, sizes[guest.name], Reason.RULE, why)
        for guest in guests
        if sizes.get(guest.name, guest.actual) not in (guest.actual, guest.target)
    ]


def _short(guest: GuestState) -> bool:
    free = guest.stats.free if guest.stats else None
    return free is None or free <= ENOUGH * guest.floor or guest.actual < guest.floor


def _share(sizes: dict[str, int], guests: Sequence[GuestState], need: int) -> int:
    """Move the guests' `sizes` by `need` bytes in all as far as it goes; what is left of it."""
    left, open_ = need, list(guests)
    while left and open_:
        above = sum(sizes.get(one.name, one.actual) - one.floor for one in open_)
        part = (above + left) // len(open_)
        moved, still = 0, []
        for guest in open_:
            wanted = min(max(guest.floor + part, guest.floor), guest.ceiling)
            if need > 0 and wanted > guest.actual:
                size = min(guest.actual + CHANGE_MOST, wanted)
            elif wanted < guest.actual:
                size = max(guest.actual - CHANGE_MOST, wanted)
            else:
                continue  # it is where it should be: the others share what is left
            moved += size - sizes.get(guest.name, guest.actual)
            sizes[guest.name] = size
            still.append(guest)
        left -= moved
        if not moved:
            break
        open_ = still
    return left
