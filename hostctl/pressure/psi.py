# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure stall information: triggers on a group's or the machine's file.

See the kernel's Documentation/accounting/psi.rst. The mainline kernel has the file in each group
of the v2 hierarchy, with the memory controller or without it; some vendors' in v1 groups as well.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level

MACHINE_FILE = "pressure/memory"
"""Below /proc."""
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
    """PSI triggers at `levels` on `file`, a group's memory.pressure or /proc/pressure/memory."""

    def __init__(self, file: Path, levels: Iterable[Level], *, window_us: int = WINDOW_US) -> None:
        self.name = f"psi:{file}"
        # Each trigger fires once in a window, and the three not at the same time.
        self.gap = window_us / 1_000_000
        self._file = file
        self._epolls: dict[Level, select.epoll] = {}
        with ExitStack() as undo:
            for level in levels:
                try:
                    self._epolls[level] = _trigger(file, level, window_us, undo)
                except OSError as exc:
                    raise HostctlError(
                        f"psi {file}: no trigger at level {level}, window {window_us} us "
                        f"({exc.strerror}); the kernel needs PSI (boot with psi=1), the user must "
                        "be able to write the file, and the window must be a whole multiple of "
                        "2000000 us; or use --pressure vmpressure"
                    ) from exc
            self._stack = undo.pop_all()

    def start(self, on_pressure: Callable[[Level], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back."""
        loop = asyncio.get_running_loop()

        def readable(level: Level, epoll: select.epoll) -> None:
            # The kernel clears the event when the outer epoll looks, so this is often empty:
            # being called is the event. The call takes it off the list, and tells errors.
            events = epoll.poll(0)
            if any(mask & (select.EPOLLERR | select.EPOLLHUP) for _, mask in events):
                self.close()
                on_gone(f"{self._file.parent} was removed, or its pressure switched off")
            else:
                on_pressure(level)

        for level, epoll in self._epolls.items():
            loop.add_reader(epoll.fileno(), partial(readable, level, epoll))
            self._stack.callback(loop.remove_reader, epoll.fileno())

    def close(self) -> None:
        """Unregister; may be called twice."""
        self._stack.close()


def _trigger(file: Path, level: Level, window_us: int, stack: ExitStack) -> select.epoll:
    """A trigger, as an epoll that `stack` closes. Raises OSError."""
    who, share = STALL[level]
    trigger = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, trigger)
    os.write(trigger, f"{who} {window_us * share // 1000} {window_us}\0".encode())
    # asyncio watches for EPOLLIN only and PSI signals EPOLLPRI: an epoll of our own in between
    # is itself readable when the trigger fires. One each, to know which it was.
    epoll = stack.enter_context(select.epoll())
    epoll.register(trigger, select.EPOLLPRI)
    return epoll
