# SPDX-License-Identifier: GPL-2.0-or-later
"""The balloon's state through migration and snapshots, without a guest.

The test is the driver: it talks to one QEMU, and goes on with its rings on the other.
"""

from __future__ import annotations

import copy
import struct
import time
from pathlib import Path

import pytest
from balloon import (
    CONFIG_ACTUAL,
    CRITICAL,
    LOW,
    MEDIUM,
    MESSAGE,
    PAGE,
    PATH,
    PER_PERIOD,
    PERIOD,
    REPORTING,
    SLOT,
    STATS,
    Driver,
    counted,
    guest_stats,
    ioeventfd,
    le32,
    levels,
    machine,
)
from hostgroup import FakeGroup, state

from pyguest import lab
from pyguest.qtest import DEADLINE, Machine
from pyguest.virtio import ModernDevice, Part

MIB = 1 << 20
RAM = Machine.RAM
STEP = 32 * MIB
INFLATE = 0

QUEUE, RULE = b"virtio-balloon-device/message", b"virtio-balloon-device/automatic"
"""What the two subsections are called in a stream."""


def save(qemu: Machine, stream: Path) -> None:
    """Stop the machine and save it."""
    qemu.qmp("migrate", uri=f"exec:cat > '{stream}'")
    qemu.wait_for("query-migrate", status="completed")


def load(qemu: Machine, stream: Path) -> None:
    """Have a machine that waits for it (`incoming="defer"`) go on from what was saved."""
    qemu.qmp("migrate-incoming", uri=f"exec:cat '{stream}'")
    qemu.wait_for("query-status", status="running")


def refusal(qemu: Machine, stream: Path) -> str:
    """What QEMU said when it ended, because it could not load that."""
    qemu.qmp("migrate-incoming", uri=f"exec:cat '{stream}'")
    assert qemu.process.wait(DEADLINE)
    return qemu.log()


def move(driver: Driver, qemu: Machine) -> None:
    """The driver goes on there, with what it has in guest memory."""
    driver.device.qtest = driver.queue.qtest = qemu.qtest


def target(qemu: Machine) -> object:
    return qemu.qmp("qom-get", path=PATH, property="target")


def actual(qemu: Machine) -> int:
    reply = qemu.qmp("query-balloon")
    assert isinstance(reply, dict)
    return int(reply["actual"])


def settings(group: FakeGroup) -> str:
    return f",automatic=on,memcg-path={group.folder},automatic-floor={64 * MIB}"


def groups(folder: Path) -> tuple[FakeGroup, FakeGroup]:
    return FakeGroup(folder / "here"), FakeGroup(folder / "there")


def test_the_rule_goes_on_where_it_was(qemu_binary: Path, tmp_path: Path) -> None:
    """All that automatic-state and message-stats show, and what follows from it."""
    here, there = groups(tmp_path)
    stream = tmp_path / "stream"
    with machine(qemu_binary, options=settings(here)) as source:
        driver = Driver(source)
        here.press(source)
        source.step(3)
        driver.send(le32(LOW, MEDIUM, 99))
        driver.send(Part(le32(CRITICAL).data + b"."))
        source.step(4)
        here.press(source)
        source.step(5)
        save(source, stream)
        before, counts = state(source), counted(source)
    assert before["reason"] == "cancel"
    assert (before["change-age-ms"], before["guest-pressure-age-ms"]) == (9000, 9000)
    assert (before["host-pressure-events"], before["host-pressure-skipped"]) == (2, 1)
    assert counts == {"low": 1, "medium": 1, "critical": 1, "unknown": 1, "truncated": 1}

    with machine(qemu_binary, options=settings(there), incoming="defer") as dest:
        # Another QEMU has another past, and its host a pressure of its own.
        dest.step(1000)
        there.press(dest)
        load(dest, stream)
        assert state(dest) == before
        assert counted(dest) == counts
        assert target(dest) == RAM

        # The guest still counts as pressed, for as long as on the source.
        dest.step(51)
        there.press(dest)
        assert target(dest) == RAM
        dest.step(0.001)
        there.press(dest)
        assert target(dest) == RAM - STEP
        move(driver, dest)
        driver.send(le32(LOW))
        assert (target(dest), state(dest)["reason"]) == (RAM, "cancel")
        assert counted(dest) == {**counts, "low": 2}


