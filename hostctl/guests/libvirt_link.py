# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to one libvirt, whose calls may block, each in a thread of its own.

A call on a guest whose QEMU is frozen blocks for good. So a guest has one call at a time, and no
other call goes over the connection of one that is under way: libvirt's client (seen in 9.0) may not
wake up the thread that waits there, and the other then waits as well, for the next sign of life.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import libvirt

from hostctl.guests.keeper import EndedError, RefusedError
from hostctl.guests.workers import Workers

T = TypeVar("T")

KEEPALIVE = (5, 3)
"""Seconds between signs of life, and how many may be missing: libvirtd may be frozen as well."""
LANES_MOST = 32
"""Connections; with more calls than that under way they are shared after all. libvirtd gives up
before, with 20 threads by default."""

_loop_lock = threading.Lock()
_loop_started = False


def start_event_loop() -> None:
    """Run libvirt's own event loop in a thread, once in a process, before any connection."""
    global _loop_started
    with _loop_lock:
        if _loop_started:
            return
        _loop_started = True
        # Errors are raised as well: the default handler would write each to standard error.
        libvirt.registerErrorHandler(lambda _, __: None, None)
        libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()


class _Lane:
    """A connection, made when it is first used."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._connection: libvirt.virConnect | None = None
        self.busy = 0
        self.ended = False

    def run(self, do: Callable[[libvirt.virConnect], T]) -> T:
        """In a thread: what `do` gives. Raises EndedError and RefusedError."""
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = connect(self._uri)
        except libvirt.libvirtError as exc:
            self.ended = True
            raise EndedError(str(exc)) from exc
        try:
            return do(self._connection)
        except libvirt.libvirtError as exc:
            if not self._connection.isAlive():
                self.ended = True
                raise EndedError(str(exc)) from exc
            raise RefusedError(str(exc)) from exc

    def close(self) -> None:
        """In a thread: end the connection."""
        with self._lock, suppress(libvirt.libvirtError):
            if self._connection is not None:
                self._connection.close()


def connect(uri: str) -> libvirt.virConnect:
    """A connection that notices when the other side hangs. Blocks; raises libvirtError."""
    connection = libvirt.open(uri)
    with suppress(libvirt.libvirtError):  # a driver within this process has none
        connection.setKeepAlive(*KEEPALIVE)
    return connection


class Link:
    """Calls to the libvirt at `uri`, each of which may take `timeout` seconds."""

    def __init__(self, uri: str, timeout: float) -> None:
        self._uri = uri
        self._timeout = timeout
        self._workers = Workers()
        self._lanes: list[_Lane] = []
        self._pending: dict[str, asyncio.Future[object]] = {}

    async def call(self, key: str, do: Callable[[libvirt.virConnect], T]) -> T:
        """What `do` gives, in a thread; one at a time for each `key`, the guest.

        Raises TimeoutError, RefusedError, and EndedError when there is no connection.
        """
        pending = self._pending.get(key)
        if pending is not None and not await is_done(pending, self._timeout):
            raise TimeoutError
        lane = self._lane()
        future = self._workers.submit(lambda: lane.run(do))
        lane.busy += 1

        def done(future: asyncio.Future[T]) -> None:
            lane.busy -= 1
            if lane.ended and lane in self._lanes:
                self._lanes.remove(lane)
            if self._pending.get(key) is future:
                del self._pending[key]
            _heed(future)

        future.add_done_callback(done)
        self._pending[key] = future  # type: ignore[assignment]
        if not await is_done(future, self._timeout):
            raise TimeoutError
        return future.result()

    def apart(self, do: Callable[[], T]) -> asyncio.Future[T]:
        """What `do` gives, in a thread, without a connection of ours; nobody need wait for it."""
        future = self._workers.submit(do)
        future.add_done_callback(_heed)
        return future

    def close(self) -> None:
        """Let the connections go, without waiting."""
        for lane in self._lanes:
            self.apart(lane.close)
        self._lanes.clear()

    def _lane(self) -> _Lane:
        free = [lane for lane in self._lanes if not lane.ended]
        lane = min(free, key=lambda lane: lane.busy, default=None)
        if lane is None or (lane.busy and len(free) < LANES_MOST):
            lane = _Lane(self._uri)
            self._lanes.append(lane)
        return lane


async def is_done(future: asyncio.Future[T], timeout: float) -> bool:
    """Wait for it, and leave it as it is."""
    await asyncio.wait({future}, timeout=timeout)
    return future.done()


def _heed(future: asyncio.Future[T]) -> None:
    """It may be that nobody waits for it any more."""
    if not future.cancelled():
        future.exception()
