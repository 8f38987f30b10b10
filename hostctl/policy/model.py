# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy sees and what it says: host and guest state, events, decisions.

Sizes are bytes of guest memory, times are seconds of the monotonic clock. *target* is the
size that a guest is asked to have (as QMP `balloon` has it), so the seed's num_pages is
RAM less target, and a lower target means a bigger balloon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from enum import StrEnum
from operator import attrgetter

from hostctl.frozen import frozen

PAGE = 4096
"""Bytes in a page of the balloon interface (VIRTIO_BALLOON_PFN_SHIFT is 12)."""
SIZE_END = 1 << 63
"""QMP's sizes are signed, 64 bits: from here on it is none."""
HOST = "host"
"""The pool of guests that no other pool has: the machine, or the one group that is watched."""


class Level(StrEnum):
    """A pressure level, by the names of the kernel's vmpressure."""

    LOW = "low"
    MEDIUM = "medium"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low, 1 for medium, 2 for critical: StrEnum itself compares as text."""
        return _RANKS[self]


_RANKS = {Level.LOW: 0, Level.MEDIUM: 1, Level.CRITICAL: 2}


@frozen
class Stats:
    """What a guest's driver says of its memory; None for what it does not say.

    Sizes are bytes. Counts go on from the guest's boot: swap_in and swap_out in bytes,
    the others in events, scanned and reclaimed in pages. From the virtio spec's statistics tags.
    """

    time: float
    """When the driver answered, by the clock of all times here."""
    total: int | None = None
    free: int | None = None
    available: int | None = None
    """What could be taken without swapping, as MemAvailable has it."""
    caches: int | None = None
    swap_in: int | None = None
    swap_out: int | None = None
    major_faults: int | None = None
    oom_kills: int | None = None
    stalls: int | None = None
    scanned: int | None = None
    reclaimed: int | None = None


def grew(old: int | None, new: int | None) -> int:
    """By how much a count of Stats; 0 where it is not told, or the guest has booted anew."""
    return 0 if old is None or new is None else max(new - old, 0)


@frozen
class GuestState:
    """One guest as last read; all sizes in bytes."""

    name: str
    ram: int
    actual: int
    target: int
    floor: int
    """The target is never set below this; at most `ram`."""
    balloon: bool = True
    """False: the guest has no balloon device. It is listed and left alone."""
    fresh: bool = True
    """False: its QEMU does not answer, and the sizes may be wrong by now."""
    last_message: float | None = None
    """When its last pressure message came, of whatever level; None: not since we know it."""
    level: Level | None = None
    """The level of that message."""
    pool: str = HOST
    most: int | None = None
    """The target is never set above this, nor above `ram`; None: up to `ram`."""
    tells: bool = True
    """Its driver sends messages; False: its pressure is read from its statistics alone."""
    stats: Stats | None = None
    """The last statistics; None: the guest has told none since we know it."""
    held: str | None = None
    """Why it is left alone until it is released; None: it is not."""
    pid: int | None = None
    """Its QEMU's process on this host; None: not known, or on another host."""

    @property
    def ceiling(self) -> int:
        """The target is never set above this."""
        return self.ram if self.most is None else min(self.most, self.ram)


@frozen
class Occupancy:
    """What the host holds of a guest's QEMU. Bytes."""

    resident: int
    """In memory."""
    swapped: int
    """In swap space."""


@frozen
class PoolState:
    """Host memory that guests share: a cgroup with its limit, or the machine. Bytes."""

    name: str
    time: float
    """When `limit` and `usage` were read."""
    limit: int
    """Most that the group may use: the least of its own and its ancestors' limits, and of RAM."""
    usage: int
    """What is in use and cannot be dropped: without the host's clean page cache."""
    swapped: int | None = None
    """What of it is in swap space; None: the kernel does not tell it for a group."""

    @property
    def room(self) -> int:
        """What is left below the limit."""
        return max(self.limit - self.usage, 0)


@frozen
class HostPressure:
    """The host (a pool's cgroup, or the machine) runs short of memory."""

    time: float
    level: Level
    source: str
    pool: str = HOST


@frozen
class PoolRead:
    """A pool was read: at its usage threshold, or now and then."""

    time: float
    pool: str
    limit: int
    usage: int
    swapped: int | None = None
    occupied: Mapping[str, Occupancy] = field(default_factory=dict)
    """Of guests of the pool, by name: those that were looked at."""


@frozen
class PoolLost:
    """A pool's group is gone, or cannot be read any more."""

    time: float
    pool: str
    why: str


@frozen
class Tick:
    """Time has passed: policies do by it what no other event asks for."""

    time: float


@frozen
class GuestMessage:
    """A guest says that it is short; `actual` is its size at that moment."""

    time: float
    guest: str
    level: Level
    actual: int


@frozen
class GuestActual:
    """A guest's balloon has changed size."""

    time: float
    guest: str
    actual: int


@frozen
class GuestRead:
    """A guest was read back, at connecting or later: its state is fresh."""

    time: float
    guest: str
    ram: int
    actual: int
    target: int
    floor: int
    balloon: bool
    target_known: bool
    """False: QEMU does not tell its target, and the last one sent or `actual` is taken for it."""
    pool: str = HOST
    most: int | None = None
    tells: bool = True
    pid: int | None = None


@frozen
class StatsRead:
    """A guest's statistics were read, and are newer than the last."""

    time: float
    guest: str
    stats: Stats


