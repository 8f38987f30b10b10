# SPDX-License-Identifier: GPL-2.0-or-later
"""The message virtqueue of the lab's QEMU, driven without a guest."""

from __future__ import annotations

import itertools
import shlex
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from balloon import (
    CONFIG_ACTUAL,
    CRITICAL,
    EVENT_INTERVAL,
    HINT,
    LEVELS,
    LOW,
    MEDIUM,
    MESSAGE,
    OPTIONAL,
    PAGE,
    PATH,
    PER_BUFFER,
    PER_PERIOD,
    PERIOD,
    REPORTING,
    SLOT,
    STATS,
    Driver,
    counted,
    counters,
    guest_stats,
    ioeventfd,
    le32,
    levels,
    machine,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pyguest.qtest import DEADLINE, Machine, has_property
from pyguest.virtio import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    NEEDS_RESET,
    LegacyDevice,
    ModernDevice,
    Part,
    Queue,
)


@pytest.fixture
def qemu(qemu_binary: Path) -> Iterator[Machine]:
    with machine(qemu_binary) as started:
        yield started


@pytest.mark.parametrize("message", LEVELS)
def test_each_message_is_one_event(qemu: Machine, message: int) -> None:
    driver = Driver(qemu)
    driver.device.config_write(CONFIG_ACTUAL, 1000)
    driver.send(le32(message))
    assert qemu.events("BALLOON_PRESSURE") == [
        {
            "qom-path": f"{PATH}/virtio-backend",
            "level": LEVELS[message],
            "actual": Machine.RAM - 1000 * PAGE,
        }
    ]
    assert counted(qemu) == {LEVELS[message]: 1}


def test_an_impossible_actual_does_not_wrap(qemu: Machine) -> None:
    """A guest that claims a balloon larger than its RAM has no memory left, and not 16 EiB."""
    driver = Driver(qemu)
    driver.device.config_write(CONFIG_ACTUAL, 0xFFFFFFFF)
    driver.send(le32(LOW))
    assert [event["actual"] for event in qemu.events("BALLOON_PRESSURE")] == [0]


def test_medium_comes_after_low_in_one_buffer(qemu: Machine) -> None:
    Driver(qemu).send(le32(LOW, MEDIUM))
    assert levels(qemu) == ["low", "medium"]


def test_a_message_may_be_split_over_descriptors(qemu: Machine) -> None:
    data = le32(LOW, CRITICAL).data
    Driver(qemu).send(Part(data[:1]), Part(data[1:6]), Part(data[6:]))
    assert levels(qemu) == ["low", "critical"]


@pytest.mark.parametrize("message", [0, CRITICAL + 1, LOW << 24, 0xFFFFFFFF])
def test_unknown_is_counted_and_the_rest_still_read(qemu: Machine, message: int) -> None:
    Driver(qemu).send(le32(message, LOW))
    assert levels(qemu) == ["low"]
    assert counted(qemu) == {"unknown": 1, "low": 1}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_trailing_part_is_counted(qemu: Machine, size: int) -> None:
    driver = Driver(qemu)
    driver.send(Part(le32(LOW, MEDIUM).data[: 4 + size]))
    driver.send(Part(le32(CRITICAL).data[:size]))
    assert levels(qemu) == ["low"]
    assert counted(qemu) == {"low": 1, "truncated": 2}


def test_a_write_only_buffer_is_empty(qemu: Machine) -> None:
    driver = Driver(qemu)
    driver.send(Part(writable=64))
    driver.send(le32(LOW), Part(writable=4))
    assert levels(qemu) == ["low"]
    assert counted(qemu) == {"low": 1}


def test_a_zero_length_descriptor_stops_the_device_until_reset(qemu: Machine) -> None:
    """QEMU takes it for a broken driver, on each of its virtio devices."""
    driver = Driver(qemu)
    driver.queue.add(Part())
    driver.device.kick(driver.index)
    qemu.qmp("query-status")
    assert driver.device.status & NEEDS_RESET
    Driver(qemu).send(le32(LOW))
    assert levels(qemu) == ["low"]


