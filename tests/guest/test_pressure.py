# SPDX-License-Identifier: GPL-2.0-or-later
"""What is guest-wide shortage, and what is not: with the classic LRU and the multi-generational.

Without swap space page cache alone can be reclaimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from guests import (
    READ_DISK,
    Trace,
    container,
    counters,
    told,
    traced,
    wait_until,
    within,
)

from pyguest.host import parse_counters
from pyguest.loads import ANONLOAD, CACHELOAD, DISK, background
from pyguest.vm import Vm

pytestmark = [pytest.mark.timeout(240, func_only=True), pytest.mark.usefixtures("lru")]

READ = "dd if=/dev/vda of=/dev/null bs=1M count={} 2>/dev/null"
WINDOW = 512
"""Pages scanned that make a window; the driver says nothing of less."""
BOOST = "/proc/sys/vm/watermark_boost_factor"
"""How much kswapd frees against fragmentation, whatever is free: that is reclaim, and told."""


EARLY = "/proc/sys/vm/watermark_scale_factor"
"""How much is free when kswapd begins, beyond what makes tasks reclaim; 1/10,000 of memory."""

TRIES = 3


def stalls(now: dict[str, int]) -> int:
    """How often a task had to reclaim by itself, of /proc/vmstat; guest-wide in all kernels."""
    return sum(value for name, value in now.items() if name.startswith("allocstall_"))


def in_silence(vm: Vm, act: Callable[[], None]) -> None:
    """Neither a window of reclaim nor a message while `act` is done, and in the second after.

    If kswapd has scanned half a window meanwhile, or a task had to reclaim by itself, the guest
    was short all the same (a debug kernel's is at times): then a message may be right, and it is
    done again.
    """
    usual = vm.sh(f"cat {BOOST}; echo 0 > {BOOST}").strip()
    try:
        for left in reversed(range(TRIES)):
            vm.sh("echo 3 > /proc/sys/vm/drop_caches")
            # That makes the driver look; what an earlier test left for it may come late.
            wait_until(lambda: not told(vm, 1), "what was under way is over")
            before = counters(vm)
            with traced(vm, "balloon_pressure") as trace:
                act()
                said = told(vm, 1)
            after = counters(vm)
            by_kswapd = after["pgscan_kswapd"] - before["pgscan_kswapd"]
            waited = stalls(after) - stalls(before)
            short = by_kswapd >= WINDOW // 2 or waited
            if not short or left == 0 or not (said or trace.events):
                assert (said, trace.events) == ([], []), \
                    f"kswapd scanned {by_kswapd} pages, and tasks did {waited} times"
                return
    finally:
        vm.sh(f"echo {usual} > {BOOST}")


def stat(vm: Vm, box: str) -> dict[str, int]:
    """A container's memory.stat."""
    return parse_counters(vm.sh(f"cat {box}/memory.stat"))


def reclaims(vm: Vm, box: str, command: str) -> None:
    """Run `command` in a container that is to reclaim for it."""
    before = stat(vm, box)["pgscan"]
    vm.sh(within(box, command))
    assert stat(vm, box)["pgscan"] - before > 10 * WINDOW, "the container was to reclaim"


@pytest.mark.short
def test_page_cache_pressure_is_told(guest: Vm) -> None:
    """Reading a disk that is larger than the free memory is reclaim, and the host is told."""
    told(guest, 0)
    with background(guest, READ_DISK):
        assert "low" in told(guest, 60, enough=1)


@pytest.mark.short
def test_shortage_is_told_as_medium(guest: Vm, swap: None, lru: str) -> None:
    """A process of nearly all of the memory is more than low pressure; low comes first.

    The multi-generational LRU does not count what it passes over as young: there it may stay low.
    """
    enough = "low" if lru == "mglru" else "medium"
    seen: list[str] = []
    with background(guest, f"{ANONLOAD} -s 460M -H 600"):

        def reached() -> bool:
            seen.extend(told(guest, 0))
            return enough in seen

        wait_until(reached, f"a message of level {enough}")
    assert all(before == "low" for before, level in pairwise(["", *seen]) if level == "medium")


def test_dropping_caches_says_nothing(guest: Vm) -> None:
    """drop_caches asks the shrinkers, as reclaim does, and is no pressure."""

    def drop() -> None:
        guest.sh(READ.format(100))
        guest.sh("for i in 1 2 3 4 5; do echo 3 > /proc/sys/vm/drop_caches; done")

    in_silence(guest, drop)


def test_proactive_reclaim_says_nothing(guest: Vm) -> None:
    """What somebody asks a container to give up (memory.reclaim) nobody was short of."""
    with container(guest) as box:
        if not guest.sh(f"ls {box}/memory.reclaim 2>/dev/null", check=False):
            pytest.skip("this kernel has no memory.reclaim")

        def ask() -> None:
            guest.sh(within(box, READ.format(100)))
            before = stat(guest, box)["pgscan"]
            # EAGAIN when it was less than asked for.
            guest.sh(f"echo 80M > {box}/memory.reclaim", check=False)
            assert stat(guest, box)["pgscan"] - before > 10 * WINDOW, "it was to reclaim"

        in_silence(guest, ask)


@pytest.mark.short
def test_page_cache_at_a_limit_says_nothing(guest: Vm) -> None:
    """A container that reads more than its limit reclaims within it; the guest is not short."""
    with container(guest, "60M") as box:
        in_silence(guest, lambda: reclaims(guest, box, READ.format(300)))


def test_anonymous_memory_at_a_limit_says_nothing(guest: Vm, swap: None) -> None:
    """A container that swaps because of its limit does so in a guest that is not short."""
    with container(guest, "60M") as box:
        in_silence(guest, lambda: reclaims(guest, box, f"{ANONLOAD} -s 100M -H 0"))
        assert counters(guest)["pswpout"] > 0


def test_shortage_beside_a_container_is_told(guest: Vm) -> None:
    """A guest that is short says so, also when a container is below its limit and keeps busy."""
    with (
        container(guest, "200M") as box,
        background(guest, within(box, f"{ANONLOAD} -s 50M -H 600 -k")),
    ):
        told(guest, 0)
        with background(guest, READ_DISK):
            assert "low" in told(guest, 60, enough=1)
        events = parse_counters(guest.sh(f"cat {box}/memory.events"))
        assert events["max"] == 0, "the container was to stay below its limit"


def scanned(trace: Trace) -> int:
    return sum(int(event.fields["scanned"]) for event in trace.of("balloon_pressure"))


@contextmanager
def kswapd_at(vm: Vm, nice: int) -> Iterator[None]:
    """kswapd before or behind the tasks for which it reclaims."""
    vm.sh(f"renice -n {nice} -p $(pgrep kswapd)")
    yield
    vm.sh("renice -n 0 -p $(pgrep kswapd)")


def test_kswapd_alone_is_told(guest: Vm) -> None:
    """Reclaim in the background is told, while no task has had to wait yet."""
    usual = guest.sh(f"cat {EARLY}; echo 300 > {EARLY}").strip()
    guest.sh(READ.format(500))

    def quiet_round() -> bool:
        wait_until(lambda: not told(guest, 0.5), "what was under way is over")
        before = counters(guest)
        with background(guest, f"{CACHELOAD} -S 600 -r 10M {DISK}"):
            assert "low" in told(guest, 60, enough=1)
        after = counters(guest)
        by_kswapd = after["pgscan_kswapd"] - before["pgscan_kswapd"]
        return by_kswapd >= WINDOW and stalls(after) == stalls(before)

    with kswapd_at(guest, -19):
        wait_until(quiet_round, "pressure without a task that reclaims by itself")
    guest.sh(f"echo {usual} > {EARLY}")


def reclaim_directly(vm: Vm) -> None:
    """Several tasks take together most of what a guest full of page cache can give.

    kswapd is held back, or it may well be quick enough for them: they reclaim by themselves.
    """
    tasks = 8
    share = int(vm.sh("awk '/^MemAvailable:/ {print $2}' /proc/meminfo")) * 3 // 4 // tasks
    with kswapd_at(vm, 19):
        vm.sh(f"for i in $(seq {tasks}); do {ANONLOAD} -s {share}K -H 1 & done; wait")


@pytest.mark.short
def test_direct_reclaim_is_told(guest: Vm) -> None:
    """Reclaim by a task that waits for memory counts in the windows that are told."""

    def waited() -> bool:
        guest.sh(READ.format(500))
        told(guest, 0)
        before = counters(guest)
        with traced(guest, "balloon_pressure") as trace:
            reclaim_directly(guest)
        after = counters(guest)
        grown = {name: after[name] - before[name] for name in after}
        if grown["pgscan_direct"] < 10 * WINDOW:
            return False  # what there is of it may be before the first look and after the last
        assert stalls(grown) > 0
        assert scanned(trace) > grown["pgscan_kswapd"]
        assert "low" in told(guest, 5, enough=1)
        return True

    wait_until(waited, "tasks that reclaim by themselves")


@pytest.mark.short
def test_a_limit_after_a_shortage_says_nothing(guest: Vm) -> None:
    """A container at its limit is not mixed with a shortage that is over.

    Shrinkers are asked meanwhile, by drop_caches, so that the driver looks at its counters: what
    is left of the guest's own direct reclaim must not make the container's count.
    """
    ask = "while :; do echo 2 > /proc/sys/vm/drop_caches; sleep 0.02; done"
    guest.sh(READ.format(500))
    reclaim_directly(guest)

    def beside() -> None:
        with background(guest, ask):
            reclaims(guest, box, READ.format(300))

    with container(guest, "60M") as box:
        in_silence(guest, beside)
