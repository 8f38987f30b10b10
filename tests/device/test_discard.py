# SPDX-License-Identifier: GPL-2.0-or-later
"""Inflate and deflate of the lab's QEMU, driven without a guest: which memory, in which runs.

What was discarded is seen in the guest's memory, which reads as zero. Runs are counted by the
device's own trace events; that a run is one madvise() is checked against strace.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from balloon import discards_inhibited
from hypothesis import given, settings
from hypothesis import strategies as st

from pyguest.qtest import Machine
from pyguest.virtio import ModernDevice, Part, Queue

PAGE = 4096
MIB = 1 << 20
SLOT = 4

AREA = 16 * MIB // PAGE
"""Frames from here on are the tests'; rings and buffers lie below."""
FILL = 0xA5

BATCH = 1024
MOST = 64 * BATCH
"""Frames that the device sorts at a time, and that it reads from one buffer."""

INFLATE, DEFLATE = 0, 1
Run = tuple[int, int]
"""First frame and number of frames."""


class Balloon(Machine):
    """A machine with a balloon; each `driver()` begins with a reset of the device."""

    def __init__(
        self,
        binary: Path,
        *arguments: str,
        options: str = "",
        ram: int = Machine.RAM,
        trace: Sequence[str] = ("virtio_balloon_discard_*", "ram_block_discard_range"),
    ) -> None:
        device = f"virtio-balloon-pci,id=balloon,addr={SLOT}{options}"
        traced = [word for event in trace for word in ("-trace", f"enable={event}")]
        super().__init__(binary, ["-device", device, *traced, *arguments], ram)
        self._seen = 0

    def driver(self) -> Driver:
        return Driver(self)

    def fill(self, first: int, count: int) -> None:
        self.qtest.fill(first * PAGE, count * PAGE, FILL)

    def zeroes(self, first: int, count: int) -> set[int]:
        """Which of the pages read as zero; the others must be as `fill` left them."""
        data = self.qtest.read(first * PAGE, count * PAGE)
        found = set()
        for number in range(count):
            page = data[number * PAGE : (number + 1) * PAGE]
            assert page in (bytes(PAGE), bytes([FILL]) * PAGE), f"frame {first + number:#x}"
            if not page[0]:
                found.add(first + number)
        return found

    def traced(self) -> str:
        """What was traced since the last call."""
        text = self.log()
        new, self._seen = text[self._seen :], len(text)
        return new


class Driver:
    """A driver of the balloon alone: inflate and deflate."""

    def __init__(self, machine: Machine) -> None:
        self.device = ModernDevice(machine.qtest, SLOT)
        self.device.negotiate(())
        self.queues: list[Queue] = [self.device.queue(index) for index in (INFLATE, DEFLATE)]
        self.device.start()

    def send(self, which: int, *parts: Part) -> None:
        """One buffer of these descriptors; returns when the device has used it."""
        self.queues[which].add(*parts)
        self.device.kick(which)
        self.queues[which].wait()

    def inflate(self, frames: Iterable[int]) -> None:
        self.send(INFLATE, listed(frames))

    def deflate(self, frames: Iterable[int]) -> None:
        self.send(DEFLATE, listed(frames))


def listed(frames: Iterable[int]) -> Part:
    numbers = list(frames)
    return Part(struct.pack(f"<{len(numbers)}I", *numbers))


