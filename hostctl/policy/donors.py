# SPDX-License-Identifier: GPL-2.0-or-later
"""Who can give memory, how much, and what the host gets of it.

A balloon takes a guest's free memory first. Of that the host gets only what the guest had touched
and not reported as free, so a guest that has nothing but free memory is no donor where free page
reporting is on: to shrink it would harm it and help nobody. How much of free memory the host
backs, the size of its QEMU tells together with its statistics, else the pool's reading.

What the host has swapped is its guests' coldest memory, and so what is idle in them. To take that
brings the host nothing: where the guest's kernel zeroes pages, it is even swapped in first.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostctl.frozen import frozen
from hostctl.policy.memo import GuestMemo, PoolMemo, strained
from hostctl.policy.model import PAGE, GuestState, HostState, Stats
from hostctl.policy.tuning import Tuning


@frozen
class Donor:
    """A guest that can give. Bytes."""

    guest: GuestState
    memo: GuestMemo
    idle: int
    """What may be taken below its target, at most."""
    free: int
    """What of it is free memory, which goes first."""
    backed: float
    """Share of free memory that the host has a page for."""
    resident: float
    """Share of what is idle, and backed, that the host has not swapped."""
    streams: bool
    """It says low all the time, and turns page cache over."""

    def gain(self, taken: int) -> int:
        """What the host gets when `taken` bytes are taken."""
        free = min(taken, self.free)
        return int(self.resident * (self.backed * free + taken - free))

    def cost(self, gain: int) -> int:
        """What has to be taken for the host to get `gain`, of what is idle."""
        if gain <= 0:
            return 0
        backed, of_free = gain / self.resident, self.backed * self.free
        taken = backed / self.backed if backed <= of_free else self.free + backed - of_free
        return min(int(taken), self.idle)


def donors(
    state: HostState,
    pool: str,
    memos: Mapping[str, GuestMemo],
    host: PoolMemo,
    tuning: Tuning,
    now: float,
    only: GuestState | None = None,
) -> list[Donor]:
    """The pool's unpressed guests with fresh statistics and idle memory worth the taking.

    `only`: no other than this one is looked at.
    """
    guests = state.of_pool(pool) if only is None else [only]
    guess = _Guess(state, pool, memos, host, tuning)
    found = (_donor(guest, memos.get(guest.name), guess, tuning, now) for guest in guests)
    return [one for one in found if one is not None]


def _donor(
    guest: GuestState,
    memo: GuestMemo | None,
    guess: _Guess,
    tuning: Tuning,
    now: float,
) -> Donor | None:
    """What the guest can give; None: nothing."""
    if memo is None or now < memo.until or not guest.balloon or not guest.fresh:
        return None
    if guest.held is not None or guest.stats is None:
        return None
    streams = now - memo.unbidden <= tuning.window
    if streams and not turns_over(guest, memo, tuning):
        return None
    idle = idle_of(guest, memo, tuning, now)
    if idle <= 0:
        return None
    share = _known(guest, guest.stats, memo, tuning, now) or guess.share(guest.stats)
    if share.resident < tuning.resident:
        return None
    # A guest that has begun to use its free memory says nothing.
    free = min(_left(guest.stats.free or 0, memo, guest.target), idle)
    used = min(share.grown, free)
    idle, free = idle - used, free - used
    # Free memory goes first, and is soon missed by who uses it.
    if idle - free + share.backed * free < tuning.worth * idle:
        return None
    donor = Donor(guest, memo, idle, free, share.backed, share.resident, streams)
    return donor if donor.gain(idle) >= max(int(tuning.least * guest.ram), 1) else None


@frozen
class _Share:
    """How far the host has pages for what is idle in a guest."""

    backed: float
    """Share of its free memory that the host has a page for, in memory or in swap."""
    resident: float
    """Share of what is idle and backed that the host has not swapped."""
    grown: int
    """Bytes that the guest may have come to use since its statistics."""


def _known(
    guest: GuestState, stats: Stats, memo: GuestMemo, tuning: Tuning, now: float
) -> _Share | None:
    """By what the host has of the guest's QEMU; None: that is not known.

    What it has beyond what the guest uses is free memory that was used once, and what that has
    grown by since the statistics is used by now. What the guest uses and the host does not seem to
    have is swapped as well, or in huge pages that a balloon cannot free: VmSwap is without shared
    memory, and VmRSS without hugetlbfs.
    """
    if memo.occupancy is None or stats.free is None or stats.available is None:
        return None
    least = memo.occupancy.since(stats.time)[0]
    # With less than a QEMU alone has, it is another process: one that hands the socket on.
    if now - memo.looked > tuning.stats_age or least < tuning.own // 2:
        return None
    free = _left(stats.free, memo, guest.actual)
    spare = least - tuning.own - (memo.largest - stats.free)
    backed = min(max(spare, 0) / max(free, 1), 1.0)
    idle = stats.available - min(stats.free, stats.available) + backed * free
    missing = max(memo.swapped, -spare - tuning.own)
    resident = max(1 - missing / max(idle, 1), 0.0)
    return _Share(backed, resident, memo.occupancy.last - least)


class _Guess:
    """By the pool's reading alone, where processes are not known: the same for all guests."""

    def __init__(
        self,
        state: HostState,
        pool: str,
        memos: Mapping[str, GuestMemo],
        host: PoolMemo,
        tuning: Tuning,
    ) -> None:
        self._of = state, pool, memos, tuning
        self._host = host
        self._shares: tuple[float, float] | None = None

    def share(self, stats: Stats) -> _Share:
        """Of a guest with these statistics."""
        if self._shares is None:
            state, pool, memos, tuning = self._of
            guests = state.of_pool(pool)
            backed = _backed(state, pool, guests, memos, tuning)
            self._shares = backed, _resident(state, pool, guests, backed)
        return _Share(*self._shares, self._host.grown(stats.time))


