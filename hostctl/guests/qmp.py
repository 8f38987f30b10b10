# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest's QEMU over its QMP socket: a connection, kept up by one task.

All waiting is done in the guest's own task and under time-outs, so that a QEMU that is frozen
or talks nonsense never delays another guest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hostctl.errors import HostctlError, QmpDataError
from hostctl.guests import parse
from hostctl.guests.balloon import QmpBalloon
from hostctl.guests.channel import Home, PoolOf
from hostctl.guests.connection import Connection, NobodyError
from hostctl.guests.keeper import EndedError, Keeper, Timing
from hostctl.guests.pace import Pace
from hostctl.guests.wire import Message
from hostctl.journal import Reporter
from hostctl.policy.model import HOST, Event


def no_pools(pid: int) -> str:
    """A PoolOf for when the machine is the only pool."""
    return HOST


class QmpGuest:
    """The guest behind the QMP socket `path`; its name is the file's, without suffix.

    `emit` gets its events. When its QEMU closes the connection but still listens, the guest
    counts as silent for a time and keeps its state; GuestLost comes when it is really gone.
    """

    def __init__(
        self,
        path: Path,
        emit: Callable[[Event], None],
        report: Reporter,
        timing: Timing,
        pool_of: PoolOf = no_pools,
        pace: Pace | None = None,
    ) -> None:
        """`pace` is shared by guests that connect one after another."""
        self.name = path.stem
        self._path = path
        self._report = report
        self._timing = timing
        self._pool_of = pool_of
        self._pace = pace or Pace()
        self._retry = asyncio.Event()
        self._keeper = Keeper(self.name, emit, report, timing)
        self._identity: tuple[int, int] | None = None
        self._balloon = self._new_balloon()

    @property
    def up(self) -> bool:
        """There is a connection, and it was read."""
        return self._keeper.up

    def set_target(self, target: int) -> None:
        """Have the guest's target set to `target` bytes, soon; a later call replaces it."""
        self._keeper.set_target(target)

    def attend(self, *, closely: bool) -> None:
        """Read the guest's statistics often from now on, or as often as is configured."""
        self._keeper.attend(closely=closely)

    def retry_now(self) -> None:
        """Connect again without waiting: there is a new socket."""
        self._retry.set()

    async def run(self) -> None:
        """Keep the connection up until the socket's file is gone."""
        keeper, timing = self._keeper, self._timing
        delay = timing.retry_first
        failed = False
        lost_at = 0.0
        while True:
            started = time.monotonic()
            keeper.up = gone = False
            await self._pace.turn()
            try:
                why = await self._session()
            except HostctlError as exc:
                why = str(exc)
                gone = isinstance(exc, NobodyError)
                # Not the first time: a QEMU that starts or ends has a moment with a socket
                # on which it does not listen.
                if failed:
                    self._report.problem(self.name, why)
                failed = True
            except Exception as exc:  # whatever one QEMU provokes, the others go on
                why = f"{type(exc).__name__}: {exc}"
                self._report.problem(self.name, f"QMP at {self._path} failed: {why}")
            now = time.monotonic()
            if keeper.up:
                failed = False
                lost_at = now + timing.grace
            there = self._path.exists()
            if gone or not there or now >= lost_at:
                keeper.lose(why)
            else:
                keeper.go_silent()
            if not there:
                self._report.forget(self.name)
                return
            if now - started > timing.retry_most:
                delay = timing.retry_first
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._retry.wait()
            self._retry.clear()
            delay = min(2 * delay, timing.retry_most)

    def _new_balloon(self) -> QmpBalloon:
        return QmpBalloon(self._keeper.complain)

    async def _session(self) -> str:
        """One connection from beginning to end; the reason why it ended."""
        if not self._path.is_socket():
            if not self._path.exists():
                return "the socket is gone"
            raise HostctlError(f"{self._path} is not a socket; remove it from the folder")
        link = Connection(self._path, self._timing.timeout, self._on_event)
        try:
            await link.open()
            if link.identity != self._identity:
                self._keeper.lose("another QEMU has its socket")
                self._report.forget(self.name)
                self._identity = link.identity
                self._balloon = self._new_balloon()
            await self._serve(link)
        finally:
            if wrong := link.close():
                self._report.problem(f"{self.name} (QMP)", f"{wrong}; connecting again")
        return wrong or "QEMU closed the connection"

    async def _serve(self, link: Connection) -> None:
        self._balloon.use(link.call)
        gone = asyncio.create_task(link.closed())
        gone.add_done_callback(lambda _: self._keeper.wake())
        pid = link.pid
        try:
            await self._keeper.serve(
                self._balloon,
                lambda: link.running,
                lambda: Home(self._pool_of(pid), pid) if pid else Home(HOST),
            )
        except EndedError:
            pass  # a command cut short: how the connection ended tells the reason
        finally:
            gone.cancel()

    def _on_event(self, message: Message) -> None:
        try:
            found = parse.event(message)
        except QmpDataError as exc:
            self._keeper.complain("event", str(exc))
            return
        match found:
            case parse.PressureEvent():
                self._keeper.on_message(found.level, found.actual)
            case parse.ActualEvent():
                self._keeper.on_actual(found.actual, self._balloon.suspect(found.actual))
