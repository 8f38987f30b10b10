# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's side of a virtio PCI device over qtest: features, split rings, buffers.

Offsets and bits are those of the virtio specification 1.2: 4.1 (PCI), 2.7 (split rings).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .qtest import DEADLINE, QTest

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
F_INDIRECT_DESC, F_VERSION_1, F_RING_RESET = 28, 32, 40

USED_NO_NOTIFY = 1
DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4

PCI_COMMAND, PCI_BAR0, PCI_CAPABILITIES = 0x04, 0x10, 0x34
PCI_IO_MEMORY_MASTER = 0x7
CAP_VENDOR = 0x09
CFG_COMMON, CFG_NOTIFY, CFG_DEVICE = 1, 2, 4

BAR_ADDRESS = 0xE0000000
"""In q35's PCI hole, out of the way of RAM and of the chipset."""
LEGACY_PORT = 0xC000
RINGS = 0x100000
"""Guest memory for rings and buffers starts here."""


@dataclass(frozen=True)
class Part:
    """A descriptor: bytes for the device to read, or `writable` bytes of room.

    The room is at `address` in guest memory, or anywhere.
    """

    data: bytes = b""
    writable: int = 0
    address: int | None = None


@dataclass(frozen=True)
class Descriptor:
    """An entry of a descriptor table as it is."""

    address: int
    size: int
    flags: int = 0
    next: int = 0

    def __bytes__(self) -> bytes:
        return struct.pack("<QIHH", self.address, self.size, self.flags, self.next)


class Memory:
    """Hands out guest memory; it is all given back at a device reset."""

    def __init__(self) -> None:
        self._next = RINGS

    def allocate(self, size: int, align: int = 16) -> int:
        address = -(-self._next // align) * align
        self._next = address + size
        return address


class Queue:
    """A split ring in guest memory. `size` is what the device says at its index."""

    def __init__(self, qtest: QTest, memory: Memory, size: int) -> None:
        self.qtest, self._memory, self.size = qtest, memory, size
        # The legacy layout (one block, used ring page-aligned) is a valid modern one.
        self.desc = memory.allocate(16 * size, 4096)
        self.avail = memory.allocate(6 + 2 * size)
        self.used = memory.allocate(6 + 8 * size, 4096)
        qtest.write(self.desc, bytes(self.used + 6 + 8 * size - self.desc))
        self._free = 0
        self._added = 0

    def add(self, *parts: Part) -> None:
        """Make one buffer of these descriptors available, without a kick."""
        if self._free + len(parts) > self.size:
            raise ValueError(f"{len(parts)} descriptors do not fit, {self._free} are in use")
        head = self._free
        for i, part in enumerate(parts):
            size = part.writable or len(part.data)
            address = part.address or self._memory.allocate(max(size, 1))
            self.qtest.write(address, part.data)
            flags = DESC_WRITE if part.writable else 0
            flags |= DESC_NEXT if i + 1 < len(parts) else 0
            self.describe(head + i, Descriptor(address, size, flags, head + i + 1))
        self._free += len(parts)
        self.publish(head)

    def describe(self, index: int, descriptor: Descriptor) -> None:
        """Write an entry of the descriptor table, whatever it is good for."""
        self.qtest.write(self.desc + 16 * index, bytes(descriptor))

    def publish(self, head: int) -> None:
        """Make the buffer that begins at this descriptor available, without a kick."""
        slot = self.avail + 4 + 2 * (self._added % self.size)
        self.qtest.write(slot, struct.pack("<H", head))
        self._added += 1
        self.qtest.write(self.avail + 2, struct.pack("<H", self._added & 0xFFFF))

    def used_count(self) -> int:
        return int.from_bytes(self.qtest.read(self.used + 2, 2), "little")

    def kicks_are_off(self) -> bool:
        """Does the device ask not to be kicked?"""
        return bool(int.from_bytes(self.qtest.read(self.used, 2), "little") & USED_NO_NOTIFY)

    def wait_for(self, count: int) -> None:
        """Until the device has used `count` buffers since the ring was set up."""
        end = time.monotonic() + DEADLINE
        while self.used_count() != count & 0xFFFF:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.used_count()} of {count} buffers used")

    def wait(self) -> None:
        """Until the device has used all buffers; TimeoutError if it does not."""
        self.wait_for(self._added)
        self._free = 0  # all descriptors are the driver's again


class PciDevice:
    """Configuration space of a device in `slot` of the root bus, by ports 0xcf8 and 0xcfc."""

    def __init__(self, qtest: QTest, slot: int) -> None:
        self.qtest = qtest
        self._base = 0x80000000 | slot << 11

    def config_read(self, offset: int, size: int = 4) -> int:
        self.qtest.io_write(0xCF8, self._base | offset & ~3)
        return self.qtest.io_read(0xCFC + offset % 4, size)

    def config_write(self, offset: int, value: int, size: int = 4) -> None:
        self.qtest.io_write(0xCF8, self._base | offset & ~3)
        self.qtest.io_write(0xCFC + offset % 4, value, size)

    def vendor_capabilities(self) -> dict[int, tuple[int, int, int]]:
        """virtio_pci_cap by cfg_type: capability's offset, BAR, offset in the BAR."""
        found = {}
        at = self.config_read(PCI_CAPABILITIES, 1)
        while at:
            if self.config_read(at, 1) == CAP_VENDOR:
                kind, bar = self.config_read(at + 3, 1), self.config_read(at + 4, 1)
                found[kind] = (at, bar, self.config_read(at + 8))
            at = self.config_read(at + 1, 1)
        return found


