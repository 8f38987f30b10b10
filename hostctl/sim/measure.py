# SPDX-License-Identifier: GPL-2.0-or-later
"""What a simulated run has cost, and how restless its policy was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hostctl.policy.model import Reason

SWING = 300.0
"""Seconds: a target that turns round so soon after its last change has oscillated."""


@dataclass(slots=True)
class Targets:
    """The changes of all guests' targets."""

    changes: int = 0
    turns: int = 0
    """Memory taken that was given, or given that was taken, at most SWING before. A cancelled
    inflation is neither: what was not taken yet stays where it is."""
    reasons: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    _last: dict[tuple[int, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, host: int, guest: str, now: float, change: int, reason: str) -> None:
        """A target has changed by `change` bytes."""
        if reason == Reason.CANCEL:
            self.changes += 1
            self.reasons[reason] += 1
            return
        sign = 1 if change > 0 else -1
        when, last = self._last.get((host, guest), (-SWING, 0))
        self.changes += 1
        self.turns += last == -sign and now - when <= SWING
        self.reasons[reason] += 1
        self._last[host, guest] = (now, sign)


@dataclass(frozen=True, slots=True)
class Result:
    """Sums over all guests and hosts of a run. Bytes and seconds."""

    hosts: int
    guests: int
    seconds: float
    host_in: float
    host_out: float
    guest_in: float
    guest_out: float
    refault: float
    """Files that were read again because their page cache was gone."""
    unmet: float
    """Byte-seconds of memory that was wanted and not to be had."""
    host_pressed: float
    """Host-seconds in which a host swapped out."""
    guest_low: float
    """Guest-seconds with a message at low alone."""
    guest_pressed: float
    """Guest-seconds with a message at medium or critical."""
    messages: int
    changes: int
    turns: int
    refused: int
    reasons: Counter[str]
    balloon: float
    """Mean size of all balloons together."""

    def __add__(self, other: Result) -> Result:
        """Both runs, of different hosts in the same time."""
        if self.seconds != other.seconds:
            raise ValueError(f"runs of {self.seconds} and {other.seconds} s are not one")
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__slots__
            if name != "seconds"
        }
        return Result(seconds=self.seconds, **sums)
