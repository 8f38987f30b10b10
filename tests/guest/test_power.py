# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspend and resume, and the guest's end, whatever the balloon was at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import (
    MIB,
    NEVER,
    READ_DISK,
    STATES,
    drop_acks,
    in_state,
    inject,
    mem_total,
    pressure,
    ram,
    resize,
    told,
    wait_until,
    works,
)

from pyguest import lab
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

Boot = Callable[..., Vm]
Sleep = Callable[[str], None]

POWER = "/sys/power"
ROUNDS = 10


@pytest.fixture
def sleep(guest: Vm) -> Iterator[Sleep]:
    """`sleep(state)` freezes the guest's tasks and devices, and restores them at once.

    The states are /sys/power/state's. /sys/power/pm_test leaves out what comes after.
    """
    if not guest.sh(f"cat {POWER}/pm_test 2>/dev/null", check=False):
        pytest.skip("this kernel has no /sys/power/pm_test (CONFIG_PM_DEBUG)")
    guest.sh(f"echo devices > {POWER}/pm_test; "
             "echo 0 > /sys/module/suspend/parameters/pm_test_delay")

    def go(state: str) -> None:
        # A hibernation frees memory and, in some kernels, waits for 5 s.
        guest.sh(f"echo {state} > {POWER}/state", timeout=180)

    yield go
    guest.sh(f"echo none > {POWER}/pm_test")


@pytest.mark.parametrize("state", STATES)
def test_suspend_and_resume(guest: Vm, sleep: Sleep, state: str) -> None:
    """The driver freezes and restores: the target stays, and messages arrive.

    Pressed, several times: what is queued when the tasks freeze is another thing each time.
    """
    whole, target = mem_total(guest), ram(guest) - 128 * MIB
    with in_state(guest, state, target):
        for _ in range(ROUNDS if state == "pressed" else 1):
            sleep("mem")
        if state == "pressed":
            told(guest, 0)
            assert told(guest, 60, enough=1), "reclaim is under way, and it is to be told"
    works(guest, ram(guest) if state == "idle" else target)
    resize(guest, ram(guest))
    assert mem_total(guest) == whole


def test_hibernation_begun(guest: Vm, sleep: Sleep) -> None:
    """As before, but on the way to the disk, where a part of the memory is freed first.

    A debug kernel of 512 MiB and its image leave no room for more in the balloon.
    """
    target = ram(guest) - 64 * MIB
    with in_state(guest, "inflated", target):
        sleep("disk")
    works(guest, target)
    resize(guest, ram(guest))


@pytest.mark.short
def test_suspend_without_an_ack(guest: Vm, sleep: Sleep) -> None:
    """A message in flight for ever does not keep the guest awake, and is taken back."""
    drop_acks(guest, NEVER)
    inject(guest, 1)
    assert told(guest, 5, enough=1) == ["low"]
    inject(guest, 2)
    sleep("mem")
    assert pressure(guest)["in_flight"] == 0
    drop_acks(guest, 0)
    assert told(guest, 0.5) == [], "what waited for the ack is of before the suspend"
    works(guest, ram(guest))


def bzimage(parts: lab.Parts) -> Path:
    """The kernel as packaged: the firmware cannot wake one that was started without it."""
    kernel = parts.kernel
    for path in (kernel.root / f"boot/vmlinuz-{kernel.release}",
                 kernel.modules.parent / "vmlinuz", kernel.modules / "vmlinuz",
                 kernel.vmlinux.with_name("bzImage")):
        if path.exists():
            return path
    pytest.skip(f"no bzImage of Linux {kernel.release} in {kernel.root}")


def test_suspend_to_ram_without_an_ack(boot: Boot, parts: lab.Parts) -> None:
    """The whole of S3, through the firmware: the device was without power meanwhile."""
    # The emulated PM timer, which an emulated guest takes for its clock, stands still afterwards.
    vm = boot("one", vmlinux=bzimage(parts), append="tsc=reliable")
    whole, target = mem_total(vm), ram(vm) - 128 * MIB
    resize(vm, target)
    drop_acks(vm, NEVER)
    inject(vm, 1)
    assert told(vm, 5, enough=1) == ["low"]
    vm.sh(f"(sleep 0.5; echo mem > {POWER}/state) >/dev/null 2>&1 </dev/null &")
    assert vm.events("SUSPEND", 60, enough=1)
    vm.command("system_wakeup")
    assert vm.events("WAKEUP", 60, enough=1)
    assert pressure(vm)["in_flight"] == 0
    drop_acks(vm, 0)
    works(vm, target)
    resize(vm, ram(vm))
    assert mem_total(vm) == whole


def test_power_off_without_an_ack(boot: Boot) -> None:
    """A guest that is inflated, pressed and not acked powers off."""
    vm = boot("one")
    resize(vm, ram(vm) - 128 * MIB)
    drop_acks(vm, NEVER)
    # Nobody is left to end it.
    vm.sh(f"{READ_DISK} >/dev/null 2>&1 </dev/null &")
    assert told(vm, 60, enough=1)
    vm.set_target(ram(vm) - 200 * MIB)
    vm.sh("(sleep 0.5; busybox poweroff -f) >/dev/null 2>&1 </dev/null &")
    wait_until(lambda: not vm.alive(), "the guest powers off")
