# SPDX-License-Identifier: GPL-2.0-or-later
"""Automatic ballooning without a guest: the rule, its events, and when it does nothing.

The host's pressure is the test's own: see hostgroup.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from balloon import (
    CONFIG_ACTUAL,
    CRITICAL,
    EVENT_INTERVAL,
    LOW,
    MEDIUM,
    MESSAGE,
    PAGE,
    PATH,
    SLOT,
    STATS,
    Driver,
    discards_inhibited,
    le32,
    machine,
)
from hostgroup import FakeGroup, state
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu.qmp import ExecuteError

from hostctl.policy import model
from hostctl.policy.classic import Classic
from pyguest.qtest import DEADLINE, Machine
from pyguest.virtio import ModernDevice, Part

MIB = 1 << 20
RAM = Machine.RAM
STEP = 32 * MIB
HYSTERESIS = 60
FLOOR = 64 * MIB

Event = dict[str, Any]


@pytest.fixture
def group(tmp_path: Path) -> FakeGroup:
    return FakeGroup(tmp_path / "group")


def options(group: FakeGroup, more: str = f",automatic-floor={FLOOR}") -> str:
    return f",automatic=on,memcg-path={group.folder}{more}"


@pytest.fixture
def qemu(qemu_binary: Path, group: FakeGroup) -> Iterator[Machine]:
    with machine(qemu_binary, options=options(group)) as started:
        yield started


def target(qemu: Machine) -> object:
    return qemu.qmp("qom-get", path=PATH, property="target")


def switch(qemu: Machine, on: bool) -> None:
    qemu.qmp("qom-set", path=PATH, property="automatic", value=on)


def changes(qemu: Machine) -> list[Event]:
    """The events of changes since the last call, without their path; one of each 100 ms."""
    found = qemu.events("BALLOON_AUTOMATIC")
    assert all(event.pop("qom-path") == f"{PATH}/virtio-backend" for event in found)
    return found


def one_change(qemu: Machine, reason: str, old: int, new: int) -> None:
    """Exactly this change has been told; and the next will be told at once."""
    assert changes(qemu) == [{"reason": reason, "old": old, "new": new}]
    assert target(qemu) == new
    assert state(qemu)["reason"] == reason
    qemu.step(EVENT_INTERVAL)


def follow(driver: Driver, size: int) -> None:
    """The guest's balloon comes to where the guest has that size."""
    driver.device.config_write(CONFIG_ACTUAL, (RAM - size) // PAGE)


def test_host_pressure_takes_a_step(qemu: Machine, group: FakeGroup) -> None:
    Driver(qemu)
    for step in range(3):
        group.press(qemu)
        one_change(qemu, "host-pressure", RAM - step * STEP, RAM - (step + 1) * STEP)
    assert group.order()[1] == "low"


def test_signals_before_qemu_looks_are_one(qemu: Machine, group: FakeGroup) -> None:
    """The kernel counts; however many it counted, it is one event, as in the seed."""
    Driver(qemu)
    group.signal(qemu, times=7)
    group.press(qemu)
    assert target(qemu) in (RAM - STEP, RAM - 2 * STEP)


@pytest.mark.parametrize(("floor", "sizes"), [
    ("64M", [192, 128, 64, 64]),
    ("100M", [192, 128, 100, 100]),
    (str(100 * MIB - PAGE + 1), [192, 128, 100, 100]),
    ("256M", [256, 256, 256, 256]),
    ("1T", [256, 256, 256, 256]),
    # A quarter of the RAM, and at least 128 MiB.
    ("0", [192, 128, 128, 128]),
])  # fmt: skip
def test_never_below_the_floor(
    qemu_binary: Path, group: FakeGroup, floor: str, sizes: list[int]
) -> None:
    more = f",automatic-floor={floor},automatic-step=64M"
    with machine(qemu_binary, options=options(group, more)) as qemu:
        Driver(qemu)
        found = []
        for _ in sizes:
            group.press(qemu)
            found.append(target(qemu))
        assert found == [size * MIB for size in sizes]
        same = sum(a == b for a, b in zip([256, *sizes], sizes, strict=False))
        assert state(qemu)["host-pressure-skipped"] == same


def test_a_huge_step_does_not_wrap(qemu_binary: Path, group: FakeGroup) -> None:
    more = f",automatic-step={1 << 62},automatic-floor={FLOOR}"
    with machine(qemu_binary, options=options(group, more)) as qemu:
        driver = Driver(qemu)
        group.press(qemu)
        assert target(qemu) == FLOOR
        follow(driver, FLOOR)
        driver.send(le32(LOW))
        assert target(qemu) == RAM


def test_a_message_gives_a_step_back(qemu: Machine, group: FakeGroup) -> None:
    """And never more than there is."""
    driver = Driver(qemu)
    for size in (RAM - STEP, RAM - 2 * STEP):
        group.press(qemu)
        one_change(qemu, "host-pressure", size + STEP, size)
    follow(driver, RAM - 2 * STEP)
    driver.send(le32(LOW))
    one_change(qemu, "guest-pressure", RAM - 2 * STEP, RAM - STEP)
    follow(driver, RAM - STEP)
    driver.send(le32(LOW))
    one_change(qemu, "guest-pressure", RAM - STEP, RAM)
    driver.send(le32(LOW))
    assert changes(qemu) == []


def test_less_than_a_step_is_given_back_whole(qemu: Machine) -> None:
    driver = Driver(qemu)
    switch(qemu, False)
    qemu.qmp("balloon", value=RAM - STEP // 2)
    switch(qemu, True)
    follow(driver, RAM - STEP // 2)
    driver.send(le32(LOW))
    one_change(qemu, "guest-pressure", RAM - STEP // 2, RAM)


def test_a_message_cancels_an_inflation(qemu: Machine, group: FakeGroup) -> None:
    driver = Driver(qemu)
    group.press(qemu)
    one_change(qemu, "host-pressure", RAM, RAM - STEP)
    follow(driver, RAM - 5 * PAGE)
    driver.send(le32(LOW))
    one_change(qemu, "cancel", RAM - STEP, RAM - 5 * PAGE)


def test_an_impossible_actual_does_not_wrap(qemu: Machine, group: FakeGroup) -> None:
    """A guest that claims to have given more than it has only gets steps back."""
    driver = Driver(qemu)
    group.press(qemu)
    driver.device.config_write(CONFIG_ACTUAL, 0xFFFFFFFF)
    for _ in range(3):
        driver.send(le32(LOW))
    assert target(qemu) == RAM


@pytest.mark.parametrize(("messages", "steps"), [
    ((LOW,), 1), ((LOW, MEDIUM), 1), ((LOW, MEDIUM, CRITICAL), 1),
    ((MEDIUM,), 0), ((CRITICAL,), 0), ((99,), 0),
])  # fmt: skip
def test_one_shortage_acts_once(
    qemu: Machine, group: FakeGroup, messages: tuple[int, ...], steps: int
) -> None:
    """A driver at a higher level says low as well. All levels count for the hysteresis."""
    driver = Driver(qemu)
    group.press(qemu)
    group.press(qemu)
    follow(driver, RAM - 2 * STEP)
    driver.send(le32(*messages))
    size = RAM - (2 - steps) * STEP
    assert target(qemu) == size
    group.press(qemu)
    assert target(qemu) == (size - STEP if messages == (99,) else size)


def test_a_pressed_guest_is_spared(qemu: Machine, group: FakeGroup) -> None:
    """Up to and with the end of the hysteresis."""
    driver = Driver(qemu)
    driver.send(le32(LOW))
    for wait in (1, HYSTERESIS - 1):
        group.press(qemu)
        assert target(qemu) == RAM
        qemu.step(wait)
    group.press(qemu)
    assert target(qemu) == RAM
    assert state(qemu)["guest-pressure-age-ms"] == HYSTERESIS * 1000
    assert state(qemu)["host-pressure-skipped"] == 3
    qemu.step(1e-9)
    group.press(qemu)
    assert target(qemu) == RAM - STEP


def test_the_hysteresis_is_a_property(qemu_binary: Path, group: FakeGroup) -> None:
    with machine(qemu_binary, options=options(group, ",automatic-hysteresis-ms=1500")) as qemu:
        Driver(qemu).send(le32(CRITICAL))
        qemu.step(1.5)
        group.press(qemu)
        assert target(qemu) == RAM
        qemu.step(1e-9)
        group.press(qemu)
        assert target(qemu) == RAM - STEP


def test_more_by_hand_is_not_taken_back(qemu: Machine, group: FakeGroup) -> None:
    """The floor is for what happens automatically."""
    Driver(qemu)
    switch(qemu, False)
    qemu.qmp("balloon", value=16 * MIB)
    switch(qemu, True)
    group.press(qemu)
    assert target(qemu) == 16 * MIB
    assert changes(qemu) == []


@pytest.mark.parametrize("accepted", [None, (STATS,), (STATS, MESSAGE)])
def test_not_without_a_driver_that_can_complain(
    qemu: Machine, group: FakeGroup, accepted: tuple[int, ...] | None
) -> None:
    """Before DRIVER_OK, and where the driver has no message queue, the guest is left alone."""
    device = ModernDevice(qemu.qtest, SLOT)
    if accepted is not None:
        device.negotiate(accepted)
        if MESSAGE not in accepted:
            device.start()
    group.press(qemu)
    assert target(qemu) == RAM
    assert state(qemu)["host-pressure-skipped"] == 1
    Driver(qemu)
    group.press(qemu)
    assert target(qemu) == RAM - STEP


@pytest.mark.parametrize("how", ["driver", "system_reset"])
def test_reset_keeps_target_and_age(qemu: Machine, group: FakeGroup, how: str) -> None:
    driver = Driver(qemu)
    group.press(qemu)
    driver.send(le32(MEDIUM))
    if how == "driver":
        driver.device.reset()
    else:
        qemu.qmp("system_reset")
    group.press(qemu)
    assert target(qemu) == RAM - STEP
    Driver(qemu)
    group.press(qemu)
    assert target(qemu) == RAM - STEP
    qemu.step(HYSTERESIS + 1)
    group.press(qemu)
    assert target(qemu) == RAM - 2 * STEP


def test_a_stopped_machine_is_left_alone(qemu: Machine, group: FakeGroup) -> None:
    """What comes meanwhile is not made up for."""
    Driver(qemu)
    qemu.qmp("stop")
    group.press(qemu)
    group.press(qemu)
    qemu.qmp("cont")
    assert target(qemu) == RAM
    assert state(qemu)["host-pressure-skipped"] == 2
    group.press(qemu)
    assert target(qemu) == RAM - STEP


def test_a_broken_device_is_left_alone(qemu: Machine, group: FakeGroup) -> None:
    driver = Driver(qemu)
    driver.queue.add(Part())
    driver.device.kick(driver.index)
    group.press(qemu)
    assert target(qemu) == RAM


def test_not_while_discards_are_inhibited(qemu: Machine, group: FakeGroup) -> None:
    """The guest would lose memory, and the host gain none. What it has, the guest may have back."""
    driver = Driver(qemu)
    group.press(qemu)
    assert target(qemu) == RAM - STEP
    with discards_inhibited(qemu):
        group.press(qemu)
        assert target(qemu) == RAM - STEP
        assert state(qemu)["host-pressure-skipped"] == 1
    group.press(qemu)
    assert target(qemu) == RAM - 2 * STEP
    follow(driver, RAM - 2 * STEP)
    with discards_inhibited(qemu):
        driver.send(le32(LOW))
        assert target(qemu) == RAM - STEP


def test_by_hand_is_refused_while_on(qemu: Machine) -> None:
    with pytest.raises(ExecuteError, match="automatic.*set property 'automatic' of.*to false"):
        qemu.qmp("balloon", value=RAM // 2)
    assert target(qemu) == RAM
    switch(qemu, False)
    qemu.qmp("balloon", value=RAM // 2)
    assert target(qemu) == RAM // 2


def test_switched_at_run_time(qemu_binary: Path, group: FakeGroup) -> None:
    """Off to begin with. A failure to open is the command's, and leaves it off."""
    with machine(qemu_binary, options=f",memcg-path={group.folder}") as qemu:
        driver = Driver(qemu)
        assert state(qemu) == {
            "on": False, "target": RAM, "floor": 128 * MIB,
            "host-pressure-events": 0, "host-pressure-skipped": 0,
        }  # fmt: skip
        switch(qemu, True)
        assert (state(qemu)["on"], state(qemu)["source"]) == (True, "vmpressure")
        group.press(qemu)
        assert target(qemu) == RAM - STEP

        fds = Path(f"/proc/{qemu.process.pid}/fd")
        before = len(list(fds.iterdir()))
        switch(qemu, True)
        assert len(list(fds.iterdir())) == before
        switch(qemu, False)
        assert len(list(fds.iterdir())) == before - 2
        assert "source" not in state(qemu)
        assert target(qemu) == RAM - STEP
        # What the guest says while it is off counts when it is on again.
        driver.send(le32(LOW))
        assert target(qemu) == RAM - STEP

        group.remove()
        with pytest.raises(ExecuteError, match="neither '.*memory.pressure_level'"):
            switch(qemu, True)
        assert state(qemu)["on"] is False
        assert len(list(fds.iterdir())) == before - 2
        FakeGroup(group.folder)
        switch(qemu, True)
        group.press(qemu)
        assert target(qemu) == RAM - STEP


def test_the_group_is_removed(qemu: Machine, group: FakeGroup) -> None:
    """Guests still get memory back, and it can be watched again when it is there again."""
    driver = Driver(qemu)
    group.press(qemu)
    follow(driver, RAM - STEP)
    group.remove()
    group.signal(qemu)
    end = time.monotonic() + DEADLINE
    while "source" in state(qemu):
        assert time.monotonic() < end
    assert "its cgroup is gone" in qemu.log()
    assert (state(qemu)["on"], target(qemu)) == (True, RAM - STEP)
    driver.send(le32(LOW))
    assert target(qemu) == RAM
    FakeGroup(group.folder)
    switch(qemu, True)
    qemu.step(HYSTERESIS + 1)
    group.press(qemu)
    assert target(qemu) == RAM - STEP


def test_changes_are_rate_limited(qemu: Machine, group: FakeGroup) -> None:
    """The first is told at once and the last after the interval: what is told last is true."""
    driver = Driver(qemu)
    for _ in range(4):
        group.press(qemu)
    assert [event["new"] for event in changes(qemu)] == [RAM - STEP]
    follow(driver, RAM - 4 * STEP)
    driver.send(le32(LOW))
    qemu.step(EVENT_INTERVAL - 0.001)
    assert changes(qemu) == []
    qemu.step(0.001)
    assert changes(qemu) == [
        {"reason": "guest-pressure", "old": RAM - 4 * STEP, "new": RAM - 3 * STEP}
    ]
    assert target(qemu) == RAM - 3 * STEP


def test_state_tells_the_ages(qemu: Machine, group: FakeGroup) -> None:
    driver = Driver(qemu)
    group.press(qemu)
    qemu.step(2)
    driver.send(le32(MEDIUM))
    qemu.step(3)
    assert state(qemu) == {
        "on": True, "source": "vmpressure", "target": RAM - STEP, "floor": FLOOR,
        "reason": "host-pressure", "change-age-ms": 5000, "host-pressure-age-ms": 5000,
        "guest-pressure-age-ms": 3000, "host-pressure-events": 1, "host-pressure-skipped": 0,
    }  # fmt: skip


def test_unplugged_while_on(qemu_binary: Path, group: FakeGroup) -> None:
    """The source goes with the device, and the next device has its own."""
    arguments = ["-device", f"pcie-root-port,id=plug,addr={SLOT},chassis=1",
                 # A slot that nobody has powered on is unplugged at once.
                 "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    with Machine(qemu_binary, arguments) as qemu:
        fds = Path(f"/proc/{qemu.process.pid}/fd")
        before = len(list(fds.iterdir()))
        for _ in range(2):
            group.forget()
            qemu.qmp("device_add", driver="virtio-balloon-pci", id="balloon", bus="plug",
                     **{"message-vq": True, "automatic": True, "memcg-path": str(group.folder)})
            group.press(qemu)
            assert state(qemu)["host-pressure-events"] == 1
            group.signal(qemu)
            qemu.qmp("device_del", id="balloon")
            end = time.monotonic() + DEADLINE
            while not qemu.events("DEVICE_DELETED"):
                assert time.monotonic() < end
            assert len(list(fds.iterdir())) == before


@pytest.fixture(scope="module")
def shared(
    qemu_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Machine, FakeGroup]]:
    group = FakeGroup(tmp_path_factory.mktemp("shared") / "group")
    with machine(qemu_binary, options=options(group)) as started:
        yield started, group


happenings = st.lists(st.one_of(
    st.just(("press", 0)),
    st.tuples(st.just("message"), st.sampled_from([LOW, MEDIUM, CRITICAL])),
    st.tuples(st.just("follow"), st.integers(0, RAM // PAGE)),
    st.tuples(st.just("wait"), st.sampled_from([1, HYSTERESIS - 1, HYSTERESIS, HYSTERESIS + 1])),
), min_size=1, max_size=20)  # fmt: skip


@settings(max_examples=40)
@given(happenings)
def test_the_device_decides_as_hostctl(
    shared: tuple[Machine, FakeGroup], happened: list[tuple[str, int]]
) -> None:
    """The rule exists twice, in the device and as hostctl's `classic`: they agree on anything."""
    qemu, group = shared
    levels = {LOW: model.Level.LOW, MEDIUM: model.Level.MEDIUM, CRITICAL: model.Level.CRITICAL}
    rule = Classic(STEP, HYSTERESIS)
    host = model.HostState({"g": model.GuestState("g", RAM, RAM, RAM, FLOOR)})
    now = 0.0

    switch(qemu, False)
    qemu.qmp("balloon", value=RAM)
    switch(qemu, True)
    qemu.step(2 * HYSTERESIS)
    driver = Driver(qemu)
    follow(driver, RAM)
    for what, value in happened:
        event: model.Event | None = None
        if what == "press":
            group.press(qemu)
            event = model.HostPressure(now, model.Level.LOW, "test")
        elif what == "message":
            driver.send(le32(value))
            event = model.GuestMessage(now, "g", levels[value], host.guests["g"].actual)
        elif what == "follow":
            driver.device.config_write(CONFIG_ACTUAL, value)
            event = model.GuestActual(now, "g", RAM - value * PAGE)
        else:
            qemu.step(value)
            now += value
        if event:
            host = host.after(event)
            for decision in rule.decide(host, event):
                host = host.after(model.TargetSent(now, "g", decision.new_target))
        assert target(qemu) == host.guests["g"].target
