# SPDX-License-Identifier: GPL-2.0-or-later
"""The seed's rule, per guest (the series of 2014), with what it left open settled.

On its pool's pressure the balloon grows by a step, unless the guest's last message is at most the
hysteresis old. On a guest's message an inflation under way is cancelled; if there is none,
the balloon shrinks by a step. The target stays between the guest's floor and its RAM.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hostctl.policy.model import (
    Decision,
    Event,
    GuestMessage,
    GuestState,
    HostPressure,
    HostState,
    Level,
    Reason,
)

STEP = 32 << 20
"""Bytes per inflation or deflation: AUTO_BALLOON_NR_PAGES of the seed."""
HYSTERESIS = 60.0
"""Seconds for which a guest counts as pressed: AUTO_BALLOON_PRESSURE_PERIOD of the seed."""


@dataclass(frozen=True, slots=True)
class Classic:
    """The policy `classic`; `step` in bytes, `hysteresis` in seconds."""

    step: int = STEP
    hysteresis: float = HYSTERESIS

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """What `event` calls for; `state` is the host after the event."""
        match event:
            case HostPressure():
                found = [self._inflate(g, event.time) for g in state.of_pool(event.pool)]
            # A guest at a higher level sends LOW as well: acting on each would act twice.
            case GuestMessage(level=Level.LOW) if event.guest in state.guests:
                found = [self._relieve(state.guests[event.guest])]
            case _:
                return []
        return [decision for decision in found if decision is not None]

    def closely(self, now: float) -> Collection[str]:
        """Nobody: it goes by messages."""
        return ()

    def _inflate(self, guest: GuestState, now: float) -> Decision | None:
        pressed = guest.last_message is not None and now - guest.last_message <= self.hysteresis
        target = max(guest.target - self.step, guest.floor)
        if not guest.balloon or pressed or target >= guest.target:
            return None
        return Decision(guest.name, guest.target, target, Reason.HOST_PRESSURE)

    def _relieve(self, guest: GuestState) -> Decision | None:
        if not guest.balloon:
            return None
        if guest.target < guest.actual:
            return Decision(guest.name, guest.target, guest.actual, Reason.CANCEL)
        target = min(guest.target + self.step, guest.ram)
        if target <= guest.target:
            return None
        return Decision(guest.name, guest.target, target, Reason.GUEST_PRESSURE)
