# SPDX-License-Identifier: GPL-2.0-or-later
"""What of all that happens is written into the journal: enough for a replay, and no flood.

Events that come on their own are written each. What is read again and again (sizes, statistics,
pools) is written when it has changed, when something was decided on it, and now and then; a tick
when something was decided on it. A refusal is written when it is not the guest's last verdict
again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from hostctl import records
from hostctl.engine import Verdict
from hostctl.guard import Refusal
from hostctl.policy.model import (
    Decision,
    Event,
    GuestLost,
    GuestRead,
    HostState,
    Occupancy,
    PoolLost,
    PoolRead,
    Stats,
    StatsRead,
    Tick,
)

AGAIN = 20.0
"""Seconds after which what has not changed is written again."""
STATS_AGAIN = 10.0
"""The same of statistics: they come every 20 s, and must not be older in a replay."""
REFUSED_AGAIN = 60.0
"""Seconds after which a refusal that goes on is written again."""
CHANGE = 64
"""A size has changed when it did by more than this part of the whole: 1/64."""

FAULTS = 50
"""Major faults between two readings that are worth a record: a program's start makes as many."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


Record = dict[str, object]


def same_refusal(one: Verdict | None, two: Verdict) -> bool:
    """Whether both refuse the same for the same reason, numbers in the reason aside."""
    return (
        isinstance(one, Refusal)
        and isinstance(two, Refusal)
        and one.decision.reason is two.decision.reason
        and (one.decision.new_target < one.decision.old_target)
        == (two.decision.new_target < two.decision.old_target)
        and _NUMBER.sub("#", one.why) == _NUMBER.sub("#", two.why)
    )


class Recorder:
    """Gives `write` the records of events and verdicts that are worth it."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        self._write = write
        self._stats: dict[str, Stats] = {}
        self._pools: dict[str, PoolRead] = {}
        self._occupied: dict[str, tuple[float, Occupancy]] = {}
        self._verdicts: dict[str, tuple[float, Verdict]] = {}

    def event(
        self, event: Event, before: HostState, after: HostState, verdicts: Sequence[Verdict] = ()
    ) -> None:
        """An event, with the host before and after it, and the verdicts that came of it."""
        if isinstance(event, PoolRead):
            event = self._news(event, after)
        telling = any(self._tells(one, event.time) for one in verdicts)
        if not telling and self._repeats(event, before, after):
            return
        match event:
            case StatsRead():
                self._stats[event.guest] = event.stats
            case PoolRead():
                self._pools[event.pool] = event
                self._occupied |= {name: (event.time, one) for name, one in event.occupied.items()}
            case GuestLost():
                self._stats.pop(event.guest, None)
                self._occupied.pop(event.guest, None)
                self._verdicts.pop(event.guest, None)
            case PoolLost():
                self._pools.pop(event.pool, None)
        known = not isinstance(event, GuestRead) or event.guest in before.guests
        if found := records.of(event, known=known):
            kind, fields = found
            self._write({"mono": event.time, "event": kind, **fields})

    def _news(self, event: PoolRead, after: HostState) -> PoolRead:
        """The reading with those guests alone of which the host holds something else by now."""

        def is_news(name: str, one: Occupancy) -> bool:
            guest = after.guests.get(name)
            then, old = self._occupied.get(name, (0.0, None))
            return (
                guest is None
                or old is None
                or event.time - then >= AGAIN
                or _moved(old.resident, one.resident, guest.ram)
                or _moved(old.swapped, one.swapped, guest.ram)
            )

        news = {name: one for name, one in event.occupied.items() if is_news(name, one)}
        return replace(event, occupied=news)

    def _repeats(self, event: Event, before: HostState, after: HostState) -> bool:
        """Whether the event tells nothing that is not written already."""
        match event:
            case GuestRead():
                return before.guests.get(event.guest) == after.guests[event.guest]
            case StatsRead():
                return event.guest not in before.guests or not self._stats_differ(event)
            case PoolRead():
                return not self._pool_differs(event)
        return isinstance(event, Tick)

    def verdict(self, verdict: Verdict, policy: str, now: float) -> None:
        """A verdict on a decision of `policy`."""
        if not self._tells(verdict, now):
            return
        decision = _decision(verdict)
        self._verdicts[decision.guest] = (now, verdict)
        record: Record = {
            "mono": now,
            "event": "refused" if isinstance(verdict, Refusal) else "decision",
            "guest": decision.guest,
            "old": decision.old_target,
            "new": decision.new_target,
            "reason": decision.reason,
            "policy": policy,
            "why": decision.why,
        }
        if isinstance(verdict, Refusal):
            record["refusal"] = verdict.why
        self._write(record)

    def _tells(self, verdict: Verdict, now: float) -> bool:
        """Whether it is more than a refusal that goes on."""
        then, last = self._verdicts.get(_decision(verdict).guest, (now, None))
        return now - then >= REFUSED_AGAIN or not same_refusal(last, verdict)

    def _stats_differ(self, event: StatsRead) -> bool:
        old, new = self._stats.get(event.guest), event.stats
        if old is None or new.time - old.time >= STATS_AGAIN:
            return True
        whole = new.total or 0
        sizes: tuple[Callable[[Stats], int | None], ...] = (
            lambda s: s.free, lambda s: s.available, lambda s: s.caches
        )  # fmt: skip
        if any(_moved(size(old), size(new), whole) for size in sizes):
            return True
        faults = (new.major_faults or 0) - (old.major_faults or 0)
        return faults >= FAULTS or _pressed(old) != _pressed(new)

    def _pool_differs(self, event: PoolRead) -> bool:
        old = self._pools.get(event.pool)
        return (
            old is None
            or event.time - old.time >= AGAIN
            or _moved(old.limit, event.limit, event.limit)
            or _moved(old.usage, event.usage, event.limit)
            or _moved(old.swapped, event.swapped, event.limit)
            or bool(event.occupied)
        )


def _decision(verdict: Verdict) -> Decision:
    return verdict.decision if isinstance(verdict, Refusal) else verdict


def _moved(old: int | None, new: int | None, whole: int) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > whole // CHANGE


def _pressed(stats: Stats) -> tuple[int | None, ...]:
    """The counts that stand still in a guest that is not short."""
    return (stats.swap_in, stats.swap_out, stats.oom_kills, stats.stalls, stats.scanned)
