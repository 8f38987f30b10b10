# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest as the daemon sees it, however it is reached: read now and then, its targets set.

It emits the guest's events. A guest that does not answer is told as silent: memory is not
taken from it then, and what it is to get back it gets as soon as it answers.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hostctl.errors import HostctlError, QmpDataError
from hostctl.guests.channel import Home
from hostctl.journal import Reporter
from hostctl.policy.model import (
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Held,
    Level,
    Stats,
    StatsRead,
    TargetTaken,
)

LOOK_AGAIN = 1.0
"""Seconds between two readings that events call for: a guest makes as many as it likes."""
FIRST_STATS = 0.1
"""Seconds until the driver's first answer is looked for; each later look waits twice as long."""
AGAIN_STATS = 1.0
"""The same of a later answer that is not there when it should be."""
LATE_STATS = 1.5
"""Seconds after QEMU's interval at which new statistics are there: QEMU dates them in whole
seconds, and the driver answers when it runs."""
LOOKS = 3
"""In an interval of QEMU's, where it is not known when that ends."""
SPREAD = 0.8
"""Each guest has an interval of its own, so much of what is configured at least: a thousand that
were found at once must not be due at once for ever."""

SLOT = 0.25
"""Seconds between two times at which guests are read: some 25 of a thousand at each."""


class RefusedError(HostctlError):
    """QEMU answers a command with an error."""


class EndedError(HostctlError):
    """The connection has ended, maybe under a command."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: a command's time-out, between readings, between statistics, first and longest
    wait to reconnect, and how long a guest that lost its connection is waited for."""

    timeout: float
    refresh: float
    stats: float
    """QEMU polls the driver as often, in whole seconds."""
    stats_closely: float = 2.0
    """The same of a guest that the policy attends to."""
    retry_first: float = 0.5
    retry_most: float = 5.0
    """A guest that is silent is asked again as often."""
    grace: float = 15.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A guest as it is now, in bytes."""

    ram: int
    actual: int
    target: int
    balloon: bool = True
    target_known: bool = False
    tells: bool = False
    held: str | None = None
    """Why it is to be left alone from now on; None: no reason that was not told before."""


class Balloon(Protocol):
    """A guest's balloon, over whatever.

    Each may raise TimeoutError, RefusedError, QmpDataError and EndedError.
    """

    async def read(self) -> Reading:
        """Ask for all of it; what somebody else has done is told once, and is the truth then."""
        ...

    async def set(self, target: int) -> bool:
        """Set the target in bytes; False: the one there is not ours, and `read` tells more."""
        ...

    async def stats(self) -> Stats | None:
        """The driver's statistics; None: there are none that are new."""
        ...

    async def poll(self, interval: int) -> None:
        """Have QEMU ask the driver each `interval` seconds; to repeat it changes nothing."""
        ...

    def suspect(self, actual: int) -> bool:
        """Does this size, told by an event, call for a reading?"""
        ...


