# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as the journal's records, and records as the events that they were.

journal.py lists the kinds and their keys. Records are read leniently in one way: keys that an
older journal did not have take the values that they had then. All else that does not fit is
refused, as a journal may have been edited, or cut short by a full disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from hostctl.errors import HostctlError
from hostctl.policy.model import (
    HOST,
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Held,
    HostPressure,
    Level,
    Occupancy,
    PoolLost,
    PoolRead,
    Released,
    Stats,
    StatsRead,
    TargetSent,
    TargetTaken,
    Tick,
)

Fields = dict[str, object]
_STATS = [field.name for field in fields(Stats) if field.name != "time"]


def of(event: Event, *, known: bool = True) -> tuple[str, Fields] | None:
    """Kind and keys of the event's record; None: it has none.

    `known`: the guest of a GuestRead was there before.
    """
    match event:
        case HostPressure():
            return "host-pressure", {
                "level": event.level,
                "source": event.source,
                "pool": event.pool,
            }
        case PoolRead():
            return "pool", {
                "pool": event.pool,
                "limit": event.limit,
                "usage": event.usage,
                "swapped": event.swapped,
                "occupied": {
                    name: [one.resident, one.swapped] for name, one in event.occupied.items()
                },
            }
        case PoolLost():
            return "pool-lost", {"pool": event.pool, "why": event.why}
        case GuestMessage():
            return "guest-message", {
                "guest": event.guest,
                "level": event.level,
                "actual": event.actual,
            }
        case GuestActual():
            return "actual", {"guest": event.guest, "actual": event.actual}
        case GuestRead():
            return ("guest-read" if known else "guest-added"), {
                "guest": event.guest,
                "ram": event.ram,
                "actual": event.actual,
                "target": event.target,
                "floor": event.floor,
                "balloon": event.balloon,
                "target_known": event.target_known,
                "pool": event.pool,
                "most": event.most,
                "tells": event.tells,
                "pid": event.pid,
            }
        case StatsRead():
            told = {name: getattr(event.stats, name) for name in _STATS}
            return "stats", {
                "guest": event.guest,
                "taken": event.stats.time,
                **{name: value for name, value in told.items() if value is not None},
            }
        case Held():
            return "held", {"guest": event.guest, "why": event.why}
        case Released():
            return "released", {"guest": event.guest}
        case GuestSilent():
            return "guest-silent", {"guest": event.guest}
        case GuestLost():
            return "guest-lost", {"guest": event.guest, "why": event.why}
        case TargetTaken():
            return "target-taken", {"guest": event.guest, "target": event.target}
        case Tick():
            return "tick", {}
    return None


def event(record: Mapping[str, object]) -> Event | None:
    """The event of a record; None: the record is of something else.

    A decision's record is its TargetSent: the guest had that target from then on. Raises
    HostctlError naming the kind, the key and the value.
    """
    kind = record.get("event")
    keys = _Keys(str(kind), record)
    match kind:
        case "host-pressure":
            return HostPressure(
                keys.time(), keys.level(), keys.text("source"), keys.text("pool", HOST)
            )
        case "pool":
            return PoolRead(
                keys.time(),
                keys.text("pool"),
                keys.size("limit"),
                keys.size("usage"),
                keys.maybe("swapped"),
                keys.occupied(),
            )
        case "pool-lost":
            return PoolLost(keys.time(), keys.text("pool"), keys.text("why"))
        case "guest-message":
            return GuestMessage(keys.time(), keys.text("guest"), keys.level(), keys.size("actual"))
        case "actual":
            return GuestActual(keys.time(), keys.text("guest"), keys.size("actual"))
        case "guest-added" | "guest-read":
            return GuestRead(
                keys.time(),
                keys.text("guest"),
                keys.size("ram"),
                keys.size("actual"),
                keys.size("target"),
                keys.size("floor"),
                keys.flag("balloon", True),
                keys.flag("target_known", True),
                keys.text("pool", HOST),
                keys.maybe("most"),
                keys.flag("tells", True),
                keys.maybe("pid"),
            )
        case "stats":
            told = {name: keys.maybe(name) for name in _STATS}
            return StatsRead(keys.time(), keys.text("guest"), Stats(keys.time("taken"), **told))
        case "held":
            return Held(keys.time(), keys.text("guest"), keys.text("why"))
        case "released":
            return Released(keys.time(), keys.text("guest"))
        case "guest-silent":
            return GuestSilent(keys.time(), keys.text("guest"))
        case "guest-lost":
            return GuestLost(keys.time(), keys.text("guest"), keys.text("why"))
        case "target-taken":
            return TargetTaken(keys.time(), keys.text("guest"), keys.size("target"))
        case "tick":
            return Tick(keys.time())
        case "decision":
            return TargetSent(keys.time(), keys.text("guest"), keys.size("new"))
    return None


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) is int and 0 <= one < 1 << 64 for one in value)
    )


class _Keys:
    """The keys of a record, checked."""

    def __init__(self, kind: str, record: Mapping[str, object]) -> None:
        self._kind, self._record = kind, record

    def time(self, key: str = "mono") -> float:
        value = self._record.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                if math.isfinite(value):
                    return float(value)
            except OverflowError:
                pass
        raise self._error(key, value, "a time in seconds")

    def size(self, key: str) -> int:
        value = self.maybe(key)
        if value is None:
            raise self._error(key, value, "bytes that are not negative")
        return value

    def maybe(self, key: str) -> int | None:
        value = self._record.get(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
            return value
        raise self._error(key, value, "an integer that is not negative")

    def occupied(self) -> dict[str, Occupancy]:
        """By guest, its bytes in memory and in swap; older journals have none."""
        value = self._record.get("occupied", {})
        if isinstance(value, dict) and all(map(_is_pair, value.values())):
            return {name: Occupancy(*pair) for name, pair in value.items()}
        raise self._error("occupied", value, "pairs of integers that are not negative, by guest")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._record.get(key, default)
        if not isinstance(value, str):
            raise self._error(key, value, "a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._record.get(key, default)
        if not isinstance(value, bool):
            raise self._error(key, value, "true or false")
        return value

    def level(self) -> Level:
        value = self._record.get("level")
        if not isinstance(value, str) or value not in tuple(Level):
            raise self._error("level", value, "one of: " + ", ".join(Level))
        return Level(value)

    def _error(self, key: str, value: object, wanted: str) -> HostctlError:
        shown = ascii(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "huge"
        return HostctlError(f"{self._kind}.{key} = {shown[:60]}: must be {wanted}")
