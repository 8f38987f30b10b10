# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure of a cgroup v1 memory group: the kernel's vmpressure notifications.

See "Memory Pressure" in the kernel's Documentation/admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure.eventfd import CONTROL_FILE, Notifier

LEVEL_FILE = "memory.pressure_level"
GAP = 0.1
"""Seconds. Each 512 scanned pages can be an event, thousands in a second: our own choice."""


def offered(group: Path) -> bool:
    """Whether `group` is a group that has vmpressure."""
    return (group / LEVEL_FILE).exists() and (group / CONTROL_FILE).exists()


class VmPressure:
    """Reclaim for the sake of the v1 group `group` itself, at `levels`.

    That is, its own limit is reached, or for the hierarchy's top the machine's memory. Events are
    taken in the mode `local`: of a group below that is at a limit of its own this one need know
    nothing, and a listener there takes no event away from this one.
    """

    def __init__(self, group: Path, levels: Iterable[Level]) -> None:
        self.name = f"vmpressure:{group}"
        self.gap = GAP
        with ExitStack() as undo:
            self._notifiers: dict[Level, Notifier] = {}
            for level in levels:
                try:
                    notifier = Notifier(group / LEVEL_FILE, [f"{level},local"])
                except OSError as exc:
                    raise HostctlError(
                        f"cgroup {group}: no vmpressure at level {level} ({exc.strerror}); give a "
                        "cgroup v1 memory group that this user may write to, with all above it, "
                        "or --pressure psi"
                    ) from exc
                undo.callback(notifier.close)
                self._notifiers[level] = notifier
            self._stack = undo.pop_all()

    def start(self, on_pressure: Callable[[Level], None], on_gone: Callable[[str], None]) -> None:
        """Begin to call back; a group's removal looks like pressure at each level."""
        for level, notifier in self._notifiers.items():
            notifier.start(partial(on_pressure, level))

    def close(self) -> None:
        """Unregister; may be called twice."""
        self._stack.close()
