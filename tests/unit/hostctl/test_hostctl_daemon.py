# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon against small QMP servers of our own: guests that work, die, freeze and lie."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from fakeqemu import MIB, QEMUS, RAM, FakeQemu

from hostctl.config import Config, GuestsConfig
from hostctl.daemon import Daemon
from hostctl.journal import Journal
from hostctl.notify import Notifier
from hostctl.policy.model import HOST, Event, HostPressure, Level, PoolLost
from hostctl.pressure.pool import PoolConfig

SOON = 30.0
"""Seconds: a busy machine is no failure."""


class FakeSource:
    """Host pressure that is made by hand."""

    emit: Callable[[Event], None]

    def press(self) -> None:
        self.emit(HostPressure(time.monotonic(), Level.LOW, "fake"))

    def go(self, why: str) -> None:
        self.emit(PoolLost(time.monotonic(), HOST, why))


class Host:
    """A daemon at work, its journal, and its folder of sockets."""

    daemon: Daemon
    config: Config

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.source = FakeSource()

    def records(self, kind: str, **fields: object) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [r for r in found if r["event"] == kind and fields.items() <= r.items()]

    async def ready(self, *guests: str) -> None:
        """Until there are fresh statistics of these guests: without any, none is inflated."""
        await until(
            lambda: all(
                g in self.daemon.state.guests and self.daemon.state.guests[g].stats for g in guests
            )
        )

    async def record(self, kind: str, count: int = 1, **fields: object) -> dict[str, object]:
        await until(lambda: len(self.records(kind, **fields)) >= count)
        return self.records(kind, **fields)[-1]


async def until(condition: Callable[[], bool], seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    folder: Path, *, dry_run: bool = False, **settings: object
) -> AsyncIterator[Host]:
    """A daemon for the QEMUs in `folder`; `settings` are GuestsConfig's."""
    host = Host(folder)
    guests = {"sockets": (folder,), "timeout": 0.6, "refresh": 0.3, "floor": 128 * MIB, **settings}
    host.config = Config(
        GuestsConfig(**guests),  # type: ignore[arg-type]
        pools=(PoolConfig(source="none"),),
        policy="classic",
        control=folder / "control",
    )
    with Journal(host.journal) as journal:
        daemon = Daemon(
            host.config, journal, lambda: host.config, notifier=Notifier({}), dry_run=dry_run
        )
        host.daemon = daemon
        host.source.emit = daemon.emit
        task = asyncio.create_task(daemon.run())
        try:
            await host.record("start")
            yield host
        finally:
            daemon.stop()
            await asyncio.wait_for(task, SOON)
    assert len(host.records("stop")) == 1


async def started(*qemus: FakeQemu) -> None:
    for qemu in qemus:
        await qemu.start()