def test_a_huge_buffer_is_not_read_to_its_end(qemu: Machine) -> None:
    count = (64 << 10) // 4
    Driver(qemu).send(le32(*[LOW] * count))
    assert levels(qemu) == ["low"] * 2
    assert counted(qemu) == {"low": PER_BUFFER, "excess": count - PER_BUFFER}


def test_a_flood_is_read_in_portions(qemu: Machine) -> None:
    """The first portion at once; then so many buffers a period, with kicks or without."""
    driver = Driver(qemu)
    size = 5 * PER_PERIOD
    for _ in range(size):
        driver.queue.add(le32(MEDIUM))
    for used in range(PER_PERIOD, size, PER_PERIOD):
        for _ in range(3):
            driver.device.kick(driver.index)
        used_up_to(qemu, driver.queue, used)
        assert driver.queue.kicks_are_off()
        qemu.step(PERIOD - 0.001)
        used_up_to(qemu, driver.queue, used)
        qemu.step(0.001)
    driver.queue.wait()
    assert counted(qemu) == {"medium": size}
    # After a quiet period the next is told at once, and a kick is wanted.
    qemu.step(PERIOD)
    qemu.step(PERIOD)
    assert not driver.queue.kicks_are_off()
    driver.send(le32(CRITICAL))


def used_up_to(qemu: Machine, queue: Queue, count: int) -> None:
    """That many buffers are used, and not one more."""
    end = time.monotonic() + DEADLINE
    while queue.used_count() < count:
        assert time.monotonic() < end, f"{queue.used_count()} of {count}"
    for _ in range(3):
        qemu.qmp("query-status")
    assert queue.used_count() == count


def test_a_reset_is_no_way_to_more(qemu: Machine) -> None:
    driver = Driver(qemu)
    for _ in range(PER_PERIOD):
        driver.send(le32(LOW))
    driver = Driver(qemu)
    driver.queue.add(le32(LOW))
    driver.device.kick(driver.index)
    used_up_to(qemu, driver.queue, 0)
    qemu.step(PERIOD)
    driver.queue.wait()


def test_the_rest_of_a_flood_waits_for_cont(qemu: Machine) -> None:
    driver = Driver(qemu)
    for _ in range(PER_PERIOD + 1):
        driver.queue.add(le32(LOW))
    driver.device.kick(driver.index)
    used_up_to(qemu, driver.queue, PER_PERIOD)
    qemu.qmp("stop")
    used_up_to(qemu, driver.queue, PER_PERIOD)
    qemu.qmp("cont")
    qemu.step(PERIOD)
    driver.queue.wait()


def test_events_are_rate_limited_each_level_by_itself(qemu: Machine) -> None:
    """A flood of low is two events, and does not keep critical from being told at once."""
    driver = Driver(qemu)

    def told() -> list[str]:
        return [event["level"] for event in qemu.events("BALLOON_PRESSURE")]

    for _ in range(6):
        driver.send(le32(LOW))
    assert told() == ["low"]
    driver.send(le32(LOW, CRITICAL))
    assert told() == ["critical"]
    qemu.step(EVENT_INTERVAL - 0.001)
    assert told() == []
    qemu.step(0.001)
    assert told() == ["low"]
    qemu.step(10 * EVENT_INTERVAL)
    assert told() == []
    assert counted(qemu) == {"low": 7, "critical": 1}


@pytest.mark.parametrize("eventfd", ["on", "off"])
def test_buffers_of_a_stopped_machine_wait_for_cont(qemu_binary: Path, eventfd: str) -> None:
    """What was left over by the end of a run must be read in the next."""
    with machine(qemu_binary, options=ioeventfd(qemu_binary, eventfd)) as qemu:
        driver = Driver(qemu)
        qemu.qmp("stop")
        driver.queue.add(le32(LOW))
        qemu.qmp("query-status")
        assert driver.queue.used_count() == 0
        qemu.qmp("cont")
        driver.queue.wait()
        assert levels(qemu) == ["low"]


def eventfds(qemu: Machine) -> int:
    files = Path(f"/proc/{qemu.process.pid}/fd").iterdir()
    return sum("eventfd" in str(file.readlink()) for file in files)


