# SPDX-License-Identifier: GPL-2.0-or-later
"""An operator steers a daemon with guests: hold, release, set, dry run, reload, faults of parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakeqemu import MIB, RAM, FakeQemu
from test_hostctl_daemon import Host, play, running, started, until

from hostctl import records
from hostctl.config import Bounds
from hostctl.control.client import call
from hostctl.control.protocol import Explain, Hold, Release, Request, SetSize, Status
from hostctl.errors import HostctlError
from hostctl.journal import Journal, Reporter
from hostctl.policy.model import Event, HostState
from hostctl.supervise import supervise


async def ask(host: Host, request: Request) -> dict[str, Any]:
    control = host.folder / "control"
    await until(control.exists)
    return await asyncio.to_thread(call, control, request)


def test_a_held_guest_is_left_alone_until_it_is_released(tmp_path: Path) -> None:
    async def run() -> None:
        a, b = FakeQemu(tmp_path / "a.qmp"), FakeQemu(tmp_path / "b.qmp")
        await started(a, b)
        async with running(tmp_path) as host:
            await host.ready("a", "b")
            await ask(host, Hold("a", "backup runs"))
            host.source.press()
            await until(lambda: b.sent == [RAM - 32 * MIB])
            assert a.sent == []
            assert "held: backup runs" in str((await host.record("refused"))["refusal"])
            status = await ask(host, Status())
            assert {g["name"]: g["held"] for g in status["guests"]} == {
                "a": "backup runs", "b": None,
            }  # fmt: skip
        host.journal.unlink()
        # The hold outlives the daemon, and the guest.
        async with running(tmp_path) as host:
            await host.ready("a")
            await until(lambda: host.daemon.state.guests["a"].held == "backup runs")
            await ask(host, Release("a"))
            with pytest.raises(HostctlError, match="a is not held"):
                await ask(host, Release("a"))
            host.source.press()
            await until(lambda: a.sent == [RAM - 32 * MIB])
        host.journal.unlink()
        async with running(tmp_path) as host:
            await host.ready("a")
            assert host.daemon.state.guests["a"].held is None

    play(run())


def test_the_hold_of_a_guest_that_is_gone_can_be_released(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            await ask(host, Hold("a"))
            a.die()
            await host.record("guest-lost")
            await ask(host, Release("a"))
            await host.record("released", guest="a")
            with pytest.raises(HostctlError, match="a: no such guest"):
                await ask(host, Release("a"))
            again = FakeQemu(tmp_path / "a.qmp")
            await started(again)
            await host.ready("a")
            assert host.daemon.state.guests["a"].held is None

    play(run())


def test_set_goes_by_the_guard_and_holds(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            reply = await ask(host, SetSize("a", RAM - 64 * MIB))
            assert reply["target"] == RAM - 64 * MIB
            await until(lambda: a.sent == [RAM - 64 * MIB])
            decision = await host.record("decision")
            assert decision["reason"] == "operator"
            assert (await host.record("held"))["why"] == "set by an operator"
            # Its own setting is not somebody else's: it stays the operator's hold.
            await asyncio.sleep(1)
            assert len(host.records("held")) == 1
            reply = await ask(host, SetSize("a", 0))  # as far as the largest step
            await until(lambda: a.sent[-1] == reply["target"])
            assert RAM * 3 // 4 - 64 * MIB <= reply["target"] < RAM - 64 * MIB
            assert (await ask(host, SetSize("a", reply["target"])))["target"] == reply["target"]
            a.press()
            await host.record("refused", reason="cancel")
            answer = await ask(host, Explain("a"))
            reasons = [verdict["reason"] for verdict in answer["verdicts"]]
            assert reasons == ["operator", "operator", "cancel"]
            first = answer["verdicts"][0]
            assert first["inputs"]["target"] == RAM == first["old"]
            assert answer["verdicts"][2]["refusal"].startswith("the guest is held")
            with pytest.raises(HostctlError, match="b: no such guest"):
                await ask(host, SetSize("b", RAM))

    play(run())


def test_what_the_guard_refuses_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp")
        a.balloon = False
        await started(a)
        async with running(tmp_path) as host:
            await host.record("guest-added")
            with pytest.raises(HostctlError, match="no balloon device"):
                await ask(host, SetSize("a", RAM // 2))
            assert host.daemon.state.guests["a"].held is None

    play(run())


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        await started(a)
        async with running(tmp_path, dry_run=True) as host:
            await host.ready("a")
            a.press()
            assert (await host.record("decision"))["new"] == 332 * MIB
            reply = await ask(host, SetSize("a", 400 * MIB))
            assert reply["dry_run"] is True and reply["target"] == 400 * MIB
            await asyncio.sleep(0.5)
            assert a.sent == [] and host.daemon.state.guests["a"].target == 300 * MIB
            assert host.daemon.state.guests["a"].held == "set by an operator"
            assert not list(tmp_path.glob("*.holds*")), "the next run would find it"

    play(run())


def test_a_place_that_is_given_again_at_once_keeps_its_guests(tmp_path: Path) -> None:
    """Its old finder ends when the new one is there already."""

    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            config = host.config
            elsewhere = tmp_path / "elsewhere"
            elsewhere.mkdir()
            host.config = replace(config, guests=replace(config.guests, sockets=(elsewhere,)))
            host.daemon.reload()
            host.config = config
            host.daemon.reload()
            await host.record("guest-added", 2, guest="a")
            await host.ready("a")
            a.press()
            await until(lambda: a.sent == [332 * MIB])

    play(run())


def test_reload_moves_folders_and_floors_while_guests_run(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        a, b = FakeQemu(one / "a.qmp"), FakeQemu(two / "b.qmp")
        await started(a, b)
        async with running(tmp_path, sockets=(one,)) as host:
            await host.ready("a")
            guests = replace(host.config.guests, sockets=(one, two))
            bounds = {"a": Bounds(floor=RAM - 16 * MIB)}
            host.config = replace(host.config, guests=guests, bounds=bounds)
            host.daemon.reload()
            await host.ready("b")
            await until(lambda: host.daemon.state.guests["a"].floor == RAM - 16 * MIB)
            host.source.press()
            await until(lambda: a.sent == [RAM - 16 * MIB] and b.sent == [RAM - 32 * MIB])
            host.config = replace(host.config, guests=replace(guests, sockets=(two,)))
            host.daemon.reload()
            assert "not looked at" in str((await host.record("guest-lost"))["why"])
            assert list(host.daemon.state.guests) == ["b"]
            await until(lambda: not a.connected)

    play(run())


def test_a_journal_that_begins_anew_has_what_is_known(tmp_path: Path) -> None:
    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            a.press()
            await until(lambda: a.sent == [332 * MIB])
            await ask(host, Hold("a", "backup runs"))
            state = host.daemon.state
            host.journal.unlink()
            host.daemon.reload()
            first, *others = [json.loads(line) for line in host.journal.read_text().splitlines()]
            assert first["event"] == "continued" and first["policy"] == "classic"
            assert first["settings"]["hysteresis"] == 60 and first["guard"]["stats_age"] == 30
            again = HostState()
            for one in others:
                if one["event"] == "known":
                    event = records.event({**one, "event": one["of"]})
                    assert event is not None
                    again = again.after(event)
            assert again.guests["a"].held == "backup runs" and again.guests["a"].last_message
            assert again.guests == state.guests
            assert others[-1]["event"] == "reload" and "settings" in others[-1]

    play(run())


def test_a_policys_fault_is_told_and_costs_its_decision_alone(tmp_path: Path) -> None:
    class Bad:
        def decide(self, state: HostState, event: Event) -> list[Any]:
            raise KeyError("x")

    async def run() -> None:
        a = FakeQemu(tmp_path / "a.qmp", actual=300 * MIB)
        await started(a)
        async with running(tmp_path) as host:
            await host.ready("a")
            good = host.daemon._core._engine.policy
            host.daemon._core._engine.policy = Bad()
            a.press()
            a.press()
            error = await host.record("error")
            assert error["about"] == "policy classic" and "KeyError" in str(error["message"])
            host.daemon._core._engine.policy = good
            a.press()
            await until(lambda: a.sent == [332 * MIB])
            assert len(host.records("error")) == 1
            assert not host.records("guest-lost")

    play(run())


def test_a_part_that_fails_is_said_once_and_started_again(tmp_path: Path) -> None:
    runs = []

    async def part() -> None:
        runs.append(1)
        raise OSError("out of luck")

    async def run(report: Reporter, ended: Callable[[], bool]) -> None:
        task = asyncio.create_task(supervise("part", part, report, first=0.01, most=0.02))
        await until(ended)
        task.cancel()

    path = tmp_path / "journal"
    with Journal(path) as journal:
        asyncio.run(run(Reporter(journal), lambda: len(runs) > 5))
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert record["about"] == "part" and "out of luck" in record["message"]
