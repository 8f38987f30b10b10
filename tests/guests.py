# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests ask of guests. Sizes are bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyguest import lab
from pyguest.build import linux
from pyguest.host import parse_counters
from pyguest.loads import CACHELOAD, DISK, background
from pyguest.vm import Vm

MIB = 1 << 20
PAGE = 4096

MESSAGE_VQ = 23
REPORTING = 5

DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"
DEBUGFS = "/sys/kernel/debug/virtio_balloon-*"
"""The driver's directory, one for each device that has the message queue."""
INTERVAL = "/sys/module/virtio_balloon/parameters/message_interval_ms"
TRACING = "/sys/kernel/tracing"
READ_DISK = f"{CACHELOAD} -S 600 {DISK}"
"""Reads the root disk, which is larger than the guest's memory, until it is killed."""
INSMOD = "insmod /run/lab/virtio_balloon.ko"
CGROUPS = "/sys/fs/cgroup"
KMEMLEAK = "/sys/kernel/debug/kmemleak"

COMPLAINT = re.compile(
    r"WARNING:|BUG:|BUG at|Oops|rcu.*(stall|starved)|soft lockup|blocked for more than|Call Trace"
    r"|Kernel panic|Out of memory|page allocation failure"
)
_FAILED_ALLOCATION = re.compile(
    r"^.*page allocation failure.*$(\n(?!.*(WARNING:|BUG|Oops|Kernel panic|Out of memory)).*)*?"
    r"(\n.*</TASK>$|\Z)", re.M)
"""Up to the end of its trace, which may not be written yet. No other complaint stands in it."""
_CALLED = re.compile(r"^(?!.* \? ).*balloon", re.M)
"""A caller of the balloon's; `?` is what an earlier call has left on the stack."""

STATES = ("idle", "inflated", "inflating", "pressed")
"""What a guest is at when something befalls its driver: see `in_state`."""
NEVER = 1_000_000_000
"""More acks than a test sees."""

PATIENCE = linux.flavour_of(lab.chosen("KERNEL") or "").patience
"""How many times as long as usual the guests of this run may take."""
DEADLINE = 90.0
"""Seconds for what takes a few on an idle machine with a usual kernel."""


def ram(vm: Vm) -> int:
    return vm.config.memory_mib * MIB


