# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon a guest that says it is short gets memory back, from hostctl's journal. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reactions:
    """Waits in seconds, and how many were not over when the journal ended."""

    waits: list[float]
    unheard: int


def reactions(journal: Iterable[Mapping[str, Any]], since: float = 0.0) -> Reactions:
    """From a guest's message to its QEMU having taken a larger target.

    A guest asks when it sends a message while its target is below its RAM; what it sends until
    it is answered is the same asking. What was asked before `since` does not count: seconds of
    the monotonic clock, which is hostctl's as well.
    """
    ram: dict[str, int] = {}
    target: dict[str, int] = {}
    asked: dict[str, float] = {}
    waits = []
    for record in journal:
        guest = record.get("guest", "")
        match record["event"]:
            case "guest-added":
                ram[guest], target[guest] = record["ram"], record["target"]
            case "guest-read" if guest not in asked:  # it may have what is decided and not sent
                ram[guest], target[guest] = record["ram"], record["target"]
            case "guest-message" if (record["mono"] >= since
                                     and target.get(guest, 0) < ram.get(guest, 0)):
                asked.setdefault(guest, record["mono"])
            case "target-taken":
                if record["target"] > target.get(guest, 0) and guest in asked:
                    waits.append(record["mono"] - asked.pop(guest))
                target[guest] = record["target"]
    return Reactions(waits, len(asked))