def runs(text: str, which: int = INFLATE) -> list[Run]:
    found = re.findall(r"discard_run .*gpa: (\w+) size: (\w+) inflate: (\d)", text)
    return [(int(gpa, 16) // PAGE, int(size, 16) // PAGE) for gpa, size, inflate in found
            if int(inflate) == (which == INFLATE)]  # fmt: skip


def bad_runs(text: str) -> list[Run]:
    found = re.findall(r"discard_bad_run gpa: (\w+) size: (\w+)", text)
    return [(int(gpa, 16) // PAGE, int(size, 16) // PAGE) for gpa, size in found]


@pytest.fixture(scope="module")
def shared(qemu_binary: Path) -> Iterator[Balloon]:
    with Balloon(qemu_binary) as machine:
        yield machine


@contextmanager
def stopped_at_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


A = AREA
ORDERS: dict[str, tuple[list[int], list[Run]]] = {
    "one": ([A], [(A, 1)]),
    "upwards": ([A, A + 1, A + 2], [(A, 3)]),
    "downwards": ([A + 2, A + 1, A], [(A, 3)]),
    "gap": ([A, A + 2], [(A, 1), (A + 2, 1)]),
    "gap downwards": ([A + 2, A], [(A, 1), (A + 2, 1)]),
    "even, then odd": ([A, A + 2, A + 4, A + 1, A + 3], [(A, 5)]),
    "from the middle both ways": ([A + 2, A + 3, A + 1, A + 4, A], [(A, 5)]),
    "the same twice": ([A, A], [(A, 1)]),
    "duplicates apart": ([A + 1, A, A + 5, A + 1, A, A + 5], [(A, 2), (A + 5, 1)]),
    "overlapping runs": ([A, A + 1, A + 2, A + 1, A + 2, A + 3], [(A, 4)]),
    "one run in another": ([A, A + 1, A + 2, A + 3, A + 1, A + 2], [(A, 4)]),
    "down past an earlier one": ([A + 5, A + 3, A + 8, A + 7, A + 6, A + 4], [(A + 3, 6)]),
    "down over an earlier one": ([A + 3, A + 5, A + 4, A + 3, A + 2], [(A + 2, 4)]),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("which", (INFLATE, DEFLATE), ids=("inflate", "deflate"))
def test_order_does_not_matter(shared: Balloon, name: str, which: int) -> None:
    frames, expected = ORDERS[name]
    shared.fill(AREA, 16)
    shared.traced()
    shared.driver().send(which, listed(frames))
    text = shared.traced()
    assert runs(text, which) == expected
    assert not runs(text, 1 - which)
    assert text.count("ram_block_discard_range") == (len(expected) if which == INFLATE else 0)
    assert shared.zeroes(AREA, 16) == (set(frames) if which == INFLATE else set())


def test_invalid_frames_between_valid_ones(shared: Balloon) -> None:
    """Beyond RAM, a device's registers, the greatest number there is: none hides its neighbours."""
    shared.fill(AREA, 8)
    shared.traced()
    end = Machine.RAM // PAGE
    shared.driver().inflate(
        [A, 0xFFFFFFFF, A + 1, 0xFEE00, end, A + 2, 0xFFFFFFFE, A + 6, 0xFEC00, 0x80000000]
    )
    text = shared.traced()
    assert runs(text) == [(A, 3), (A + 6, 1)]
    assert bad_runs(text) == [
        (end, 1), (0xFEC00, 1), (0xFEE00, 1), (0x80000000, 1), (0xFFFFFFFE, 2)
    ]  # fmt: skip
    assert shared.zeroes(AREA, 8) == {A, A + 1, A + 2, A + 6}


def test_runs_end_where_ram_ends(qemu_binary: Path) -> None:
    """Of q35's 3 GiB one lies above 4 GiB; the device's registers and the firmware lie between."""
    low, high = 0x80000, 0x100000
    with Balloon(qemu_binary, ram=3 << 30) as machine:
        for first in (low - 8, high):
            machine.fill(first, 8)
        machine.traced()
        driver = machine.driver()
        driver.inflate(range(low - 4, low + 4))
        driver.inflate(range(high + 3, high - 5, -1))
        text = machine.traced()
        assert runs(text) == [(low - 4, 4), (high, 4)]
        # The second buffer's bad run is the firmware's: there, but no RAM.
        assert bad_runs(text) == [(low, 4), (high - 4, 4)]
        assert machine.zeroes(low - 8, 8) == set(range(low - 4, low))
        assert machine.zeroes(high, 8) == set(range(high, high + 4))


@pytest.mark.parametrize("which", (INFLATE, DEFLATE), ids=("inflate", "deflate"))
@pytest.mark.parametrize("trailing", (1, 2, 3))
def test_a_part_of_a_number_is_ignored(shared: Balloon, which: int, trailing: int) -> None:
    shared.fill(AREA, 4)
    shared.traced()
    driver = shared.driver()
    number = struct.pack("<I", A)
    driver.send(which, Part(number + number[:trailing]))
    driver.send(which, Part(number[:trailing]))
    text = shared.traced()
    assert runs(text, which) == [(A, 1)]
    assert not bad_runs(text)
    assert shared.zeroes(AREA, 4) == ({A} if which == INFLATE else set())


def test_a_number_may_lie_in_two_descriptors(shared: Balloon) -> None:
    shared.fill(AREA, 8)
    data = struct.pack("<4I", A, A + 1, A + 2, A + 3)
    parts = [Part(data[:3]), Part(data[3:5]), Part(data[5:]), Part(writable=64)]
    shared.driver().send(INFLATE, *parts)
    assert shared.zeroes(AREA, 8) == {A, A + 1, A + 2, A + 3}


def test_a_buffer_without_frames_comes_back(shared: Balloon) -> None:
    shared.traced()
    shared.driver().send(INFLATE, Part(writable=4096))
    assert not runs(shared.traced())


def test_large_buffers_go_in_batches(shared: Balloon) -> None:
    """Each frame of a buffer of many batches is discarded; in order, a run is a batch."""
    count = 3 * BATCH + 100
    shared.fill(AREA, count + 8)
    shared.traced()
    driver = shared.driver()
    driver.inflate(range(AREA, AREA + count))
    assert runs(shared.traced()) == [
        (AREA, BATCH), (AREA + BATCH, BATCH), (AREA + 2 * BATCH, BATCH), (AREA + 3 * BATCH, 100)
    ]  # fmt: skip
    assert shared.zeroes(AREA, count + 8) == set(range(AREA, AREA + count))

    shared.fill(AREA, count + 8)
    shuffled = list(range(AREA, AREA + count))
    random.Random(1).shuffle(shuffled)
    driver.inflate(shuffled)
    assert shared.zeroes(AREA, count + 8) == set(shuffled)


def test_a_buffer_without_end_is_cut(shared: Balloon) -> None:
    """A guest cannot make the device read more of a buffer than a limit."""
    shared.fill(AREA, 4)
    shared.traced()
    shared.driver().inflate([A] * (MOST - 1) + [A + 1] + [A + 2, A + 3, A + 2])
    text = shared.traced()
    assert "discard_excess frames ignored: 3\n" in text
    assert shared.zeroes(AREA, 4) == {A, A + 1}


def test_merging_can_be_switched_off(qemu_binary: Path) -> None:
    """Then the device is the stock one: a trace event and a madvise() for each frame."""
    events = ("virtio_balloon_*", "ram_block_discard_range")
    with Balloon(qemu_binary, options=",x-merge-discards=off", trace=events) as machine:
        machine.fill(AREA, 8)
        machine.driver().inflate([A, A + 1, A + 2, A])
        text = machine.traced()
        assert not runs(text)
        assert text.count("ram_block_discard_range") == 4
        assert text.count("virtio_balloon_handle_output ") == 4
        assert machine.zeroes(AREA, 8) == {A, A + 1, A + 2}


@pytest.mark.parametrize("options", ("", ",x-merge-discards=off"))
def test_nothing_goes_while_discards_are_inhibited(qemu_binary: Path, options: str) -> None:
    """The buffers come back all the same."""
    with Balloon(qemu_binary, options=options) as machine:
        machine.fill(AREA, 8)
        driver = machine.driver()
        machine.traced()
        with discards_inhibited(machine):
            driver.inflate([A, A + 1, A + 2])
            driver.deflate([A])
            text = machine.traced()
            assert not runs(text, INFLATE) + runs(text, DEFLATE)
            assert "ram_block_discard_range" not in text
            assert machine.zeroes(AREA, 8) == set()
        driver.inflate([A, A + 1])
        assert machine.zeroes(AREA, 8) == {A, A + 1}


@pytest.mark.parametrize("kind", ("file", "memfd"))
def test_shared_memory_is_freed(qemu_binary: Path, tmp_path: Path, kind: str) -> None:
    """Of a shared file the pages themselves must go, not QEMU's mapping of them alone."""
    path = tmp_path / "ram"
    where = f",mem-path={path}" if kind == "file" else ""
    backend = f"memory-backend-{kind},id=ram,size={Machine.RAM}B,share=on{where}"
    with Balloon(qemu_binary, "-object", backend, "-machine", "memory-backend=ram") as machine:
        if kind == "memfd":
            path = memfd(machine.process.pid)
        machine.fill(AREA, 1024)
        # The rings are memory as well.
        driver = machine.driver()
        machine.traced()
        before = allocated(path)
        driver.inflate(range(AREA + 255, AREA - 1, -1))
        text = machine.traced()
        freed = before - allocated(path)
        assert runs(text) == [(AREA, 256)]
        assert "fallocate: 1 ret: 0" in text
        # A page or a few for the buffer, which was written meanwhile.
        assert 256 * PAGE - 32 * PAGE <= freed <= 256 * PAGE
        assert machine.zeroes(AREA, 1024) == set(range(AREA, AREA + 256))


def allocated(path: Path) -> int:
    """Bytes that a file takes; what is dirty is written first, or has no place yet."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_blocks * 512


def memfd(pid: int) -> Path:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if str(path.readlink()).startswith("/memfd:"):
            return path
    raise AssertionError("no memfd")


HUGE = 2 * MIB
HUGE_FRAMES = HUGE // PAGE
HUGE_RAM = 64 * MIB


def huge_pages_free() -> int:
    found = re.search(r"^HugePages_Free:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) * HUGE if found else 0


@pytest.mark.skipif(huge_pages_free() < HUGE_RAM,
                    reason=f"no {HUGE_RAM // HUGE} huge pages: set /proc/sys/vm/nr_hugepages")
def test_larger_host_pages_are_collected_in_order(qemu_binary: Path) -> None:
    """A host page goes when its frames came one after the other, in any order, and all of them."""
    backend = f"memory-backend-memfd,id=ram,size={HUGE_RAM}B,hugetlb=on,hugetlbsize={HUGE}B"
    with Balloon(qemu_binary, "-object", backend, "-machine", "memory-backend=ram",
                 ram=HUGE_RAM) as machine:  # fmt: skip
        driver = machine.driver()
        first, second = range(A, A + HUGE_FRAMES), range(A + HUGE_FRAMES, A + 2 * HUGE_FRAMES)

        def inflated(frames: Sequence[int]) -> set[int]:
            machine.fill(A, 2 * HUGE_FRAMES)
            driver.inflate(frames)
            return machine.zeroes(A, 2 * HUGE_FRAMES)

        assert inflated(first) == set(first)
        assert inflated(list(reversed(second))) == set(second)
        assert inflated(first[:-1]) == set()
        # One frame of another page, and what was collected of the first is given up.
        assert inflated([*first[:256], second[0], *first[256:]]) == set()
        driver.deflate(first)
        assert not runs(machine.traced())


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_run_is_one_madvise(qemu_binary: Path, tmp_path: Path) -> None:
    """What the trace events say, seen from the kernel: both directions."""
    log = tmp_path / "strace"
    with Balloon(qemu_binary) as machine:
        machine.fill(AREA, 600)
        driver = machine.driver()
        process = subprocess.Popen(
            ["strace", "-f", "-e", "trace=madvise", "-o", log, "-p", str(machine.process.pid)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with stopped_at_end(process):
            assert process.stderr
            said = process.stderr.readline()
            if "attached" not in said:
                pytest.skip(f"strace may not attach: {said}")
            driver.inflate([*range(AREA, AREA + 256), *range(AREA + 300, AREA + 556)])
            driver.deflate(range(AREA + 255, AREA - 1, -1))
        text = log.read_text()
    discards = re.findall(r"madvise\(\w+, (\d+), MADV_DONTNEED\) += 0", text)
    wanted = re.findall(r"madvise\(\w+, (\d+), MADV_WILLNEED\)", text)
    assert discards == [str(256 * PAGE)] * 2
    assert wanted == [str(256 * PAGE)]


frames_in_area = st.lists(st.integers(AREA, AREA + 63), max_size=100)


@settings(max_examples=150, deadline=None)
@given(st.lists(frames_in_area, min_size=1, max_size=4))
def test_exactly_the_listed_pages_go(shared: Balloon, buffers: list[list[int]]) -> None:
    shared.fill(AREA, 64)
    shared.traced()
    driver = shared.driver()
    buffers = [frames for frames in buffers if frames]
    for frames in buffers:
        driver.inflate(frames)
    assert shared.zeroes(AREA, 64) == {frame for frames in buffers for frame in frames}
    # No run could have been longer.
    assert len(runs(shared.traced())) == sum(
        len([frame for frame in set(frames) if frame - 1 not in frames]) for frames in buffers
    )


LOW_END, HIGH = 0x80000, 0x100000
PLACES = (
    *range(0x9E, 0xA2), *range(0xBE, 0x101), *range(LOW_END - 3, LOW_END + 3),
    *range(HIGH - 3, HIGH + 3), *range(AREA, AREA + 8), 0, 0xFEE00, 0xFEC00, 0xFFFFFFFF,
)  # fmt: skip
"""Around the VGA hole, the option ROMs' and the firmware's shadow, the end of low RAM, 4 GiB."""


@pytest.fixture(scope="module")
def both(qemu_binary: Path) -> Iterator[tuple[Balloon, Balloon]]:
    """The stock way and ours, on machines whose memory has holes and ROM."""
    with (
        Balloon(qemu_binary, ram=3 << 30) as ours,
        Balloon(qemu_binary, ram=3 << 30, options=",x-merge-discards=off") as stock,
    ):
        yield stock, ours


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PLACES), min_size=1, max_size=80), st.sampled_from((0, 1, 2, 3)))
def test_as_the_stock_device(
    both: tuple[Balloon, Balloon], frames: list[int], trailing: int
) -> None:
    """At the borders of RAM, ROM and nothing, memory is afterwards what stock would leave."""
    seen = []
    for machine in both:
        driver = machine.driver()
        contents = []
        for place in PLACES[:-1]:
            machine.qtest.fill(place * PAGE, PAGE, FILL)
        driver.send(INFLATE, Part(listed(frames).data + os.urandom(trailing)))
        for place in PLACES[:-1]:
            contents.append(machine.qtest.read(place * PAGE, PAGE))
        seen.append(contents)
    assert seen[0] == seen[1]
