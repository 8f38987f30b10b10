# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of a libvirt, on this host or another; its domains come and go at any time.

libvirt is called in threads, and its events come from one: nothing here blocks the daemon's
loop. While libvirt is away its guests are silent; they run on without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt

from hostctl.errors import HostctlError, QmpDataError
from hostctl.guests import parse
from hostctl.guests.channel import Home, PoolOf
from hostctl.guests.domain import DomainBalloon
from hostctl.guests.keeper import EndedError, Keeper, Timing
from hostctl.guests.libvirt_link import Link, is_done, start_event_loop
from hostctl.guests.libvirt_watch import Found, Watch
from hostctl.guests.names import Names
from hostctl.guests.wire import Budget
from hostctl.journal import Reporter
from hostctl.policy.model import HOST, Event

T = TypeVar("T")

OPEN = 30.0
"""Seconds to connect: another host may be reached over SSH."""
DETAILS_MOST = 4096
"""Bytes of an event's data that are read."""


def is_local(uri: str) -> bool:
    """Is it the libvirt of this host, by the form of its URI?"""
    return not urlsplit(uri).hostname


def pid_files(uri: str, name: str) -> list[Path]:
    """Where the libvirt of this host keeps the PID of a domain's QEMU."""
    parts = urlsplit(uri)
    if not is_local(uri) or "/" in name:
        return []
    if socket := parse_qs(parts.query).get("socket"):
        run = Path(socket[0]).parent
        return [run / "qemu/run" / f"{name}.pid", run / "qemu" / f"{name}.pid"]
    if parts.path == "/session":
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return [Path(runtime) / "libvirt/qemu/run" / f"{name}.pid"]
    return [Path("/run/libvirt/qemu") / f"{name}.pid"]


class DomainGuest:
    """A domain as a guest: its channel, and the task that keeps it."""

    def __init__(
        self, name: str, found: Found, keeper: Keeper, balloon: DomainBalloon, timing: Timing
    ) -> None:
        self.name = name
        self.found = found
        self.keeper = keeper
        self.balloon = balloon
        self._timing = timing
        self.task: asyncio.Task[None] | None = None

    def set_target(self, target: int) -> None:
        """Have the guest's target set to `target` bytes, soon; a later call replaces it."""
        self.keeper.set_target(target)

    def attend(self, *, closely: bool) -> None:
        """Read the guest's statistics often from now on, or as often as is configured."""
        self.keeper.attend(closely=closely)

    async def run(
        self, connected: asyncio.Event, home: Callable[[], Home], report: Reporter
    ) -> None:
        """Keep it, whenever libvirt is there, until cancelled."""
        failed = False
        while True:
            await connected.wait()
            try:
                await self.keeper.serve(self.balloon, connected.is_set, home)
            except EndedError:
                pass  # the Finder tells it, once for all guests
            except HostctlError as exc:
                # Not the first time: a domain that starts or ends has such a moment.
                if failed:
                    report.problem(self.name, str(exc))
                failed = True
            except Exception as exc:  # whatever one guest provokes, the others go on
                report.problem(self.name, f"libvirt failed: {type(exc).__name__}: {exc}")
            if self.keeper.up:
                failed = False
            self.keeper.up = False
            self.keeper.go_silent()
            await asyncio.sleep(self._timing.retry_first)

    def on_event(self, name: str, details: str) -> None:
        """An event of QEMU's monitor."""
        try:
            data = json.loads(details) if len(details) <= DETAILS_MOST else None
            found = parse.event({"event": name, "data": data})
        except (ValueError, RecursionError) as exc:
            self.keeper.complain("event", f"{name}: {type(exc).__name__}: not JSON of QEMU")
        except QmpDataError as exc:
            self.keeper.complain("event", str(exc))
        else:
            if isinstance(found, parse.PressureEvent):
                self.balloon.told = True
                self.keeper.on_message(found.level, found.actual)


