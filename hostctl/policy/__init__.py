# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: pure functions from the host's state and an event to decisions.

Nothing here does I/O or reads a clock, so that the daemon and anything that replays a
journal run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hostctl.policy.classic import Classic
from hostctl.policy.model import Decision, Event, HostState


class Policy(Protocol):
    """What decides about targets."""

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """The decisions that `event` calls for; `state` is the host after the event."""
        ...


POLICIES: Mapping[str, Callable[[int, float], Policy]] = {"classic": Classic}
"""Policy by name, made from a step in bytes and a hysteresis in seconds."""
