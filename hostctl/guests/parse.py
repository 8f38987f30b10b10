# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU says over QMP, checked. QEMU and the guest in it are not trusted.

Pure functions. Each takes an event or a command's return value and gives a typed value, or
raises QmpDataError naming the command or event, the member and the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from hostctl.errors import QmpDataError
from hostctl.policy.model import PAGE, SIZE_END, Level, Stats

BALLOON_TYPE = "child<virtio-balloon"
"""How the QOM type of each of QEMU's virtio balloon devices begins (-pci, -device, -ccw)."""
BALLOON_CORE = "child<virtio-balloon-device>"
"""The device itself; the others are a bus's, and have it as their child."""
MESSAGE_BIT = 23
"""VIRTIO_BALLOON_F_MESSAGE_VQ of kmod/include/uapi/linux/virtio_balloon_message.h."""
MESSAGE_NAME = "VIRTIO_BALLOON_F_MESSAGE_VQ"
UNTOLD = ((1 << 64) - 1, -1)
"""How QEMU writes a statistic that the driver did not send."""
SIZES = {
    "stat-total-memory": "total",
    "stat-free-memory": "free",
    "stat-available-memory": "available",
    "stat-disk-caches": "caches",
}
"""QEMU's names of statistics that are bytes of the guest's RAM, and ours in Stats."""
COUNTS = {
    "stat-swap-in": "swap_in",
    "stat-swap-out": "swap_out",
    "stat-major-faults": "major_faults",
    "stat-oom-kills": "oom_kills",
    "stat-alloc-stalls": "stalls",
}
"""Statistics that only grow."""
SUMS = {
    "scanned": ("stat-async-scans", "stat-direct-scans"),
    "reclaimed": ("stat-async-reclaims", "stat-direct-reclaims"),
}
"""Our counts of pages, from counts of bytes: Linux has them since 6.12, QEMU 10.0 but not 7.2."""


@dataclass(frozen=True, slots=True)
class PressureEvent:
    """BALLOON_PRESSURE, of our device: the guest is short; `actual` in bytes."""

    level: Level
    actual: int


@dataclass(frozen=True, slots=True)
class ActualEvent:
    """BALLOON_CHANGE: the guest's size is now `actual` bytes."""

    actual: int


@dataclass(frozen=True, slots=True)
class StatsReply:
    """Statistics as a host dates them."""

    date: int
    """Seconds of the wall clock when the driver answered last; 0: it never did."""
    values: Mapping[str, int]
    """By their names in Stats."""

    def at(self, time: float) -> Stats:
        """The statistics, made at `time` on the clock of all events."""
        return Stats(time, **self.values)


def event(message: Mapping[str, object]) -> PressureEvent | ActualEvent | None:
    """A QMP event; None for one that is not about the balloon."""
    match message.get("event"):
        case "BALLOON_PRESSURE" as name:
            data = _mapping(name, message.get("data"))
            level = data.get("level")
            if not isinstance(level, str) or level not in list(Level):
                raise _wrong(name, "level", level, "low, medium or critical")
            return PressureEvent(Level(level), _size(name, data, "actual"))
        case "BALLOON_CHANGE" as name:
            return ActualEvent(_size(name, _mapping(name, message.get("data")), "actual"))
        case _:
            return None


def balloon(reply: object, ram: int) -> int:
    """The reply to query-balloon: the guest's actual size in bytes, at most `ram`."""
    name = "query-balloon"
    actual = _size(name, _mapping(name, reply), "actual")
    if actual > ram:
        raise _wrong(name, "actual", actual, f"a size within the RAM of {ram} bytes")
    return actual


def memory(reply: object) -> int:
    """The reply to query-memory-size-summary: RAM in bytes, with what is plugged in."""
    name = "query-memory-size-summary"
    data = _mapping(name, reply)
    ram = _size(name, data, "base-memory")
    if "plugged-memory" in data:
        ram += _size(name, data, "plugged-memory")
    if ram == 0 or ram % PAGE or ram >= SIZE_END:
        raise _wrong(name, "base-memory", ram, "a whole number of pages, and not none")
    return ram


def target(reply: object, ram: int) -> int:
    """The reply to qom-get of our device's target: the size asked for in bytes."""
    if not _is_size(reply) or reply > ram:
        raise _wrong("qom-get", "target", reply, f"a size within the RAM of {ram} bytes")
    return reply


def balloons(reply: object) -> list[str]:
    """The reply to qom-list: the paths, below the folder, of the balloon devices in it."""
    if not isinstance(reply, list):
        raise _wrong("qom-list", "return", reply, "a list")
    paths = []
    for item in reply:
        data = _mapping("qom-list", item)
        name, kind = data.get("name"), data.get("type")
        if not isinstance(name, str) or not isinstance(kind, str):
            raise _wrong("qom-list", "return", item, "a name and a type")
        if kind.startswith(BALLOON_TYPE):
            paths.append(name if kind == BALLOON_CORE else f"{name}/virtio-backend")
    return paths


def flag(name: str, reply: object) -> bool:
    """The reply to qom-get of a property that is on or off."""
    if not isinstance(reply, bool):
        raise _wrong("qom-get", name, reply, "true or false")
    return reply


def tells(reply: object) -> bool:
    """The reply to x-query-virtio-status: did the driver accept the message queue?

    QEMU shows the bits that it has no name for as a number.
    """
    name = "x-query-virtio-status"
    features = _mapping(name, _mapping(name, reply).get("guest-features"))
    number = features.get("unknown-dev-features", 0)
    if not isinstance(number, int):
        raise _wrong(name, "unknown-dev-features", number, "a number")
    named = features.get("dev-features", [])
    if not isinstance(named, list):
        raise _wrong(name, "dev-features", named, "a list")
    return bool(number >> MESSAGE_BIT & 1) or any(
        isinstance(one, str) and one.startswith(MESSAGE_NAME) for one in named
    )


def stats(reply: object, ram: int) -> StatsReply:
    """The reply to qom-get of guest-stats; names that we do not know are passed over.

    A size above the RAM is refused with all the rest: who says so lies in the rest as well.
    """
    name = "guest-stats"
    data = _mapping(name, reply)
    date = _size(name, data, "last-update")
    told = {
        key: value
        for key, value in _mapping(name, data.get("stats")).items()
        if value not in UNTOLD
    }
    values = {}
    for key, ours in SIZES.items():
        if key in told:
            values[ours] = _size(name, told, key)
            if values[ours] > ram:
                raise _wrong(name, key, values[ours], f"a size within the RAM of {ram} bytes")
    for key, ours in COUNTS.items():
        if key in told:
            values[ours] = _size(name, told, key)
    for ours, keys in SUMS.items():
        if parts := [_size(name, told, key) for key in keys if key in told]:
            values[ours] = sum(parts) // PAGE
    return StatsReply(date, values)


def _mapping(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _wrong(where, "data", value, "an object")
    return value


def _is_size(value: object) -> TypeGuard[int]:
    # JSON's true is an int to Python, and no size.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SIZE_END


def _size(where: str, data: Mapping[str, object], key: str) -> int:
    value = data.get(key)
    if not _is_size(value):
        raise _wrong(where, key, value, "a size in bytes")
    return value


def _wrong(where: str, key: str, value: object, wanted: str) -> QmpDataError:
    text = ascii(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return QmpDataError(
        f"{where}: {key} is {text} and not {wanted}; this QEMU's word on it is ignored"
    )
