# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon answers, as JSON. Sizes are bytes; ages are seconds before now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from hostctl.guard import Refusal
from hostctl.history import Entry, History
from hostctl.policy.model import GuestState, HostState, PoolState

GUESTS_A_PIECE = 20
"""Guests in a piece of an answer: a piece takes well under a millisecond."""

Fields = dict[str, object]


def one(**fields: object) -> list[str]:
    """A whole answer."""
    return [json.dumps({"ok": True, **fields})]


def status(
    state: HostState, history: History, now: float, about: Mapping[str, object]
) -> Iterator[str]:
    """The answer to status: `about` the daemon, its pools and its guests."""
    pools = [pool_fields(pool, now) for pool in state.pools.values()]
    head = json.dumps({"ok": True, **about, "pools": pools})
    yield f'{head[:-1]}, "guests": ['
    guests = list(state.guests.values())
    for start in range(0, len(guests), GUESTS_A_PIECE):
        some = guests[start : start + GUESTS_A_PIECE]
        found = [
            {**guest_fields(guest, now), "last": _last(history.last(guest.name), now)}
            for guest in some
        ]
        yield (", " if start else "") + json.dumps(found)[1:-1]
    yield "]}"


def explain(guest: GuestState, entries: Iterable[Entry], now: float) -> list[str]:
    """The answer to explain: the guest as it is, and its last verdicts with their inputs."""
    verdicts = [
        {
            **verdict_fields(entry, now),
            "inputs": guest_fields(entry.guest, entry.time) if entry.guest else None,
            "pool": pool_fields(entry.pool, entry.time) if entry.pool else None,
        }
        for entry in entries
    ]
    return one(guest=guest_fields(guest, now), verdicts=verdicts)


def guest_fields(guest: GuestState, now: float) -> Fields:
    """A guest as it was known at `now`."""
    stats = guest.stats
    return {
        "name": guest.name,
        "pool": guest.pool,
        "ram": guest.ram,
        "target": guest.target,
        "actual": guest.actual,
        "floor": guest.floor,
        "ceiling": guest.ceiling,
        "balloon": guest.balloon,
        "tells": guest.tells,
        "fresh": guest.fresh,
        "held": guest.held,
        "level": guest.level,
        "message_age": _age(guest.last_message, now),
        "available": stats.available if stats else None,
        "stats_age": _age(stats.time, now) if stats else None,
    }


def pool_fields(pool: PoolState, now: float) -> Fields:
    """A pool as it was known at `now`."""
    fields: Fields = asdict(pool)
    del fields["time"]
    return {**fields, "age": _age(pool.time, now)}


def verdict_fields(entry: Entry, now: float) -> Fields:
    """A verdict; `refusal` is null where the decision was carried out."""
    decision = entry.decision
    return {
        "age": _age(entry.time, now),
        "times": entry.times,
        "reason": decision.reason,
        "old": decision.old_target,
        "new": decision.new_target,
        "why": decision.why,
        "refusal": entry.verdict.why if isinstance(entry.verdict, Refusal) else None,
    }


def _last(entry: Entry | None, now: float) -> Fields | None:
    return verdict_fields(entry, now) if entry else None


def _age(then: float | None, now: float) -> float | None:
    return None if then is None else round(max(now - then, 0.0), 3)
