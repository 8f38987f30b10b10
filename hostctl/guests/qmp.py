# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest's QEMU over its QMP socket: a connection, kept up by one task.

All waiting is done in the guest's own task and under time-outs, so that a QEMU that is frozen
or talks nonsense never delays another guest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

from hostctl.errors import HostctlError, QmpDataError
from hostctl.guard import floor_of
from hostctl.guests import parse
from hostctl.journal import Reporter
from hostctl.policy.model import (
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
)

LINE_MOST = 1 << 20
"""Bytes in a line of QMP that we are ready to hold; the replies we ask for are far smaller."""
PERIPHERALS = ("/machine/peripheral", "/machine/peripheral-anon")
"""Where QEMU keeps the devices given with -device, with an id and without."""

# The library logs each failure that it also raises; we say it ourselves, and once.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: a command's time-out, between readings, first and longest wait to reconnect."""

    timeout: float = 2.0
    refresh: float = 10.0
    retry_first: float = 0.5
    retry_most: float = 5.0


class _Direct(EventListener):
    """Hands each event on at once: the library's own listeners keep all events for ever."""

    def __init__(self, callback: Callable[[Message], None]) -> None:
        super().__init__()
        self._callback = callback

    async def put(self, event: Message) -> None:
        self._callback(event)


class QmpGuest:
    """The guest behind the QMP socket `path`; its name is the file's, without suffix.

    `emit` gets its events. `floor` in bytes; None takes the guard's default.
    """

    def __init__(
        self,
        path: Path,
        floor: int | None,
        emit: Callable[[Event], None],
        report: Reporter,
        timing: Timing,
    ) -> None:
        self.name = path.stem
        self._path = path
        self._floor = floor
        self._emit = emit
        self._report = report
        self._timing = timing
        self._retry = asyncio.Event()
        self._wake = asyncio.Event()
        self._forget()

    def _forget(self) -> None:
        """Begin a session knowing nothing of an earlier one."""
        self._up = False
        self._silent = False
        self._complained = False
        self._wanted: int | None = None
        self._sent: int | None = None
        self._heard: int | None = None
        self._device: str | None = None
        self._searched = False

    def set_target(self, target: int) -> None:
        """Have the guest's target set to `target` bytes, soon; a later call replaces it."""
        self._wanted = target
        self._wake.set()

    def retry_now(self) -> None:
        """Connect again without waiting: there is a new socket."""
        self._retry.set()

    async def run(self) -> None:
        """Keep the connection up until the socket's file is gone."""
        delay = self._timing.retry_first
        failed = False
        while True:
            started = time.monotonic()
            why = "unknown"
            try:
                why = await self._session()
            except HostctlError as exc:
                why = str(exc)
                # Not the first time: a QEMU that starts or ends has a moment with a socket
                # on which it does not listen.
                if failed:
                    self._report.problem(self.name, why)
                failed = True
            except Exception as exc:  # whatever one QEMU provokes, the others go on
                why = f"{type(exc).__name__}: {exc}"
                self._report.problem(self.name, f"QMP at {self._path} failed: {why}")
            if self._up:
                failed = self._up = False
                self._emit(GuestLost(time.monotonic(), self.name, why))
            if not self._path.exists():
                self._report.clear(self.name)
                return
            if time.monotonic() - started > self._timing.retry_most:
                delay = self._timing.retry_first
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._retry.wait()
            self._retry.clear()
            delay = min(2 * delay, self._timing.retry_most)

    async def _session(self) -> str:
        """One connection from beginning to end; the reason why it ended."""
        self._forget()
        if not self._path.is_socket():
            if not self._path.exists():
                return "the socket is gone"
            raise HostctlError(f"{self._path} is not a socket; remove it from the folder")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        client = QMPClient(self.name, LINE_MOST)
        client.events.event_filter = lambda _: False
        client.register_listener(_Direct(self._on_event))
        try:
            await self._connect(client, sock)
            await self._serve(client)
        finally:
            why = await self._hang_up(client, sock)
        return why

    async def _connect(self, client: QMPClient, sock: socket.socket) -> None:
        limit = self._timing.timeout
        try:
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().sock_connect(sock, str(self._path))
                await client.connect(sock)
        except TimeoutError as exc:
            raise HostctlError(
                f"{self._path}: no QMP greeting within {limit:g} s; its QEMU is frozen, or "
                "another client has the socket: give hostctl one of its own"
            ) from exc
        except ConnectionRefusedError as exc:
            raise HostctlError(
                f"{self._path}: no QEMU listens on it; start the guest, or remove the file"
            ) from exc
        except OSError as exc:
            raise HostctlError(
                f"{self._path}: cannot connect ({exc.strerror or exc}); hostctl must be allowed "
                "to read and write the socket"
            ) from exc
        except QMPError as exc:
            raise HostctlError(
                f"{self._path} is not a QMP socket ({exc}); put QEMU's -qmp sockets only into "
                "the folder"
            ) from exc

    async def _hang_up(self, client: QMPClient, sock: socket.socket) -> str:
        """Close the connection without waiting for the other side; why it had ended."""
        why = "QEMU closed the connection"
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        if client.runstate is not Runstate.IDLE:
            try:
                async with asyncio.timeout(self._timing.timeout):
                    await client.disconnect()
            except (EOFError, ConnectionError, TimeoutError):
                pass
            except Exception as exc:  # raised by the library's reader, on QEMU's behalf
                why = f"QEMU did not speak QMP: {type(exc).__name__}: {exc}".splitlines()[0]
                self._report.problem(self.name, why)
        sock.close()
        return why

    async def _serve(self, client: QMPClient) -> None:
        """Read the guest back, now and then again, and set its targets."""
        gone = asyncio.create_task(client.runstate_changed())
        gone.add_done_callback(lambda _: self._wake.set())
        try:
            await self._refresh(client)
            due = time.monotonic() + self._timing.refresh
            while client.runstate is Runstate.RUNNING:
                self._wake.clear()
                if self._wanted is not None:
                    target, self._wanted = self._wanted, None
                    if not await self._send(client, target):
                        due = 0.0
                elif time.monotonic() >= due:
                    await self._refresh(client)
                    due = time.monotonic() + self._timing.refresh
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(due - time.monotonic()):
                            await self._wake.wait()
        except QMPError:
            # A command cut short by the end of the connection, which tells the reason.
            if client.runstate is Runstate.RUNNING:
                raise
        finally:
            gone.cancel()

    async def _call(self, client: QMPClient, command: str, **arguments: object) -> object:
        async with asyncio.timeout(self._timing.timeout):
            return await client.execute(command, arguments or None)

    async def _send(self, client: QMPClient, target: int) -> bool:
        """Send a target; whether QEMU took it."""
        about = f"{self.name} (balloon)"
        try:
            await self._call(client, "balloon", value=target)
        except TimeoutError:
            self._fall_silent()
            return False
        except ExecuteError as exc:
            self._report.problem(about, f"QEMU refused the target of {target} bytes: {exc}")
            return False
        self._sent = target
        self._report.clear(about)
        return True

    async def _refresh(self, client: QMPClient) -> None:
        """Read the guest back and tell; without an answer, tell that it is silent."""
        try:
            read = await self._read(client)
        except TimeoutError:
            self._fall_silent()
            return
        except (QmpDataError, ExecuteError) as exc:
            self._fall_silent(str(exc))
            return
        # Not at once after connecting, or a QEMU that fails anew each time is told each time.
        if self._up:
            self._report.clear(self.name)
        self._up = True
        self._silent = False
        self._emit(read)

    def _fall_silent(self, why: str | None = None) -> None:
        why = why or f"QEMU does not answer within {self._timing.timeout:g} s (frozen?)"
        if not self._up:
            raise HostctlError(f"{why}; it is tried again")
        if not self._silent:
            self._silent = True
            self._emit(GuestSilent(time.monotonic(), self.name))
        self._report.problem(self.name, f"{why}; the guest is not inflated until it answers")

    async def _read(self, client: QMPClient) -> GuestRead:
        self._heard = None
        ram = parse.memory(await self._call(client, "query-memory-size-summary"))
        floor = floor_of(ram, self._floor)
        try:
            actual = parse.balloon(await self._call(client, "query-balloon"), ram)
        except ExecuteError as exc:
            if exc.error_class != "DeviceNotActive":
                raise
            self._searched = False
            return GuestRead(time.monotonic(), self.name, ram, ram, ram, floor, False, False)
        if not self._searched:
            self._device = await self._find_device(client)
            self._searched = True
        if self._device is None:
            target = actual if self._sent is None else min(self._sent, ram)
        else:
            reply = await self._call(client, "qom-get", path=self._device, property="target")
            target = parse.target(reply, ram)
        # What was decided or heard while we were asking is newer than the answers.
        if self._wanted is not None:
            target = self._wanted
        if self._heard is not None:
            actual = min(self._heard, ram)
        known = self._device is not None
        return GuestRead(time.monotonic(), self.name, ram, actual, target, floor, True, known)

    async def _find_device(self, client: QMPClient) -> str | None:
        """The QOM path of the balloon device that tells its target; None on a stock QEMU."""
        for folder in PERIPHERALS:
            for name in parse.balloon_names(await self._call(client, "qom-list", path=folder)):
                # The property is the device's; a PCI proxy may or may not pass it on.
                for path in (f"{folder}/{name}", f"{folder}/{name}/virtio-backend"):
                    with suppress(ExecuteError):
                        await self._call(client, "qom-get", path=path, property="target")
                        return path
        return None

    def _on_event(self, message: Message) -> None:
        if not self._up:
            return
        try:
            found = parse.event(message)
        except QmpDataError as exc:
            # Once a session: a hostile guest can send as many as it likes, each different.
            if not self._complained:
                self._complained = True
                self._report.problem(f"{self.name} (event)", str(exc))
            return
        now = time.monotonic()
        match found:
            case parse.PressureEvent():
                self._heard = found.actual
                self._emit(GuestMessage(now, self.name, found.level, found.actual))
            case parse.ActualEvent():
                self._heard = found.actual
                self._emit(GuestActual(now, self.name, found.actual))
