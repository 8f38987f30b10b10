# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl's way to a guest over QMP against our QEMU; the test is the guest's driver."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from balloon import MESSAGE, PATH, SLOT, STATS, machine

from hostctl.guests.keeper import Timing
from hostctl.guests.qmp import QmpGuest
from hostctl.policy.model import Event, GuestRead, Held, StatsRead
from pyguest.qtest import Machine
from pyguest.virtio import ModernDevice, Part

MIB = 1 << 20
SOON = 60.0
E = TypeVar("E")


class Said:
    """A Reporter that nobody reads."""

    def problem(self, about: str, message: str) -> None:
        raise AssertionError(f"{about}: {message}")

    def clear(self, about: str) -> None:
        pass

    def forget(self, about: str) -> None:
        pass


def test_messages_statistics_and_targets_of_others(qemu_binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.qmp"
    events: list[Event] = []

    def all_of(kind: type[E]) -> list[E]:
        return [e for e in events if isinstance(e, kind)]

    async def until(condition: Callable[[], object], qemu: Machine) -> None:
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end, events[-5:]
            await asyncio.to_thread(qemu.step, 0.01)
            await asyncio.sleep(0.02)

    async def story(qemu: Machine) -> None:
        guest = QmpGuest(
            path,
            events.append,
            Said(),  # type: ignore[arg-type]
            Timing(timeout=20.0, refresh=0.2, stats=1.0),
        )
        task = asyncio.create_task(guest.run())
        try:
            await until(lambda: all_of(GuestRead), qemu)
            assert not all_of(GuestRead)[-1].tells and not all_of(StatsRead)

            device = ModernDevice(qemu.qtest, SLOT)
            device.negotiate([STATS, MESSAGE])
            queue = device.queue(2)
            device.start()
            # <linux/virtio_balloon.h>: total, available, stalls, a tag of the future.
            told = [(5, 200 * MIB), (6, 100 * MIB), (11, 3), (99, 1)]
            data = b"".join(struct.pack("<HQ", tag, value) for tag, value in told)
            queue.add(Part(data))
            device.kick(2)
            await until(lambda: all_of(GuestRead)[-1].tells, qemu)
            await until(lambda: all_of(StatsRead), qemu)
            stats = all_of(StatsRead)[-1].stats
            assert (stats.total, stats.available, stats.stalls) == (200 * MIB, 100 * MIB, 3)
            assert stats.free is None

            guest.set_target(200 * MIB)
            await until(lambda: all_of(GuestRead)[-1].target == 200 * MIB, qemu)
            assert not all_of(Held)
            await asyncio.to_thread(qemu.qmp, "balloon", value=150 * MIB)
            await until(lambda: all_of(Held), qemu)
            assert str(150 * MIB) in all_of(Held)[-1].why
            await until(lambda: all_of(GuestRead)[-1].target == 150 * MIB, qemu)
            assert len(all_of(Held)) == 1
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    more = ["-qmp", f"unix:{path},server=on,wait=off"]
    with machine(qemu_binary, [STATS, MESSAGE], more=more) as qemu:
        assert qemu.qmp("qom-get", path=PATH, property="guest-stats-polling-interval") == 0
        asyncio.run(story(qemu))
        assert qemu.qmp("qom-get", path=PATH, property="guest-stats-polling-interval") == 1
