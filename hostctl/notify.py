# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service manager is told: ready, reloading, alive. See sd_notify(3).

Without $NOTIFY_SOCKET nobody asked, and nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Tells the manager that started this process."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of `environ`: they are for this process alone."""
        address = environ.pop("NOTIFY_SOCKET", "")
        # A leading @ is the abstract namespace, which begins with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid()))
        self._watchdog = int(usec) / 1e6 if ours and usec.isdecimal() else 0.0

    def ready(self, status: str) -> None:
        """All is set up, or reloaded; `status` is a line for the operator."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    async def feed(self) -> None:
        """Keep the watchdog quiet for as long as the event loop gets here in time."""
        while self._watchdog:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 3)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # Never waits: a manager that does not read costs a message.
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
