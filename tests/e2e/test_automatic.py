# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU alone: two guests with automatic=on on a host that is too small for both, and no hostctl."""

from __future__ import annotations

import os
from typing import Any

import pytest
from guests import MIB, READ_DISK, complaints, ram, wait_until

from pyguest import host, paths
from pyguest.lab import Lab
from pyguest.loads import ANONLOAD, background
from pyguest.vm import Vm, boot_all

pytestmark = pytest.mark.timeout(420, func_only=True)

STEP = 32 * MIB
FLOOR = 192 * MIB
BALLOON = "/machine/peripheral/balloon"


class Changes:
    """The automatic changes of a guest's target that QMP has told so far."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self.seen: list[dict[str, Any]] = []

    def of(self, *reasons: str) -> list[dict[str, Any]]:
        """Those for these reasons, oldest first."""
        self.seen += [event["data"] for event in self._vm.events("BALLOON_AUTOMATIC", 0)]
        return [change for change in self.seen if change["reason"] in reasons]


def state(vm: Vm) -> dict[str, Any]:
    found = vm.command("qom-get", path=BALLOON, property="automatic-state")
    assert isinstance(found, dict)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a limited host needs root: use sudo")
def test_two_guests_balance_themselves(lab: Lab) -> None:
    """The idle guest gives up memory when the host is short, and gets it back when it says so."""
    with host.LimitedHost(640 * MIB, 512 * MIB, paths.cache_root()) as limited, lab:
        balloon = (f"virtio-balloon-pci,message-vq=on,automatic=on,memcg-path={limited.memcg},"
                   f"automatic-floor={FLOOR}")
        prefix = tuple(limited.prefix())
        a, b = (lab.vm(name, prefix=prefix, balloon=balloon) for name in "ab")
        boot_all([a, b])
        changes = Changes(b)

        # Guest a's load makes the host short; b, which is idle, is asked for memory and gives it.
        with background(a, f"{ANONLOAD} -s 320M -H 600"):
            wait_until(lambda: bool(changes.of("host-pressure")), "b is asked for memory")
            first = changes.of("host-pressure")[0]
            assert (first["old"], first["new"]) == (ram(b), ram(b) - STEP)
            wait_until(lambda: b.balloon_actual() <= ram(b) - 4 * STEP, "b has given memory up")
            assert state(b)["host-pressure-events"] > 0

        # Guest b reads a disk, says that it is short, and gets memory back.
        before = b.balloon_actual()
        with background(b, READ_DISK):
            wait_until(lambda: bool(changes.of("guest-pressure")), "b is given memory back")
            wait_until(lambda: b.balloon_actual() > before, "b is larger")
        back = changes.of("guest-pressure")[-1]
        assert back["new"] > back["old"]
        for vm, told in ((a, Changes(a)), (b, changes)):
            assert all(change["new"] >= FLOOR for change in told.of("host-pressure"))
            assert state(vm)["target"] >= FLOOR
            assert not complaints(vm)
