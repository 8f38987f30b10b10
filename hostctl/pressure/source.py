# SPDX-License-Identifier: GPL-2.0-or-later
"""What every pressure source is to the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hostctl.policy.model import Level


class PressureSource(Protocol):
    """Calls back in the running event loop when the host is short of memory.

    Making one registers with the kernel and raises HostctlError where that cannot be done.
    """

    @property
    def name(self) -> str:
        """The kind and the kernel's file or group, as in `vmpressure:/sys/fs/cgroup/memory`."""
        ...

    @property
    def level(self) -> Level:
        """The pressure is at least this at each event."""
        ...

    def start(self, on_pressure: Callable[[], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back; `on_gone` (with the reason) comes once, and nothing after it."""
        ...

    def close(self) -> None:
        """Unregister and give back what is held; may be called twice."""
        ...
