# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver comes and goes while its balloon is in use."""

from __future__ import annotations

import pytest
from guests import (
    INSMOD,
    KMEMLEAK,
    MIB,
    READ_DISK,
    debugfs,
    inject,
    leaks,
    mem_total,
    ram,
    resize,
    told,
    wait_actual,
    wait_until,
    works,
)

from pyguest.loads import background
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

ROUNDS = 5


@pytest.mark.short
def test_rmmod_gives_all_back(guest: Vm) -> None:
    """Removed while inflated, the driver leaves the guest its memory; inserted, it inflates again.

    And messages arrive from each driver that was inserted.
    """
    whole, target = mem_total(guest), ram(guest) - 128 * MIB
    resize(guest, target)
    for _ in range(ROUNDS):
        assert mem_total(guest) == whole - 128 * MIB
        guest.sh("rmmod virtio_balloon")
        assert guest.balloon_actual() == ram(guest)
        assert mem_total(guest) == whole
        guest.sh(INSMOD)
        wait_actual(guest, target)
        told(guest, 0)
        inject(guest, 2)
        assert told(guest, 5, enough=2) == ["low", "medium"]
    resize(guest, ram(guest))


def test_rmmod_under_pressure(guest: Vm) -> None:
    """Removed while it inflates, reclaim is under way and messages are sent, it leaves as well."""
    whole, target = mem_total(guest), ram(guest) - 200 * MIB
    # The device stays while its driver goes: the path is the same again.
    door = debugfs(guest, "inject")
    flood = f"while :; do for l in 1 2 3; do echo $l > {door}; done; done"
    with background(guest, READ_DISK):
        for _ in range(ROUNDS):
            with background(guest, flood):
                told(guest, 0)
                guest.set_target(target)
                assert told(guest, 60, enough=3)
                # The flood has the driver's file open most of the time.
                guest.sh("until rmmod virtio_balloon 2>/dev/null; do :; done")
            assert mem_total(guest) == whole
            guest.sh(INSMOD)
    wait_actual(guest, target)
    wait_until(lambda: mem_total(guest) == whole - 200 * MIB, "MemTotal as the balloon says")
    resize(guest, ram(guest))


MANY = 200
WARM_UP = 10
"""Rounds after which the kernel's own caches have what these rounds need of them."""
TRIES = 3
MOST_GONE = 2 * MIB
MOST_SLAB = 384 << 10
"""Bytes. Other caches' growth, less each time, was 272 KiB at most (7.3), and 64 KiB on 6.1."""

HELD = ("MemTotal", "MemFree", "SUnreclaim")
"""Of /proc/meminfo, in bytes."""


def rounds(vm: Vm, count: int) -> None:
    """Insert the driver that many times, each for a part of a second, with messages."""
    door = debugfs(vm, "inject")
    vm.sh(f"for i in $(seq {count}); do "
          f"echo $((i % 3 + 1)) > {door}; busybox usleep $((i * 7919 % 100000)); "
          f"rmmod virtio_balloon && {INSMOD} || exit 1; done", timeout=900)


def held(vm: Vm) -> dict[str, int]:
    """What the guest's kernel holds when it has dropped what it can do without."""
    vm.sh("sleep 1; sync; for i in 1 2 3; do echo 3 > /proc/sys/vm/drop_caches; sleep 0.3; done")
    lines = (line.split() for line in vm.sh("cat /proc/meminfo").splitlines())
    return {line[0][:-1]: int(line[1]) << 10 for line in lines if line[0][:-1] in HELD}


@pytest.mark.timeout(2400, func_only=True)
def test_many_rounds_leak_nothing(guest: Vm) -> None:
    """Inserted and removed 200 times while it inflates and reclaim is under way, all comes back.

    The bounds are three pages a round, or less than the driver's own structure (2 KiB) a round.
    What the kernel has taken for itself meanwhile may be more once; what leaks does so each time.
    A balloon page that is lost is missed in MemTotal, which must be the same. A kernel with
    kmemleak (and KASAN, which keeps what is freed for a while) is asked that way instead.
    """
    target = ram(guest) - 200 * MIB

    def pressed_rounds(count: int) -> dict[str, int]:
        with background(guest, READ_DISK):
            guest.set_target(target)
            assert told(guest, 60, enough=1)
            rounds(guest, count)
        resize(guest, ram(guest))
        return held(guest)

    found = [pressed_rounds(WARM_UP)]
    watched = bool(guest.sh(f"ls {KMEMLEAK} 2>/dev/null", check=False))
    while len(found) <= TRIES:
        found.append(pressed_rounds(MANY))
        before, after, times = found[0], found[-1], len(found) - 1
        assert after["MemTotal"] == before["MemTotal"]
        gone = before["MemFree"] - after["MemFree"]
        slab = after["SUnreclaim"] - before["SUnreclaim"]
        if watched or (gone < MOST_GONE * times and slab < MOST_SLAB * times):
            break
    else:
        pytest.fail(f"{MANY} rounds lose memory each time: {found}")
    assert not watched or leaks(guest) == []
    works(guest, ram(guest))
