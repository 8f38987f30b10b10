# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure of a cgroup v1 memory group: the kernel's vmpressure notifications.

See "Memory Pressure" in the kernel's Documentation/admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level

ROOT = Path("/sys/fs/cgroup/memory")
"""The usual place of the v1 memory hierarchy; LINUX_MEMCG_DEF_PATH of the seed."""
LEVEL_FILE = "memory.pressure_level"
CONTROL_FILE = "cgroup.event_control"


def offered(memcg: Path) -> bool:
    """Whether `memcg` is a group that has vmpressure."""
    return (memcg / LEVEL_FILE).exists() and (memcg / CONTROL_FILE).exists()


class VmPressure:
    """Notifications of the v1 group `memcg` at `level` or above."""

    def __init__(self, memcg: Path, level: Level) -> None:
        self.name = f"vmpressure:{memcg}"
        self.level = level
        self._file = memcg / LEVEL_FILE
        self._stack = ExitStack()
        with ExitStack() as undo:
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._eventfd)
            # The registration lives as long as the eventfd: the other two may be closed.
            with ExitStack() as files:
                try:
                    pressure = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
                    files.callback(os.close, pressure)
                    control = os.open(memcg / CONTROL_FILE, os.O_WRONLY | os.O_CLOEXEC)
                    files.callback(os.close, control)
                    os.write(control, f"{self._eventfd} {pressure} {level}".encode())
                except OSError as exc:
                    raise HostctlError(
                        f"pressure.memcg {memcg}: no vmpressure at level {level} "
                        f"({exc.strerror}); give a cgroup v1 memory group that this user may "
                        "write to, or --pressure psi"
                    ) from exc
            self._stack = undo.pop_all()

    def start(self, on_pressure: Callable[[], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                # However many the kernel counted, it is one event, as in the seed.
                os.eventfd_read(self._eventfd)
            except BlockingIOError:
                return
            # The kernel signals once more when the group is removed.
            if self._file.exists():
                on_pressure()
            else:
                self.close()
                on_gone(f"{self._file.parent} was removed")

        loop.add_reader(self._eventfd, readable)
        self._stack.callback(loop.remove_reader, self._eventfd)

    def close(self) -> None:
        """Unregister; may be called twice."""
        self._stack.close()