def test_the_property_tells_whether_eventfds_are_used(qemu_binary: Path) -> None:
    """What is left out where ioeventfd=on is not to be had cannot happen there."""
    with machine(qemu_binary) as qemu:
        before = eventfds(qemu)
        Driver(qemu)
        qemu.qmp("query-status")
        assert (eventfds(qemu) > before) == has_property(qemu_binary, "ioeventfd")


def combinations() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each set of offered queues with each set of accepted ones; the message queue in both."""
    for offer in itertools.product((False, True), repeat=2):
        offered = [STATS, *(bit for bit, on in zip((HINT, REPORTING), offer, strict=True) if on)]
        for accept in itertools.product((False, True), repeat=len(offered)):
            accepted = [bit for bit, on in zip(offered, accept, strict=True) if on]
            yield (*offered, MESSAGE), (*accepted, MESSAGE)


def names(bits: Sequence[int]) -> str:
    text = {STATS: "stats", HINT: "hint", REPORTING: "reporting", MESSAGE: "message"}
    return "+".join(text[bit] for bit in bits)


@pytest.mark.parametrize(("offered", "accepted"), list(combinations()), ids=names)
def test_roles_follow_what_was_negotiated(
    qemu_binary: Path, offered: Sequence[int], accepted: Sequence[int]
) -> None:
    """Each queue at the driver's index does its own work, in rings of the device's size."""
    with machine(qemu_binary, offered) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        device.negotiate(accepted)
        queues = {bit: (i, device.queue(i)) for i, bit in enumerate(sorted_queues(accepted), 2)}
        device.start()

        def send(bit: int, part: Part, wait: bool = True) -> Queue:
            index, queue = queues[bit]
            queue.add(part)
            device.kick(index)
            if wait:
                queue.wait()
            return queue

        send(MESSAGE, le32(LOW, CRITICAL))
        assert levels(qemu) == ["low", "critical"]
        if STATS in accepted:
            # Tag 4 is the free memory. The device holds the buffer until it asks again.
            held = send(STATS, Part(struct.pack("<HQ", 4, 12345)), wait=False)
            assert guest_stats(qemu)["stat-free-memory"] == 12345
            assert held.used_count() == 0
        if HINT in accepted:
            send(HINT, le32(0))
        if REPORTING in accepted:
            # The device discards what is reported: the page reads as zero afterwards.
            page = 64 << 20
            qemu.qtest.write(page, b"\xaa" * PAGE)
            send(REPORTING, Part(writable=PAGE, address=page))
            assert qemu.qtest.read(page, PAGE) == bytes(PAGE)
        send(MESSAGE, le32(MEDIUM))
        assert levels(qemu) == ["medium"]
        assert counted(qemu) == {"low": 1, "medium": 1, "critical": 1}


def sorted_queues(accepted: Sequence[int]) -> list[int]:
    return [bit for bit in OPTIONAL if bit in accepted]


def test_declined_queue_is_deaf(qemu: Machine) -> None:
    """The queue of the message feature does nothing when the driver declined the feature."""
    device = ModernDevice(qemu.qtest, SLOT)
    device.negotiate([STATS])
    queue = device.queue(3)
    device.start()
    queue.add(le32(LOW))
    device.kick(3)
    assert levels(qemu) == []
    assert queue.used_count() == 0


def test_off_by_default(qemu_binary: Path) -> None:
    with machine(qemu_binary, []) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        assert not device.offered() & 1 << MESSAGE
        assert device.queue_count == 3
        assert counted(qemu) == {}
    with machine(qemu_binary) as qemu:
        device = ModernDevice(qemu.qtest, SLOT)
        assert device.offered() & 1 << MESSAGE
        assert device.queue_count == 4


@pytest.mark.parametrize("how", ["driver", "system_reset"])
def test_reset_clears(qemu: Machine, how: str) -> None:
    driver = Driver(qemu)
    driver.send(le32(LOW, 99))
    assert counted(qemu) == {"low": 1, "unknown": 1}
    if how == "driver":
        driver.device.reset()
    else:
        qemu.qmp("system_reset")
    assert counted(qemu) == {}
    # The next driver accepts something else, and its queue is elsewhere.
    Driver(qemu, [MESSAGE]).send(le32(CRITICAL))
    assert "critical" in levels(qemu)


def test_target_is_what_was_asked_for(qemu: Machine) -> None:
    assert qemu.qmp("qom-get", path=PATH, property="target") == Machine.RAM
    qemu.qmp("balloon", value=100 << 20)
    assert qemu.qmp("qom-get", path=PATH, property="target") == 100 << 20


def test_legacy_driver_may_change_its_features(qemu: Machine) -> None:
    """Features come late and more than once; a statistics buffer that is held survives it."""
    device = LegacyDevice(qemu.qtest, SLOT)
    second, third = device.queue(2), device.queue(3)

    device.set_features([STATS, MESSAGE])
    second.add(Part(struct.pack("<HQ", 4, 777)))
    device.kick(2)
    assert guest_stats(qemu)["stat-free-memory"] == 777
    third.add(le32(LOW))
    device.kick(3)
    third.wait()
    assert levels(qemu) == ["low"]

    # The held buffer goes back into queue 2, which is the message queue now.
    device.set_features([MESSAGE])
    device.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
    second.wait()
    assert levels(qemu) == []
    second.add(le32(MEDIUM))
    device.kick(2)
    second.wait()
    assert levels(qemu) == ["medium"]


@pytest.mark.parametrize("accepted", [(STATS, MESSAGE), (REPORTING, MESSAGE)], ids=names)
def test_roles_survive_migration(
    qemu_binary: Path, tmp_path: Path, accepted: Sequence[int]
) -> None:
    """The other side has only the negotiated features to tell the queues by."""
    offered = (STATS, HINT, REPORTING, MESSAGE)
    state = shlex.quote(str(tmp_path / "state"))
    with machine(qemu_binary, offered) as source:
        driver = Driver(source, accepted)
        driver.send(le32(LOW))
        if STATS in accepted:
            # A buffer that the device holds on to must be found again.
            statistics = driver.device.queue(2)
            statistics.add(Part(struct.pack("<HQ", 4, 4711)))
            driver.device.kick(2)
            assert guest_stats(source)["stat-free-memory"] == 4711
        source.qmp("migrate", uri=f"exec:cat > {state}")
        source.wait_for("query-migrate", status="completed")
    with machine(qemu_binary, offered, incoming=f"exec:cat {state}") as target:
        target.wait_for("query-status", status="running")
        driver.device.qtest = driver.queue.qtest = target.qtest
        driver.send(le32(MEDIUM))
        assert levels(target) == ["medium"]
        if STATS in accepted:
            assert guest_stats(target)["stat-free-memory"] == 4711


@pytest.fixture(scope="module")
def shared(qemu_binary: Path) -> Iterator[Machine]:
    """One machine for many buffers; each driver begins with a reset of the device."""
    with machine(qemu_binary) as started:
        yield started


words = st.sampled_from([0, LOW, MEDIUM, CRITICAL, 4]).map(lambda word: struct.pack("<I", word))
contents = st.one_of(
    st.binary(min_size=1, max_size=100),
    st.lists(words, min_size=1, max_size=40).map(b"".join),
)
parts = st.one_of(
    contents.map(lambda data: Part(data)),
    st.integers(1, 100).map(lambda size: Part(writable=size)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=8))
def test_any_buffers_add_up(shared: Machine, buffers: list[list[Part]]) -> None:
    """Whatever is sent, QEMU lives on and each message is in exactly one counter."""
    driver = Driver(shared)
    expected: list[str] = []
    total = truncated = 0
    for buffer in buffers:
        # In a chain all that the device reads comes before all that it writes.
        buffer = sorted(buffer, key=lambda part: part.writable > 0)
        driver.queue.add(*buffer)
        data = b"".join(part.data for part in buffer)
        total += len(data) // 4
        truncated += len(data) % 4 != 0
        taken = struct.unpack_from(f"<{min(len(data) // 4, PER_BUFFER)}I", data)
        expected += [LEVELS[message] for message in taken if message in LEVELS]
    driver.device.kick(driver.index)
    driver.queue.wait()
    assert set(levels(shared)) == set(expected)
    stats = counters(shared)
    assert stats.pop("truncated") == truncated
    assert sum(stats.values()) == total
    assert all(stats[level] == expected.count(level) for level in LEVELS.values())