class Keeper:
    """Keeps one guest. It outlives connections: `serve` runs as long as one lasts."""

    def __init__(
        self,
        name: str,
        emit: Callable[[Event], None],
        report: Reporter,
        timing: Timing,
    ) -> None:
        self.name = name
        # By the name, so that the daemon's next run has QEMU's interval go on.
        self._share = SPREAD + (1 - SPREAD) * (zlib.crc32(name.encode()) / (1 << 32))
        self.known = False
        """The guest was told of, and not that it is gone."""
        self.up = False
        """There was a reading over this connection."""
        self._emit = emit
        self._report = report
        self._timing = timing
        self._wake = asyncio.Event()
        self._forget()

    def _forget(self) -> None:
        self.known = self.up = self._silent = False
        self._complaints: set[str] = set()
        self._wanted: int | None = None
        self._kept: int | None = None
        """A target for after the next reading, unless the guest turns out to have more."""
        self._asked = 0
        """The target that QEMU has, as far as we know."""
        self._heard: int | None = None
        self._tells = False
        self._due = 0.0
        self._interval = self._timing.stats

    def set_target(self, target: int) -> None:
        """Have the guest's target set to `target` bytes, soon; a later call replaces it."""
        self._wanted, self._kept = target, None
        self._wake.set()

    def attend(self, *, closely: bool) -> None:
        """Read statistics often from now on, or as often as is configured."""
        self._interval = self._timing.stats
        if closely:
            self._interval = min(self._timing.stats_closely, self._timing.stats)
            self._stats_due = 0.0
            self._wake.set()

    def wake(self) -> None:
        """`serve` is to look whether it should still run."""
        self._wake.set()

    def lose(self, why: str) -> None:
        """The guest is gone: tell it, and forget the guest."""
        if self.known:
            self._emit(GuestLost(time.monotonic(), self.name, why))
        self._forget()

    def go_silent(self) -> None:
        """The guest does not answer, or cannot be asked at the moment."""
        self._park()
        self._due = min(self._due, time.monotonic() + self._timing.retry_most)
        if self.known and not self._silent:
            self._silent = True
            self._emit(GuestSilent(time.monotonic(), self.name))

    def on_message(self, level: Level, actual: int) -> None:
        """The guest says that it is short."""
        if not self.up:
            return
        self._heard, now = actual, time.monotonic()
        if not self._tells:
            self._look_soon(now)
        self._emit(GuestMessage(now, self.name, level, actual))

    def on_actual(self, actual: int, suspect: bool) -> None:
        """The guest's size has changed; `suspect`: not by what it was asked for."""
        if not self.up:
            return
        self._heard, now = actual, time.monotonic()
        if suspect:
            self._look_soon(now)
        self._emit(GuestActual(now, self.name, actual))

    def complain(self, about: str, why: str) -> None:
        """Say it once: a hostile guest can provoke as many as it likes, each different."""
        if about not in self._complaints:
            self._complaints.add(about)
            self._report.problem(f"{self.name} ({about})", why)

    async def serve(
        self, balloon: Balloon, running: Callable[[], bool], home: Callable[[], Home]
    ) -> None:
        """Read the guest back, now and then again, and set its targets, while `running`.

        Raises HostctlError when the first reading fails.
        """
        self.up = False
        self._stats_wait = FIRST_STATS
        self._stats_due = 0.0
        self._stats_failed = False
        self._stats_seen = -math.inf
        """When statistics were looked for last."""
        self._stats_news = time.monotonic()
        """When there were new ones last."""
        self._polled: int | None = None
        """QEMU's interval, as far as we know."""
        await self._refresh(balloon, home)
        while running():
            self._wake.clear()
            now = time.monotonic()
            if now >= self._due:
                await self._refresh(balloon, home)
            elif self._wanted is not None:
                await self._send(balloon, self._wanted)
            elif now >= self._stats_due:
                await self._read_stats(balloon)
            else:
                # The loop's clock is time.monotonic. Cheaper than a time-out, which cancels.
                due = min(self._due, self._stats_due)
                timer = asyncio.get_running_loop().call_at(due, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()

    async def _send(self, balloon: Balloon, target: int) -> None:
        """Set the target; it stays wanted when the connection ends meanwhile."""
        about = f"{self.name} (balloon)"
        try:
            done = await balloon.set(target)
        except TimeoutError as exc:
            self._time_out(exc)
            return
        except QmpDataError:
            done = False  # its RAM may not be what it was: a reading tells, or fails
        except RefusedError as exc:
            self._report.problem(about, f"QEMU refused the target of {target} bytes: {exc}")
            self._dispatched(target)
            self._look_soon(time.monotonic())
            return
        if done:
            self._dispatched(target)
            self._asked = target
            self._emit(TargetTaken(time.monotonic(), self.name, target))
            self._report.clear(about)
            self._answered()
        else:
            self._park()
            self._look_soon(time.monotonic())

    def _dispatched(self, target: int) -> None:
        if self._wanted == target:  # and nothing newer
            self._wanted = None

    def _park(self) -> None:
        """What is wanted waits for the next reading.

        To take memory is decided anew then; but the command may have reached a QEMU that is
        frozen, and be carried out however late, so that the target it had is sent again.
        """
        if self._wanted is not None:
            self._kept, self._wanted = max(self._wanted, self._asked), None

    def _answered(self) -> None:
        """The guest need not be silent any longer: a reading tells."""
        if self._silent:
            self._due = 0.0

    async def _refresh(self, balloon: Balloon, home: Callable[[], Home]) -> None:
        """Read the guest back and tell; without an answer, tell that it is silent."""
        self._looked = time.monotonic()
        self._due = _slot(self._looked + self._timing.refresh * random.uniform(1.0, 1.1))
        self._heard = None
        try:
            reading = await balloon.read()
        except TimeoutError as exc:
            self._time_out(exc)
            return
        except (RefusedError, QmpDataError) as exc:
            self._fall_silent(str(exc))
            return
        # Not at once after connecting, or a QEMU that fails anew each time is told each time.
        if self.up:
            self._report.clear(self.name)
        self.up = self.known = True
        self._silent = False
        self._asked, self._tells = reading.target, reading.tells
        if reading.held is not None or not reading.balloon:
            self._wanted = self._kept = None
        if self._kept is not None and self._kept >= reading.target:
            self._wanted = self._kept
        self._kept = None
        self._tell(reading, home())

    def _tell(self, reading: Reading, home: Home) -> None:
        # What was decided or heard while we were asking is newer than the answers.
        actual = reading.actual if self._heard is None else min(self._heard, reading.ram)
        target = reading.target if self._wanted is None else self._wanted
        now = time.monotonic()
        self._emit(
            GuestRead(
                now,
                self.name,
                reading.ram,
                actual,
                target,
                0,  # the core knows its bounds
                reading.balloon,
                reading.target_known,
                home.pool,
                tells=reading.tells,
                pid=home.pid,
            )
        )
        if reading.held is not None:
            self._emit(Held(now, self.name, reading.held))

    async def _read_stats(self, balloon: Balloon) -> None:
        now, poll = time.monotonic(), max(round(self._interval * self._share), 1)
        changed = self._polled not in (None, poll)
        stats = None
        try:
            if self._polled != poll:
                await balloon.poll(poll)
                self._polled = poll
            stats = await balloon.stats()
        except TimeoutError as exc:
            self._time_out(exc)
        except (RefusedError, QmpDataError) as exc:
            # Not the first time: a guest that ends has such a moment.
            if self._stats_failed:
                self.complain("statistics", f"{exc}; it is not inflated without any")
            self._stats_failed = True
        else:
            self._stats_failed = False
            self._answered()
        if stats is not None:
            self._emit(StatsRead(now, self.name, stats))
        self._stats_due = _slot(self._next_stats(now, poll, stats, changed=changed))

    def _next_stats(self, now: float, poll: int, stats: Stats | None, *, changed: bool) -> float:
        """When to look for statistics again: soon after QEMU has the next.

        `poll` is its interval; `changed`: it begins now.
        """
        seen, self._stats_seen = self._stats_seen, now
        often = max(poll / LOOKS, AGAIN_STATS)
        if stats is not None:
            self._stats_news, self._stats_wait = now, AGAIN_STATS
        elif now - self._stats_news > 2 * poll:
            self._polled = None  # somebody else may have switched it off
        if changed:
            return now + poll + LATE_STATS / 2
        if stats is None:
            wait, self._stats_wait = min(self._stats_wait, often), 2 * self._stats_wait
            return now + wait
        # Where its clock is not ours, it is only known that they are newer than the last look.
        return max(stats.time + LATE_STATS, now) + poll if stats.time > seen else now + often

    def _time_out(self, exc: TimeoutError) -> None:
        limit = self._timing.timeout
        self._fall_silent(str(exc) or f"QEMU does not answer within {limit:g} s (frozen?)")

    def _fall_silent(self, why: str) -> None:
        if not self.up:
            raise HostctlError(f"{why}; it is tried again")
        self._report.problem(self.name, f"{why}; the guest is not inflated until it answers")
        self.go_silent()

    def _look_soon(self, now: float) -> None:
        self._due = min(self._due, max(now, self._looked + LOOK_AGAIN))
        self._wake.set()


def _slot(due: float) -> float:
    """A time soon after `due` at which others are due as well: to wake up costs more than to
    read a guest. A thousand guests are spread over the slots by chance."""
    return math.ceil(due / SLOT) * SLOT
