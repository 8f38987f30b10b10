# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings that no driver would build, and drivers that let go in the middle of something.

After each of them QEMU answers, and a driver that begins anew has a device that works.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balloon import (
    LOW,
    MESSAGE,
    PATH,
    PER_PERIOD,
    PERIOD,
    REPORTING,
    SLOT,
    STATS,
    Driver,
    counted,
    le32,
    machine,
)

from pyguest.qtest import Machine
from pyguest.virtio import (
    ACKNOWLEDGE,
    BAR_ADDRESS,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DRIVER,
    F_INDIRECT_DESC,
    F_RING_RESET,
    NEEDS_RESET,
    RINGS,
    Descriptor,
    ModernDevice,
    Part,
)

DATA = RINGS + (1 << 20)
TABLE = DATA + (1 << 20)
LARGEST = 1024
"""Entries of a queue, at most; some builds of QEMU make all of them so large."""
OUTSIDE = 0xFEC00000
"""The registers of the IOAPIC. QEMU copies at most 4 KiB of such memory at a time."""
NOWHERE = 0xF0000000

N, W, I = DESC_NEXT, DESC_WRITE, DESC_INDIRECT  # noqa: E741


@pytest.fixture(scope="module")
def shared(qemu_binary: Path) -> Iterator[Machine]:
    with machine(qemu_binary, (STATS, REPORTING, MESSAGE)) as started:
        yield started


@pytest.fixture
def qemu(shared: Machine) -> Iterator[Machine]:
    """A machine that has been used, and that must be of use afterwards."""
    shared.step(PERIOD)
    yield shared
    shared.step(PERIOD)
    shared.qmp("query-status")
    driver = Driver(shared)
    driver.send(le32(LOW))
    assert counted(shared) == {"low": 1}
    assert not driver.device.status & NEEDS_RESET


def loop(entries: int) -> list[Descriptor]:
    return [Descriptor(DATA, 4, N, (i + 1) % entries) for i in range(entries)]


D = Descriptor
Ring = tuple[list[Descriptor], list[Descriptor]]
"""The descriptor table from its beginning on, and an indirect one."""


def broken(size: int) -> dict[str, Ring]:
    """For a queue of that size."""
    return {
        "loop of one": (loop(1), []),
        "loop of all": (loop(size), []),
        "next beyond the table": ([D(DATA, 4, N, size)], []),
        "next far beyond": ([D(DATA, 4, N, 0xFFFF)], []),
        "readable after writable": ([D(DATA, 4, W | N, 1), D(DATA, 4)], []),
        "zero length in a chain": ([D(DATA, 4, N, 1), D(DATA, 0)], []),
        "larger than what is copied": ([D(OUTSIDE, 64 << 10)], []),
        "indirect: empty": ([D(TABLE, 0, I)], []),
        "indirect: no whole entry": ([D(TABLE, 15, I)], [D(DATA, 4)]),
        "indirect: one and a half": ([D(TABLE, 24, I)], [D(DATA, 4), D(DATA, 4)]),
        "indirect: loop": ([D(TABLE, 32, I)], [D(DATA, 4, N, 1), D(DATA, 4, N, 0)]),
        "indirect: next beyond": ([D(TABLE, 16, I)], [D(DATA, 4, N, 1)]),
        "indirect: more than 1024": (
            [D(TABLE, 16 * 1100, I)], [D(DATA, 4, N, i + 1) for i in range(1100)]),
        "indirect: 4 GiB": ([D(TABLE, 0xFFFFFFF0, I)], [D(DATA, 4, N, 0xFFFF)]),
        "indirect: nowhere": ([D(NOWHERE, 64, I)], []),
    }  # fmt: skip


HARMLESS: dict[str, Ring] = {
    "beyond the end of addresses": ([D(0xFFFFFFFFFFFFFFF0, 64)], []),
    # QEMU does not look at the flag in an indirect table.
    "indirect: of indirect": ([D(TABLE, 16, I)], [D(TABLE, 16, I)]),
    "nothing there to read": ([D(NOWHERE, 4)], []),
    "nothing there to write": ([D(NOWHERE, 4, W)], []),
    "registers of a device": ([D(OUTSIDE, 4)], []),
    "registers of its own": ([D(BAR_ADDRESS, 4096)], []),
    "its own registers, to write": ([D(DATA, 4, N, 1), D(BAR_ADDRESS, 4096, W)], []),
    "its own rings": ([D(RINGS, 4096, N, 1), D(RINGS, 4096, W)], []),
    "indirect: all it can have": (
        [D(TABLE, 16 * 1024, I)],
        [D(DATA, 64, N * (i < 1023), i + 1) for i in range(1024)]),
}  # fmt: skip


@pytest.mark.parametrize("ring", broken(LARGEST))
def test_a_broken_ring_stops_the_device(qemu: Machine, ring: str) -> None:
    driver = Driver(qemu, [STATS, MESSAGE, F_INDIRECT_DESC])
    put(qemu, driver, broken(driver.queue.size)[ring])
    assert driver.device.status & NEEDS_RESET
    assert driver.queue.used_count() == 0
    assert counted(qemu) == {}


