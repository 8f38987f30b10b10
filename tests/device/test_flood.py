# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that never lets go: queues that another CPU refills, and locks that it plays with."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from balloon import (
    HINT,
    LOW,
    MESSAGE,
    REPORTING,
    SLOT,
    STATS,
    Driver,
    ioeventfd,
    le32,
    machine,
)
from hostgroup import FakeGroup
from qemu.qmp import ExecuteError

from pyguest.qtest import Machine
from pyguest.virtio import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    F_INDIRECT_DESC,
    RINGS,
    Descriptor,
    ModernDevice,
    Queue,
)

DATA = RINGS + (1 << 20)
OUTSIDE = 0xFEC00000
"""The registers of the IOAPIC: a device that reads or writes there needs QEMU's lock."""
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def ram() -> Iterator[Path]:
    """A file in memory: on a disk, each discard would punch a hole there."""
    with tempfile.TemporaryDirectory(prefix="balloon-", dir="/dev/shm") as folder:
        yield Path(folder) / "ram"


@contextmanager
def refilled(ram: Path, queue: Queue) -> Iterator[None]:
    """Another CPU: the ring is full again as soon as the device has used a buffer."""
    stop, full = threading.Event(), threading.Event()

    def cpu() -> None:
        with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            while not stop.is_set():
                (used,) = struct.unpack_from("<H", memory, queue.used + 2)
                # All entries of the ring are zero: it is always the first descriptor.
                struct.pack_into("<H", memory, queue.avail + 2, used + queue.size & 0xFFFF)
                full.set()

    thread = threading.Thread(target=cpu, daemon=True)
    thread.start()
    full.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", ["inflate", "deflate", "report"])
@pytest.mark.parametrize("options", ["", ",ioeventfd=off", ",x-merge-discards=off"])
def test_others_have_their_turn(qemu_binary: Path, ram: Path, kind: str, options: str) -> None:
    """A queue that never gets empty does not keep QEMU from its monitor."""
    if "ioeventfd" in options:
        options = ioeventfd(qemu_binary, "off")
    with machine(qemu_binary, (REPORTING, MESSAGE), options=options, ram=ram) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        device.negotiate([REPORTING])
        index = ["inflate", "deflate", "report"].index(kind)
        queue = device.queue(index)
        device.start()
        frames = struct.pack("<1024I", *range(0x8000, 0x8000 + 2048, 2))
        qemu.qtest.write(DATA, frames)
        queue.describe(0, Descriptor(DATA, 4096, DESC_WRITE if kind == "report" else 0))
        with refilled(ram, queue):
            for _ in range(5):
                device.kick(index)
                qemu.qmp("query-status")
        assert queue.used_count()


@pytest.mark.parametrize(("kind", "flags"), [
    ("inflate", DESC_WRITE), ("deflate", 0), ("report", 0),
])  # fmt: skip
def test_descriptors_count_for_a_turn(qemu_binary: Path, kind: str, flags: int) -> None:
    """Those without a page frame as well: each of them has to be mapped."""
    trace = ("-trace", "enable=virtio_balloon_turn_over")
    with machine(qemu_binary, (REPORTING, MESSAGE), more=trace) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        device.negotiate([REPORTING, F_INDIRECT_DESC])
        index = ["inflate", "deflate", "report"].index(kind)
        queue = device.queue(index)
        device.start()
        entries = [Descriptor(DATA, 1, flags | DESC_NEXT, i + 1) for i in range(1023)]
        table = [*entries, Descriptor(DATA, 1, flags)]
        qemu.qtest.write(DATA + 4096, b"".join(map(bytes, table)))
        queue.describe(0, Descriptor(DATA + 4096, 16 * 1024, DESC_INDIRECT))
        for _ in range(128):
            queue.publish(0)
        device.kick(index)
        queue.wait_for(128)
        qemu.qmp("query-status")
        assert qemu.log().count("virtio_balloon_turn_over") >= 3


