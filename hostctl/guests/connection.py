# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP connection to a QEMU that may be frozen, slow, or mean harm; each wait has a time-out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.guests.keeper import EndedError
from hostctl.guests.wire import CommandError, Message, Wire

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


class NobodyError(HostctlError):
    """Nobody listens on the socket: its QEMU is gone."""


class Connection:
    """One connection to the QMP socket `path`; each command may take `timeout` seconds."""

    def __init__(self, path: Path, timeout: float, on_event: Callable[[Message], None]) -> None:
        """To be made in the running event loop."""
        self._path = path
        self._timeout = timeout
        self._wire = Wire(on_event)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._open = False
        self.identity: tuple[int, int] | None = None
        """What stays as it is while the socket is the same QEMU's."""

    @property
    def running(self) -> bool:
        """The connection is there."""
        return self._wire.running

    @property
    def pid(self) -> int:
        """Of the process that listens on the socket: QEMU, as QMP's sockets are its own.

        0 when it is in another PID namespace.
        """
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid: int = _UCRED.unpack(raw)[0]
        return pid

    async def open(self) -> None:
        """Connect. Raises HostctlError, and NobodyError when no QEMU is there."""
        path = self._path
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                await loop.sock_connect(self._socket, str(path))
                self.identity = (path.lstat().st_ino, self.pid)
                await loop.create_unix_connection(lambda: self._wire, sock=self._socket)
                await self._wire.greeted
                await self.call("qmp_capabilities")
                self._open = True
        except TimeoutError as exc:
            raise HostctlError(
                f"{path}: no QMP greeting within {self._timeout:g} s; its QEMU is frozen, or "
                "another client has the socket: give hostctl one of its own"
            ) from exc
        except ConnectionRefusedError as exc:
            raise NobodyError(
                f"{path}: no QEMU listens on it; start the guest, or remove the file"
            ) from exc
        except OSError as exc:
            raise HostctlError(
                f"{path}: cannot connect ({exc.strerror or exc}); hostctl must be allowed "
                "to read and write the socket"
            ) from exc
        except (EndedError, CommandError) as exc:
            raise HostctlError(
                f"{path} is not a QMP socket ({exc}); put QEMU's -qmp sockets only into the folder"
            ) from exc

    async def closed(self) -> None:
        """Wait until the connection has ended."""
        await asyncio.shield(self._wire.ended)

    async def call(self, command: str, **arguments: object) -> object:
        """A command's reply. Raises CommandError, TimeoutError and EndedError."""
        try:
            return await self._wire.call(self._timeout, command, arguments)
        except TimeoutError as exc:
            if self._wire.flooded:
                raise TimeoutError(
                    "QEMU sends more than it is asked for, and no answer in time"
                ) from exc
            raise

    def close(self) -> str | None:
        """Close without waiting for the other side; what it did wrong once it was open."""
        self._wire.close()
        self._socket.close()
        return self._wire.wrong if self._open else None
