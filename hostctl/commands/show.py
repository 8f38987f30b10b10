# SPDX-License-Identifier: GPL-2.0-or-later
"""How sizes, ages and names are shown to a person, short and safe for a terminal."""

from __future__ import annotations

_UNITS = ("B", "K", "M", "G", "T", "P")


def plain(text: object) -> str:
    """`text` without what a terminal might act on: names come from files and other daemons."""
    return "".join(one if one.isprintable() else "?" for one in str(text))


def size_text(size: int | None) -> str:
    """Bytes in at most 5 characters, as "1.5G"; units are powers of 1024."""
    if size is None:
        return "-"
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    text = f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"
    return f"{text}{_UNITS[unit]}"


def age_text(age: float | None) -> str:
    """Seconds in at most 4 characters, as "5s", "12m", "3h", "2d"."""
    if age is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if age >= size:
            return f"{min(int(age // size), 999)}{unit}"
    return f"{int(age)}s"


def change_text(old: int, new: int) -> str:
    """By how much a target was changed, as "-32M"."""
    return f"{'+' if new >= old else '-'}{size_text(abs(new - old))}"
