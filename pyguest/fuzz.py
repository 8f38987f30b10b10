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

from . import paths
from .errors import LabError
from .qtest import Machine
from .virtio import (
    ACKNOWLEDGE,
    BAR_ADDRESS,
    DRIVER,
    DRIVER_OK,
    F_INDIRECT_DESC,
    F_RING_RESET,
    F_VERSION_1,
    FEATURES_OK,
    RINGS,
    Descriptor,
    ModernDevice,
)

SLOT = 4
STATS, REPORTING, MESSAGE = 1, 5, 23
F_EVENT_IDX, F_IN_ORDER = 29, 35
CHOICES = (STATS, REPORTING, F_INDIRECT_DESC, F_EVENT_IDX, F_IN_ORDER, F_RING_RESET)
PERIOD_NS = 100_000_000

QUEUES = 5
QUEUE_ROOM = 64 << 10
TABLES = RINGS + QUEUES * QUEUE_ROOM
TABLES_ROOM = 64 << 10
DATA = TABLES + TABLES_ROOM
DATA_ROOM = 256 << 10
PLACES = (BAR_ADDRESS, BAR_ADDRESS + 0x1000, 0xFEC00000, 0xF0000000, 0, 0xA0000,
          0xFFFFFFFFFFFFF000)
SIZES = (0, 1, 2, 3, 4, 5, 8, 64, 68, 4096, 65536, 0x7FFFFFFF, 0xFFFFFFFF)

PER_MACHINE = 20_000
"""Inputs before a new QEMU: what an end of it would tell, like a leak, is told at times."""
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
            "-device", f"virtio-balloon-pci,id=balloon,addr={SLOT},ioeventfd=off,"
                       "message-vq=on,free-page-reporting=on",
        ]  # fmt: skip
        with (
            Machine(binary, arguments) as machine,
            ram.open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as memory,
        ):
            machine.qtest.lazy = True
            yield machine, memory


class Input:
    """What one driver by chance does."""

    def __init__(self, device: ModernDevice, memory: mmap.mmap, seed: int) -> None:
        self._device, self._memory, self._random = device, memory, Random(seed)

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
            device.set_queue_size(index, chance.choice((0, 1, 2, 3, 128, 1024, 1025, 0xFFFF)))
        else:
            device.write_features(chance.getrandbits(64))

    def _descriptor(self, entries: int) -> bytes:
        chance = self._random
        where = chance.random()
        if where < 0.5:
            address = DATA + chance.randrange(DATA_ROOM)
        elif where < 0.8:
            address = TABLES + 16 * chance.randrange(TABLES_ROOM // 16)
        elif where < 0.9:
            address = RINGS + chance.randrange(QUEUES * QUEUE_ROOM)
        else:
            address = chance.choice(PLACES) + chance.randrange(8)
        size = chance.choice(SIZES) if chance.random() < 0.5 else 16 * chance.randint(1, 64)
        flags = chance.choice((0, 0, 0, 1, 1, 2, 3, 4, 4, 5, chance.getrandbits(16)))
        following = chance.randrange(entries) if chance.random() < 0.9 else chance.getrandbits(16)
        return bytes(Descriptor(address, size, flags, following))

    def _fill_data(self) -> None:
        chance = self._random
        words = [chance.choice((0, 1, 2, 3, 4, chance.getrandbits(32))) for _ in range(64)]
        start = DATA + 4 * chance.randrange(1024)
        self._memory[start : start + 256] = struct.pack("<64I", *words)
        table = b"".join(self._descriptor(16) for _ in range(16))
        start = TABLES + 16 * chance.randrange(64)
        self._memory[start : start + len(table)] = table

    def _set_up(self, index: int) -> None:
        base = RINGS + index * QUEUE_ROOM
        rings = [base, base + 0x4000, base + 0x8000]
        if self._random.random() < 0.05:
            rings[self._random.randrange(3)] = self._random.choice(PLACES)
        self._memory[base : base + 512] = b"".join(self._descriptor(32) for _ in range(32))
        self._memory[base + 0x4000 : base + 0x4002] = bytes(2)
        self._memory[base + 0x4002 : base + 0x4004] = bytes(2)
        self._make_available(index)
        self._device.place_rings(index, (rings[0], rings[1], rings[2]))

    def _make_available(self, index: int) -> None:
        chance = self._random
        avail = RINGS + index * QUEUE_ROOM + 0x4000
        heads = [chance.randrange(32) if chance.random() < 0.97 else chance.getrandbits(16)
                 for _ in range(32)]
        (before,) = struct.unpack_from("<H", self._memory, avail + 2)
        after = (before + chance.randint(1, 16) if chance.random() < 0.95
                 else chance.getrandbits(16))
        struct.pack_into("<HH32H", self._memory, avail, 0, after & 0xFFFF, *heads)


def inputs(binary: Path, first: int, count: int, until: float) -> int:
    """Play inputs `first`... on one machine, `count` of them or until that time of monotonic().

    Returns how many. LabError with the seeds if QEMU dies or does not answer.
    """
    last: deque[int] = deque(maxlen=REMEMBERED)
    with target(binary) as (machine, memory):
        try:
            device = ModernDevice(machine.qtest, SLOT)
            for seed in range(first, first + count):
                if time.monotonic() > until:
                    break
                last.append(seed)
                Input(device, memory, seed).run()
                if seed % 100 == 0:
                    machine.qmp("query-status")
            machine.qmp("query-status")
        except (RuntimeError, OSError, EOFError) as error:
            time.sleep(1)  # a report of the sanitizer takes its time
            kept = paths.state_dir("fuzz-device") / f"failed-{last[-1]}.txt"
            kept.write_text(f"{error}\nseeds, the last is the one: {list(last)}\n{machine.log()}")
            raise LabError(f"input {last[-1]}: {error}: see {kept}, and play it again with "
                           f"--first {last[0]} --inputs {len(last)}") from error
    return len(last) if len(last) < REMEMBERED else last[-1] - first + 1


def main(binary: Path, minutes: float, first: int, count: int | None) -> int:
    """Play inputs for so long, or `count` of them; print how far it is every ten seconds."""
    begun = told = time.monotonic()
    until = begun + 60 * minutes if count is None else float("inf")
    seed, end = first, first + count if count is not None else 1 << 62
    while seed < end and time.monotonic() < until:
        # Small shares, to tell how far it is; a machine lasts for several of them.
        seed += inputs(binary, seed, min(PER_MACHINE, end - seed), until)
        if time.monotonic() - told > 10 or seed == end:
            told = time.monotonic()
            rate = (seed - first) / (told - begun)
            print(f"{seed - first} inputs, {rate:.0f} a second, next is {seed}", flush=True)
    print(f"{seed - first} inputs in {time.monotonic() - begun:.0f} s, none failed")
    return 0
