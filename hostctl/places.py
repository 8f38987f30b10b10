# SPDX-License-Identifier: GPL-2.0-or-later
"""The places where guests are looked for: a finder each, kept at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial

from hostctl.finders import Place
from hostctl.guests.channel import Channel, Finder
from hostctl.journal import Reporter
from hostctl.policy.model import Event, GuestLost, GuestRead
from hostctl.supervise import supervise


class Places:
    """Runs a finder for each place. Its guests' events go to `emit`."""

    def __init__(self, emit: Callable[[Event], None], report: Reporter) -> None:
        self._emit = emit
        self._report = report
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._finders: dict[Place, Finder] = {}
        self._closing = False

    def change(self, places: Iterable[Place]) -> None:
        """Look for guests in `places` from now on, and nowhere else."""
        wanted = list(places)
        for place in [one for one in self._tasks if one not in wanted]:
            self._tasks.pop(place).cancel()
        for place in wanted:
            if place not in self._tasks:
                run = partial(self._run, place)
                task = asyncio.create_task(supervise(place.name, run, self._report))
                self._tasks[place] = task

    def channel(self, guest: str) -> Channel | None:
        """The way to a guest; None: there is none."""
        for finder in self._finders.values():
            if channel := finder.guests.get(guest):
                return channel
        return None

    async def close(self) -> None:
        """Leave all guests as they are."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, place: Place) -> None:
        told: set[str] = set()

        def take(event: Event) -> None:
            if isinstance(event, GuestRead):
                told.add(event.guest)
            elif isinstance(event, GuestLost):
                told.discard(event.guest)
            self._emit(event)

        finder = place.make(take, self._report)
        self._finders[place] = finder
        try:
            await finder.run()
        finally:
            # A place that was given again at once has a new finder by then.
            if self._finders.get(place) is finder:
                del self._finders[place]
            for guest in told if not self._closing else ():
                why = f"{place.name} is not looked at any more"
                self._emit(GuestLost(time.monotonic(), guest, why))