class Libvirt:
    """Finds the running domains of the libvirt at `uri`, each a guest by its name.

    The guests of another host are in the pool `pool`, by default the URI; on this host the PID of
    the domain's QEMU tells.
    """

    def __init__(
        self,
        uri: str,
        emit: Callable[[Event], None],
        report: Reporter,
        timing: Timing,
        pool_of: PoolOf,
        names: Names,
        *,
        pool: str | None = None,
    ) -> None:
        self.guests: dict[str, DomainGuest] = {}
        self._uri = uri
        self._emit = emit
        self._report = report
        self._timing = timing
        self._pool_of = pool_of
        self._names = names
        self._local = is_local(uri)
        self._pool = pool if pool is not None or self._local else uri
        self._link = Link(uri, timing.timeout)
        self._opening: asyncio.Future[tuple[Watch, _Listener]] | None = None
        self._connected = asyncio.Event()
        self._look = asyncio.Event()
        self._left: set[str] = set()
        """What is said of the domains that are left alone."""

    async def run(self) -> None:
        """Look until cancelled, then close all."""
        start_event_loop()
        delay = self._timing.retry_first
        seen = time.monotonic()
        try:
            while True:
                try:
                    await self._session()
                except HostctlError as exc:
                    self._report.problem(
                        self._uri, f"{exc}; its guests are left as they are until it is back"
                    )
                now = time.monotonic()
                if self._connected.is_set():
                    self._connected.clear()
                    self._link.close()  # those to a libvirt that is gone are of no use
                    seen, delay = now, self._timing.retry_first
                for guest in self.guests.values():
                    guest.keeper.wake()
                    if now - seen > self._timing.grace:
                        guest.keeper.lose("libvirt is away")
                await asyncio.sleep(delay)
                delay = min(2 * delay, self._timing.retry_most)
        finally:
            self._close()

    def _close(self) -> None:
        for guest in list(self.guests.values()):
            self._end(guest)
        self._link.close()
        if self._opening is not None:
            self._opening.add_done_callback(self._drop)

    def _drop(self, opening: asyncio.Future[tuple[Watch, _Listener]]) -> None:
        """A connection that nobody waits for any more."""
        if not opening.cancelled() and opening.exception() is None:
            self._link.apart(opening.result()[0].close)

    async def _session(self) -> None:
        """One connection from beginning to end. Raises HostctlError with the reason."""
        watch, listener = await self._open()
        listener.heard = True
        try:
            if watch.missing is not None:
                self._report.problem(
                    f"{self._uri} (events)",
                    f"guests' messages do not come: {watch.missing}; their statistics tell instead",
                )
            while not listener.closed:
                self._look.clear()
                running = self._link.apart(watch.running)
                await is_done(running, self._timing.timeout)
                self._take(_answer(running, self._timing.timeout))
                # Not at once after connecting, or a libvirt that fails anew is told each time.
                if self._connected.is_set():
                    self._report.clear(self._uri)
                self._connected.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.refresh):
                        await self._look.wait()
            raise HostctlError("libvirt has closed the connection")
        finally:
            listener.heard = False
            self._link.apart(watch.close)

    async def _open(self) -> tuple[Watch, _Listener]:
        """A connection. One that is late is waited for again: a libvirtd that is frozen would
        otherwise collect them, and answer all when it goes on."""
        if self._opening is None:
            listener = _Listener(self, asyncio.get_running_loop())
            self._opening = self._link.apart(lambda: (Watch(self._uri, listener), listener))
        opening = self._opening
        if await is_done(opening, OPEN):
            self._opening = None
        return _answer(opening, OPEN)

    def _take(self, found: list[Found]) -> None:
        """Begin with domains that are new, and end with those that are gone."""
        there = {(one.uuid, one.id) for one in found}
        for guest in list(self.guests.values()):
            if (guest.found.uuid, guest.found.id) not in there:
                guest.keeper.lose("the domain does not run any more")
                self._end(guest)
        kept = {guest.found.uuid for guest in self.guests.values()}
        left = set()
        for one in found:
            if one.uuid in kept:
                continue
            other = self._names.claim(one.name, self._uri)
            if other is None:
                self._begin(one)
            else:
                about = f"{self._uri} ({one.name})"
                left.add(about)
                self._report.problem(
                    about,
                    f"there is a guest {one.name} already, in {other}: this one is left alone; "
                    "rename it, or take one of them away",
                )
        for about in self._left - left:
            self._report.forget(about)
        self._left = left

    def _begin(self, found: Found) -> None:
        keeper = Keeper(found.name, self._emit, self._report, self._timing)
        balloon = DomainBalloon(self._link, found.uuid, local=self._local)
        guest = DomainGuest(found.name, found, keeper, balloon, self._timing)
        self.guests[found.name] = guest
        guest.task = asyncio.create_task(
            guest.run(self._connected, lambda: self._home(found.name), self._report),
            name=f"guest {found.name}",
        )

    def _end(self, guest: DomainGuest) -> None:
        assert guest.task is not None
        guest.task.cancel()
        del self.guests[guest.name]
        self._names.release(guest.name, self._uri)
        self._report.forget(guest.name)

    def _home(self, name: str) -> Home:
        for path in pid_files(self._uri, name):
            with suppress(OSError, ValueError):
                pid = int(path.read_text())
                return Home(self._pool or self._pool_of(pid), pid)
        return Home(self._pool or HOST)

    def _by_uuid(self, uuid: str) -> DomainGuest | None:
        return next((g for g in self.guests.values() if g.found.uuid == uuid), None)

    def on_life(self) -> None:
        """The domains are not what they were."""
        self._look.set()

    def on_balloon(self, uuid: str, actual: int) -> None:
        """A domain's size has changed."""
        if guest := self._by_uuid(uuid):
            guest.keeper.on_actual(actual, guest.balloon.suspect(actual))

    def on_monitor(self, uuid: str, event: str, details: str) -> None:
        """A domain's QEMU has sent an event."""
        if guest := self._by_uuid(uuid):
            guest.on_event(event, details)


def _answer(asked: asyncio.Future[T], timeout: float) -> T:
    """What libvirt has answered within `timeout` seconds. Raises HostctlError."""
    if not asked.done():
        raise HostctlError(f"libvirt does not answer within {timeout:g} s")
    try:
        return asked.result()
    except libvirt.libvirtError as exc:
        raise HostctlError(str(exc)) from exc


class _Listener:
    """Hands events from libvirt's thread on to the loop's, as many as a guest may make."""

    def __init__(self, owner: Libvirt, loop: asyncio.AbstractEventLoop) -> None:
        self.heard = False
        """Its connection is the one in use: another's events would be the same once more."""
        self.closed = False
        """Its connection has ended."""
        self._owner = owner
        self._loop = loop
        self._budgets: dict[str, Budget] = {}

    def on_life(self) -> None:
        self._hand_on(self._owner.on_life)

    def on_balloon(self, uuid: str, actual: int) -> None:
        if self._may(uuid):
            self._hand_on(self._owner.on_balloon, uuid, actual)

    def on_monitor(self, uuid: str, event: str, details: str) -> None:
        if self._may(uuid):
            self._hand_on(self._owner.on_monitor, uuid, event, details)

    def on_close(self) -> None:
        self.closed = True
        self._hand_on(self._owner.on_life)

    def _may(self, uuid: str) -> bool:
        return self._budgets.setdefault(uuid, Budget()).charge(0) <= 0

    def _hand_on(self, call: Callable[..., None], *args: object) -> None:
        if not self.heard:
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *args)