def play(story: Coroutine[object, object, None]) -> None:
    """Run a test's story, and end its QEMUs afterwards."""

    async def run() -> None:
        try:
            await story
        finally:
            while QEMUS:
                QEMUS.pop().die()
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_two_guests_and_both_directions(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        b = FakeQemu(tmp_path / "b.qmp")
        await started(a, b)
        async with running(tmp_path) as host:
            added = await host.record("guest-added", guest="a")
            assert added["ram"] == RAM and added["target"] == 300 * MIB
            assert added["target_known"] is True
            await host.record("guest-added", guest="b")
            await host.ready("a", "b")
            a.press("low", "medium")
            await until(lambda: a.sent == [332 * MIB])
            await host.record("guest-message", guest="a", level="medium")
            host.source.press()
            await until(lambda: b.sent == [RAM - 32 * MIB])
            assert a.sent == [332 * MIB]  # pressed: not inflated, and medium is no second step
            b.actual = RAM - 8 * MIB
            b.press()
            await until(lambda: b.sent == [RAM - 32 * MIB, RAM - 8 * MIB])
            decisions = host.records("decision")
            assert [(d["guest"], d["reason"], d["old"], d["new"]) for d in decisions] == [
                ("a", "guest-pressure", 300 * MIB, 332 * MIB),
                ("b", "host-pressure", RAM, RAM - 32 * MIB),
                ("b", "cancel", RAM - 32 * MIB, RAM - 8 * MIB),
            ]
            assert decisions[0]["policy"] == "classic"
            b.event("BALLOON_CHANGE", actual=RAM)
            await host.record("actual", guest="b", actual=RAM)

    play(run())


def test_a_burst_makes_a_step_each_until_the_guard_says_no(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            for _ in range(10):
                host.source.press()
            steps = [d["new"] for d in host.records("decision")]
            assert steps[:4] == [RAM - n * 32 * MIB for n in (1, 2, 3, 4)]
            # A quarter of the RAM at once, and the rest at the guard's rate.
            assert all(step > RAM - 160 * MIB for step in steps if isinstance(step, int))
            while not a.sent or a.sent[-1] > 128 * MIB:
                host.source.press()
                await asyncio.sleep(0.05)
            host.source.press()
            await asyncio.sleep(0.1)
            assert min(a.sent) == 128 * MIB  # the floor

    play(run())


def test_started_before_the_guests_and_a_guest_that_dies(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp")
        async with running(tmp_path) as host:
            await asyncio.sleep(0.1)
            await started(a, b)
            await host.record("guest-added", guest="a")
            await host.record("guest-added", guest="b")
            a.die()
            assert "closed" in str((await host.record("guest-lost", guest="a"))["why"])
            await host.ready("b")
            host.source.press()
            await until(lambda: b.sent == [RAM - 32 * MIB])
            assert not host.records("decision", guest="a")
            again = FakeQemu(tmp_path / "a.qmp", actual=400 * MIB)
            await again.start()
            await host.record("guest-added", guest="a", actual=400 * MIB)
            assert not host.records("error")

    play(run())


def test_a_restarted_daemon_goes_on_from_what_it_reads(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=400 * MIB, target=300 * MIB)
        await started(a)
        for expected in (268, 236):
            async with running(tmp_path) as host:
                await host.record("guest-added", 1 if expected == 268 else 2)
                await host.ready("a")
                host.source.press()
                await until(lambda: a.sent[-1:] == [expected * MIB])  # noqa: B023
            (tmp_path / "journal").write_text(
                "".join(f"{json.dumps(r)}\n" for r in host.records("guest-added"))
            )
            assert a.target == expected * MIB  # stopping changes nothing

    play(run())


def test_a_frozen_qemu_delays_nobody_and_is_not_inflated(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp", actual=300 * MIB)
        await started(a, b)
        async with running(tmp_path, timeout=2.0) as host:
            await host.record("guest-added", guest="a")
            await host.record("guest-added", guest="b")
            await host.ready("a", "b")
            a.frozen = True
            host.source.press()
            b.press()
            await until(lambda: b.target == 300 * MIB)
            # That is, while a's time-out still ran.
            assert not [r for r in host.records("guest-silent") if r["guest"] == "a"]
            await host.record("guest-silent", guest="a")
            host.source.press()
            refused = await host.record("refused", guest="a")
            assert "does not answer" in str(refused["refusal"])
            await asyncio.sleep(1.5)
            assert len(host.records("error", about="a")) == 1
            a.frozen = False
            await host.record("guest-read", guest="a", target=RAM)
            host.source.press()
            await until(lambda: a.sent[-1:] == [RAM - 32 * MIB])

    play(run())


def test_frozen_from_the_start(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp", actual=300 * MIB)
        a.frozen = True
        await started(a, b)
        async with running(tmp_path) as host:
            await host.record("guest-added", guest="b")
            b.press()
            await until(lambda: b.sent == [332 * MIB])
            error = await host.record("error", about="a")
            assert "no QMP greeting" in str(error["message"])
            a.frozen = False
            await host.record("guest-added", guest="a")

    play(run())


def test_sockets_that_are_not_qmp_are_told_once(tmp_path: Path) -> None:
    greetings = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"{}\n",
        b"[1]\n",
        b"\xff" * (2 << 20),
        b'{"QMP": 1}\n',
        b"[" * 100_000 + b"\n",
    ]

    async def run() -> None:
        good = FakeQemu(tmp_path / "good.qmp")
        await good.start()
        for number, greeting in enumerate(greetings):
            bad = FakeQemu(tmp_path / f"{number}.qmp")
            bad.greeting = greeting
            await bad.start()
        async with running(tmp_path) as host:
            for number in range(len(greetings)):
                error = await host.record("error", about=str(number))
                assert str(tmp_path / f"{number}.qmp") in str(error["message"])
                assert "not a QMP socket" in str(error["message"])
            await asyncio.sleep(1.5)
            assert len(host.records("error")) == len(greetings)
            await host.ready("good")
            host.source.press()
            await until(lambda: good.sent == [RAM - 32 * MIB])

    play(run())


def test_a_reading_under_way_does_not_undo_a_decision(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await a.start()
        async with running(tmp_path) as host:
            await host.record("guest-added")
            await host.ready("a")
            a.hold = asyncio.Event()
            await until(lambda: a.held)
            host.source.press()
            a.actual = RAM - 4 * MIB
            a.event("BALLOON_CHANGE", actual=a.actual)
            await host.record("actual")
            a.hold.set()
            await until(lambda: a.sent == [RAM - 32 * MIB])
            assert not host.records("guest-read")
            host.source.press()
            await until(lambda: a.sent == [RAM - 32 * MIB, RAM - 64 * MIB])

    play(run())


def test_files_that_are_no_sockets(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "a.qmp").write_text("")
        (tmp_path / "readme").write_text("")
        async with running(tmp_path) as host:
            error = await host.record("error", about="a")
            assert "is not a socket; remove it" in str(error["message"])
            (tmp_path / "a.qmp").unlink()
            a = FakeQemu(tmp_path / "a.qmp")
            await a.start()
            await host.record("guest-added", guest="a")
            assert len(host.records("error")) == 1

    play(run())


def test_hostile_events_and_replies(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB), FakeQemu(tmp_path / "b.qmp")
        await started(a, b)
        async with running(tmp_path) as host:
            await host.record("guest-added", guest="a")
            await host.record("guest-added", guest="b")
            for n in range(20):
                a.event("BALLOON_PRESSURE", level=n, actual=0)
                a.event("BALLOON_CHANGE", actual="big")
            a.event("BALLOON_CHANGE", actual=1 << 60)
            await host.record("actual", guest="a")
            assert len(host.records("error")) == 1
            a.override["query-balloon"] = {"actual": -4096}
            await host.record("guest-silent", guest="a")
            await host.ready("b")
            host.source.press()
            await host.record("refused", guest="a")
            a.raw(b'{"event": \n')
            error = await host.record("error", about="a (QMP)")
            assert "did not speak QMP" in str(error["message"])
            del a.override["query-balloon"]
            await host.record("guest-read", guest="a")
            await until(lambda: b.sent == [RAM - 32 * MIB])

    play(run())


def test_stock_qemu_and_guest_without_balloon(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB, target=200 * MIB, stock=True)
        b = FakeQemu(tmp_path / "b.qmp")
        b.balloon = False
        await started(a, b)
        async with running(tmp_path) as host:
            added = await host.record("guest-added", guest="a")
            assert added["target"] == 300 * MIB and added["target_known"] is False
            added = await host.record("guest-added", guest="b")
            assert added["balloon"] is False
            await host.ready("a")
            host.source.press()
            await until(lambda: a.sent == [268 * MIB])
            await asyncio.sleep(0.5)  # a reading later, the target sent is still the target
            host.source.press()
            await until(lambda: a.sent == [268 * MIB, 236 * MIB])
            b.press()
            await host.record("guest-message", guest="b")
            assert b.sent == []
            b.balloon = True  # plugged in later
            await host.record("guest-read", guest="b", balloon=True)

    play(run())


def test_a_refused_target_is_told_once_and_read_back(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.refuse = True
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            host.source.press()
            error = await host.record("error")
            assert "automatic is on" in str(error["message"])
            await host.record("guest-read", target=RAM)
            a.refuse = False
            host.source.press()
            await until(lambda: a.sent == [RAM - 32 * MIB])

    play(run())


def test_a_source_that_goes_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        await started(a)
        async with running(tmp_path) as host:
            await host.record("guest-added")
            host.source.go("the group was removed")
            assert (await host.record("pool-lost"))["pool"] == HOST
            a.press()
            await until(lambda: a.sent == [332 * MIB])

    play(run())


def test_folder_that_goes_and_returns(tmp_path: Path) -> None:
    async def run() -> None:
        folder = tmp_path / "sockets"
        folder.mkdir()
        async with running(tmp_path, sockets=(folder,)) as host:
            folder.rmdir()
            await host.record("error", about=str(folder))
            folder.mkdir()
            a = FakeQemu(folder / "a.qmp")
            await a.start()
            await host.record("guest-added", guest="a")

    play(run())


def test_command_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    args = ["--sockets", str(tmp_path), "--journal", str(journal), "--pressure", "none",
            "--control", str(tmp_path / "control")]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "hostctl", "run", *args],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(SOON) == 0
    assert b"policy transfer" in first and rest == b""
    events = [json.loads(line)["event"] for line in journal.read_text().splitlines()]
    assert [event for event in events if event != "pool"] == ["start", "stop"]
