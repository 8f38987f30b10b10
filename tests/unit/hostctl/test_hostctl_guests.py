# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests over QMP: statistics, holds, connections that break, and QEMUs that mean harm."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fakeqemu import MIB, QEMUS, RAM, FakeQemu, Said

from hostctl.guests.folder import Folder
from hostctl.guests.keeper import Timing
from hostctl.guests.names import Names
from hostctl.guests.qmp import QmpGuest
from hostctl.guests.wire import LINE_MOST, LINES_BURST, LINES_RATE
from hostctl.policy.model import (
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Held,
    Level,
    StatsRead,
)

SOON = 30.0
"""Seconds: a busy machine is no failure."""
E = TypeVar("E")


class Host:
    """A folder of guests, and what they emit."""

    def __init__(self, folder: Path, timing: Timing) -> None:
        self.events: list[Event] = []
        self.said = Said()
        self.names = Names()
        self.folder = Folder(
            folder,
            lambda path: QmpGuest(
                path,
                self.events.append,
                self.said,
                timing,
                lambda pid: f"pool of {pid}",
            ),
            self.said,
            self.names,
            period=0.05,
        )

    def all(self, kind: type[E], guest: str = "a") -> list[E]:
        return [e for e in self.events if isinstance(e, kind) and getattr(e, "guest", "") == guest]

    async def one(self, kind: type[E], count: int = 1, guest: str = "a") -> E:
        await until(lambda: len(self.all(kind, guest)) >= count)
        return self.all(kind, guest)[-1]

    def set(self, target: int, guest: str = "a") -> None:
        self.folder.guests[guest].set_target(target)


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(folder: Path, **timing: float) -> AsyncIterator[Host]:
    usual = {"timeout": 5.0, "refresh": 0.2, "stats": 2.0, "retry_first": 0.1, "grace": 30.0}
    host = Host(folder, Timing(**{**usual, **timing}))
    task = asyncio.create_task(host.folder.run())
    try:
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(story: Coroutine[object, object, None]) -> None:
    async def run() -> None:
        try:
            await story
        finally:
            while QEMUS:
                QEMUS.pop().die()
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_statistics_come_at_once_and_again(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.stats |= {"stat-alloc-stalls": 7, "stat-async-scans": 8192, "stat-of-the-future": "?"}
        await a.start()
        async with watching(tmp_path, stats=0.5) as host:
            first = await host.one(StatsRead)
            assert a.interval == 1  # QEMU polls in whole seconds
            stats = first.stats
            assert (stats.total, stats.available, stats.stalls) == (RAM, RAM // 2, 7)
            assert stats.swap_in is None and stats.free is None and stats.scanned == 2
            assert stats.time <= first.time
            second = await host.one(StatsRead, 2)
            assert second.stats.time >= stats.time
            kinds = [type(e) for e in host.events]
            assert kinds.index(GuestRead) < kinds.index(StatsRead)

    play(run())


def test_a_driver_that_does_not_answer_has_no_new_statistics(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.driver = False
        await a.start()
        async with watching(tmp_path, stats=0.2) as host:
            await host.one(GuestRead, 5)
            assert not host.all(StatsRead)
            a.driver = True
            await host.one(StatsRead)
            a.driver = False
            count = len(host.all(StatsRead))
            a.interval = 0  # switched off by somebody else: it is switched on again
            await until(lambda: a.interval == 1)
            assert len(host.all(StatsRead)) == count

    play(run())


def test_statistics_that_lie_are_told_once(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path, refresh=3600.0, stats=0.1) as host:
            await host.one(StatsRead)
            for size in (RAM + 1, RAM + 2, -5, "much", 1.5):
                a.stats["stat-free-memory"] = size
                count = a.asked["qom-get"]
                await until(lambda count=count: a.asked["qom-get"] >= count + 3)  # type: ignore[misc]
            assert len(host.said.problems) == 1
            assert "stat-free-memory" in host.said.problems[0][1]

    play(run())


def test_what_a_guest_is_like(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        b = FakeQemu(tmp_path / "b.qmp", stock=True)
        a.messages = False
        await a.start()
        await b.start()
        async with watching(tmp_path) as host:
            read = await host.one(GuestRead)
            assert (read.tells, read.target_known) == (False, True)
            assert read.pool == f"pool of {os.getpid()}"
            assert read.pid == os.getpid()
            read = await host.one(GuestRead, guest="b")
            assert (read.tells, read.target_known) == (False, False)
            await host.one(StatsRead, guest="b")  # stock QEMU has them too
            a.messages = True  # another driver is loaded
            await until(lambda: host.all(GuestRead)[-1].tells)

    play(run())


def test_a_target_set_by_somebody_else_is_told_once(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", target=400 * MIB)
        await a.start()
        async with watching(tmp_path) as host:
            assert (await host.one(GuestRead)).target == 400 * MIB  # at first it is as it is
            host.set(300 * MIB)
            await until(lambda: a.sent == [300 * MIB])
            await host.one(GuestRead, len(host.all(GuestRead)) + 3)
            assert not host.all(Held)
            a.target = 350 * MIB
            held = await host.one(Held)
            assert "by hand" in held.why and str(350 * MIB) in held.why
            await host.one(GuestRead, len(host.all(GuestRead)) + 3)
            assert len(host.all(Held)) == 1 and host.all(GuestRead)[-1].target == 350 * MIB
            host.set(320 * MIB)  # released: it goes on from there
            await until(lambda: a.sent == [300 * MIB, 320 * MIB])
            await host.one(GuestRead, len(host.all(GuestRead)) + 3)
            assert len(host.all(Held)) == 1

    play(run())


def test_a_target_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path, refresh=3600.0) as host:
            await host.one(StatsRead)
            a.target = 350 * MIB
            host.set(300 * MIB)
            await host.one(Held)
            await asyncio.sleep(0.2)
            assert a.sent == [] and a.target == 350 * MIB
            assert host.all(GuestRead)[-1].target == 350 * MIB

    play(run())


def test_an_event_shows_a_foreign_target_before_the_next_reading(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        b = FakeQemu(tmp_path / "b.qmp", stock=True)
        await a.start()
        await b.start()
        async with watching(tmp_path, refresh=3600.0) as host:
            await host.one(StatsRead)
            await host.one(StatsRead, guest="b")
            a.target = 350 * MIB
            a.event("BALLOON_CHANGE", actual=RAM - 4096)
            assert "by hand" in (await host.one(Held)).why
            host.set(400 * MIB, "b")
            await until(lambda: b.sent == [400 * MIB])

    play(run())


def test_a_stock_guest_that_shrinks_below_our_target_is_held(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", stock=True)
        await a.start()
        async with watching(tmp_path) as host:
            await host.one(GuestRead, 3)
            host.set(400 * MIB)
            await until(lambda: a.sent == [400 * MIB])
            for size in (450, 400, 400, 400):
                a.actual = size * MIB
                await host.one(GuestRead, len(host.all(GuestRead)) + 2)
            assert not host.all(Held)
            a.actual = 390 * MIB
            a.event("BALLOON_CHANGE", actual=a.actual)
            assert str(390 * MIB) in (await host.one(Held)).why
            a.actual = 380 * MIB
            await until(lambda: host.all(GuestRead)[-1].target == 380 * MIB)
            assert len(host.all(Held)) == 1

    play(run())


def test_a_qemu_that_sizes_its_guest_itself_is_held(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        b = FakeQemu(tmp_path / "b.qmp")
        a.automatic = True
        await a.start()
        await b.start()
        async with watching(tmp_path) as host:
            assert "automatic=on" in (await host.one(Held)).why
            kinds = [type(e) for e in host.events if getattr(e, "guest", "") == "a"]
            assert kinds.index(GuestRead) < kinds.index(Held)
            await host.one(GuestRead, guest="b")
            b.automatic = b.refuse = True
            await host.one(GuestRead, len(host.all(GuestRead, "b")) + 2, "b")
            host.set(400 * MIB, "b")
            assert "automatic=on" in (await host.one(Held, guest="b")).why

    play(run())


def test_a_short_break_is_a_silence_and_not_a_loss(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path) as host:
            await host.one(GuestRead)
            a.hang_up()
            await host.one(GuestSilent)
            a.target = 350 * MIB  # by hand, meanwhile
            await host.one(Held)
            assert not host.all(GuestLost)
            a.hang_up()
            await host.one(GuestSilent, 2)
            await host.one(GuestRead, len(host.all(GuestRead)) + 2)
            assert len(host.all(Held)) == 1 and not host.all(GuestLost)

    play(run())


def test_a_break_that_lasts_and_another_qemu_are_losses(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp")
        await a.start()
        await b.start()
        async with watching(tmp_path, grace=0.3, timeout=0.5) as host:
            await host.one(GuestRead)
            await host.one(GuestRead, guest="b")
            a.frozen = True
            a.hang_up()
            await host.one(GuestLost)
            assert len(host.all(GuestSilent)) == 1
            a.frozen = False
            await host.one(GuestRead, len(host.all(GuestRead)) + 1)
            b.die()
            await host.one(GuestLost, guest="b")
            again = FakeQemu(tmp_path / "b.qmp", target=200 * MIB)
            await again.start()
            await until(lambda: host.all(GuestRead, "b")[-1].target == 200 * MIB)
            assert not host.all(Held, "b")

    play(run())


def test_relief_is_not_lost_on_a_frozen_qemu(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", target=300 * MIB)
        b = FakeQemu(tmp_path / "b.qmp")
        await a.start()
        await b.start()
        async with watching(tmp_path, timeout=0.5, refresh=0.3) as host:
            await host.one(GuestRead)
            await host.one(GuestRead, guest="b")
            a.frozen = b.frozen = True
            host.set(400 * MIB)
            host.set(400 * MIB, "b")
            await host.one(GuestSilent)
            await host.one(GuestSilent, guest="b")
            a.frozen = b.frozen = False
            await until(lambda: a.sent == [400 * MIB])
            await host.one(GuestRead, len(host.all(GuestRead, "b")) + 3, "b")
            # To take memory was decided on what was true before: what it had, in case that QEMU
            # gets to that command as well.
            assert b.sent == [RAM]

    play(run())


def test_relief_is_given_as_soon_as_a_qemu_answers_again(tmp_path: Path) -> None:
    async def run(**timing: float) -> None:
        a = FakeQemu(tmp_path / "a.qmp", target=300 * MIB)
        await a.start()
        async with watching(tmp_path, timeout=0.3, refresh=3600.0, **timing) as host:
            await host.one(GuestRead)
            a.frozen = True
            host.set(400 * MIB)
            await host.one(GuestSilent)
            a.frozen = False
            await until(lambda: a.sent == [400 * MIB])

    play(run(stats=3600.0, retry_most=0.3))
    play(run(stats=0.3, retry_most=3600.0))  # statistics show it as well


def test_a_qemu_that_refuses_to_be_read_is_not_asked_without_a_pause(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", target=300 * MIB)
        await a.start()
        long = {"refresh": 3600.0, "stats": 3600.0, "retry_most": 3600.0}
        async with watching(tmp_path, **long) as host:
            await host.one(GuestRead)
            a.broken = {"query-memory-size-summary"}
            a.event("BALLOON_CHANGE", actual=RAM + MIB)  # it calls for a reading
            await host.one(GuestSilent)
            a.asked.clear()
            host.set(400 * MIB)
            await asyncio.sleep(1)
            # At once, and whenever it answers a question for statistics.
            assert a.asked["query-memory-size-summary"] <= 1 + a.asked["qom-get"]
            a.broken = set()
            a.hang_up()
            await until(lambda: a.sent == [400 * MIB])

    play(run())


def test_relief_is_not_lost_with_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", target=300 * MIB)
        await a.start()
        async with watching(tmp_path) as host:
            await host.one(GuestRead)
            a.ends_at = "balloon"
            host.set(400 * MIB)
            await until(lambda: a.sent == [400 * MIB])
            # Of another QEMU it is not.
            a.ends_at = "balloon"
            host.set(410 * MIB)
            await until(lambda: a.ends_at is None)
            a.die()
            again = FakeQemu(tmp_path / "a.qmp", target=300 * MIB)
            await again.start()
            await until(lambda: host.all(GuestRead)[-1].target == 300 * MIB)
            await host.one(GuestRead, len(host.all(GuestRead)) + 2)
            assert again.sent == []

    play(run())


def test_a_target_from_before_memory_was_plugged_in_is_no_refusal(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=450 * MIB)
        await a.start()
        async with watching(tmp_path, refresh=3600.0, stats=3600.0) as host:
            await host.one(GuestRead)
            a.override["query-memory-size-summary"] = {"base-memory": RAM + 128 * MIB}
            a.actual = a.target = 578 * MIB
            host.set(480 * MIB)
            read = await host.one(GuestRead, 2)
            assert (read.ram, read.target) == (RAM + 128 * MIB, 578 * MIB)
            await asyncio.sleep(0.1)
            assert a.sent == [] and not host.said.problems and not host.all(Held)

    play(run())


def test_refused_targets_are_told_once(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.broken = {"balloon"}  # QEMU's text is another each time
        await a.start()
        async with watching(tmp_path) as host:
            await host.one(GuestRead)
            for target in range(400, 405):
                host.set(target * MIB)
                await until(lambda: a.asked["balloon"] == target - 399)  # noqa: B023
            await host.one(GuestRead, len(host.all(GuestRead)) + 1)
            assert [about for about, _ in host.said.problems] == ["a (balloon)"]

    play(run())


def test_a_reply_of_another_qemu_about_the_driver_hinders_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.override["x-query-virtio-status"] = {"features": {}}
        await a.start()
        async with watching(tmp_path) as host:
            read = await host.one(GuestRead, 3)
            assert not read.tells and read.target_known
            host.set(400 * MIB)
            await until(lambda: a.sent == [400 * MIB])
            assert not host.all(GuestSilent)
            ((about, why),) = host.said.problems
            assert about == "a (driver)" and "x-query-virtio-status" in why

    play(run())


def test_nothing_is_remembered_of_a_guest_that_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        async with watching(tmp_path, stats=0.1) as host:
            for count in (1, 2, 3):
                a = FakeQemu(tmp_path / "a.qmp")
                a.stats["stat-free-memory"] = "much"
                await a.start()
                await until(lambda: len(host.said.problems) == count)  # noqa: B023
                a.die()
                if count == 2:  # another takes its place at once
                    continue
                await until(lambda: not host.folder.guests)
                assert not host.said._said

    play(run())


def test_a_flood_costs_the_flooder_alone(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp")
        await a.start()
        await b.start()
        async with watching(tmp_path) as host:
            await host.one(StatsRead)
            await host.one(StatsRead, guest="b")
            data = {"level": "low", "actual": RAM}
            line = json.dumps({"event": "BALLOON_PRESSURE", "data": data}).encode() + b"\n"
            begun = time.monotonic()
            flood = asyncio.create_task(a.flood(line * 1000))
            for step in range(100):
                target = (300 + step) * MIB
                host.set(target, "b")
                await until(lambda: b.sent[-1:] == [target])  # noqa: B023
            passed = time.monotonic() - begun
            heard = len(host.all(GuestMessage))
            assert 0 < heard <= LINES_BURST + LINES_RATE * passed
            # What is not heard has not been read either, but for what buffers hold.
            assert a.flooded - heard * len(line) < 4 * MIB
            flood.cancel()
            assert not host.all(GuestSilent, "b")

    play(run())


def test_lines_that_never_end_and_nonsense_are_told_once(tmp_path: Path) -> None:
    nonsense = [
        b"x" * (4 * LINE_MOST),
        b'{"event": "BALLOON_CHANGE", "data": {"actual": 4' + b"0" * 5000 + b"}}\n",
        b"[" * (LINE_MOST // 2) + b"\n",
        b'{"a":' * 20_000 + b"\n",
        b'{"event": "BALLOON_PRESS\n',
        b"\0\xff\n",
        b'{"return": NaN}\n[1, 2]\n',
        b'{"error": {}}\n',
    ]

    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp")
        await a.start()
        await b.start()
        async with watching(tmp_path) as host:
            await host.one(GuestRead)
            for number, one in enumerate(nonsense):
                await until(lambda: host.folder.guests["a"].up and a.connected)
                a.raw(one)
                await host.one(GuestSilent, number + 1)
            await host.one(GuestRead, len(host.all(GuestRead)) + 1)
            target = (300 + len(nonsense)) * MIB
            host.set(target, "b")
            await until(lambda: b.sent == [target])
            assert not host.all(GuestLost) and not host.all(GuestSilent, "b")
            assert all("did not speak QMP" in said for _, said in host.said.problems)
            assert len(host.said.problems) == 1

    play(run())


def test_an_event_split_over_many_writes_is_one(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path, refresh=3600.0, stats=3600.0) as host:
            await host.one(StatsRead)  # nothing is asked for now that is answered in between
            data = {"level": "critical", "actual": RAM - MIB}
            for byte in json.dumps({"event": "BALLOON_PRESSURE", "data": data}).encode() + b"\n":
                a.raw(bytes([byte]))
                await asyncio.sleep(0)
            assert (await host.one(GuestMessage)).level is Level.CRITICAL
            a.event("BALLOON_CHANGE", actual=RAM - MIB)
            assert (await host.one(GuestActual)).actual == RAM - MIB

    play(run())


def test_a_name_has_one_owner(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path) as host:
            host.names.claim("b", "elsewhere")
            b = FakeQemu(tmp_path / "b.qmp")
            await b.start()
            await until(lambda: bool(host.said.problems))
            await host.one(GuestRead, 5)
            assert len(host.said.problems) == 1 and "elsewhere" in host.said.problems[0][1]
            assert not b.connected
            b.die()
            await until(lambda: not host.said._said)
            b = FakeQemu(tmp_path / "b.qmp")
            await b.start()
            await until(lambda: len(host.said.problems) == 2)
            host.names.release("b", "elsewhere")
            await host.one(GuestRead, guest="b")

    play(run())


def test_a_guest_that_is_attended_to_is_read_often(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with watching(tmp_path, stats=3600.0, stats_closely=0.5) as host:
            await host.one(StatsRead)
            assert 2880 <= a.interval <= 3600
            host.folder.guests["a"].attend(closely=True)
            await host.one(StatsRead, 3)
            assert a.interval == 1
            a.interval = 0  # it may have been switched off by somebody else
            a.driver = False
            await until(lambda: a.interval == 1)
            host.folder.guests["a"].attend(closely=False)
            await until(lambda: a.interval > 1)

    play(run())
