# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures out of samples, and tables out of figures. Pure."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured, never one between two.

    With fewer than 100 values the 99th is therefore the greatest. ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


@dataclass(frozen=True)
class Spread:
    """Median and range of the rounds' values, in their unit."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """The spread of the values; None when there are none."""
        found = list(values)
        if not found:
            return None
        return cls(statistics.median(found), min(found), max(found))


def figure(value: float) -> str:
    """A number with three significant digits, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def spread(values: Iterable[float], factor: float = 1.0) -> str:
    """`median (low to high)` of the values times `factor`; a dash when there are none."""
    found = Spread.of(value * factor for value in values)
    if found is None:
        return "-"
    if found.low == found.high:
        return figure(found.median)
    return f"{figure(found.median)} ({figure(found.low)} to {figure(found.high)})"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are set to the right."""
    lines = ["| " + " | ".join(headings) + " |",
             "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
