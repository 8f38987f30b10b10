# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: from the host's state and an event to decisions.

Nothing here does I/O or reads a clock: what a policy decides follows from its settings and
from the events that it has seen, so that the daemon, the simulator and a replayed journal run
the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from hostctl.policy.classic import HYSTERESIS, STEP, Classic
from hostctl.policy.model import Decision, Event, HostState
from hostctl.policy.mom import Mom
from hostctl.policy.proxmox import Proxmox
from hostctl.policy.transfer import Transfer
from hostctl.policy.tuning import Tuning


class Policy(Protocol):
    """What decides about targets. It may remember what it has seen, and nothing else."""

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """The decisions that `event` calls for; `state` is the host after the event."""
        ...

    def closely(self, now: float) -> Collection[str]:
        """The guests whose statistics it wants often for now, by name."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set of policies; each takes what it knows."""

    step: int = STEP
    """Bytes, of `classic`."""
    hysteresis: float = HYSTERESIS
    """Seconds, of `classic`."""
    tuning: Tuning = Tuning()
    """Of `transfer`."""


POLICIES: Mapping[str, Callable[[Settings], Policy]] = {
    "classic": lambda settings: Classic(settings.step, settings.hysteresis),
    "transfer": lambda settings: Transfer(settings.tuning),
    "mom": lambda settings: Mom(),
    "proxmox": lambda settings: Proxmox(),
}
"""How to make each policy, by name."""
_STATS_EVERY = {"mom": 10.0, "proxmox": 10.0}


def stats_every(policy: str) -> float:
    """Seconds between the statistics of a guest that the policy does not attend to: who goes by
    statistics alone needs them as often as it decides."""
    return _STATS_EVERY.get(policy, 20.0)