@frozen
class Held:
    """A guest is left alone from now on: somebody else has set its balloon, or asked for it."""

    time: float
    guest: str
    why: str


@frozen
class Released:
    """A guest that was held is ours again."""

    time: float
    guest: str


@frozen
class GuestSilent:
    """A guest's QEMU did not answer in time: its state is stale until the next GuestRead."""

    time: float
    guest: str


@frozen
class GuestLost:
    """The connection to a guest's QEMU is gone."""

    time: float
    guest: str
    why: str


@frozen
class TargetSent:
    """A new target is on its way to a guest."""

    time: float
    guest: str
    target: int


@frozen
class TargetTaken:
    """A guest's QEMU has taken a target: the way from a message to the command is at its end."""

    time: float
    guest: str
    target: int


Event = (
    HostPressure
    | PoolRead
    | PoolLost
    | Tick
    | GuestMessage
    | GuestActual
    | GuestRead
    | StatsRead
    | Held
    | Released
    | GuestSilent
    | GuestLost
    | TargetSent
    | TargetTaken
)


_Change = GuestMessage | GuestActual | StatsRead | Held | Released | GuestSilent | TargetSent
"""What changes a guest that is known."""


@frozen
class HostState:
    """All guests of the host and all its pools, by name."""

    guests: Mapping[str, GuestState] = field(default_factory=dict)
    pools: Mapping[str, PoolState] = field(default_factory=dict)

    def of_pool(self, pool: str) -> list[GuestState]:
        """The pool's guests."""
        return [guest for guest in self.guests.values() if guest.pool == pool]

    def after(self, event: Event) -> HostState:
        """The state once `event` has happened; an event of an unknown guest changes nothing."""
        match event:
            case StatsRead() | GuestActual() | GuestMessage():  # nearly all events are these
                return self._of_guest(event)
            case HostPressure() | Tick() | TargetTaken():
                return self
            case PoolRead():
                pool = PoolState(event.pool, event.time, event.limit, event.usage, event.swapped)
                return HostState(self.guests, {**self.pools, pool.name: pool})
            case PoolLost():
                left = {k: v for k, v in self.pools.items() if k != event.pool}
                return HostState(self.guests, left)
            case GuestLost():
                others = {k: v for k, v in self.guests.items() if k != event.guest}
                return HostState(others, self.pools)
            case GuestRead():
                return self._with(self._read(event))
            case _:
                return self._of_guest(event)

    def _of_guest(self, event: _Change) -> HostState:
        guest = self.guests.get(event.guest)
        if guest is None:
            return self
        match event:
            case StatsRead():
                guest = _changed(guest, stats=event.stats)
            case GuestActual():
                guest = _changed(guest, actual=min(event.actual, guest.ram))
            case GuestMessage():
                actual = min(event.actual, guest.ram)
                guest = _changed(guest, actual=actual, last_message=event.time, level=event.level)
            case Held():
                guest = _changed(guest, held=event.why)
            case Released():
                guest = _changed(guest, held=None)
            case GuestSilent():
                guest = _changed(guest, fresh=False)
            case TargetSent():
                guest = _changed(guest, target=event.target)
        return self._with(guest)

    def _read(self, event: GuestRead) -> GuestState:
        """The guest as read, with what is remembered of it besides."""
        old = self.guests.get(event.guest)
        return GuestState(
            name=event.guest,
            ram=event.ram,
            actual=event.actual,
            target=event.target,
            floor=event.floor,
            balloon=event.balloon,
            last_message=old.last_message if old else None,
            level=old.level if old else None,
            pool=event.pool,
            most=event.most,
            tells=event.tells,
            stats=old.stats if old else None,
            held=old.held if old else None,
            pid=event.pid,
        )

    def _with(self, guest: GuestState) -> HostState:
        return HostState({**self.guests, guest.name: guest}, self.pools)


_NAMES = [one.name for one in fields(GuestState)]
_INDEX = {name: i for i, name in enumerate(_NAMES)}
_VALUES = attrgetter(*_NAMES)


def _changed(guest: GuestState, **changes: object) -> GuestState:
    """As dataclasses.replace, in a third of the time: every event of every guest comes by here."""
    values = list(_VALUES(guest))
    for name, value in changes.items():
        values[_INDEX[name]] = value
    return GuestState(*values)


class Reason(StrEnum):
    """Why a target is changed."""

    HOST_PRESSURE = "host-pressure"
    """The host is short."""
    RESERVE = "reserve"
    """The host will be short soon: its reserve is used."""
    TRANSFER = "transfer"
    """Another guest needs it, and the host has no room."""
    PROBE = "probe"
    """To find out how small the guest can be."""
    GUEST_PRESSURE = "guest-pressure"
    """The guest is short."""
    CANCEL = "cancel"
    """The guest is short while it is made smaller."""
    GIVE_BACK = "give-back"
    """The guest has use for more, and the host has room."""
    RULE = "rule"
    """A rule that does not tell its reasons, as those of MOM and Proxmox."""
    OPERATOR = "operator"
    """Somebody asked hostctl for it."""


@frozen
class Decision:
    """Set a guest's target from `old_target` to `new_target` bytes."""

    guest: str
    old_target: int
    new_target: int
    reason: Reason
    why: str = ""
    """The inputs that led to it, for a reader: what `explain` shows."""
