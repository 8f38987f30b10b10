# SPDX-License-Identifier: GPL-2.0-or-later
"""What can spoil a trial from outside: it is marked then, and run again."""

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import host

PAGE = 4096
CLOCK_MOST = 1.0
"""Seconds that the wall clock may gain or lose on the monotonic one in a trial."""
STEAL_MOST = 0.05
"""Share of the CPUs' time that a hypervisor below may take."""
OTHERS_MOST = 0.05
"""The same, which programs may take that are not the trial's."""
KTHREADD = 2
"""The parent of all threads of the kernel."""
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
    others: Mapping[int, float]
    """The same for each process that is not the trial's, by its PID; see `others`."""
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
                   int(steal) / os.sysconf("SC_CLK_TCK"), others(host.processes(), os.getpid()),
                   time.monotonic())


def others(processes: Mapping[int, host.ProcessUsage], own: int) -> dict[int, float]:
    """Seconds of CPU, with those of ended children, of each process but `own` and what it started.

    The kernel's threads are left out: they swap for the trial.
    """
    def is_ours(pid: int) -> bool:
        while pid in processes and pid != own and pid != KTHREADD:
            pid = processes[pid].parent
        return pid in (own, KTHREADD)

    return {pid: one.user_seconds + one.sys_seconds + one.waited_seconds
            for pid, one in processes.items() if not is_ours(pid)}


def strangers(known: Collection[int], processes: Path = Path("/proc")) -> set[int]:
    """The PIDs of QEMUs that are not `known`."""
    found = set()
    for path in processes.glob("[0-9]*/comm"):
        pid = int(path.parent.name)
        with suppress(OSError):  # it has ended
            if pid not in known and path.read_text().startswith("qemu-system"):
                found.add(pid)
    return found


def disturbances(before: Surroundings, after: Surroundings, cpus: int, came: Collection[int]
                 ) -> list[str]:
    """What was wrong between the two, each in a few words; `came` are QEMUs that did."""
    found = []
    if abs(after.swapped - before.swapped) > SWAP_MOST:
        pages = (after.swapped - before.swapped) // PAGE
        found.append(f"{pages:+} pages in swap that are not the host's")
    if abs(after.clock - before.clock) > CLOCK_MOST:
        found.append(f"the wall clock jumped by {after.clock - before.clock:+.1f} s")
    time_ = max(after.uptime - before.uptime, 1e-9) * cpus
    if (share := (after.steal - before.steal) / time_) > STEAL_MOST:
        found.append(f"{share:.0%} of the CPUs' time was taken by a hypervisor")
    # What a process had used that has ended is its parent's now, and was counted before.
    used = sum(after.others.values()) - sum(before.others.values())
    if (share := used / time_) > OTHERS_MOST:
        most = max(after.others, key=lambda pid: after.others[pid] - before.others.get(pid, 0.0))
        found.append(f"{share:.0%} of the CPUs' time was taken by other programs, most by PID "
                     f"{most}")
    if came:
        found.append(f"another QEMU came (PID {', '.join(map(str, sorted(came)))})")
    return found