@pytest.mark.parametrize("accel", ["qtest", "tcg"])
def test_ages_on_a_clock_of_its_own(qemu_binary: Path, tmp_path: Path, accel: str) -> None:
    """No age is lower than at the save, nor does it grow until the machine runs again."""
    stream = tmp_path / "stream"
    with machine(qemu_binary, accel=accel) as source:
        driver = Driver(source)
        driver.send(le32(LOW))
        if accel == "qtest":
            source.step(0.3)
        time.sleep(0.3)
        save(source, stream)
        before = state(source)["guest-pressure-age-ms"]
    assert isinstance(before, int)
    assert before >= 300
    time.sleep(0.5)
    with machine(qemu_binary, incoming="defer", accel=accel) as dest:
        started = time.monotonic()
        load(dest, stream)
        after = state(dest)["guest-pressure-age-ms"]
        assert isinstance(after, int)
        assert before <= after <= before + (time.monotonic() - started) * 1000 + 1


def frames(first: int, count: int) -> Part:
    return Part(struct.pack(f"<{count}I", *range(first, first + count)))


@pytest.mark.parametrize("eventfd", ["on", "off"])
def test_goes_on_inflating(qemu_binary: Path, tmp_path: Path, eventfd: str) -> None:
    """The target is far off, a part is done, and a buffer that nobody has seen is in the ring."""
    stream = tmp_path / "stream"
    options = ioeventfd(qemu_binary, eventfd)
    first, count = 64 * MIB // PAGE, 256
    with machine(qemu_binary, options=options) as source:
        driver = Driver(source)
        inflate = driver.device.queue(INFLATE)
        source.qtest.fill(first * PAGE, 3 * count * PAGE, 0xAA)
        source.qmp("balloon", value=RAM - 64 * MIB)
        inflate.add(frames(first, count))
        driver.device.kick(INFLATE)
        inflate.wait()
        driver.device.config_write(CONFIG_ACTUAL, count)
        inflate.add(frames(first + count, count))
        save(source, stream)
        assert inflate.used_count() == 1

    with machine(qemu_binary, options=options, incoming="defer") as dest:
        load(dest, stream)
        move(driver, dest)
        inflate.qtest = dest.qtest
        assert (target(dest), actual(dest)) == (RAM - 64 * MIB, RAM - count * PAGE)
        if eventfd == "off":
            driver.device.kick(INFLATE)
        inflate.wait()
        # What is in the balloon is discarded on both sides, and nothing else.
        found = dest.qtest.read(first * PAGE, 3 * count * PAGE)
        assert found == bytes(2 * count * PAGE) + b"\xaa" * count * PAGE
        driver.device.config_write(CONFIG_ACTUAL, 2 * count)
        assert actual(dest) == RAM - 2 * count * PAGE
        driver.send(le32(LOW))
        assert levels(dest) == ["low"]


@pytest.mark.parametrize("eventfd", ["on", "off"])
@pytest.mark.parametrize("left", [1, 100])
def test_messages_left_in_the_ring_are_read(
    qemu_binary: Path, tmp_path: Path, eventfd: str, left: int
) -> None:
    """The device looks once when the machine runs again; also for more than it reads in one go."""
    stream = tmp_path / "stream"
    options = ioeventfd(qemu_binary, eventfd)
    with machine(qemu_binary, options=options) as source:
        driver = Driver(source)
        driver.send(le32(CRITICAL))
        for _ in range(left):
            driver.queue.add(le32(MEDIUM))
        save(source, stream)
        assert counted(source) == {"critical": 1}
    with machine(qemu_binary, options=options, incoming="defer") as dest:
        load(dest, stream)
        move(driver, dest)
        for used in range(1 + PER_PERIOD, 1 + left, PER_PERIOD):
            driver.queue.wait_for(used)
            dest.step(PERIOD)
        driver.queue.wait()
        assert counted(dest) == {"critical": 1, "medium": left}