def wait_until(done: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Wait for a condition; TimeoutError names it."""
    end = time.monotonic() + seconds * PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds * PATIENCE:.0f} s: {what}")
        time.sleep(0.05)


def wait_actual(vm: Vm, size: int) -> None:
    """Until the guest has that size."""
    try:
        wait_until(lambda: vm.balloon_actual() == size, "")
    except TimeoutError:
        raise TimeoutError(f"guest {vm.name} has {vm.balloon_actual()} bytes of memory and not "
                           f"{size} after {DEADLINE * PATIENCE:.0f} s") from None


def resize(vm: Vm, size: int) -> None:
    """Set a target and wait until the guest is there."""
    vm.set_target(size)
    wait_actual(vm, size)


def features(vm: Vm) -> set[int]:
    """The feature bits that the balloon driver and its device agreed on."""
    bits = vm.sh(f"cat {DRIVER}/virtio*/features").strip()
    return {bit for bit, value in enumerate(bits) if value == "1"}


def debugfs(vm: Vm, name: str) -> str:
    """The path of one of the driver's debugfs files; of the one device that the guest has."""
    return vm.sh(f"ls {DEBUGFS}/{name}").strip()


def inject(vm: Vm, *levels: int) -> None:
    """Have the driver send messages, further apart than its usual interval."""
    door = debugfs(vm, "inject")
    for level in levels:
        vm.sh(f"echo {level} > {door}; sleep 0.3")


def told(vm: Vm, seconds: float, enough: int = 0) -> list[str]:
    """The levels of the pressure events that QMP has had, as `Vm.events`."""
    found = vm.events("BALLOON_PRESSURE", seconds, enough)
    return [str(event["data"]["level"]) for event in found]


def counters(vm: Vm) -> dict[str, int]:
    """The guest's /proc/vmstat."""
    return parse_counters(vm.sh("cat /proc/vmstat"))


def mem_total(vm: Vm) -> int:
    """The memory that the guest's kernel counts as its own."""
    return int(vm.sh("awk '/^MemTotal:/ {print $2}' /proc/meminfo")) << 10


def pressure(vm: Vm) -> dict[str, int]:
    """The driver's own counters; they count from when it was bound to the device."""
    return parse_counters(vm.sh(f"cat {debugfs(vm, 'pressure')}"))


def drop_acks(vm: Vm, count: int) -> None:
    """Have the driver miss that many acks of the host; 0: it looks for what it has missed."""
    vm.sh(f"echo {count} > {debugfs(vm, 'drop_acks')}")


def works(vm: Vm, size: int) -> None:
    """The guest comes to that size by itself, and its messages arrive."""
    wait_actual(vm, size)
    wait_until(lambda: not told(vm, 0.5), "what was under way is over")
    inject(vm, 2)
    seen: list[str] = []

    def arrived() -> bool:
        seen.extend(told(vm, 0.1))
        return "medium" in seen

    # A level brings those below with it; the guest may have had its own word as well.
    wait_until(arrived, "a message that was injected arrives")
    assert seen[seen.index("medium") - 1] == "low"


@contextmanager
def in_state(vm: Vm, state: str, target: int) -> Iterator[None]:
    """The guest asked for that target (but when idle), and the body run with it in that state.

    Inflating: has begun to. Pressed: reclaims, so that its inflation waits.
    """
    if state == "pressed":
        with background(vm, READ_DISK):
            told(vm, 0)
            assert told(vm, 60, enough=1)
            vm.set_target(target)
            yield
        return
    if state == "inflated":
        resize(vm, target)
    elif state == "inflating":
        vm.set_target(target)
        wait_until(lambda: vm.balloon_actual() < ram(vm), "inflation has begun")
    yield


@contextmanager
def container(vm: Vm, limit: str = "max") -> Iterator[str]:
    """A memory cgroup of that limit (memory.max); its folder. What runs in it is killed."""
    box = f"{CGROUPS}/box"
    vm.sh(f"mkdir -p {CGROUPS} && mount -t cgroup2 none {CGROUPS} && "
          f"echo +memory > {CGROUPS}/cgroup.subtree_control && "
          f"mkdir {box} && echo {limit} > {box}/memory.max")
    try:
        yield box
    finally:
        # Its processes have left when the folder can be removed.
        vm.sh(f"echo 1 > {box}/cgroup.kill; tries=0; until rmdir {box} || [ $tries = 100 ]; do "
              f"tries=$((tries + 1)); sleep 0.1; done 2>/dev/null; umount {CGROUPS}", check=False)


def within(box: str, command: str) -> str:
    """A shell command that runs another in a container."""
    return f"sh -c 'echo $$ > {box}/cgroup.procs; exec {command}'"


def leaks(vm: Vm) -> list[str]:
    """What kmemleak blames on the driver or on balloon pages.

    Nothing of a guest that is dead, or whose kernel has no kmemleak.
    """
    if not vm.alive() or not vm.sh(f"ls {KMEMLEAK} 2>/dev/null", check=False):
        return []
    # Younger than 5 s is not told, and the first scan may see a pointer in flight.
    vm.sh(f"sleep 6; echo scan > {KMEMLEAK}; echo scan > {KMEMLEAK}", timeout=300)
    return blamed(vm.sh(f"cat {KMEMLEAK}", timeout=300))


def blamed(report: str) -> list[str]:
    """The objects of a report by kmemleak that a balloon's code has allocated.

    A frame without a name is of a module that is gone, which was the driver.
    """
    objects = report.split("unreferenced object ")[1:]
    return [one for one in objects
            if "balloon" in one or re.search(r"^ +(\[<\w+>\] )?0x[0-9a-f]+$", one, re.MULTILINE)]


@dataclass(frozen=True)
class Traced:
    """One trace event, `time` in seconds of the guest's monotonic clock."""

    time: float
    name: str
    fields: dict[str, str]


_LINE = re.compile(r"\s(\d+\.\d+): (\w+): (.*)")


@dataclass
class Trace:
    """The events of a trace; filled at the end of `traced`."""

    events: list[Traced]

    def of(self, name: str) -> list[Traced]:
        return [event for event in self.events if event.name == name]


@contextmanager
def traced(vm: Vm, *names: str) -> Iterator[Trace]:
    """Trace the driver's events of these names, and what is written to trace_marker."""
    toggles = " ".join(f"{TRACING}/events/virtio_balloon/{name}/enable" for name in names)
    vm.sh(f"echo mono > {TRACING}/trace_clock; echo > {TRACING}/trace; "
          f"for one in {toggles}; do echo 1 > $one; done")
    trace = Trace([])
    try:
        yield trace
    finally:
        vm.sh(f"for one in {toggles}; do echo 0 > $one; done", check=False)
    for line in vm.sh(f"cat {TRACING}/trace").splitlines():
        match = _LINE.search(line)
        if match and not line.startswith("#"):
            fields = dict(pair.split("=", 1) for pair in match[3].split() if "=" in pair)
            trace.events.append(Traced(float(match[1]), match[2], fields))


def complaints(vm: Vm) -> list[str]:
    """What the guest's kernel complained of so far; the serial console's word if it is dead."""
    return complained(vm.sh("dmesg") if vm.alive() else vm.serial_text())


def complained(log: str) -> list[str]:
    """The lines of a kernel's log that complain.

    Other code than a balloon's may fail to get memory in a guest that is short: 7.3's swap does
    in kswapd, and warns.
    """
    log = _FAILED_ALLOCATION.sub(
        lambda failure: failure[0] if _CALLED.search(failure[0]) else "", log)
    return [line for line in log.splitlines() if COMPLAINT.search(line)]
