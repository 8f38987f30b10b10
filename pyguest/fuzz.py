# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers by chance for the device, the message queue above all. No guest: qtest is the CPU.

An input is a number: the seed of all that its driver does, from the reset on. The machine's RAM is
a file, so that rings are written at the speed of memory, and only registers by qtest. The hint's
queue is left out: its thread would make a run depend on the scheduler.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from subprocess import SubprocessError

from qemu.qmp import QMPError

from . import paths
from .errors import LabError
from .qtest import Machine, without_ioeventfd
from .virtio import (
    ACKNOWLEDGE,
    BAR_ADDRESS,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DRIVER,
    DRIVER_OK,
    F_INDIRECT_DESC,
    F_RING_RESET,
    F_VERSION_1,
    FEATURES_OK,
    RINGS,
    Descriptor,
    ModernDevice,
    Part,
)

SLOT = 4
STATS, REPORTING, MESSAGE = 1, 5, 23
F_EVENT_IDX, F_IN_ORDER = 29, 35
CHOICES = (STATS, REPORTING, F_INDIRECT_DESC, F_EVENT_IDX, F_IN_ORDER, F_RING_RESET)
PERIOD_NS = 100_000_000

QUEUES = 5
QUEUE_ROOM = 64 << 10
TABLES = RINGS + QUEUES * QUEUE_ROOM
DATA = TABLES + (64 << 10)
PLACES = (BAR_ADDRESS, BAR_ADDRESS + 0x1000, 0xFEC00000, 0xF0000000, 0, 0xA0000,
          0xFFFFFFFFFFFFF000)

PER_MACHINE = 60.0
"""Seconds before a new QEMU: its end tells, as far as it is built for that, of leaks."""
ANSWER = 60.0
"""Seconds for an answer; the sanitizer is slow."""
REMEMBERED = 50
"""A failure may have begun in an earlier input: so many are written down."""