def cpu_seconds(pid: int) -> float:
    """User and system time of the process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@pytest.mark.parametrize("kind", ["messages", "messages to the rule", "many descriptors"])
def test_a_flood_of_messages_costs_little(
    qemu_binary: Path, ram: Path, kind: str
) -> None:
    """CPU time of QEMU, with a clock that goes, while the ring is refilled all the time."""
    group = FakeGroup(ram.parent / "group")
    rule = f",automatic=on,memcg-path={group.folder}" if "rule" in kind else ""
    with machine(qemu_binary, ram=ram, accel="tcg", options=rule) as qemu:
        driver = Driver(qemu, [MESSAGE, F_INDIRECT_DESC])
        qemu.qtest.write(DATA, struct.pack("<16I", *[LOW] * 16))
        if kind != "many descriptors":
            driver.queue.describe(0, Descriptor(DATA, 64))
        else:
            table = DATA + 4096
            entries = [Descriptor(DATA + 64 * i, 64, 1, i + 1) for i in range(1023)]
            qemu.qtest.write(table, b"".join(map(bytes, [*entries, Descriptor(DATA, 64)])))
            driver.queue.describe(0, Descriptor(table, 16 * 1024, DESC_INDIRECT))

        def share(seconds: float) -> float:
            clock, cpu = time.monotonic(), cpu_seconds(qemu.process.pid)
            time.sleep(seconds)
            return (cpu_seconds(qemu.process.pid) - cpu) / (time.monotonic() - clock)

        quiet = share(1)
        with refilled(ram, driver.queue):
            driver.device.kick(driver.index)
            before, clock = driver.queue.used_count(), time.monotonic()
            flood = share(3)
            used, took = driver.queue.used_count() - before, time.monotonic() - clock
        print(f"{kind}: {used / took:.0f} buffers a second, {flood:.2%} of a CPU, "
              f"{quiet:.2%} when it is quiet")
        assert 0 < used / took < 100
        assert flood < 0.05


def test_the_first_message_is_read_at_once(qemu_binary: Path, ram: Path) -> None:
    """A period's first buffers wait for nothing: seen by the shared memory, kick to use."""
    with (
        machine(qemu_binary, ram=ram) as qemu,
        ram.open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
    ):
        driver = Driver(qemu)
        taken = []
        for count in range(1, 8):
            driver.queue.add(le32(LOW))
            clock = time.monotonic()
            driver.device.kick(driver.index)
            while struct.unpack_from("<H", memory, driver.queue.used + 2)[0] != count:
                assert time.monotonic() - clock < 1
            taken.append(time.monotonic() - clock)
        print(f"median {sorted(taken)[3] * 1e6:.0f} us, kick by qtest included")
        # Of a period that it would have to wait for, 100 ms, nothing is seen.
        assert sorted(taken)[3] < 0.02


def test_a_hint_outside_ram_does_not_stop_qemu(qemu_binary: Path) -> None:
    """The hint's thread waits for QEMU's lock while the driver resets and negotiates anew."""
    offered = (STATS, HINT, REPORTING, MESSAGE)
    with machine(qemu_binary, offered) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        for accepted in [[HINT, MESSAGE], [STATS, HINT], [HINT, REPORTING]] * 50:
            device.negotiate(accepted)
            index = 3 if STATS in accepted else 2
            queue = device.queue(index)
            device.start()
            for head in range(8):
                queue.describe(head, Descriptor(OUTSIDE, 4, DESC_WRITE * (head % 2)))
                queue.publish(head)
            device.kick(index)
        qemu.qmp("query-status")
        assert Driver(qemu).device.status & 4


def test_a_hint_without_iothread_leaves_nothing(qemu_binary: Path) -> None:
    """Another balloon may be plugged after one that failed, and is the one that is set."""
    with Machine(qemu_binary, ["-device", "pcie-root-port,id=root"]) as qemu:
        options = {"driver": "virtio-balloon-pci", "id": "balloon", "bus": "root"}
        with pytest.raises(ExecuteError, match="iothread"):
            qemu.qmp("device_add", **options, **{"free-page-hint": True})
        with pytest.raises(ExecuteError, match="No balloon device"):
            qemu.qmp("query-balloon")
        qemu.qmp("device_add", **options)
        qemu.qmp("balloon", value=Machine.RAM // 2)
