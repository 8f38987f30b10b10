# SPDX-License-Identifier: GPL-2.0-or-later
"""The share of the guest's CPUs that the driver's code takes while reclaim runs flat out.

Debian's kernels have no function profiler, so it is the function graph tracer on the module's
functions, outermost calls alone: their times hold what they call elsewhere in the kernel and
what interrupts them, not the time they sleep. Tracing itself costs, and that is in the figure
too: it is an upper bound for the module's functions. What it does not see is the workqueue's
own work of starting them.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..errors import LabError
from ..host import parse_counters
from ..loads import ANONLOAD, CACHELOAD, DISK, background, swap_space
from ..progress import Step
from ..vm import Vm

COUNT = "balloon_pressure_count"
"""The shrinker's count function."""
MODULE = "virtio_balloon"

SWAP_MIB = 192
WARM_UP_SCANNED, WARM_UP_SWAPPED = 20_000, 2_000
"""Pages that reclaim has scanned and swapped before the first window."""
WARM_UP_DEADLINE = 120.0

_TRACING = "/sys/kernel/tracing"
_BUFFER_KIB = 4096
_SPLIT = "lab_split"
_SNAPSHOT = "cat /proc/uptime /proc/stat /proc/vmstat"


@dataclass(frozen=True)
class Snapshot:
    """A guest's counters at one moment: seconds since boot, CPU seconds, pages since boot."""

    uptime: float
    busy: float
    """All CPUs' time that was neither idle nor waiting for I/O."""
    scanned: int
    swapped: int
    """Pages swapped in and out."""


@dataclass(frozen=True)
class Calls:
    """Calls of one function from outside of the module, and their time in seconds."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Window:
    """One window of reclaim flat out."""

    traced: bool
    seconds: float
    cpus: int
    busy: float
    """CPU seconds."""
    scanned: int
    swapped: int
    calls: dict[str, Calls]
    """By function; empty where it was not traced."""
    lost: int
    """Trace records that found no room: with any, the calls are too few."""

    @property
    def driver_seconds(self) -> float:
        return sum(calls.seconds for calls in self.calls.values())

    @property
    def of_all(self) -> float:
        """The driver's share of all CPU time, 0 to 1."""
        return self.driver_seconds / (self.seconds * self.cpus)

    @property
    def of_busy(self) -> float:
        """The driver's share of the CPU time that was used, 0 to 1."""
        return self.driver_seconds / self.busy if self.busy else 0.0

    @property
    def busy_share(self) -> float:
        return self.busy / (self.seconds * self.cpus)


def parse_snapshot(text: str) -> Snapshot:
    """/proc/uptime, /proc/stat and /proc/vmstat of a guest, one after the other (proc(5))."""
    cpu = re.search(r"^cpu +(.*)$", text, re.M)
    uptime = re.match(r"\s*(\d+\.\d+) ", text)
    if not cpu or not uptime:
        raise LabError(f"the guest's counters are not understood: {text[:80]!r}: "
                       "is /proc mounted there?")
    user, nice, system, _idle, _iowait, irq, softirq = map(int, cpu[1].split()[:7])
    stat = parse_counters(text)
    return Snapshot(
        float(uptime[1]), (user + nice + system + irq + softirq) / 100,
        stat.get("pgscan_kswapd", 0) + stat.get("pgscan_direct", 0),
        stat.get("pswpin", 0) + stat.get("pswpout", 0),
    )


_CALL = re.compile(
    r"(\d+\.\d+) us +\|\s+(?:(\w+)(?: \[\w+\])?\(.*\);|\} /\* (\w+)(?: \[\w+\])?)")


def parse_graph(text: str) -> dict[str, Calls]:
    """Calls and their times from the function graph tracer's output (option funcgraph-tail)."""
    found: dict[str, Calls] = {}
    for line in text.splitlines():
        match = _CALL.search(line)
        if match:
            name = match[2] or match[3]
            before = found.get(name, Calls(0, 0.0))
            found[name] = Calls(before.count + 1, before.seconds + float(match[1]) / 1e6)
    return found


def between(before: Snapshot, after: Snapshot, cpus: int, calls: dict[str, Calls],
            traced: bool, lost: int) -> Window:
    """The window between two snapshots."""
    return Window(traced, after.uptime - before.uptime, cpus, after.busy - before.busy,
                  after.scanned - before.scanned, after.swapped - before.swapped, calls, lost)


