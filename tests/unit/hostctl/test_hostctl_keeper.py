# SPDX-License-Identifier: GPL-2.0-or-later
"""When a guest's statistics are read: soon after QEMU has asked its driver, and not before."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from fakeqemu import RAM, Said

from hostctl.guests.channel import Home
from hostctl.guests.freshness import Freshness
from hostctl.guests.keeper import LATE_STATS, Keeper, Reading, Timing
from hostctl.policy.model import Event, Stats, StatsRead

INTERVAL = 5.0
CLOSELY = 1.0
SECONDS = 13.0
SLACK = 1.0
"""Seconds: a busy machine is no failure."""


class Timed:
    """A guest whose QEMU asks the driver by a timer, and dates the answer in whole seconds."""

    def __init__(self, *, local: bool) -> None:
        self.interval = self.looks = self.set_anew = 0
        self._local = local
        self._begin = self._last = 0.0
        self._freshness = Freshness()

    async def read(self) -> Reading:
        """As Balloon.read."""
        return Reading(RAM, RAM, RAM, tells=True)

    async def set(self, target: int) -> bool:
        """Not asked for here."""
        return True

    def suspect(self, actual: int) -> bool:
        """Never."""
        return False

    async def poll(self, interval: int) -> None:
        """As QEMU: at once when it was off, and after the new interval when that has changed."""
        if interval != self.interval:
            self._last = self._asked() or time.time()
            self.interval, self._begin = interval, time.time()
            self.set_anew += 1

    async def stats(self) -> Stats | None:
        """As Balloon.stats."""
        self.looks += 1
        wall = time.time() if self._local else None
        when = self._freshness.read(int(self._asked()), time.monotonic(), wall)
        return None if when is None else Stats(when)

    def _asked(self) -> float:
        """When the driver was asked last, by the wall clock."""
        if not self.interval:
            return 0.0
        times = (time.time() - self._begin) // self.interval
        return self._begin + times * self.interval if times else self._last


def watched(
    local: bool, closely: tuple[bool, ...] = (), seconds: float = SECONDS
) -> tuple[list[StatsRead], Timed]:
    """What comes of a guest in that time, with attention to it given and taken in between."""
    events: list[Event] = []
    balloon = Timed(local=local)
    timing = Timing(timeout=5.0, refresh=3600.0, stats=INTERVAL, stats_closely=CLOSELY)
    keeper = Keeper("a", events.append, Said(), timing)

    async def run() -> None:
        task = asyncio.create_task(keeper.serve(balloon, lambda: True, lambda: Home("host")))
        for one in closely:
            await asyncio.sleep(seconds / (len(closely) + 1))
            keeper.attend(closely=one)
        await asyncio.sleep(seconds / (len(closely) + 1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return [one for one in events if isinstance(one, StatsRead)], balloon


def test_statistics_are_read_when_they_are_new() -> None:
    found, balloon = watched(local=True)
    assert len(found) >= 3
    assert max(one.time - one.stats.time for one in found) < 1 + LATE_STATS + SLACK
    assert balloon.looks <= len(found) + 1  # the first, at once
    assert balloon.set_anew == 1


def test_where_the_clock_is_another_they_are_looked_for_more_often() -> None:
    # The first are of unknown age and do not count.
    found, balloon = watched(local=False, seconds=SECONDS + INTERVAL)
    gaps = [later.time - earlier.time for earlier, later in pairwise(found)]
    assert len(gaps) >= 2 and max(gaps) < balloon.interval * 4 / 3 + SLACK
    assert balloon.set_anew == 1


def test_attention_comes_and_goes_without_a_gap() -> None:
    found, balloon = watched(local=True, closely=(True, False))
    times = [one.time for one in found]
    second, third = times[0] + SECONDS / 3, times[0] + 2 * SECONDS / 3
    assert sum(second < one < third for one in times) >= 2
    assert max(later - earlier for earlier, later in pairwise(times)) < INTERVAL + 3 * SLACK
    assert balloon.set_anew == 3 and balloon.interval >= 4
