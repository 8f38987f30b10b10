# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard between policy and guests: what no policy may do to a guest.

It does no I/O, it sees every decision, and nothing switches it off. A target stays between
the guest's floor and its ceiling, in whole pages. A guest that is held or has no balloon is left
alone. Memory is taken only from a guest whose state and statistics are fresh, a step at a time,
and not faster than the rate; giving memory back waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hostctl.policy.model import PAGE, Decision, GuestState, Reason

FLOOR_LEAST = 128 << 20
FLOOR_SHARE = 4
LEAST_SHARE = 1 / 64
"""Of a guest's RAM: less than that is not taken of what would be more, while the rate is used up.
It would be a command, an event and a record for each few pages."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what is taken from a guest. The defaults are our own choice: see docs/policy.md."""

    stats_age: float = 30.0
    """Seconds: statistics older than that count for nothing."""
    step_share: float = 0.25
    """Most that one decision takes, as a share of the guest's RAM."""
    rate_share: float = 0.25
    """Most that is taken in a second, as a share of the guest's RAM; the step may come at once."""


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


@dataclass(slots=True)
class Guard:
    """Checks decisions, and remembers what was taken from whom for the rate's sake."""

    limits: Limits = field(default_factory=Limits)
    _taken: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By guest: when memory was last taken, and how much of the rate was used up then."""

    def check(self, guest: GuestState | None, decision: Decision, now: float) -> Decision | Refusal:
        """The decision as it may be carried out on `guest` (None: not known), or a refusal.

        What it lets through counts as done, at the time `now`.
        """
        if guest is None:
            return Refusal(decision, "the guest is not known")
        if not guest.balloon:
            return Refusal(decision, "the guest has no balloon device")
        if guest.held is not None and decision.reason is not Reason.OPERATOR:
            return Refusal(decision, f"the guest is held: {guest.held}")
        ceiling = guest.ceiling - guest.ceiling % PAGE
        floor = min(_up(guest.floor), ceiling)
        target = min(max(_up(decision.new_target), floor), ceiling)
        if decision.new_target < guest.target:
            if why := self._stale(guest, now):
                return Refusal(decision, f"no inflation: {why}")
            allowed = self._allowed(guest, guest.target - target, now)
            target = max(target, _up(guest.target - allowed))
            if target >= guest.target:
                at = "at its floor" if guest.target <= floor else "inflated as fast as it may be"
                return Refusal(decision, f"no inflation: the guest is {at}")
            self._take(guest, guest.target - target, now)
        else:
            # A ceiling that was lowered takes nothing from a guest that is to get more.
            target = max(target, guest.target)
        if target == guest.target:
            return Refusal(decision, "the target is that already")
        return replace(decision, new_target=target)

    def forget(self, guest: str) -> None:
        """The guest is gone."""
        self._taken.pop(guest, None)

    def _stale(self, guest: GuestState, now: float) -> str | None:
        if not guest.fresh:
            return "the guest's QEMU does not answer"
        if guest.stats is None:
            return "the guest has told no statistics"
        if (age := now - guest.stats.time) > self.limits.stats_age:
            return f"the guest's statistics are {age:.0f} s old"
        return None

    def _used(self, guest: GuestState, now: float) -> float:
        """What of the step is used up: it comes back with the rate."""
        when, used = self._taken.get(guest.name, (now, 0.0))
        return max(used - max(now - when, 0.0) * self.limits.rate_share * guest.ram, 0.0)

    def _allowed(self, guest: GuestState, wanted: int, now: float) -> int:
        """How much of `wanted` bytes may be taken."""
        step = self.limits.step_share * guest.ram
        left = max(int(step - self._used(guest, now)), 0)
        least = min(LEAST_SHARE * guest.ram, step / 2)
        return left if left >= min(wanted, least) else 0

    def _take(self, guest: GuestState, size: int, now: float) -> None:
        self._taken[guest.name] = (now, self._used(guest, now) + size)


def _up(size: int) -> int:
    """Rounded up to whole pages: rounding must not take memory from a guest."""
    return -(-size // PAGE) * PAGE
