# SPDX-License-Identifier: GPL-2.0-or-later
"""How old statistics are: QEMU dates them by the wall clock, in whole seconds."""

from __future__ import annotations


class Freshness:
    """When a guest's driver has answered, on the monotonic clock.

    The wall clock may be set at any time: it counts only between two readings of ours. At the
    first there is nothing else, and statistics from the future are not believed.
    """

    def __init__(self) -> None:
        self._date: int | None = None
        self._read: float | None = None

    def read(self, date: int, now: float, wall: float | None) -> float | None:
        """When statistics dated `date` were made; None: they are old, or their age is unknown.

        `now` and `wall` are the clocks at the reading; `wall` is None when the date is that of
        another host.
        """
        before, self._read = self._read, now
        if date == 0 or date == self._date:
            return None
        first, self._date = self._date is None, date
        if first or before is None:
            # The date is cut to the second, and the clocks are read one after the other.
            if wall is None or date > wall + 1:
                return None
            return now - max(wall - date, 0.0)
        if wall is None:
            return before
        return min(max(now - (wall - date), before), now)
