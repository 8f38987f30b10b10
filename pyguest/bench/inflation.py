# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast a guest inflates, and what the host swaps in for it: contestants side by side.

Each guest runs in a cgroup of its own limit, and inflates three times. First it has touched most
of its memory and freed it, and the host has room for all of it. Then its memory is full of page
cache that nobody uses. Last it has touched and freed its memory again, and the host's limit was
lowered, so that a part of what the guest gives away lies in the host's swap: a driver whose
kernel zeroes the pages at their allocation makes the host read them back only to discard them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from .. import host
from ..errors import LabError
from ..loads import ANONLOAD, DISK
from ..progress import Step
from ..vm import Vm

MIB = 1 << 20
PAGE = 4096

MEMORY_MIB = 512
TOUCHED_MIB = 384
"""What the guest touches and frees before each inflation."""
INFLATE_MIB = 256
PRESSED_MIB = 256
"""The lowered limit; QEMU's own 70 MiB or so are within it."""
ROOMY_MIB = 2 * MEMORY_MIB
SWAP_MIB = 768

DEADLINE = 180.0
"""Seconds for an inflation that takes 10 when all of it is swapped in at 25 MiB/s."""
POLL = 0.005
SETTLE = 1.0
"""Seconds after a load: reclaim it caused is over, and the pause that follows."""

FREE, CACHE, SWAPPED = "free", "page cache", "partly in swap"
"""What the guest's memory is when it inflates."""
STATES = (FREE, CACHE, SWAPPED)

STOCK, OURS = "stock", "ours"


@dataclass(frozen=True)
class Contestant:
    """Who inflates: a kernel by its name in targets.toml, a driver, a kernel command line."""

    label: str
    kernel: str
    driver: str
    """`stock`: as the kernel came; `ours`: built from kmod/."""
    append: str

    @property
    def init_on_alloc(self) -> str:
        return self.append.removeprefix("init_on_alloc=")


@dataclass(frozen=True)
class Inflation:
    """One inflation. Pages are of 4 KiB."""

    contestant: str
    init_on_alloc: str
    state: str
    """One of STATES."""
    round: int
    mib: int
    seconds: float
    """From the target's setting to the size reached."""
    swapped_before: int
    """Bytes of the group in swap when it began."""
    pswpin: int
    """Pages that the whole machine swapped in meanwhile (read-ahead is among them)."""
    refaults: int
    """Anonymous pages that the guest's group alone faulted back in meanwhile."""
    major_faults: int
    """QEMU's."""
    scanned: int
    """Pages that the guest's own reclaim looked at meanwhile."""

    @property
    def speed(self) -> float:
        """MiB a second."""
        return self.mib / self.seconds


def contestants(kernel: str, series: Sequence[str]) -> list[Contestant]:
    """The stock driver and ours on `kernel`, with and without zeroing at allocation.

    Each kernel named in `series` joins with the driver in its tree, and with ours out of tree:
    its configuration may be another one, and only what differs within it is the series' doing.
    """
    found = []
    for zeroing in ("init_on_alloc=1", "init_on_alloc=0"):
        found += [Contestant(f"{name} on {kernel}", kernel, name, zeroing)
                  for name in (STOCK, OURS)]
        for name in series:
            found += [Contestant(f"in tree of {name}", name, STOCK, zeroing),
                      Contestant(f"out of tree on {name}", name, OURS, zeroing)]
    return found


def turns(rounds: int, count: int) -> list[tuple[int, int]]:
    """(round, contestant's number) in the order to run in: each round begins with another one."""
    return [(number, (number + place) % count)
            for number in range(rounds) for place in range(count)]


def ratios(found: Sequence[Inflation], contestant: Contestant, base: Contestant,
           state: str) -> list[float]:
    """The contestant's speed over the base's, round by round."""

    def speeds(who: Contestant) -> dict[int, float]:
        return {one.round: one.speed for one in found if one.state == state
                and (one.contestant, one.init_on_alloc) == (who.label, who.init_on_alloc)}

    theirs, bases = speeds(contestant), speeds(base)
    return [theirs[number] / bases[number] for number in sorted(theirs.keys() & bases.keys())]


def measure(vm: Vm, limited: host.LimitedHost, contestant: Contestant, number: int,
            step: Step) -> list[Inflation]:
    """Both inflations of a booted guest that is in `limited` with a limit of ROOMY_MIB."""
    found = []
    for state in STATES:
        _resize(vm, vm.config.memory_mib * MIB)
        step.update("touch memory,")
        vm.sh("echo 3 > /proc/sys/vm/drop_caches")
        vm.sh(f"dd if={DISK} of=/dev/null bs=1M count={vm.config.memory_mib} 2>/dev/null"
              if state == CACHE else f"{ANONLOAD} -s {TOUCHED_MIB}M -H 0 >/dev/null",
              timeout=DEADLINE)
        if state == SWAPPED:
            step.update("lower the host's limit,")
            limited.set_limit(PRESSED_MIB * MIB)
        time.sleep(SETTLE)
        step.update("inflate,")
        found.append(_inflate(vm, limited, contestant, number, state))
    return found


def _inflate(vm: Vm, limited: host.LimitedHost, contestant: Contestant, number: int,
             state: str) -> Inflation:
    scanned = _scanned(vm)
    before, faults = limited.usage(), _major_faults(vm)
    seconds = _resize(vm, (vm.config.memory_mib - INFLATE_MIB) * MIB)
    after = limited.usage()
    return Inflation(
        contestant.label, contestant.init_on_alloc, state, number, INFLATE_MIB, seconds,
        before.swap_used_bytes, after.pswpin - before.pswpin,
        after.workingset_refault_anon - before.workingset_refault_anon,
        _major_faults(vm) - faults, _scanned(vm) - scanned,
    )


def _scanned(vm: Vm) -> int:
    now = host.parse_counters(vm.sh("cat /proc/vmstat"))
    return now["pgscan_kswapd"] + now["pgscan_direct"]


def _major_faults(vm: Vm) -> int:
    usage = host.process_usage(vm.pid)
    return usage.major_faults if usage else 0


def _resize(vm: Vm, size: int) -> float:
    """Seconds that it takes until the guest has that size."""
    begin = time.monotonic()
    vm.set_target(size)
    while (actual := vm.balloon_actual()) != size:
        if time.monotonic() - begin > DEADLINE:
            raise LabError(f"guest {vm.name} has {actual >> 20} MiB and not {size >> 20} after "
                           f"{DEADLINE:.0f} s: see {vm.serial_log}")
        time.sleep(POLL)
    return time.monotonic() - begin