class ModernDevice:
    """A virtio 1.x driver's view. Nothing is negotiated yet."""

    def __init__(self, qtest: QTest, slot: int) -> None:
        self.qtest = qtest
        pci = PciDevice(qtest, slot)
        caps = pci.vendor_capabilities()
        bar = PCI_BAR0 + 4 * caps[CFG_COMMON][1]
        pci.config_write(bar, BAR_ADDRESS)
        pci.config_write(bar + 4, 0)
        pci.config_write(PCI_COMMAND, PCI_IO_MEMORY_MASTER, 2)
        self._common = BAR_ADDRESS + caps[CFG_COMMON][2]
        self._notify = BAR_ADDRESS + caps[CFG_NOTIFY][2]
        self._config = BAR_ADDRESS + caps[CFG_DEVICE][2]
        self._notify_step = pci.config_read(caps[CFG_NOTIFY][0] + 16)
        self._memory = Memory()

    @property
    def status(self) -> int:
        return self.qtest.load(self._common + 20, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.qtest.store(self._common + 20, value, 1)

    @property
    def queue_count(self) -> int:
        return self.qtest.load(self._common + 18, 2)

    def offered(self) -> int:
        """The feature bits that the device offers."""
        bits = 0
        for half in (0, 1):
            self.qtest.store(self._common, half, 4)
            bits |= self.qtest.load(self._common + 4, 4) << 32 * half
        return bits

    def reset(self) -> None:
        self.status = 0
        self._memory = Memory()

    def negotiate(self, features: Sequence[int]) -> None:
        """Reset, then accept exactly these bits and VERSION_1."""
        self.reset()
        self.status = ACKNOWLEDGE | DRIVER
        accepted = sum(1 << bit for bit in {*features, F_VERSION_1})
        self.write_features(accepted)
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        if not self.status & FEATURES_OK:
            raise RuntimeError(f"the device refuses the features {accepted:#x}")

    def start(self) -> None:
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

    def queue(self, index: int, rings: tuple[int, int, int] | None = None) -> Queue:
        """Set up the queue at this index, of the size that the device has there.

        The device is told that it is at `rings` (table, available, used), or where it is.
        """
        self.qtest.store(self._common + 22, index, 2)
        queue = Queue(self.qtest, self._memory, self.qtest.load(self._common + 24, 2))
        self.place_rings(index, rings or (queue.desc, queue.avail, queue.used))
        return queue

    def place_rings(self, index: int, rings: tuple[int, int, int]) -> None:
        """Tell the device where table, available and used ring are, and enable the queue."""
        self.qtest.store(self._common + 22, index, 2)
        for offset, address in zip((32, 40, 48), rings, strict=True):
            self.qtest.store(self._common + offset, address & 0xFFFFFFFF, 4)
            self.qtest.store(self._common + offset + 4, address >> 32, 4)
        self.qtest.store(self._common + 28, 1, 2)

    def set_queue_size(self, index: int, size: int) -> None:
        self.qtest.store(self._common + 22, index, 2)
        self.qtest.store(self._common + 24, size, 2)

    def write_features(self, bits: int) -> None:
        """The driver's features, whatever the state of the negotiation."""
        for half in (0, 1):
            self.qtest.store(self._common + 8, half, 4)
            self.qtest.store(self._common + 12, bits >> 32 * half & 0xFFFFFFFF, 4)

    def reset_queue(self, index: int) -> None:
        """Take the queue from the device; needs F_RING_RESET."""
        self.qtest.store(self._common + 22, index, 2)
        self.qtest.store(self._common + 58, 1, 2)

    def kick(self, index: int) -> None:
        self.qtest.store(self._notify + self._notify_step * index, index, 2)

    def config_write(self, offset: int, value: int) -> None:
        """A 32-bit field of the device's own configuration."""
        self.qtest.store(self._config + offset, value, 4)


class LegacyDevice:
    """A driver from before virtio 1.0: ports, 32 feature bits, no FEATURES_OK."""

    def __init__(self, qtest: QTest, slot: int) -> None:
        self.qtest = qtest
        pci = PciDevice(qtest, slot)
        pci.config_write(PCI_BAR0, LEGACY_PORT)
        pci.config_write(PCI_COMMAND, PCI_IO_MEMORY_MASTER, 2)
        self._memory = Memory()
        self.set_status(0)
        self.set_status(ACKNOWLEDGE | DRIVER)

    def set_status(self, value: int) -> None:
        self.qtest.io_write(LEGACY_PORT + 18, value, 1)

    def set_features(self, features: Sequence[int]) -> None:
        """Allowed at any time, and more than once."""
        self.qtest.io_write(LEGACY_PORT + 4, sum(1 << bit for bit in features))

    def queue(self, index: int) -> Queue:
        self.qtest.io_write(LEGACY_PORT + 14, index, 2)
        queue = Queue(self.qtest, self._memory, self.qtest.io_read(LEGACY_PORT + 12, 2))
        self.qtest.io_write(LEGACY_PORT + 8, queue.desc >> 12)
        return queue

    def kick(self, index: int) -> None:
        self.qtest.io_write(LEGACY_PORT + 16, index, 2)