@contextmanager
def target(binary: Path) -> Iterator[tuple[Machine, mmap.mmap]]:
    """A machine and its RAM."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm") as folder:
        ram = Path(folder) / "ram"
        arguments = [
            "-machine", "memory-backend=ram",
            "-object", f"memory-backend-file,id=ram,share=on,size={Machine.RAM},mem-path={ram}",
            "-device", f"virtio-balloon-pci,id=balloon,addr={SLOT},message-vq=on,"
                       f"free-page-reporting=on{without_ioeventfd(binary)}",
        ]  # fmt: skip
        with (
            Machine(binary, arguments, deadline=ANSWER) as machine,
            ram.open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as memory,
        ):
            machine.qtest.lazy = True
            yield machine, memory


def may_resize(binary: Path) -> bool:
    """Does this QEMU outlive a driver that makes a queue larger while it is in use?

    Older ones end with an assertion in their core, for any device with EVENT_IDX: what they
    have mapped of the ring stays as small as it was.
    """
    option = f"virtio-balloon-pci,addr={SLOT}{without_ioeventfd(binary)}"
    with Machine(binary, ["-device", option], deadline=ANSWER) as machine:
        device = ModernDevice(machine.qtest, SLOT)
        device.negotiate([F_EVENT_IDX])
        device.set_queue_size(0, 1)
        queue = device.queue(0)
        device.start()
        device.set_queue_size(0, 1024)
        queue.add(Part(bytes(4)))
        try:
            device.kick(0)
        except (RuntimeError, OSError):
            machine.process.wait(ANSWER)
            if "Assertion `addr < cache->len" in machine.log():
                return False
            raise
    return True


class Input:
    """What one driver by chance does; without `resize` queues in use keep their size."""

    def __init__(
        self, device: ModernDevice, memory: mmap.mmap, seed: int, resize: bool = True
    ) -> None:
        self._device, self._memory, self._random = device, memory, Random(seed)
        self._resize = resize
        # Were all of them wild, the device would break at the first thing that it looks at.
        self._wildness = self._random.choice((0, 0.003, 0.03, 0.3))

    def run(self) -> None:
        """Play it; returns when QEMU has answered."""
        chance, device = self._random, self._device
        features = {bit for bit in CHOICES if chance.random() < 0.5}
        if chance.random() < 0.95:
            features.add(MESSAGE)
        device.status = 0
        device.status = ACKNOWLEDGE | DRIVER
        device.write_features(sum(1 << bit for bit in {*features, F_VERSION_1}))
        device.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        self._fill_data()
        message = 2 + sum(bit in features for bit in (STATS, REPORTING))
        for index in {message, chance.randrange(QUEUES)}:
            self._set_up(index)
        device.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        for _ in range(chance.randint(1, 6)):
            self._do_something(message)
        device.qtest.command("clock_step", str(PERIOD_NS))

    def _do_something(self, message: int) -> None:
        chance, device = self._random, self._device
        index = message if chance.random() < 0.8 else chance.randrange(QUEUES)
        what = chance.random()
        if what < 0.6:
            device.kick(index)
        elif what < 0.75:
            device.qtest.command("clock_step", str(PERIOD_NS))
            self._make_available(index)
        elif what < 0.8:
            self._set_up(index)
        elif what < 0.85:
            device.reset_queue(index)
        elif what < 0.9:
            device.status = chance.choice((0, 1, 3, 4, 7, 11, 15, 128, 255))
        elif what < 0.95:
            size = chance.choice((0, 1, 2, 3, 128, 1024, 1025, 0xFFFF))
            if self._resize:
                device.set_queue_size(index, size)
        else:
            device.write_features(chance.getrandbits(64))

    def _descriptor(self, index: int) -> bytes:
        """Entry `index` of a table: sound, but for what is wild of it."""
        chance = self._random
        flags = chance.choice((0, 0, 0, 0, DESC_NEXT, DESC_NEXT, DESC_WRITE, DESC_INDIRECT))
        following = index + 1
        if flags == DESC_INDIRECT:
            address = TABLES + 16 * chance.randrange(64)
            size = 16 * chance.randint(1, 16)
        else:
            address = DATA + 4 * chance.randrange(64)
            size = chance.choice((1, 2, 3, 4, 4, 4, 8, 12, 64, 68, 256))
        if self._is_wild():
            address = chance.choice(PLACES) + chance.randrange(8)
        if self._is_wild():
            size = chance.choice((0, 15, 4096, 65536, 0x7FFFFFFF, 0xFFFFFFFF))
        if self._is_wild():
            flags = chance.choice((3, 5, 6, 7, chance.getrandbits(16)))
        if self._is_wild():
            following = chance.choice((0, index, chance.getrandbits(16)))
        return bytes(Descriptor(address, size, flags, following))

    def _is_wild(self) -> bool:
        return self._random.random() < self._wildness

    def _fill_data(self) -> None:
        chance = self._random
        words = [chance.choice((0, 1, 2, 3, 1, 2, 3, 4, chance.getrandbits(32)))
                 for _ in range(128)]
        self._memory[DATA : DATA + 512] = struct.pack("<128I", *words)
        table = b"".join(self._descriptor(i) for i in range(32))
        start = TABLES + 16 * chance.randrange(64)
        self._memory[start : start + len(table)] = table

    def _set_up(self, index: int) -> None:
        base = RINGS + index * QUEUE_ROOM
        rings = [base, base + 0x4000, base + 0x8000]
        if self._is_wild():
            rings[self._random.randrange(3)] = self._random.choice(PLACES)
        self._memory[base : base + 512] = b"".join(self._descriptor(i) for i in range(32))
        self._memory[base + 0x4000 : base + 0x4004] = bytes(4)
        self._make_available(index)
        self._device.place_rings(index, (rings[0], rings[1], rings[2]))

    def _make_available(self, index: int) -> None:
        chance = self._random
        avail = RINGS + index * QUEUE_ROOM + 0x4000
        heads = [chance.getrandbits(16) if self._is_wild() else chance.randrange(32)
                 for _ in range(128)]
        (before,) = struct.unpack_from("<H", self._memory, avail + 2)
        after = chance.getrandbits(16) if self._is_wild() else before + chance.randint(1, 16)
        struct.pack_into("<HH128H", self._memory, avail, 0, after & 0xFFFF, *heads)


def inputs(binary: Path, first: int, count: int, until: float) -> int:
    """Play inputs `first`... on one machine, `count` of them or until that time of monotonic().

    Returns how many. LabError with the seeds if QEMU dies or does not answer.
    """
    last: deque[int] = deque(maxlen=REMEMBERED)
    resize = may_resize(binary)
    with target(binary) as (machine, memory):
        try:
            device = ModernDevice(machine.qtest, SLOT)
            for seed in range(first, first + count):
                if time.monotonic() > until:
                    break
                last.append(seed)
                Input(device, memory, seed, resize).run()
                if seed % 100 == 0:
                    machine.qmp("query-status")
            machine.qmp("quit")
            # With the sanitizer it is not 0 after a leak.
            if machine.process.wait(ANSWER):
                raise RuntimeError(f"QEMU ended with status {machine.process.returncode}")
        except (RuntimeError, OSError, EOFError, SubprocessError, QMPError) as error:
            time.sleep(1)  # a report of the sanitizer takes its time
            kept = paths.state_dir("fuzz-device") / f"failed-{last[-1]}.txt"
            kept.write_text(f"{error}\nseeds, the last is the one: {list(last)}\n{machine.log()}")
            raise LabError(f"input {last[-1]}: {error}: see {kept}, and play it again with "
                           f"--first {last[0]} --inputs {len(last)}") from error
    return last[-1] - first + 1 if last else 0


def main(binary: Path, minutes: float, first: int, count: int | None) -> int:
    """Play inputs for so long, or `count` of them; print how far it is at times."""
    begun = time.monotonic()
    until = begun + 60 * minutes if count is None else float("inf")
    seed, end = first, first + count if count is not None else 1 << 62
    while seed < end and (now := time.monotonic()) < until:
        seed += inputs(binary, seed, end - seed, min(until, now + PER_MACHINE))
        took = time.monotonic() - begun
        print(f"{took:.0f} s: {seed - first} inputs from {first} on, none failed, "
              f"{(seed - first) / took:.0f} a second", flush=True)
    return 0
