# SPDX-License-Identifier: GPL-2.0-or-later
"""The device is taken from the driver and given back, whatever the two were at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guests import (
    DEBUGFS,
    DRIVER,
    INSMOD,
    MIB,
    NEVER,
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

from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

Boot = Callable[..., Vm]

ROUNDS = 3
PORT = ("-device", "pcie-root-port,id=plug,chassis=1")
"""Where a device can be plugged in: not into q35's own bus."""


def device(vm: Vm) -> str:
    """The balloon's name on the virtio bus."""
    return vm.sh(f"basename {DRIVER}/virtio*").strip()


def directory(vm: Vm) -> bool:
    """Whether the driver's debugfs directory is there."""
    return vm.sh(f"ls -d {DEBUGFS} 2>/dev/null", check=False) != ""


@pytest.mark.short
@pytest.mark.parametrize("state", STATES)
def test_unbind_and_bind(guest: Vm, state: str) -> None:
    """Unbound, the guest has all of its memory; bound again, it goes to the target."""
    whole, target = mem_total(guest), ram(guest) - 128 * MIB
    name = device(guest)
    with in_state(guest, state, target):
        for _ in range(ROUNDS):
            guest.sh(f"echo {name} > {DRIVER}/unbind")
            assert guest.balloon_actual() == ram(guest)
            assert mem_total(guest) == whole
            assert not directory(guest)
            guest.sh(f"echo {name} > {DRIVER}/bind")
    works(guest, ram(guest) if state == "idle" else target)
    resize(guest, ram(guest))


@pytest.mark.parametrize("way", ["rmmod", "unbind"])
def test_an_ack_that_never_comes_holds_nothing_up(guest: Vm, way: str) -> None:
    """With a message in flight for ever, the driver leaves as usual, and sends again after."""
    drop_acks(guest, NEVER)
    inject(guest, 1)
    assert told(guest, 5, enough=1) == ["low"]
    inject(guest, 3)
    assert pressure(guest)["in_flight"] == 1
    if way == "rmmod":
        guest.sh(f"rmmod virtio_balloon && {INSMOD}")
    else:
        name = device(guest)
        guest.sh(f"echo {name} > {DRIVER}/unbind && echo {name} > {DRIVER}/bind")
    assert pressure(guest)["in_flight"] == 0
    assert told(guest, 0.5) == [], "what waited for the ack is not sent by another driver"
    works(guest, ram(guest))


def test_hot_unplug_with_a_message_in_flight(boot: Boot) -> None:
    """The host takes the device away: the guest has its memory back, and takes another one."""
    vm = boot("one", balloon="", extra=(
        *PORT, "-device", "virtio-balloon-pci,message-vq=on,bus=plug,id=balloon"))
    whole, target = mem_total(vm), ram(vm) - 128 * MIB
    for state in STATES:
        with in_state(vm, state, target):
            drop_acks(vm, NEVER)
            inject(vm, 1)
            assert pressure(vm)["in_flight"] > 0
            vm.command("device_del", id="balloon")
            assert vm.events("DEVICE_DELETED", 60, enough=1), "the guest was to let the device go"
            assert mem_total(vm) == whole
            assert not directory(vm)
        vm.command("device_add", driver="virtio-balloon-pci", bus="plug", id="balloon",
                   **{"message-vq": True})
        wait_until(lambda: directory(vm), "the driver takes the new device")
        works(vm, ram(vm))
    resize(vm, target)
    assert mem_total(vm) == whole - 128 * MIB
