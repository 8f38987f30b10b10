# SPDX-License-Identifier: GPL-2.0-or-later
"""One after another: a thousand guests that are all connected to at once would all time out."""

from __future__ import annotations

import asyncio

GAP = 0.002
"""Seconds between two turns at least: a connection and a first reading cost about as much."""


class Pace:
    """Gives turns, as fast as the event loop keeps up: one that is late gives them later."""

    def __init__(self, gap: float = GAP) -> None:
        self._gap = gap
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for a turn."""
        async with self._lock:
            await asyncio.sleep(self._gap)
