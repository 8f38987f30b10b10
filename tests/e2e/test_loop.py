# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop closed: two guests on a host that is too small for both, and hostctl between them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from controller import Hostctl
from guests import MIB, READ_DISK, complaints, inject, ram, wait_until

from pyguest import host, paths
from pyguest.lab import Lab
from pyguest.loads import ANONLOAD, background
from pyguest.vm import boot_all

pytestmark = pytest.mark.timeout(420, func_only=True)

STEP = 32 * MIB
FLOOR = 192 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="a limited host needs root: use sudo")
@pytest.mark.short
def test_the_loop_and_a_guest_that_dies(lab: Lab, run_folder: Path) -> None:
    """Host pressure makes guests smaller, and a guest's own pressure makes that one larger.

    hostctl is started before the guests and finds them when they come. At the end one guest
    dies, and the other's messages are still acted on.
    """
    sockets = run_folder / "qmp"
    sockets.mkdir()
    with (
        host.LimitedHost(640 * MIB, 512 * MIB, paths.cache_root()) as limited,
        lab,
        Hostctl(sockets, run_folder, "--memcg", str(limited.memcg),
                "--policy", "classic", "--step", str(STEP), "--floor", str(FLOOR)) as hostctl,
    ):
        prefix = tuple(limited.prefix())
        a, b = (lab.vm(name, prefix=prefix, qmp_dir=sockets) for name in "ab")
        boot_all([a, b])
        for vm in (a, b):
            added = hostctl.wait_for("guest-added", guest=vm.name)
            assert (added["ram"], added["balloon"]) == (ram(vm), True)

        # Host pressure: both are asked to shrink, and guest b, which is idle, does.
        with background(a, f"{ANONLOAD} -s 320M -H 600"):
            smaller = hostctl.wait_for("decision", reason="host-pressure", guest="b")
            assert hostctl.events("host-pressure")[0]["mono"] <= smaller["mono"]
            assert smaller["new"] == smaller["old"] - STEP
            # How far is the host's and the guard's to say: pressure may end before the floor.
            wait_until(lambda: b.balloon_actual() <= smaller["new"], "guest b is smaller")

        # Guest pressure: b reads a disk, says so, and gets memory back.
        with background(b, READ_DISK):
            larger = hostctl.wait_for("decision", reason="guest-pressure", guest="b")
            assert larger["new"] > larger["old"]
            assert any(m["mono"] <= larger["mono"] for m in
                       hostctl.events("guest-message", guest="b", level="low"))
            wait_until(lambda: b.balloon_actual() > larger["old"], "guest b is larger")
        assert all(d["new"] >= FLOOR for d in hostctl.events("decision"))
        assert not complaints(a) + complaints(b)

        os.kill(a.pid, signal.SIGKILL)
        hostctl.wait_for("guest-lost", guest="a")
        before = len(hostctl.events("guest-message", guest="b"))
        inject(b, 1)
        wait_until(lambda: len(hostctl.events("guest-message", guest="b")) > before,
                   "a message of the other guest")
        assert hostctl.end(signal.SIGTERM) == 0
