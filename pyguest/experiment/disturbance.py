# SPDX-License-Identifier: GPL-2.0-or-later
"""What can spoil a trial from outside: it is marked then, and run again."""

import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import host

PAGE = 4096
CLOCK_MOST = 1.0
"""Seconds that the wall clock may gain or lose on the monotonic one in a trial."""
STEAL_MOST = 0.05
"""Share of the CPUs' time that a hypervisor below may take."""
SWAP_MOST = 16 << 20
"""Bytes by which what is in swap areas may change against what the group has there: the counters
are not read at the same time."""


@dataclass(frozen=True)
class Surroundings:
    """The machine beside a trial, at one time."""

    swapped: int
    """Bytes in all swap areas that are not the limited host's memory: it uses any of them first,
    as others may use its own."""
    clock: float
    """Seconds that the wall clock is ahead of the monotonic one."""
    steal: float
    """Seconds of CPU taken by a hypervisor since boot, of all CPUs."""
    uptime: float
    """Seconds of the monotonic clock."""

    @classmethod
    def now(cls, group_swap: int) -> "Surroundings":
        """As they are; `group_swap` is what the limited host has in swap, in bytes."""
        areas = host.parse_swaps(Path("/proc/swaps").read_text())
        # Pages that are in memory again keep their place, and are the group's in swap no more.
        vmstat = host.parse_counters(Path("/proc/vmstat").read_text())
        swapped = sum(area.used for area in areas) - vmstat.get("nr_swapcached", 0) * PAGE
        steal = Path("/proc/stat").read_text().split(maxsplit=9)[8]
        return cls(swapped - group_swap, time.time() - time.monotonic(),
                   int(steal) / os.sysconf("SC_CLK_TCK"), time.monotonic())


def strangers(known: Collection[int], processes: Path = Path("/proc")) -> set[int]:
    """The PIDs of QEMUs that are not `known`."""
    found = set()
    for path in processes.glob("[0-9]*/comm"):
        pid = int(path.parent.name)
        with suppress(OSError):  # it has ended
            if pid not in known and path.read_text().startswith("qemu-system"):
                found.add(pid)
    return found


def disturbances(before: Surroundings, after: Surroundings, cpus: int, others: Collection[int]
                 ) -> list[str]:
    """What was wrong between the two, each in a few words; `others` are QEMUs that came."""
    found = []
    if abs(after.swapped - before.swapped) > SWAP_MOST:
        pages = (after.swapped - before.swapped) // PAGE
        found.append(f"{pages:+} pages in swap that are not the host's")
    if abs(after.clock - before.clock) > CLOCK_MOST:
        found.append(f"the wall clock jumped by {after.clock - before.clock:+.1f} s")
    share = (after.steal - before.steal) / max(after.uptime - before.uptime, 1e-9) / cpus
    if share > STEAL_MOST:
        found.append(f"{share:.0%} of the CPUs' time was taken by a hypervisor")
    if others:
        found.append(f"another QEMU came (PID {', '.join(map(str, sorted(others)))})")
    return found
