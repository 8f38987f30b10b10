# SPDX-License-Identifier: GPL-2.0-or-later
"""What hostctl is told: a TOML file and flags, checked as a whole.

Every fault found is a line of the error, with the file (or flag), the key, the value and
what to do. A flag wins over the file.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy import POLICIES
from hostctl.policy.classic import HYSTERESIS, STEP
from hostctl.policy.model import PAGE, Level
from hostctl.pressure.choose import SOURCES

SIZE_END = 1 << 63
"""QMP's sizes are signed, 64 bits."""
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Sizes in bytes, times in seconds; the defaults are the seed's."""

    sockets: Path
    journal: Path | None = None
    """None: standard output."""
    policy: str = "classic"
    step: int = STEP
    hysteresis: float = HYSTERESIS
    floor: int | None = None
    """Of each guest that is not in `floors`; None: the guard's default."""
    floors: Mapping[str, int] = field(default_factory=dict)
    timeout: float = 2.0
    """Of each QMP command."""
    refresh: float = 10.0
    """Between two readings of a guest."""
    source: str = "auto"
    memcg: Path | None = None
    level: Level = Level.LOW


def size(value: object) -> int:
    """Bytes from an integer or a text as "32M" or "1.5 GiB"; units are powers of 1024.

    Raises ValueError with the remedy.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError('give bytes as an integer, or a text such as "32M" or "1.5 GiB"')
        exact = Fraction(match[1]) * (1 << _UNITS[match[2]])
        if exact.denominator != 1:
            raise ValueError("give a whole number of bytes")
        value = int(exact)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError('give bytes as an integer, or a text such as "32M" or "1.5 GiB"')
    if not 0 <= value < SIZE_END:
        raise ValueError("give a size that is not negative and below 8 EiB")
    return value


def _step(value: object) -> int:
    step = size(value)
    if step == 0 or step % PAGE:
        raise ValueError("give a whole number of 4 KiB pages, at least one")
    return step


def _seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("give a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds < math.inf:
        raise ValueError("give a number of seconds that is not negative")
    return seconds


def _interval(value: object) -> float:
    seconds = _seconds(value)
    if not 0.1 <= seconds <= 3600:
        raise ValueError("give 0.1 to 3600 seconds")
    return seconds


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("give a path as a text")
    return Path(value)


def _journal(value: object) -> Path | None:
    return None if value == "-" else _path(value)


def _one_of(names: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"give one of: {', '.join(names)}")
        return value

    return parse


def _level(value: object) -> Level:
    return Level(_one_of(tuple(Level))(value))


def _floors(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError("give a table of sizes by guest name")
    floors = {}
    for name, floor in value.items():
        try:
            floors[name] = size(floor)
        except ValueError as exc:
            raise ValueError(f"for guest {name}: {exc}") from None
    return floors


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the file: the Config field it fills, and how its value is read."""

    field: str
    parse: Callable[[object], object]


KEYS: Mapping[str, Mapping[str, _Key]] = {
    "guests": {
        "sockets": _Key("sockets", _path),
        "floor": _Key("floor", size),
        "floors": _Key("floors", _floors),
        "timeout": _Key("timeout", _interval),
        "refresh": _Key("refresh", _interval),
    },
    "policy": {
        "name": _Key("policy", _one_of(tuple(POLICIES))),
        "step": _Key("step", _step),
        "hysteresis": _Key("hysteresis", _seconds),
    },
    "pressure": {
        "source": _Key("source", _one_of(SOURCES)),
        "memcg": _Key("memcg", _path),
        "level": _Key("level", _level),
    },
    "journal": {"file": _Key("journal", _journal)},
}
"""Tables of the file and their keys."""

FLAGS: Mapping[str, tuple[str, str]] = {
    "sockets": ("guests", "sockets"),
    "floor": ("guests", "floor"),
    "policy": ("policy", "name"),
    "step": ("policy", "step"),
    "hysteresis": ("policy", "hysteresis"),
    "pressure": ("pressure", "source"),
    "memcg": ("pressure", "memcg"),
    "level": ("pressure", "level"),
    "journal": ("journal", "file"),
}
"""The key that each flag of `hostctl run` stands for."""


def load(file: Path | None, flags: Mapping[str, str]) -> Config:
    """The configuration of `file` (if any) and `flags` (by name, without dashes).

    Raises HostctlError with a line for each fault.
    """
    faults: list[str] = []
    fields: dict[str, object] = {}
    if file is not None:
        _read_file(file, fields, faults)
    for flag, value in flags.items():
        table, name = FLAGS[flag]
        _take(f"--{flag}", KEYS[table][name], value, fields, faults)
    if "sockets" not in fields:
        faults.append("no folder of QMP sockets; give --sockets DIR or guests.sockets in the file")
    if faults:
        raise HostctlError("\n".join(faults))
    return Config(**fields)  # type: ignore[arg-type]  # each _Key's parse makes its field's type


def _read_file(file: Path, fields: dict[str, object], faults: list[str]) -> None:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise HostctlError(f"{file}: {exc.strerror}; give a file that can be read") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise HostctlError(f"{file}: not TOML: {exc}; see hostctl.example.toml") from exc
    for table, values in document.items():
        if table not in KEYS:
            faults.append(f"{file}: unknown table [{table}]; known are {', '.join(KEYS)}")
            continue
        if not isinstance(values, dict):
            faults.append(f"{file}: {table} = {_shown(values)}: must be a table, [{table}]")
            continue
        for name, value in values.items():
            where = f"{file}: {table}.{name}"
            key = KEYS[table].get(name)
            if key is None:
                known = ", ".join(KEYS[table])
                faults.append(f"{where} = {_shown(value)}: unknown key; known are {known}")
            else:
                _take(where, key, value, fields, faults)


def _take(
    where: str, key: _Key, value: object, fields: dict[str, object], faults: list[str]
) -> None:
    try:
        fields[key.field] = key.parse(value)
    except ValueError as exc:
        faults.append(f"{where} = {_shown(value)}: {exc}")
        fields.setdefault(key.field, None)  # given, if badly


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
