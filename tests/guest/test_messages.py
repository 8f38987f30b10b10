# SPDX-License-Identifier: GPL-2.0-or-later
"""Which messages arrive at QMP, and when there must be none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from guests import (
    CACHELOAD,
    INJECT,
    INTERVAL,
    background,
    counters,
    inject,
    told,
    traced,
    wait_until,
)

from pyguest.demo.record import read_lines
from pyguest.demo.run import tracer
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

BUFFERS = {1: ["low"], 2: ["low", "medium"], 3: ["low", "medium", "critical"]}
"""What a buffer of each level holds."""


@pytest.fixture
def swap(guest: Vm) -> Iterator[None]:
    """128 MiB of swap space in the guest."""
    guest.sh("dd if=/dev/zero of=/swap bs=1M count=128 2>/dev/null && chmod 600 /swap && "
             "mkswap -q /swap && swapon /swap")
    yield
    guest.sh("swapoff /swap && rm /swap")


@pytest.mark.parametrize("level", BUFFERS)
def test_a_level_is_told_with_those_below(guest: Vm, level: int) -> None:
    """A message of each level arrives, after those of the lower levels."""
    inject(guest, level)
    assert told(guest, 5, enough=level) == BUFFERS[level]


def test_page_cache_pressure_is_told(guest: Vm) -> None:
    """Reading a disk that is larger than the free memory is reclaim, and the host is told."""
    with background(guest, CACHELOAD):
        assert "low" in told(guest, 60, enough=1)


def test_shortage_is_told_as_medium(guest: Vm, swap: None) -> None:
    """A process of nearly all of the memory is more than low pressure; low comes first."""
    seen: list[str] = []
    with background(guest, "/run/lab/bin/anonload -s 460M -H 600"):

        def medium() -> bool:
            seen.extend(told(guest, 0))
            return "medium" in seen

        wait_until(medium, "a message of level medium")
    assert all(before == "low" for before, level in pairwise(["", *seen]) if level == "medium")


def test_tracer_and_qmp_see_the_same(guest: Vm, tmp_path: Path) -> None:
    """The tracer in the guest (eBPF) tells of each message that QMP tells of."""
    lines = tmp_path / "trace.jsonl"
    said = guest.run_dir / "tracer.err"
    with tracer(guest, lines):
        wait_until(lambda: "tracing" in said.read_text(), "the tracer's start", 120)
        inject(guest, 1, 2, 3)
        wait_until(lambda: len(list(read_lines(lines))) == 3, "three lines of the tracer")
    assert [line["level"] for line in read_lines(lines)] == ["low", "medium", "critical"]
    assert told(guest, 5, enough=6) == BUFFERS[1] + BUFFERS[2] + BUFFERS[3]


def test_an_idle_guest_says_nothing(guest: Vm) -> None:
    """Not a message in a minute without load."""
    assert told(guest, 60) == []


def test_dropping_caches_says_nothing(guest: Vm) -> None:
    """drop_caches asks the shrinkers, as reclaim does, and is no pressure."""
    guest.sh("dd if=/dev/vda of=/dev/null bs=1M count=100 2>/dev/null")
    told(guest, 0)
    with traced(guest, "balloon_pressure") as trace:
        guest.sh("for i in 1 2 3 4 5; do echo 3 > /proc/sys/vm/drop_caches; done; sleep 1")
    assert not trace.events
    assert told(guest, 0) == []


def test_a_container_at_its_limit_says_nothing(guest: Vm) -> None:
    """A memory cgroup that reclaims within its own limit is not a guest that is short."""
    box = "/sys/fs/cgroup/box"
    guest.sh("echo 3 > /proc/sys/vm/drop_caches; mkdir -p /sys/fs/cgroup && "
             "mount -t cgroup2 none /sys/fs/cgroup && "
             "echo +memory > /sys/fs/cgroup/cgroup.subtree_control && "
             f"mkdir {box} && echo 60M > {box}/memory.max")
    try:
        told(guest, 0)
        before = counters(guest)
        guest.sh(f"sh -c 'echo $$ > {box}/cgroup.procs; "
                 "exec dd if=/dev/vda of=/dev/null bs=1M count=300 2>/dev/null'")
        after = counters(guest)
        stat = guest.sh(f"cat {box}/memory.stat")
        reclaimed = next(int(s.split()[1]) for s in stat.splitlines() if s.startswith("pgscan "))
        assert reclaimed > 10000, "the container was to reclaim"
        for name in ("pgscan_kswapd", "pgscan_direct"):
            assert after[name] == before[name]
        assert told(guest, 1) == []
    finally:
        guest.sh(f"rmdir {box}; umount /sys/fs/cgroup", check=False)


@pytest.fixture
def interval(guest: Vm) -> Iterator[float]:
    """The driver's message interval made long; in seconds."""
    usual = guest.sh(f"cat {INTERVAL}").strip()
    guest.sh(f"echo 1000 > {INTERVAL}")
    yield 1.0
    # What was sent last has its own interval before it.
    guest.sh(f"echo {usual} > {INTERVAL}; sleep 1.1")


def test_a_flood_is_held_back(guest: Vm, interval: float) -> None:
    """Messages of one level keep the interval, and each waits for the ack of the one before."""
    with traced(guest, "balloon_message_queued", "balloon_message_acked") as trace:
        guest.sh(f"end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do "
                 f"echo 1 > {INJECT}; done; sleep 0.1")
    queued = trace.of("balloon_message_queued")
    assert len(queued) >= 3
    # A tenth for jiffies, which an emulated machine may count in bursts.
    assert all(later.time - one.time >= 0.9 * interval for one, later in pairwise(queued))
    names = [event.name for event in trace.events]
    assert names == ["balloon_message_queued", "balloon_message_acked"] * len(queued)
    assert told(guest, 5, enough=len(queued)) == ["low"] * len(queued)


def test_a_higher_level_does_not_wait(guest: Vm, interval: float) -> None:
    """The interval is one of the same level or below: worse news goes at once."""
    guest.sh(f"for level in 1 1 2 1 2 3 3 2 1; do echo $level > {INJECT}; sleep 0.05; done")
    assert told(guest, 0.5) == BUFFERS[1] + BUFFERS[2] + BUFFERS[3]
