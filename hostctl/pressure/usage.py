# SPDX-License-Identifier: GPL-2.0-or-later
"""A call when a group's usage comes to a threshold, before anything is reclaimed.

Cgroup v1 has such thresholds. They are of all that is charged, with the page cache: where that
fills the group, they tell nothing, and the reading now and then has to. Cgroup v2 has none: there
it is a change of memory.events, which counts `high` once memory.high is set, the operator's own
threshold (Documentation/admin-guide/cgroup-v2.rst), and `max` at the limit.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from hostctl.pressure.cgroups import Place
from hostctl.pressure.eventfd import Notifier

USAGE_FILE = "memory.usage_in_bytes"
EVENTS_FILE = "memory.events"


class UsageWatch(Protocol):
    """Calls back in the running event loop when the usage should be read."""

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to call back. A group's removal may be told as well, or not."""
        ...

    def close(self) -> None:
        """Unregister; may be called twice."""
        ...


def watch(place: Place, sizes: Sequence[int]) -> UsageWatch | None:
    """A watch of a group with the memory controller; in v1 of its thresholds, `sizes` bytes.

    None where the kernel has no such thing, as one that is built for real time has no thresholds.
    """
    try:
        if place.mount.version == 1:
            return Notifier(place.folder / USAGE_FILE, map(str, sizes))
        return FileChanges(place.folder / EVENTS_FILE)
    except OSError:
        return None


class FileChanges:
    """Tells when the kernel says that a cgroup's `file` has changed. Raises OSError."""

    def __init__(self, file: Path) -> None:
        with ExitStack() as undo:
            self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._fd)
            # asyncio watches for EPOLLIN only, which such a file always has.
            self._epoll = undo.enter_context(select.epoll())
            self._epoll.register(self._fd, select.EPOLLPRI)
            self._stack = undo.pop_all()
        self._take()

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to call back; the last time when the file is found to be gone."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if not self._take():
                self.close()
            on_change()

        loop.add_reader(self._epoll.fileno(), readable)
        self._stack.callback(loop.remove_reader, self._epoll.fileno())

    def close(self) -> None:
        """Give back what is held; may be called twice."""
        self._stack.close()

    def _take(self) -> bool:
        """Read the file, which is what ends the kernel's signal; False: it is gone."""
        try:
            os.pread(self._fd, 1, 0)
        except OSError:
            return False
        return True