def test_kicks_that_were_off_are_on(qemu_binary: Path, tmp_path: Path) -> None:
    """Saved in the middle of a flood, the ring says that nobody wants a kick."""
    stream = tmp_path / "stream"
    with machine(qemu_binary) as source:
        driver = Driver(source)
        for _ in range(PER_PERIOD):
            driver.send(le32(LOW))
        assert driver.queue.kicks_are_off()
        save(source, stream)
    with machine(qemu_binary, incoming="defer") as dest:
        load(dest, stream)
        move(driver, dest)
        dest.qmp("query-status")
        assert not driver.queue.kicks_are_off()
        driver.send(le32(LOW))


def test_messages_while_it_is_under_way(qemu_binary: Path, tmp_path: Path) -> None:
    """Live, over a socket: what is sent meanwhile arrives, here or there, and once."""
    address = f"unix:{tmp_path / 'socket'}"
    with machine(qemu_binary) as source, machine(qemu_binary, incoming=address) as dest:
        driver = Driver(source)
        # Takes longer than what is done meanwhile.
        source.qtest.fill(64 * MIB, 16 * MIB, 0xAA)
        source.qmp("migrate-set-parameters", **{"max-bandwidth": MIB})
        source.qmp("migrate", uri=address)
        source.wait_for("query-migrate", status="active")
        for _ in range(3):
            driver.send(le32(LOW))
        driver.queue.add(le32(LOW))
        source.wait_for("query-migrate", status="active")
        source.qmp("migrate-set-parameters", **{"max-bandwidth": 1024 * MIB})
        source.wait_for("query-migrate", status="completed")
        assert counted(source) == {"low": 3}

        dest.wait_for("query-status", status="running")
        move(driver, dest)
        driver.queue.wait()
        driver.send(le32(LOW, CRITICAL))
        assert counted(dest) == {"low": 5, "critical": 1}
        assert set(levels(dest)) == {"low", "critical"}


def job(qemu: Machine, command: str, **arguments: object) -> None:
    """Run a job of QMP to its end; AssertionError with its word if it fails."""
    qemu.qmp(command, **{"job-id": "job", **arguments})
    end = time.monotonic() + DEADLINE
    while True:
        jobs = qemu.qmp("query-jobs")
        assert isinstance(jobs, list)
        if jobs[0]["status"] == "concluded":
            break
        assert time.monotonic() < end, jobs
        time.sleep(0.01)
    assert "error" not in jobs[0], jobs
    qemu.qmp("job-dismiss", id="job")


class Snapshots:
    """An image for snapshots of a machine that has no disk."""

    def __init__(self, qemu: Machine, file: Path) -> None:
        self._qemu = qemu
        name = str(file)
        job(qemu, "blockdev-create", options={"driver": "file", "filename": name, "size": 0})
        qemu.qmp("blockdev-add", **{"driver": "file", "filename": name, "node-name": "file"})
        job(qemu, "blockdev-create", options={"driver": "qcow2", "file": "file", "size": MIB})
        qemu.qmp("blockdev-add", **{"driver": "qcow2", "file": "file", "node-name": "disk"})

    def _job(self, command: str, tag: str) -> None:
        job(self._qemu, command, tag=tag, vmstate="disk", devices=["disk"])

    def save(self, tag: str) -> None:
        self._job("snapshot-save", tag)

    def load(self, tag: str) -> None:
        self._job("snapshot-load", tag)


