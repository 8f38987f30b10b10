# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory cgroup whose pressure is the test's to make."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

import pytest
from balloon import PATH

from pyguest.qtest import DEADLINE, Machine

SYS_PIDFD_GETFD = 438  # <asm-generic/unistd.h>


class FakeGroup:
    """A folder with the two files that vmpressure is registered by.

    QEMU writes into one of them which of its eventfds is to be signalled. It is the test's own
    child, so the test may have a copy of that (pidfd_getfd(2)) and signal it as the kernel would.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._control = folder / "cgroup.event_control"
        self._level = folder / "memory.pressure_level"
        self._level.touch()
        self.forget()

    def forget(self) -> None:
        """As if nobody had registered."""
        self._control.write_text("")

    def order(self) -> tuple[int, str]:
        """What QEMU has registered: its eventfd and the level."""
        eventfd, pressure, level = self._control.read_text().split()
        assert int(pressure) != int(eventfd)
        return int(eventfd), level

    def signal(self, qemu: Machine, times: int = 1) -> None:
        """Signal the eventfd, as often before QEMU can look, and return."""
        pidfd = os.pidfd_open(qemu.process.pid)
        libc = ctypes.CDLL(None, use_errno=True)
        copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, self.order()[0], 0)
        os.close(pidfd)
        if copy < 0:
            # Yama or a container's seccomp filter may forbid it.
            if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
                pytest.skip("pidfd_getfd is not allowed here: "
                            "sysctl kernel.yama.ptrace_scope=1, or use sudo")
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        os.eventfd_write(copy, times)
        os.close(copy)

    def press(self, qemu: Machine) -> None:
        """Pressure of the host; returns when QEMU has seen it."""
        before = state(qemu)["host-pressure-events"]
        self.signal(qemu)
        end = time.monotonic() + DEADLINE
        while state(qemu)["host-pressure-events"] == before:
            if time.monotonic() > end:
                raise TimeoutError("QEMU did not take note of the host's pressure")

    def remove(self) -> None:
        """As the kernel removes a group: its files first, and a last signal then."""
        self._level.unlink()


def state(qemu: Machine, path: str = PATH) -> dict[str, object]:
    """What automatic ballooning is at."""
    reply = qemu.qmp("qom-get", path=path, property="automatic-state")
    assert isinstance(reply, dict)
    return reply
