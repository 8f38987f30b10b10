# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard between policy and guests: what no policy may do to a guest.

It is pure, it sees every decision, and nothing switches it off. A target stays between the
guest's floor and its RAM, in whole pages; a guest whose state is unknown or stale is not
inflated; a guest without a balloon is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hostctl.policy.model import PAGE, Decision, GuestState

FLOOR_LEAST = 128 << 20
FLOOR_SHARE = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision that must not be carried out, and why."""

    decision: Decision
    why: str


def floor_of(ram: int, configured: int | None) -> int:
    """A guest's floor in bytes: the configured one, else a quarter of its RAM or 128 MiB.

    The default is our own choice: a guest with a stock driver cannot say that it is short,
    so that the floor alone keeps it alive. Never more than `ram`.
    """
    wanted = max(FLOOR_LEAST, ram // FLOOR_SHARE) if configured is None else configured
    return min(_up(wanted), ram)


def check(guest: GuestState | None, decision: Decision) -> Decision | Refusal:
    """The decision as it may be carried out on `guest` (None: not known), or a refusal."""
    if guest is None:
        return Refusal(decision, "the guest is not known")
    if not guest.balloon:
        return Refusal(decision, "the guest has no balloon device")
    ceiling = guest.ram - guest.ram % PAGE
    floor = min(_up(guest.floor), ceiling)
    target = min(max(_up(decision.new_target), floor), ceiling)
    if decision.new_target < guest.target:
        if not guest.fresh:
            return Refusal(decision, "no inflation: the guest's QEMU does not answer")
        if target >= guest.target:
            return Refusal(decision, "no inflation: the guest is at its floor")
    if target == guest.target:
        return Refusal(decision, "the target is that already")
    return replace(decision, new_target=target)


def _up(size: int) -> int:
    """Rounded up to whole pages: rounding must not take memory from a guest."""
    return -(-size // PAGE) * PAGE
