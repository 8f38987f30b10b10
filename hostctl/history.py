# SPDX-License-Identifier: GPL-2.0-or-later
"""Why each guest is the size it is: its last verdicts, with what they were made from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hostctl.engine import Verdict
from hostctl.guard import Refusal
from hostctl.policy.model import Decision, GuestState, PoolState
from hostctl.recorder import same_refusal

KEPT = 20
"""Verdicts of a guest that are kept."""


@dataclass(slots=True)
class Entry:
    """A verdict with the guest and its pool at that moment; `times` it came in a row."""

    time: float
    verdict: Verdict
    guest: GuestState | None
    pool: PoolState | None
    times: int = 1

    @property
    def decision(self) -> Decision:
        """What was decided, be it refused or not."""
        return self.verdict.decision if isinstance(self.verdict, Refusal) else self.verdict


class History:
    """The last verdicts of each guest, bounded: a refusal that goes on is one entry."""

    def __init__(self) -> None:
        self._entries: dict[str, deque[Entry]] = {}

    def add(
        self, verdict: Verdict, guest: GuestState | None, pool: PoolState | None, now: float
    ) -> None:
        """A verdict was made `now` on `guest` as it was before."""
        entry = Entry(now, verdict, guest, pool)
        kept = self._entries.setdefault(entry.decision.guest, deque(maxlen=KEPT))
        if kept and same_refusal(kept[-1].verdict, verdict):
            entry.times += kept.pop().times
        kept.append(entry)

    def of(self, guest: str) -> list[Entry]:
        """A guest's verdicts, oldest first."""
        return list(self._entries.get(guest, ()))

    def last(self, guest: str) -> Entry | None:
        """A guest's last verdict."""
        kept = self._entries.get(guest)
        return kept[-1] if kept else None

    def forget(self, guest: str) -> None:
        """The guest is gone."""
        self._entries.pop(guest, None)
