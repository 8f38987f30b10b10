# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers and devices that know the message virtqueue, and such that do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guests import DEBUGFS, MESSAGE_VQ, MIB, REPORTING, features, inject, ram, resize, told

from pyguest import lab
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

Boot = Callable[..., Vm]


def balloon_works(vm: Vm) -> None:
    resize(vm, ram(vm) - 64 * MIB)
    resize(vm, ram(vm))


@pytest.mark.short
def test_ours_with_ours(guest: Vm) -> None:
    """Our driver takes the feature that our device offers, and the balloon works."""
    assert MESSAGE_VQ in features(guest)
    balloon_works(guest)


def test_stock_driver_with_our_device(boot: Boot, parts: lab.Parts) -> None:
    """The distribution's driver knows nothing of the feature, and its balloon works."""
    vm = boot("one", parts.stock_driver)
    assert MESSAGE_VQ not in features(vm)
    balloon_works(vm)


def test_our_driver_with_stock_qemu(boot: Boot) -> None:
    """Our driver on the distribution's QEMU watches for nothing, and its balloon works.

    With one CPU: emulated by QEMU 7.2, another CPU may still meet the int3 of a patch of the
    kernel's code that is done (7.3 panicked in sched_clock_cpu() on a busy machine).
    """
    vm = boot("one", qemu=lab.stock_qemu(), balloon="virtio-balloon-pci", cpus=1)
    assert MESSAGE_VQ not in features(vm)
    assert vm.sh(f"ls -d {DEBUGFS} 2>/dev/null", check=False) == ""
    balloon_works(vm)


def test_page_reporting_declined(boot: Boot) -> None:
    """A guest that clears what it frees declines page reporting when it cannot tell the host.

    The device offered a queue that the driver does not set up then; both must still agree on
    which one is the message queue.
    """
    vm = boot(
        "one", append="init_on_free=1",
        balloon="virtio-balloon-pci,message-vq=on,free-page-reporting=on,page-poison=off",
    )
    assert features(vm) & {MESSAGE_VQ, REPORTING} == {MESSAGE_VQ}
    inject(vm, 1)
    assert told(vm, 5, enough=1) == ["low"]
    balloon_works(vm)


@pytest.mark.short
def test_page_reporting_taken(boot: Boot) -> None:
    """With page reporting negotiated, the message queue comes after its queue."""
    vm = boot("one", balloon="virtio-balloon-pci,message-vq=on,free-page-reporting=on")
    assert features(vm) & {MESSAGE_VQ, REPORTING} == {MESSAGE_VQ, REPORTING}
    inject(vm, 1)
    assert told(vm, 5, enough=1) == ["low"]