@contextmanager
def _graph(vm: Vm) -> Iterator[None]:
    """The function graph tracer on the module's functions, not yet switched on."""
    if f"{COUNT} [{MODULE}]" not in vm.sh(f"grep {MODULE} {_TRACING}/available_filter_functions",
                                             check=False):
        raise LabError(f"guest {vm.name}: the driver has no function {COUNT} to be traced: mend "
                       "its name in pyguest/bench/share.py, or take our driver")
    vm.sh(f"cd {_TRACING} && echo 0 > tracing_on && echo {_BUFFER_KIB} > buffer_size_kb && "
          f"echo '*:mod:{MODULE}' > set_ftrace_filter && echo 1 > max_graph_depth && "
          "echo function_graph > current_tracer && echo 0 > options/sleep-time && "
          "echo 1 > options/funcgraph-tail && echo 0 > options/funcgraph-overhead")
    try:
        yield
    finally:
        if vm.alive():
            vm.sh(f"cd {_TRACING} && echo nop > current_tracer; echo > set_ftrace_filter; "
                  "echo 0 > max_graph_depth; echo > trace; echo 1 > tracing_on", check=False)


def measure(vm: Vm, rounds: int, seconds: int, step: Step) -> list[Window]:
    """Windows of `seconds`, in turn without and with the tracer, all under the same load.

    LabError when the load did not last.
    """
    found = []
    # More than is free even without any page cache: a kernel that spares anonymous memory
    # (multi-generational LRU) must swap as well.
    anon_mib = vm.config.memory_mib * 7 // 8
    with ExitStack() as stack:
        stack.enter_context(swap_space(vm, SWAP_MIB))
        loads = [stack.enter_context(background(vm, load)) for load in (
            f"{ANONLOAD} -s {anon_mib}M -H 100000 -k", f"{CACHELOAD} -S 100000 {DISK}")]
        _warm_up(vm, step)
        for number in range(rounds):
            for traced in (False, True):
                step.update(f"round {number + 1} of {rounds}, tracer {'on' if traced else 'off'},")
                found.append(_window(vm, seconds, traced))
        for pid in loads:
            # Its first process is the shell or the load itself: either is gone with the load.
            vm.sh(f"kill -0 {pid} || {{ dmesg | tail -n 3; exit 1; }}")
    return found


def _warm_up(vm: Vm, step: Step) -> None:
    end = time.monotonic() + WARM_UP_DEADLINE
    first = now = parse_snapshot(vm.sh(_SNAPSHOT))
    while (now.scanned - first.scanned < WARM_UP_SCANNED
           or now.swapped - first.swapped < WARM_UP_SWAPPED):
        said = f"{now.scanned - first.scanned} pages scanned, {now.swapped - first.swapped} swapped"
        if time.monotonic() > end:
            raise LabError(f"guest {vm.name}: {said} in {WARM_UP_DEADLINE:.0f} s under load, and "
                           f"not {WARM_UP_SCANNED} and {WARM_UP_SWAPPED}: is the machine busy?")
        step.update(f"{said},")
        time.sleep(0.5)
        now = parse_snapshot(vm.sh(_SNAPSHOT))


def _window(vm: Vm, seconds: int, traced: bool) -> Window:
    run = f"{_SNAPSHOT}; sleep {seconds}; echo {_SPLIT}; {_SNAPSHOT}"
    if not traced:
        before, after = vm.sh(run, timeout=seconds + 60).split(_SPLIT)
        calls: dict[str, Calls] = {}
        lost = 0
    else:
        with _graph(vm):
            before, after = vm.sh(f"echo 1 > {_TRACING}/tracing_on; {run}; "
                                  f"echo 0 > {_TRACING}/tracing_on",
                                  timeout=seconds + 60).split(_SPLIT)
            calls = parse_graph(vm.sh(f"cat {_TRACING}/trace", timeout=120))
            lost = sum(map(int, re.findall(r"^(?:overrun|dropped events): (\d+)$", vm.sh(
                f"cat {_TRACING}/per_cpu/cpu*/stats"), re.M)))
    return between(parse_snapshot(before), parse_snapshot(after.lstrip()), vm.config.cpus,
                   calls, traced, lost)
