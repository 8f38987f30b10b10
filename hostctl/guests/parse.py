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
from hostctl.policy.model import PAGE, Level

SIZE_END = 1 << 63
"""QAPI's int is signed, 64 bits: a size from here on is no size."""
BALLOON_TYPE = "child<virtio-balloon"
"""How the QOM type of each of QEMU's virtio balloon devices begins (-pci, -device, -ccw)."""


@dataclass(frozen=True, slots=True)
class PressureEvent:
    """BALLOON_PRESSURE, of our device: the guest is short; `actual` in bytes."""

    level: Level
    actual: int


@dataclass(frozen=True, slots=True)
class ActualEvent:
    """BALLOON_CHANGE: the guest's size is now `actual` bytes."""

    actual: int


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


def balloon_names(reply: object) -> list[str]:
    """The reply to qom-list: the names of the members that are balloon devices."""
    if not isinstance(reply, list):
        raise _wrong("qom-list", "return", reply, "a list")
    names = []
    for item in reply:
        data = _mapping("qom-list", item)
        name, kind = data.get("name"), data.get("type")
        if not isinstance(name, str) or not isinstance(kind, str):
            raise _wrong("qom-list", "return", item, "a name and a type")
        if kind.startswith(BALLOON_TYPE):
            names.append(name)
    return names


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
