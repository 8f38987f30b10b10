# SPDX-License-Identifier: GPL-2.0-or-later
"""One event at a time: state, policy, guard. The daemon, the simulator and a replay run this.

It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Collection

from hostctl.guard import Guard, Limits, Refusal
from hostctl.policy import Policy, signals
from hostctl.policy.model import (
    Decision,
    Event,
    GuestLost,
    GuestMessage,
    HostState,
    Level,
    Stats,
    StatsRead,
    TargetSent,
)

TICK = 1.0
"""Seconds between two ticks: the shortest time after which a policy looks at the host again."""

Verdict = Decision | Refusal
"""A decision as it is to be carried out, or why it is not."""


class Engine:
    """A host under one policy."""

    def __init__(self, policy: Policy, limits: Limits, *, dry_run: bool = False) -> None:
        """`dry_run`: the decisions are to be written and not carried out."""
        self.policy = policy
        self.state = HostState()
        self._guard = Guard(limits)
        self._dry_run = dry_run
        self._compared: dict[str, Stats] = {}
        """Of guests without messages, the statistics that newer ones are compared with."""

    def change(self, policy: Policy, limits: Limits) -> None:
        """Go on under `policy` and `limits`; what is known of guests and pools stays."""
        self.policy = policy
        self._guard.limits = limits

    def take(self, event: Event) -> list[Verdict]:
        """Take an event in; the verdicts on what the policy decides, in its order."""
        derived = self._derived(event) if isinstance(event, StatsRead) else []
        self.state = self.state.after(event)
        if isinstance(event, GuestLost):
            self._guard.forget(event.guest)
            self._compared.pop(event.guest, None)
        found = [self.judge(one, event.time) for one in self.policy.decide(self.state, event)]
        for message in derived:
            found += self.take(message)
        return found

    def closely(self, now: float) -> Collection[str]:
        """The guests whose statistics the policy wants often for now."""
        return self.policy.closely(now)

    def _derived(self, event: StatsRead) -> list[GuestMessage]:
        """What a guest without messages of its own says by its new statistics.

        A message for each level up to the one that it has, as our driver sends them.
        """
        guest = self.state.guests.get(event.guest)
        if guest is None:
            return []
        if guest.tells:
            self._compared.pop(event.guest, None)
            return []
        old = self._compared.setdefault(event.guest, guest.stats or event.stats)
        found = signals.level(old, event.stats)
        if found is not None or event.stats.time - old.time >= signals.PERIOD:
            self._compared[event.guest] = event.stats
        return [
            GuestMessage(event.time, event.guest, level, guest.actual)
            for level in Level
            if found is not None and level.rank <= found.rank
        ]

    def judge(self, decision: Decision, now: float) -> Verdict:
        """The guard's verdict; an accepted target is the guest's from now on."""
        verdict = self._guard.check(self.state.guests.get(decision.guest), decision, now)
        # Known at once, so that ten events in a row make ten steps.
        if isinstance(verdict, Decision) and not self._dry_run:
            self.state = self.state.after(TargetSent(now, verdict.guest, verdict.new_target))
        return verdict