@pytest.mark.parametrize("accel", ["qtest", "tcg"])
def test_snapshots(qemu_binary: Path, tmp_path: Path, accel: str) -> None:
    """What was saved is there again, nothing of what came later is, and the ring goes on.

    With tcg the guest's clock is set back.
    """
    group = FakeGroup(tmp_path / "group")

    def age(seconds: float) -> None:
        if accel == "qtest":
            qemu.step(seconds)
        time.sleep(seconds)

    with machine(qemu_binary, options=settings(group), accel=accel) as qemu:
        snapshots = Snapshots(qemu, tmp_path / "image.qcow2")
        driver = Driver(qemu)
        snapshots.save("nothing")
        nothing = state(qemu)
        group.press(qemu)
        driver.send(le32(LOW, MEDIUM))
        age(0.2)
        qemu.qmp("stop")
        snapshots.save("pressed")
        pressed, ring = state(qemu), copy.copy(driver.queue)
        qemu.qmp("cont")

        age(0.3)
        driver.send(le32(CRITICAL))
        group.press(qemu)
        qemu.qmp("stop")
        for _ in range(2):
            snapshots.load("nothing")
            assert (state(qemu), counted(qemu)) == (nothing, {})
            snapshots.load("pressed")
            assert (state(qemu), counted(qemu)) == (pressed, {"low": 1, "medium": 1})
            assert target(qemu) == RAM

        qemu.qmp("cont")
        driver.queue = ring
        driver.send(le32(LOW))
        assert counted(qemu) == {"low": 2, "medium": 1}


def test_a_snapshot_brings_its_roles(qemu_binary: Path, tmp_path: Path) -> None:
    """The guest that is running has accepted something else than the one that was saved."""
    with machine(qemu_binary, (STATS, REPORTING, MESSAGE)) as qemu:
        snapshots = Snapshots(qemu, tmp_path / "image.qcow2")
        driver = Driver(qemu, [STATS, REPORTING, MESSAGE])
        snapshots.save("all")
        Driver(qemu, [MESSAGE]).send(le32(CRITICAL))
        snapshots.load("all")
        driver.send(le32(LOW))
        assert counted(qemu) == {"low": 1}


def test_nothing_is_sent_that_did_not_happen(qemu_binary: Path, tmp_path: Path) -> None:
    """A guest without messages is saved as by a device that does not know of them."""
    stream = tmp_path / "stream"
    for offered in ([], [MESSAGE]):
        with machine(qemu_binary, offered) as source:
            source.qmp("balloon", value=RAM - STEP)
            if offered:
                Driver(source)
            save(source, stream)
        assert QUEUE not in stream.read_bytes()
        assert RULE not in stream.read_bytes()
    with machine(qemu_binary) as source:
        driver = Driver(source)
        driver.send(le32(99))
        save(source, stream)
        assert QUEUE in stream.read_bytes()
        assert RULE not in stream.read_bytes()
        assert "guest-pressure-age-ms" not in state(source)


@pytest.mark.parametrize(("offered", "accepted", "messages", "there", "error"), [
    pytest.param([], [], [], [MESSAGE], "", id="off to on"),
    pytest.param([MESSAGE], [], [], [], "", id="on but declined, to off"),
    pytest.param([MESSAGE], [MESSAGE], [], [], "Features 0x", id="on, to off"),
    pytest.param([MESSAGE], [MESSAGE], [LOW], [], "message-vq=on", id="on and used, to off"),
    pytest.param([MESSAGE], [MESSAGE], [99], [], "message-vq=on", id="on and misused, to off"),
])  # fmt: skip
def test_with_other_properties_there(
    qemu_binary: Path,
    tmp_path: Path,
    offered: list[int],
    accepted: list[int],
    messages: list[int],
    there: list[int],
    error: str,
) -> None:
    """It works or fails with a message that tells why, and never takes one queue for another."""
    stream = tmp_path / "stream"
    with machine(qemu_binary, offered) as source:
        device = ModernDevice(source.qtest, SLOT)
        device.negotiate([STATS, *accepted])
        statistics = device.queue(2)
        queue = device.queue(3) if accepted else None
        device.start()
        if queue:
            for message in messages:
                queue.add(le32(message))
            device.kick(3)
            queue.wait()
        save(source, stream)
    with machine(qemu_binary, there, incoming="defer") as dest:
        if error:
            assert error in refusal(dest, stream)
            return
        load(dest, stream)
        device.qtest = statistics.qtest = dest.qtest
        statistics.add(Part(struct.pack("<HQ", 4, 4711)))
        device.kick(2)
        assert guest_stats(dest)["stat-free-memory"] == 4711
        # A guest that boots again is offered what is there now.
        dest.qmp("system_reset")
        if MESSAGE in there:
            Driver(dest).send(le32(LOW))
            assert levels(dest) == ["low"]


