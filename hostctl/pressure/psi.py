# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure stall information: a trigger on a cgroup v2 group's or the machine's file.

See the kernel's Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level

MACHINE = Path("/proc/pressure/memory")
GROUP_FILE = "memory.pressure"

WINDOW_US = 2_000_000
"""Without CAP_SYS_RESOURCE the kernel takes whole multiples of 2 s only, up to 10 s."""
STALL: Mapping[Level, tuple[str, int]] = {
    Level.LOW: ("some", 50),
    Level.MEDIUM: ("some", 200),
    Level.CRITICAL: ("full", 100),
}
"""Stall that makes a level: whose (psi's line) and thousandths of the window.

PSI has no levels: these are our own, made to follow vmpressure's meaning. LOW is a stall that
somebody notices, MEDIUM that swapping has begun to cost, CRITICAL that all work waits.
"""


class Psi:
    """A PSI trigger on `file`, a group's memory.pressure or /proc/pressure/memory."""

    def __init__(self, file: Path, level: Level, *, window_us: int = WINDOW_US) -> None:
        self.name = f"psi:{file}"
        self.level = level
        self._file = file
        self._stack = ExitStack()
        who, share = STALL[level]
        with ExitStack() as undo:
            try:
                trigger = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                undo.callback(os.close, trigger)
                os.write(trigger, f"{who} {window_us * share // 1000} {window_us}\0".encode())
            except OSError as exc:
                raise HostctlError(
                    f"psi {file}: no trigger at level {level}, window {window_us} us "
                    f"({exc.strerror}); the kernel needs PSI (boot with psi=1), the user must be "
                    "able to write the file, and the window must be a whole multiple of "
                    "2000000 us; or use --pressure vmpressure"
                ) from exc
            # asyncio watches for EPOLLIN only and PSI signals EPOLLPRI: an epoll of our own
            # in between is itself readable when the trigger fires.
            self._epoll = undo.enter_context(select.epoll())
            self._epoll.register(trigger, select.EPOLLPRI)
            self._stack = undo.pop_all()

    def start(self, on_pressure: Callable[[], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            # The kernel clears the event when the outer epoll looks, so this is often empty:
            # being called is the event. The call takes it off the list, and tells errors.
            events = self._epoll.poll(0)
            if any(mask & (select.EPOLLERR | select.EPOLLHUP) for _, mask in events):
                self.close()
                on_gone(f"{self._file.parent} was removed, or its pressure switched off")
            else:
                on_pressure()

        loop.add_reader(self._epoll.fileno(), readable)
        self._stack.callback(loop.remove_reader, self._epoll.fileno())

    def close(self) -> None:
        """Unregister; may be called twice."""
        self._stack.close()
