# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's side of the control socket.

Each client has one request and little time: one that is slow, silent or talks nonsense is
dropped, and delays nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from hostctl.control.protocol import REQUEST_MOST, Request, parse
from hostctl.errors import HostctlError

PATIENCE = 5.0
"""Seconds for a client to send its request, and again to take its answer."""
CLIENTS_MOST = 16
"""Clients at a time."""

Answer = Iterable[str]
"""The pieces of an answer's line; other work is done between two of them."""


class ControlServer:
    """Serves `path`, mode 0600; `answer` gives the answer to a request, or raises HostctlError."""

    def __init__(
        self, path: Path, answer: Callable[[Request], Answer], *, patience: float = PATIENCE
    ) -> None:
        self._path = path
        self._answer = answer
        self._patience = patience
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        sock = _listen(self._path)
        loop = asyncio.get_running_loop()
        try:
            while True:
                client, _ = await loop.sock_accept(sock)
                if len(self._clients) >= CLIENTS_MOST or not _may(client):
                    client.close()
                    continue
                task = asyncio.create_task(self._serve(client), name="control client")
                self._clients.add(task)
                task.add_done_callback(self._clients.discard)
        finally:
            sock.close()
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        with client, suppress(OSError, TimeoutError):
            try:
                async with asyncio.timeout(self._patience):
                    line = await _line(loop, client)
                if not line:
                    return
                pieces: Answer = self._answer(parse(line))
            except (HostctlError, ValueError) as exc:
                pieces = [json.dumps({"ok": False, "error": str(exc)})]
            async with asyncio.timeout(self._patience):
                for piece in pieces:
                    await loop.sock_sendall(client, piece.encode())
                    await asyncio.sleep(0)
                await loop.sock_sendall(client, b"\n")


async def _line(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bytes:
    """The client's line, without its end; b"" when it goes before. Raises ValueError."""
    data = b""
    while b"\n" not in data:
        if len(data) >= REQUEST_MOST:
            raise ValueError(f"a request has at most {REQUEST_MOST} bytes")
        more = await loop.sock_recv(client, REQUEST_MOST)
        if not more:
            return b""
        data += more
    return data.partition(b"\n")[0]


def _may(client: socket.socket) -> bool:
    """Whether the peer is root or the daemon's own user, by what the kernel says."""
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", data)
    return uid in (0, os.geteuid())


def _listen(path: Path) -> socket.socket:
    """Listen at `path`, whatever a daemon that was killed has left there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise HostctlError(f"{path} is there and no socket; remove it, or give another")
            path.unlink()
        # Closed for others from its first moment on.
        old = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        sock.listen(CLIENTS_MOST)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise HostctlError(
            f"{path}: cannot listen ({exc.strerror}); give another --control"
        ) from exc
    except HostctlError:
        sock.close()
        raise
    return sock