@pytest.mark.parametrize("ring", HARMLESS)
def test_a_strange_ring_is_used(qemu: Machine, ring: str) -> None:
    driver = Driver(qemu, [STATS, MESSAGE, F_INDIRECT_DESC])
    put(qemu, driver, HARMLESS[ring])
    driver.queue.wait_for(1)
    assert not driver.device.status & NEEDS_RESET


def put(qemu: Machine, driver: Driver, ring: Ring) -> None:
    table, indirect = ring
    assert len(table) <= driver.queue.size
    qemu.qtest.write(TABLE, b"".join(map(bytes, indirect)))
    for index, descriptor in enumerate(table):
        driver.queue.describe(index, descriptor)
    driver.queue.publish(0)
    driver.device.kick(driver.index)
    for _ in range(3):
        qemu.qmp("query-status")


@pytest.mark.parametrize("ahead", [LARGEST + 1, 0x8000, 0xFFFF])
def test_an_index_that_is_too_far_ahead(qemu: Machine, ahead: int) -> None:
    driver = Driver(qemu)
    qemu.qtest.write(driver.queue.avail + 2, struct.pack("<H", ahead))
    driver.device.kick(driver.index)
    qemu.qmp("query-status")
    qemu.qmp("query-status")
    assert driver.device.status & NEEDS_RESET


@pytest.mark.parametrize("place", [OUTSIDE, NOWHERE, BAR_ADDRESS])
def test_a_ring_outside_ram(qemu: Machine, place: int) -> None:
    """What the device makes of it is its own affair; it must get over it."""
    device = ModernDevice(qemu.qtest, SLOT)
    device.negotiate([STATS, MESSAGE])
    device.queue(3, rings=(place, place, place))
    device.start()
    for _ in range(3):
        device.kick(3)
        qemu.step(PERIOD)
        qemu.qmp("query-status")


def test_a_storm_of_kicks(qemu: Machine) -> None:
    driver = Driver(qemu)
    driver.queue.add(le32(LOW))
    for _ in range(2000):
        driver.device.kick(driver.index)
    driver.queue.wait()
    assert counted(qemu) == {"low": 1}


@pytest.mark.parametrize("status", [0, ACKNOWLEDGE | DRIVER])
def test_kicks_before_the_features_are_settled(qemu: Machine, status: int) -> None:
    """No feature is negotiated then, and so no message."""
    device = ModernDevice(qemu.qtest, SLOT)
    device.reset()
    device.status = status
    queue = device.queue(3)
    queue.add(le32(LOW))
    for index in range(8):
        device.kick(index)
    qemu.qmp("query-status")
    assert queue.used_count() == 0
    assert counted(qemu) == {}


def test_messages_before_driver_ok(qemu: Machine) -> None:
    """Not forbidden by QEMU's core: it is read then, or when the driver is ready."""
    device = ModernDevice(qemu.qtest, SLOT)
    device.negotiate([STATS, MESSAGE])
    queue = device.queue(3)
    queue.add(le32(LOW))
    device.kick(3)
    qemu.qmp("query-status")
    device.start()
    queue.wait()
    assert counted(qemu) == {"low": 1}


def by_device(driver: Driver) -> None:
    driver.device.reset()


def by_queue(driver: Driver) -> None:
    driver.device.reset_queue(2)
    driver.device.reset_queue(3)


def by_system(driver: Driver) -> None:
    pass


@pytest.mark.parametrize("let_go", [by_device, by_queue, by_system])
def test_a_reset_in_flight(qemu: Machine, let_go: Callable[[Driver], None]) -> None:
    """With messages in the ring and a statistics buffer held.

    It lies outside of RAM: were the copy of it not given back, the second would find no room.
    """
    for _ in range(5):
        driver = Driver(qemu, [STATS, MESSAGE, F_RING_RESET])
        statistics = driver.device.queue(2)
        statistics.describe(0, Descriptor(OUTSIDE, 4096))
        statistics.publish(0)
        driver.device.kick(2)
        for _ in range(3 * PER_PERIOD):
            driver.queue.add(le32(LOW))
        driver.device.kick(driver.index)
        let_go(driver)
        if let_go is by_system:
            qemu.qmp("system_reset")
        qemu.step(PERIOD)
        assert not driver.device.status & NEEDS_RESET


def test_a_turn_of_statistics_is_not_lost(qemu: Machine) -> None:
    """The statistics are asked for while their feature comes and goes."""
    qemu.qmp("qom-set", path=PATH, property="guest-stats-polling-interval", value=1)
    for accepted in ([STATS, MESSAGE], [MESSAGE], [STATS], [STATS, MESSAGE]):
        driver = ModernDevice(qemu.qtest, SLOT)
        driver.negotiate(accepted)
        queue = driver.queue(2)
        driver.start()
        queue.add(Part(struct.pack("<HQ", 4, 1)))
        driver.kick(2)
        qemu.step(1.1)
        qemu.qmp("query-status")
    qemu.qmp("qom-set", path=PATH, property="guest-stats-polling-interval", value=0)
