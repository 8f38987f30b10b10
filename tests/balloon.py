# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's balloon device in a machine without a guest, and its driver's side."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from qemu.qmp import ExecuteError

from pyguest.qtest import DEADLINE, Machine, QTest, has_property, without_ioeventfd
from pyguest.virtio import ModernDevice, Part

HEADER = (
    Path(__file__).parents[1] / "kmod" / "include" / "uapi" / "linux" / "virtio_balloon_message.h"
)
NUMBERS = {
    name: int(value)
    for name, value in re.findall(r"^#define\s+(\w+)\s+(\d+)", HEADER.read_text(), re.MULTILINE)
}
MESSAGE = NUMBERS["VIRTIO_BALLOON_F_MESSAGE_VQ"]
LOW = NUMBERS["VIRTIO_BALLOON_MSG_PRESSURE"]
MEDIUM = NUMBERS["VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM"]
CRITICAL = NUMBERS["VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL"]
LEVELS = {LOW: "low", MEDIUM: "medium", CRITICAL: "critical"}

# <linux/virtio_balloon.h>
STATS, HINT, REPORTING = 1, 3, 5
OPTIONAL = (STATS, HINT, REPORTING, MESSAGE)
"""Features with a queue, in the order of the queues."""
CONFIG_ACTUAL = 4
PAGE = 4096

PER_BUFFER = 16
"""Messages that the device reads from one buffer."""

PER_PERIOD, PERIOD = 8, 0.1
"""Buffers of messages that the device reads in so many seconds of the guest's clock."""

EVENT_INTERVAL = 0.1
"""Seconds between two events of a kind: the rate limit of the monitor."""

SLOT = 4
PATH = "/machine/peripheral/balloon"


@contextmanager
def machine(
    binary: Path,
    offered: Sequence[int] = (MESSAGE,),
    *,
    options: str = "",
    incoming: str = "",
    accel: str = "qtest",
    ram: Path | None = None,
    more: Sequence[str] = (),
) -> Iterator[Machine]:
    """A machine whose balloon offers these queues; statistics are always offered.

    `options` are the balloon's, `more` are QEMU's. Memory is the file `ram`, or QEMU's own.
    """
    names = {HINT: "free-page-hint", REPORTING: "free-page-reporting", MESSAGE: "message-vq"}
    device = f"virtio-balloon-pci,id=balloon,addr={SLOT},iothread=io{options}"
    for bit in offered:
        if bit != STATS:
            device += f",{names[bit]}=on"
    arguments = ["-object", "iothread,id=io", "-device", device, *more]
    if incoming:
        arguments += ["-incoming", incoming]
    if ram:
        size = Machine.RAM
        arguments += ["-machine", "memory-backend=ram", "-object",
                      f"memory-backend-file,id=ram,share=on,size={size},mem-path={ram}"]
    with Machine(binary, arguments, accel=accel) as qemu:
        yield qemu


@contextmanager
def discards_inhibited(qemu: Machine) -> Iterator[None]:
    """While a machine that runs is saved, its memory must not go before it was.

    Of what inhibits discards this alone needs no hardware and no second QEMU.
    """
    capability = [{"capability": "background-snapshot", "state": True}]
    try:
        qemu.qmp("migrate-set-capabilities", capabilities=capability)
    except ExecuteError as error:
        pytest.skip(f"userfaultfd: {error}")
    # Takes longer than what is done meanwhile.
    qemu.qmp("migrate-set-parameters", **{"max-bandwidth": 64 << 10})
    qemu.qmp("migrate", uri="exec:cat >/dev/null")

    def migration() -> dict[str, object]:
        reply = qemu.qmp("query-migrate")
        assert isinstance(reply, dict)
        return reply

    def pages() -> int:
        ram = migration().get("ram", {})
        assert isinstance(ram, dict)
        return ram.get("normal", 0) + ram.get("duplicate", 0)

    # It was stopped for a moment, before the first page.
    end = time.monotonic() + DEADLINE
    while not pages():
        if migration()["status"] == "failed":
            pytest.skip(f"no background snapshot here, userfaultfd: {qemu.log()}")
        assert time.monotonic() < end, migration()
    qemu.wait_for("query-status", status="running")
    yield
    assert migration()["status"] == "active"
    qemu.qmp("migrate_cancel")
    qemu.wait_for("query-migrate", status="cancelled")


def ioeventfd(binary: Path, value: str) -> str:
    """Option of a balloon whose kicks come by an eventfd ("on") or not ("off")."""
    if value == "off":
        return without_ioeventfd(binary)
    if not has_property(binary, "ioeventfd"):
        pytest.skip("this QEMU's virtio-balloon-pci has no property ioeventfd, "
                    "and never uses an eventfd")
    return f",ioeventfd={value}"


def queue_index(feature: int, accepted: Sequence[int]) -> int:
    """The protocol: inflate, deflate, then the queues that were negotiated."""
    return 2 + [bit for bit in OPTIONAL if bit in accepted].index(feature)


class Played(Protocol):
    """A QEMU whose CPU a test plays."""

    qtest: QTest


class Driver:
    """A modern driver that accepts `accepted` and has its message queue set up."""

    def __init__(self, qemu: Played, accepted: Sequence[int] = (STATS, MESSAGE)) -> None:
        self.device = ModernDevice(qemu.qtest, SLOT)
        self.device.negotiate(accepted)
        self.index = queue_index(MESSAGE, accepted)
        self.queue = self.device.queue(self.index)
        self.device.start()

    def send(self, *parts: Part) -> None:
        """One buffer of these descriptors; returns when the device has used it."""
        self.queue.add(*parts)
        self.device.kick(self.index)
        self.queue.wait()


def le32(*messages: int) -> Part:
    return Part(struct.pack(f"<{len(messages)}I", *messages))


def counters(qemu: Machine) -> dict[str, int]:
    reply = qemu.qmp("qom-get", path=PATH, property="message-stats")
    assert isinstance(reply, dict)
    return reply


def counted(qemu: Machine) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: value for name, value in counters(qemu).items() if value}


def levels(qemu: Machine) -> list[str]:
    """The levels of the events since the last call, those that the rate limit held back as well.

    Of each level the first message is told at once, and the last after the interval.
    """
    qemu.step(2 * EVENT_INTERVAL)
    return [event["level"] for event in qemu.events("BALLOON_PRESSURE")]


def guest_stats(qemu: Machine) -> dict[str, int]:
    qemu.qmp("query-status")  # the kick has been handled when this is answered
    reply = qemu.qmp("qom-get", path=PATH, property="guest-stats")
    assert isinstance(reply, dict)
    stats = reply["stats"]
    assert isinstance(stats, dict)
    return stats
