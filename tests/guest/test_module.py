# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver comes and goes while its balloon is in use."""

from __future__ import annotations

import pytest
from guests import (
    CACHELOAD,
    INJECT,
    MIB,
    background,
    inject,
    mem_total,
    ram,
    resize,
    told,
    wait_actual,
    wait_until,
)

from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

INSMOD = "insmod /run/lab/virtio_balloon.ko"
ROUNDS = 5


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
    flood = f"while :; do for l in 1 2 3; do echo $l > {INJECT}; done; done"
    with background(guest, CACHELOAD):
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