def _backed(
    state: HostState,
    pool: str,
    guests: list[GuestState],
    memos: Mapping[str, GuestMemo],
    tuning: Tuning,
) -> float:
    """What share of the guests' free memory the host has a page for; 1 where it is not known.

    What the pool has in use beyond what its guests say that they use, and their QEMUs' own, may be
    that, or belong to guests that say nothing, or to no guest. The last is neglected. Silent
    guests count with their size, but with no more than all of it: they can halve the share, and no
    more. A guest that says too much hides what it could as well use. What the host has swapped does
    not count: it would give no room.
    """
    read = state.pools.get(pool)
    if read is None:
        return 1.0
    used = free = silent = 0
    for guest in guests:
        memo = memos.get(guest.name)
        told = None if guest.stats is None else guest.stats.free
        if memo is None or told is None:
            silent += guest.actual
        else:
            left = min(_left(told, memo, guest.actual), guest.actual)
            used += guest.actual - left
            free += left
    used += tuning.own * len(guests)
    rest = max(read.usage - used, 0)
    return min(rest / max(free + min(silent, rest), 1), 1.0)


def _resident(state: HostState, pool: str, guests: list[GuestState], backed: float) -> float:
    """What share of the guests' idle memory, as far as it is backed, the host has not swapped."""
    read = state.pools.get(pool)
    if read is None or not read.swapped:
        return 1.0
    idle = 0.0
    for guest in guests:
        if guest.stats is not None and guest.stats.available is not None:
            free = min(guest.stats.free or 0, guest.stats.available)
            idle += guest.stats.available - free + backed * free
    return max(1 - read.swapped / max(idle, 1), 0.0)


def _left(free: int, memo: GuestMemo, size: int) -> int:
    """What a guest has left at `size` of free memory in its statistics: it goes first."""
    return max(free - max(memo.largest - size, 0), 0)


def reserve_of(guest: GuestState, tuning: Tuning) -> int:
    """What is to stay available in the guest when memory is taken: a share of its present size, so
    that it can be taken to what it needs, in steps; and twice what it would get more with."""
    return max(
        int(tuning.reserve * guest.target), 2 * lacks_below(guest, tuning), tuning.reserve_least
    )


def lacks_below(guest: GuestState, tuning: Tuning) -> int:
    """With less than this available a guest gets memory back unasked."""
    return max(int(tuning.lacking * guest.ram), tuning.reserve_least // 2)


def idle_of(guest: GuestState, memo: GuestMemo, tuning: Tuning, now: float) -> int:
    """What can be taken from the guest below its present target; not above 0 for nothing."""
    stats, reserve = guest.stats, reserve_of(guest, tuning)
    if stats is None or stats.available is None or now - stats.time > tuning.stats_age:
        return 0
    # The statistics are of the size then; what has gone since, or is on its way, is promised.
    idle = stats.available - reserve - max(memo.largest - guest.target, 0)
    lowest = guest.floor
    if memo.edge is not None:
        bound = memo.edge.bound(guest.floor, now, tuning)
        # Even at its edge so much would be free that the guest's need must have fallen.
        if stats.free is None or stats.free < memo.largest - bound + reserve:
            lowest = max(lowest, bound)
    idle = min(idle, guest.target - lowest)
    return idle - idle % PAGE


def turns_over(guest: GuestState, memo: GuestMemo, tuning: Tuning) -> bool:
    """Whether statistics from within the messages show that page cache alone is turned over."""
    stats = guest.stats
    return (
        stats is not None
        and stats.time > memo.series
        and memo.before is not None
        and stats.available is not None
        and stats.available >= reserve_of(guest, tuning) + tuning.medium * guest.target
        and not strained(memo.before, stats, tuning)
    )
