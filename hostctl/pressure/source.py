# SPDX-License-Identifier: GPL-2.0-or-later
"""What every source of pressure is to a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hostctl.policy.model import Level


class PressureSource(Protocol):
    """Calls back in the running event loop while the host is short of memory.

    Making one registers with the kernel and raises HostctlError where that cannot be done.
    """

    @property
    def name(self) -> str:
        """The kind and the kernel's file or group, as in `vmpressure:/sys/fs/cgroup/memory`."""
        ...

    @property
    def gap(self) -> float:
        """Seconds for which one shortage is told again, at this level and those below it."""
        ...

    def start(self, on_pressure: Callable[[Level], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back, at once for each level that is reached; `on_gone` ends it.

        Whether a group was removed is the pool's to find out, on a call of either.
        """
        ...

    def close(self) -> None:
        """Unregister and give back what is held; may be called twice."""
        ...
