# SPDX-License-Identifier: GPL-2.0-or-later
"""What begins and ends in the wrong moment: hostctl, guests that do not boot, labs that fail."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from controller import Hostctl
from guests import MIB, READ_DISK, inject, ram, resize, told, wait_actual, wait_until

from pyguest import host, network, paths
from pyguest.errors import LabError
from pyguest.lab import Lab, Parts
from pyguest.loads import background
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

STEP = 32 * MIB


def start_hostctl(guest: Vm, folder: Path) -> Hostctl:
    """hostctl for a guest that runs already, by its messages alone."""
    assert guest.config.qmp_dir
    return Hostctl(guest.config.qmp_dir, folder, "--pressure", "none",
                   "--policy", "classic", "--step", str(STEP))


def one_step(guest: Vm, hostctl: Hostctl, size: int) -> None:
    """From `size` a message of the guest makes it a step larger."""
    added = hostctl.wait_for("guest-added", guest=guest.name)
    assert (added["actual"], added["target"]) == (size, size)
    inject(guest, 1)
    decision = hostctl.wait_for("decision", guest=guest.name, reason="guest-pressure")
    assert (decision["old"], decision["new"]) == (size, size + STEP)
    wait_actual(guest, size + STEP)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_hostctl_ends_and_the_next_goes_on(
    guest: Vm, run_folder: Path, how: signal.Signals
) -> None:
    """However hostctl ends, its guests stay as they are; the next reads back where they are."""
    size = ram(guest) - 4 * STEP
    resize(guest, size)
    with start_hostctl(guest, run_folder) as first:
        one_step(guest, first, size)
        status = first.end(how)
        assert status == (0 if how == signal.SIGTERM else -how)
        assert bool(first.events("stop")) == (how == signal.SIGTERM)
    time.sleep(1)
    assert guest.balloon_actual() == size + STEP
    with start_hostctl(guest, run_folder) as second:
        one_step(guest, second, size + STEP)
    resize(guest, ram(guest))


def test_a_message_cancels_an_inflation(guest: Vm, run_folder: Path) -> None:
    """A guest that says it is short while it is asked to shrink keeps what it still has."""
    target = ram(guest) - 8 * STEP
    # Its load keeps the driver from inflating before hostctl is there.
    with background(guest, READ_DISK):
        assert told(guest, 60, enough=1)
        guest.set_target(target)
        with start_hostctl(guest, run_folder) as hostctl:
            decision = hostctl.wait_for("decision", guest=guest.name)
    assert (decision["reason"], decision["old"]) == ("cancel", target)
    said = {message["actual"] for message in hostctl.events("guest-message")}
    assert decision["new"] in said and decision["new"] > target
    resize(guest, ram(guest))


@pytest.mark.parametrize("fault", ["no init", "empty disk"])
def test_a_guest_that_does_not_boot(lab: Lab, run_folder: Path, fault: str) -> None:
    """The error has the last lines of the serial console, and QEMU is gone."""
    disk = run_folder / "empty.raw"
    with disk.open("wb") as file:
        file.truncate(MIB)
    with lab:
        vm = lab.vm("bad")
        vm.config = (replace(vm.config, append="rdinit=/nope") if fault == "no init" else
                     replace(vm.config, disk=disk))
        with pytest.raises(LabError, match=r"guest bad: QEMU ended.*serial\.log") as caught:
            vm.boot()
        last = vm.serial_text().splitlines()[-1]
        assert last and last in str(caught.value)
        assert "Kernel panic" in str(caught.value)
        assert not vm.alive()


def test_a_boot_that_takes_too_long(lab: Lab) -> None:
    """A guest that says nothing in time is an error, and its QEMU ends with the lab."""
    with lab:
        vm = lab.vm("slow")
        with pytest.raises(LabError, match="no 'lab: ready' on the serial console in 0 s"):
            vm.boot(deadline=0.1)
        pid = vm.pid
        assert vm.alive()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a limited host needs root: use sudo")
def test_a_lab_leaves_nothing_behind(lab: Lab) -> None:
    """After an error inside, process, sockets, network namespace, cgroup and swap are gone."""
    swap = paths.cache_root().resolve() / f"autoballoon-{os.getpid()}.swap"

    def left() -> list[Path]:
        return [path for path in (
            Path(f"/proc/{vm.pid}"), lab.run_dir / "one/lab.qmp", lab.run_dir / "one/one.qmp",
            Path("/run/netns") / namespace, limited_group, swap,
        ) if path.exists()]

    with (
        pytest.raises(RuntimeError, match="on purpose"),
        host.LimitedHost(256 * MIB, 16 * MIB, paths.cache_root()) as limited,
        lab,
    ):
        limited_group = limited.memcg
        vm = lab.vm("one", prefix=tuple(limited.prefix()))
        vm.start()
        namespace = vm.network.handle(0).removeprefix("tap:")
        wait_until(lambda: len(left()) == 6, "all that is to be removed")
        raise RuntimeError("on purpose")
    assert left() == []
    assert str(swap) not in Path("/proc/swaps").read_text()


def test_without_root_there_is_user_networking(
    parts: Parts, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest is reached as well where nobody may make a tap."""
    monkeypatch.setattr(network, "open_network", lambda kind, guests: network.UserNetwork())
    with Lab(parts, str(run_folder.relative_to(paths.state_dir("")))) as one:
        vm = one.vm("one")
        vm.boot()
        assert "hostfwd" in (vm.run_dir / "command").read_text()
        assert vm.sh("uname -r").strip() == parts.kernel.release
