# SPDX-License-Identifier: GPL-2.0-or-later
"""Notifications of cgroup v1: an eventfd that the kernel signals for a file of a group.

See "Thresholds" and "Memory Pressure" in Documentation/admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

CONTROL_FILE = "cgroup.event_control"


class Notifier:
    """An eventfd that is registered with `file` of a group once for each of `arguments`.

    The kernel signals it once more when the group is removed. Raises OSError.
    """

    def __init__(self, file: Path, arguments: Iterable[str]) -> None:
        with ExitStack() as undo:
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._eventfd)
            # The registration lives as long as the eventfd: the other two may be closed.
            with ExitStack() as files:
                watched = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                files.callback(os.close, watched)
                control = os.open(file.parent / CONTROL_FILE, os.O_WRONLY | os.O_CLOEXEC)
                files.callback(os.close, control)
                for argument in arguments:
                    os.write(control, f"{self._eventfd} {watched} {argument}".encode())
            self._stack = undo.pop_all()

    def start(self, on_signal: Callable[[], None]) -> None:
        """Begin to call back; however many signals there were, it is one call."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                os.eventfd_read(self._eventfd)
            except BlockingIOError:
                return
            on_signal()

        loop.add_reader(self._eventfd, readable)
        self._stack.callback(loop.remove_reader, self._eventfd)

    def close(self) -> None:
        """Unregister; may be called twice."""
        self._stack.close()