AGES = ("guest pressure", "host pressure", "change of the target")


DAMAGE = [
    *((8 * i, struct.pack(">q", age), f"the age of the last {what} is {age} ns")
      for i, what in enumerate(AGES) for age in (-2, -(1 << 63), (1 << 63) - 1)),
    *((24, struct.pack(">i", reason), f"reason number {reason}") for reason in (-1, 3, 1 << 30)),
    (36, struct.pack(">Q", 9), "9 of 1 host pressure events skipped"),
]  # fmt: skip
"""Where in the rule's subsection, what stands there, and what is said of it."""


@pytest.mark.parametrize(("offset", "value", "error"), DAMAGE, ids=[row[2] for row in DAMAGE])
def test_a_damaged_stream_is_refused(
    saved: bytes, qemu_binary: Path, tmp_path: Path, offset: int, value: bytes, error: str
) -> None:
    # A subsection's name is followed by its version, of 4 bytes.
    at = saved.index(RULE) + len(RULE) + 4 + offset
    damaged = saved[:at] + value + saved[at + len(value):]
    stream = tmp_path / "stream"
    stream.write_bytes(damaged)
    with machine(qemu_binary, incoming="defer") as dest:
        said = refusal(dest, stream)
    assert error in said
    assert "load of migration failed: Invalid argument" in said


@pytest.fixture(scope="module")
def saved(qemu_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The stream of a machine that has had both pressures and a change."""
    folder = tmp_path_factory.mktemp("saved")
    group = FakeGroup(folder / "group")
    with machine(qemu_binary, options=settings(group)) as source:
        driver = Driver(source)
        group.press(source)
        source.step(1)
        driver.send(le32(LOW))
        save(source, folder / "stream")
    return (folder / "stream").read_bytes()


# Stock's older machine type, without what the lab's QEMU is built without.
STOCK = ("-machine", "pc-q35-7.2,vmport=off,hpet=off")


@pytest.mark.parametrize("way", ["from stock", "to stock"])
def test_without_the_feature_as_stock(qemu_binary: Path, tmp_path: Path, way: str) -> None:
    """The distribution's own QEMU and ours take each other's guests: what is saved is the same."""
    stock = lab.stock_qemu()
    here, there = (stock, qemu_binary) if way == "from stock" else (qemu_binary, stock)
    stream = tmp_path / "stream"
    with machine(here, [], more=STOCK, accel="tcg") as source:
        device = ModernDevice(source.qtest, SLOT)
        device.negotiate([STATS])
        statistics = device.queue(2)
        device.start()
        source.qmp("balloon", value=RAM - STEP)
        device.config_write(CONFIG_ACTUAL, 1000)
        save(source, stream)
    with machine(there, [], more=STOCK, incoming="defer", accel="tcg") as dest:
        load(dest, stream)
        device.qtest = statistics.qtest = dest.qtest
        assert actual(dest) == RAM - 1000 * PAGE
        statistics.add(Part(struct.pack("<HQ", 4, 4711)))
        device.kick(2)
        assert guest_stats(dest)["stat-free-memory"] == 4711


def test_stock_refuses_the_feature(qemu_binary: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    with machine(qemu_binary, more=STOCK, accel="tcg") as source:
        Driver(source).send(le32(LOW))
        save(source, stream)
    with machine(lab.stock_qemu(), [], more=STOCK, incoming="defer", accel="tcg") as dest:
        assert "load of migration failed" in refusal(dest, stream)
