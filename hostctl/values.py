# SPDX-License-Identifier: GPL-2.0-or-later
"""Values that an operator gives, in the configuration's file or as a flag: how each is read.

Every function takes a value of TOML or a flag's text, and raises ValueError with the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from hostctl.policy.model import PAGE, SIZE_END, Level

BOUND_LEAST = 64 << 20
"""Bytes: a Linux guest with less is soon dead. Our own choice; 128 MiB is the default's least."""
SOCKET_PATH_MOST = 107
"""Bytes in the path of a Unix socket: sun_path has 108, and a zero ends it."""
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB)?", re.ASCII)
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):(\d{1,5})", re.ASCII)


def size(value: object) -> int:
    """Bytes from an integer or a text as "32M" or "1.5 GiB"; units are powers of 1024."""
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


def pages(value: object) -> int:
    """A size of whole pages, at least one."""
    found = size(value)
    if found == 0 or found % PAGE:
        raise ValueError("give a whole number of 4 KiB pages, at least one")
    return found


def bound(value: object) -> int:
    """A floor or a ceiling of guests."""
    found = size(value)
    if found < BOUND_LEAST:
        raise ValueError("give at least 64M; a guest with less RAM is never made smaller")
    return found


def file_size(value: object) -> int:
    """The size at which a file is rotated."""
    found = size(value)
    if found < 1 << 16:
        raise ValueError("give at least 64K")
    return found


def _number(value: object, unit: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"give a number{unit}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def seconds(value: object) -> float:
    """A time, zero or more."""
    found = _number(value, " of seconds")
    if not 0 <= found < math.inf:
        raise ValueError("give a number of seconds that is not negative")
    return found


def number(value: object) -> float:
    """Zero or more, of whatever unit."""
    found = _number(value, "")
    if not 0 <= found < math.inf:
        raise ValueError("give a number that is not negative")
    return found


def within(least: float, most: float, unit: str = "") -> Callable[[object], float]:
    """A reader of a number from `least` to `most`; `unit` is what an error names."""

    def parse(value: object) -> float:
        found = _number(value, unit)
        if not least <= found <= most:
            raise ValueError(f"give {least:g} to {most:g}{unit}")
        return found

    return parse


interval = within(0.1, 3600, " seconds")
"""A time between two doings."""
lasting = within(0, 3600, " seconds")
"""A time for which something holds, if at all."""
half_life = within(1, 604800, " seconds")
"""A time in which half of something goes: up to a week."""
stats_age = within(1, 300, " seconds")
"""An age of statistics up to which they count. Those of five minutes ago say nothing of now."""
part = within(0, 1)
"""A part of a whole, or nothing of it."""


def parts(value: object) -> tuple[float, float, float]:
    """A part of a whole for each pressure level."""
    if not isinstance(value, list) or len(value) != len(Level):
        raise ValueError("give a list of three numbers from 0 to 1, for low, medium and critical")
    low, medium, critical = (part(one) for one in value)
    return low, medium, critical


def share(value: object) -> float:
    """A part of a whole."""
    found = _number(value, " above 0 and up to 1")
    if not 0 < found <= 1:
        raise ValueError("give a number above 0 and up to 1")
    return found


def shares(value: object) -> tuple[float, ...]:
    """Parts of a whole, in order of size."""
    if not isinstance(value, list):
        raise ValueError("give a list of numbers above 0 and up to 1")
    return tuple(sorted({share(one) for one in value}))


def whole(most: int) -> Callable[[object], int]:
    """A reader of a whole number from 0 to `most`."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise ValueError(f"give a whole number from 0 to {most}")
        return value

    return parse


count = whole(1000)
"""How many of something small."""
doublings = whole(16)
"""How often something may double."""


def path(value: object) -> Path:
    """A path, as it is."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("give a path as a text")
    return Path(value)


def socket_path(value: object) -> Path:
    """The path of a Unix socket of our own, and so a short one."""
    found = path(value)
    if len(bytes(found)) > SOCKET_PATH_MOST:
        raise ValueError(f"give a path of at most {SOCKET_PATH_MOST} bytes, as sockets need it")
    return found


def paths(value: object) -> tuple[Path, ...]:
    """One path or a list of them, each once."""
    return tuple(dict.fromkeys(path(one) for one in _listed(value, "a path")))


def texts(value: object) -> tuple[str, ...]:
    """One text or a list of them, each once."""
    found = _listed(value, "a text")
    for one in found:
        if not isinstance(one, str) or not one or not one.isprintable():
            raise ValueError("give a text or a list of texts, none of them empty")
    return tuple(dict.fromkeys(map(str, found)))


def _listed(value: object, what: str) -> list[object]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"give {what} or a list of them")
    return value


def output(value: object) -> Path | None:
    """A file, or None for "-", standard output."""
    return None if value == "-" else path(value)


def address(value: object) -> tuple[str, int] | None:
    """Address and port to listen at; None for "off"."""
    if value == "off":
        return None
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[3]) < 1 << 16:
        raise ValueError('give ADDRESS:PORT such as "127.0.0.1:9843" or "[::1]:9843", or "off"')
    return match[1] or match[2], int(match[3])


def one_of(names: tuple[str, ...]) -> Callable[[object], str]:
    """A reader of one of `names`."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"give one of: {', '.join(names)}")
        return value

    return parse


def level(value: object) -> Level:
    """A pressure level."""
    return Level(one_of(tuple(Level))(value))


def shown(value: object) -> str:
    """`value` as an error shows it: short, and safe to print."""
    try:
        text = ascii(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
