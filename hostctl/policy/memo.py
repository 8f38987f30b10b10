# SPDX-License-Identifier: GPL-2.0-or-later
"""What `transfer` remembers of a guest and of a pool."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf

from hostctl.policy.model import GuestState, Level, Occupancy, Stats, grew
from hostctl.policy.signals import PERIOD
from hostctl.policy.tuning import Tuning


@dataclass(slots=True)
class Edge:
    """The size at which a guest was short. It loses its force with time, towards the floor."""

    size: int
    time: float
    confirmed: int = 0
    """How often the guest was found short there again."""
    probed: bool = False
    """It was found by a probe, and not by chance."""

    def bound(self, floor: int, now: float, tuning: Tuning) -> int:
        """The size that the guest is not taken below now."""
        half_lives = (now - self.time) / (tuning.half_life * (1 << self.confirmed))
        return floor + int(max(self.size - floor, 0) * 0.5**half_lives)


@dataclass(slots=True)
class Sizes:
    """The sizes that something has had of late. Bytes."""

    last: int
    _past: deque[tuple[float, int]] = field(default_factory=deque)
    """Those before, each with the time until which it was known."""

    def add(self, size: int, now: float, kept: float) -> None:
        """It has that size now; what is `kept` seconds old is forgotten."""
        past = self._past
        if size != self.last:
            past.append((now, self.last))
            self.last = size
        while past and past[0][0] < now - kept:
            past.popleft()

    def since(self, time: float) -> tuple[int, int]:
        """The smallest and the largest since then."""
        least = most = self.last
        if not self._past or self._past[-1][0] <= time:
            return least, most
        for until, size in reversed(self._past):
            if until <= time:
                break
            least, most = min(least, size), max(most, size)
        return least, most


@dataclass(slots=True)
class GuestMemo:
    """Of a guest. Times are of the monotonic clock, -inf is never."""

    sizes: Sizes
    until: float
    """No inflation before."""
    pressed: float = -inf
    """It counts as pressed until then."""
    last: float = -inf
    """Its last message."""
    unbidden: float = -inf
    """Its last message that no inflation of ours explains."""
    series: float = -inf
    """The first message of those that have come without a pause since."""
    before: Stats | None = None
    """The statistics that were there when the series began."""
    beat: float = -inf
    """When the relief under way began; one a beat."""
    given: int = 0
    """What was given in this beat."""
    hurt: float = -inf
    """When it was seen last that it swapped in or faulted."""
    gave: float = -inf
    """When anything was given last."""
    doubled: int = 0
    """How often the step was doubled."""
    edge: Edge | None = None
    smallest: int = 0
    largest: int = 0
    """Its sizes since the last statistics were made, until they came."""
    inflated: float = -inf
    """When it was last inflated, or was seen to be inflating."""
    start: Stats | None = None
    """The statistics from before that inflation."""
    moved: float = -inf
    """When it changed its size last, or was asked to get smaller."""
    told: deque[Stats] = field(default_factory=deque)
    """The last statistics: those of PERIOD seconds, and those before them."""
    earlier: float = -inf
    """When those were made that the last are compared with."""
    probe: float = 0.0
    """The last probe, as a share of RAM; 0: the next is the smallest."""
    reach: float = 0.0
    """The same of the steps by which sizes are made to fit."""

    occupancy: Sizes | None = None
    """What the host has of its QEMU, in memory and in swap; None: not known."""
    swapped: int = 0
    """What of that is in swap."""
    looked: float = -inf
    """When that was looked at."""

    def occupied(self, found: Occupancy, now: float, tuning: Tuning) -> None:
        """The host has so much of it now."""
        whole = found.resident + found.swapped
        if self.occupancy is None:
            self.occupancy = Sizes(whole)
        self.occupancy.add(whole, now, tuning.stats_age)
        self.swapped, self.looked = found.swapped, now

    def before_that(self, stats: Stats) -> Stats | None:
        """Those that `stats` are to be compared with: of PERIOD seconds ago at least, as rates
        of a shorter time are chance. `stats` are remembered."""
        told = self.told
        while len(told) > 1 and stats.time - told[1].time >= PERIOD:
            told.popleft()
        old = told[0] if told else None
        told.append(stats)
        return old

    def outgrew(self, guest: GuestState, tuning: Tuning) -> bool:
        """Whether the host has so much more of the guest now that its statistics are outdated."""
        if guest.stats is None or self.occupancy is None:
            return False
        least = self.occupancy.since(guest.stats.time)[0]
        return self.occupancy.last - least >= tuning.least * guest.ram

    def stops(self, until: float) -> None:
        """No inflation before `until`; a later end that was set already stays."""
        self.until = max(self.until, until)

    def short_at(self, guest: GuestState, now: float, tuning: Tuning) -> None:
        """Remember that the guest is short at its present size."""
        old = self.edge
        near = old is not None and abs(guest.actual - old.size) <= tuning.low * guest.ram
        probed = (self.probe > 0 or self.reach > 0) and now - self.inflated <= tuning.back_off
        self.probe = self.reach = 0.0
        if guest.actual >= guest.ceiling:
            return  # nothing was taken: it says nothing of what can be
        if near and old is not None and now - old.time < tuning.back_off:
            old.time = now  # the same shortage
            return
        again = min(old.confirmed + 1, tuning.confirmed) if near and old is not None else 0
        self.edge = Edge(guest.actual, now, again, probed)


@dataclass(slots=True)
class Move:
    """An inflation that the pool's reading does not show yet."""

    seen: int
    """The guest's size at the last reading."""
    since: float
    """Since when it has been that."""
    gain: float = 1.0
    """Share of what is taken that the host gets."""


@dataclass(slots=True)
class PoolMemo:
    """Of a pool."""

    short: bool = False
    moving: dict[str, Move] = field(default_factory=dict)
    """Guests under inflation."""
    grants: dict[str, tuple[int, float]] = field(default_factory=dict)
    """What was given and counts as used until a time."""
    wants: dict[str, Level | None] = field(default_factory=dict)
    """Guests that got less than they need, the longest waiting first; None: by statistics."""
    totals: Sizes | None = None
    """What the pool has had in use and in swap."""
    next_take: float = -inf
    next_probe: float = -inf
    shrunk: float = -inf
    """When guests' sizes were last taken nearer to what fits."""
    fruitless: int = 0
    """How often in a row nobody was found to probe."""
    barren: float = -inf
    """Nobody had anything to give, and nothing that would change it has happened: not before."""
    close: dict[str, float] = field(default_factory=dict)
    """Guests whose statistics are wanted often, each until a time."""

    def grown(self, since: float) -> int:
        """By how much what is in use has grown since then, in bytes."""
        return 0 if self.totals is None else self.totals.last - self.totals.since(since)[0]


def strained(old: Stats | None, new: Stats | None, tuning: Tuning) -> bool:
    """Whether the guest has swapped in or faulted more from `old` to `new` than it may."""
    if old is None or new is None or new.time <= old.time:
        return False
    seconds = max(new.time - old.time, PERIOD)
    return (
        grew(old.swap_in, new.swap_in) > tuning.swap_rate * seconds
        or grew(old.major_faults, new.major_faults) > tuning.fault_rate * seconds
    )
