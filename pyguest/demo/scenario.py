# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens in the demonstration: sizes, loads, times."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class GuestPlan:
    """One guest's load: a chunk load of so many MiB for each step."""

    name: str
    steps_mib: tuple[int, ...]
    wait_steps: int = 0
    """Steps to wait before the first."""


@dataclass(frozen=True)
class Scenario:
    """The seed's experiment at about a third of its size, in a few minutes.

    Guest A's load goes down while guest B's goes up, a step later, in a host (a memory cgroup)
    that holds less than both guests at their largest.
    """

    step_seconds: float
    guests: tuple[GuestPlan, ...] = (
        GuestPlan("a", (320, 256, 192, 128, 64)),
        GuestPlan("b", (64, 128, 192, 256, 320), wait_steps=1),
    )
    guest_memory_mib: int = 512
    host_limit_mib: int = 1024
    swap_mib: int = 1024
    balloon_step_mib: int = 32
    """The seed's."""
    floor_mib: int = 192
    hysteresis_seconds: float = 60.0
    """The seed's."""

    @property
    def seconds(self) -> float:
        return self.step_seconds * max(len(g.steps_mib) + g.wait_steps for g in self.guests)
