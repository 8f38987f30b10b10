# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy sees and what it says: host and guest state, events, decisions.

Sizes are bytes of guest memory, times are seconds of the monotonic clock. *target* is the
size that a guest is asked to have (as QMP `balloon` has it), so the seed's num_pages is
RAM less target, and a lower target means a bigger balloon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

PAGE = 4096
"""Bytes in a page of the balloon interface (VIRTIO_BALLOON_PFN_SHIFT is 12)."""


class Level(StrEnum):
    """A pressure level, by the names of the kernel's vmpressure."""

    LOW = "low"
    MEDIUM = "medium"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class HostPressure:
    """The host (its cgroup, or the machine) runs short of memory."""

    time: float
    level: Level
    source: str


@dataclass(frozen=True, slots=True)
class GuestMessage:
    """A guest says that it is short; `actual` is its size at that moment."""

    time: float
    guest: str
    level: Level
    actual: int


@dataclass(frozen=True, slots=True)
class GuestActual:
    """A guest's balloon has changed size."""

    time: float
    guest: str
    actual: int


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class GuestSilent:
    """A guest's QEMU did not answer in time: its state is stale until the next GuestRead."""

    time: float
    guest: str


@dataclass(frozen=True, slots=True)
class GuestLost:
    """The connection to a guest's QEMU is gone."""

    time: float
    guest: str
    why: str


@dataclass(frozen=True, slots=True)
class TargetSent:
    """A new target is on its way to a guest."""

    time: float
    guest: str
    target: int


Event = HostPressure | GuestMessage | GuestActual | GuestRead | GuestSilent | GuestLost | TargetSent


@dataclass(frozen=True, slots=True)
class HostState:
    """All guests of the host, by name."""

    guests: Mapping[str, GuestState] = field(default_factory=dict)

    def after(self, event: Event) -> HostState:
        """The state once `event` has happened; an event of an unknown guest changes nothing."""
        match event:
            case HostPressure():
                return self
            case GuestLost():
                return HostState({k: v for k, v in self.guests.items() if k != event.guest})
            case GuestRead():
                old = self.guests.get(event.guest)
                return self._with(
                    GuestState(
                        name=event.guest,
                        ram=event.ram,
                        actual=event.actual,
                        target=event.target,
                        floor=event.floor,
                        balloon=event.balloon,
                        last_message=old.last_message if old else None,
                    )
                )
        guest = self.guests.get(event.guest)
        if guest is None:
            return self
        match event:
            case GuestMessage():
                guest = replace(guest, actual=min(event.actual, guest.ram), last_message=event.time)
            case GuestActual():
                guest = replace(guest, actual=min(event.actual, guest.ram))
            case GuestSilent():
                guest = replace(guest, fresh=False)
            case TargetSent():
                guest = replace(guest, target=event.target)
        return self._with(guest)

    def _with(self, guest: GuestState) -> HostState:
        return HostState({**self.guests, guest.name: guest})


class Reason(StrEnum):
    """Why a target is changed."""

    HOST_PRESSURE = "host-pressure"
    GUEST_PRESSURE = "guest-pressure"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Decision:
    """Set a guest's target from `old_target` to `new_target` bytes."""

    guest: str
    old_target: int
    new_target: int
    reason: Reason
