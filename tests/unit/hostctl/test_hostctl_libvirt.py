# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of a libvirt: its own driver for tests, what it says, and calls that block."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from fakeqemu import Said
from hypothesis import given
from hypothesis import strategies as st

from hostctl.errors import QmpDataError
from hostctl.guests import domain
from hostctl.guests import libvirt as finder
from hostctl.guests.keeper import Timing
from hostctl.guests.libvirt import Libvirt, is_local, pid_files
from hostctl.guests.libvirt_watch import Found, Listener
from hostctl.guests.names import Names
from hostctl.guests.workers import Workers
from hostctl.policy.model import (
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    Level,
    Stats,
    StatsRead,
)

libvirt = pytest.importorskip("libvirt", reason="no libvirt-python")

MIB = 1 << 20
RAM = 256 * MIB
SOON = 30.0
E = TypeVar("E")
URI = "test:///default"
XML = """
<domain type='test'>
  <name>{name}</name><memory unit='MiB'>256</memory><os><type>hvm</type></os>
  <devices><memballoon model='{model}'/></devices>
</domain>
"""


class Host:
    """A libvirt that is watched, and what its guests emit."""

    def __init__(self, uri: str) -> None:
        self.events: list[Event] = []
        self.said = Said()
        self.names = Names()
        timing = Timing(refresh=0.2, stats=0.2, retry_first=0.1, timeout=10.0)
        self.finder = Libvirt(
            uri,
            self.events.append,
            self.said,
            timing,
            lambda pid: f"pool of {pid}",
            self.names,
        )

    def all(self, kind: type[E], guest: str) -> list[E]:
        return [e for e in self.events if isinstance(e, kind) and getattr(e, "guest", "") == guest]


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(uri: str = URI) -> AsyncIterator[Host]:
    host = Host(uri)
    task = asyncio.create_task(host.finder.run())
    try:
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(story: Coroutine[object, object, None]) -> None:
    asyncio.run(story)


def test_domains_come_go_and_get_targets() -> None:
    async def run() -> None:
        async with watching() as host:
            await until(lambda: host.all(GuestRead, "test"))  # the driver's own
            connection = libvirt.open(URI)
            made = connection.createXML(XML.format(name="a", model="virtio"), 0)
            bare = connection.createXML(XML.format(name="bare", model="none"), 0)
            try:
                await until(lambda: host.all(GuestRead, "a"))
                read = host.all(GuestRead, "a")[0]
                assert (read.ram, read.actual, read.balloon) == (RAM, RAM, True)
                assert (read.target_known, read.tells) == (False, False)
                host.finder.guests["a"].set_target(128 * MIB)
                await until(lambda: made.info()[2] == 128 << 10)
                await until(lambda: host.all(GuestRead, "a")[-1].target == 128 * MIB)
                await until(lambda: host.all(GuestRead, "bare"))
                assert not host.all(GuestRead, "bare")[0].balloon
                host.finder.guests["bare"].set_target(64 * MIB)
                count = len(host.all(GuestRead, "bare"))
                await until(lambda: len(host.all(GuestRead, "bare")) > count + 2)
                assert bare.info()[2] == RAM >> 10
            finally:
                made.destroy()
                bare.destroy()
            await until(lambda: host.all(GuestLost, "a"))
            assert "a" not in host.finder.guests
            assert host.names.claim("a", "somebody else") is None
            # The driver has no events of QEMU's monitor: that is told.
            assert [about for about, _ in host.said.problems] == [f"{URI} (events)"]

    play(run())


def test_a_name_that_is_taken_is_told_once_and_left_alone() -> None:
    async def run() -> None:
        async with watching() as host:
            await until(lambda: host.all(GuestRead, "test"))
            host.names.claim("b", "/run/sockets")
            connection = libvirt.open(URI)
            made = connection.createXML(XML.format(name="b", model="virtio"), 0)
            try:
                await until(lambda: any("/run/sockets" in why for _, why in host.said.problems))
                assert "b" not in host.finder.guests
                made.destroy()
                about = f"{URI} (b)"
                assert about in host.said._said
                await until(lambda: about not in host.said._said)
                made = connection.createXML(XML.format(name="b", model="virtio"), 0)
                await until(lambda: about in host.said._said)
                host.names.release("b", "/run/sockets")
                await until(lambda: host.all(GuestRead, "b"))
            finally:
                made.destroy()

    play(run())


def test_messages_and_changes_reach_the_guest() -> None:
    async def run() -> None:
        async with watching() as host:
            await until(lambda: host.finder.guests and host.all(GuestRead, "test"))
            guest = host.finder.guests["test"]
            guest.on_event("BALLOON_PRESSURE", '{"level": "critical", "actual": 4096}')
            message = host.all(GuestMessage, "test")[0]
            assert message.level is Level.CRITICAL
            host.finder.on_balloon(guest.found.uuid, 8192)
            assert host.all(GuestActual, "test")[0].actual == 8192
            for details in ("", "[" * 3000, "[" * 5000, "7" * 4000, '{"level": 1}', "{}"):
                guest.on_event("BALLOON_PRESSURE", details)
            assert len(host.all(GuestMessage, "test")) == 1
            assert len([1 for about, _ in host.said.problems if about == "test (event)"]) == 1
            host.finder.on_balloon("of nobody", 1)

    play(run())


def test_a_libvirt_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    async def run() -> None:
        uri = f"qemu+unix:///session?socket={tmp_path}/none"
        async with watching(uri) as host:
            await until(lambda: host.said.problems)
            await asyncio.sleep(1)
            assert len(host.said.problems) == 1 and host.said.problems[0][0] == uri

    play(run())


class SlowWatch:
    """A Watch whose libvirtd is frozen until `gate` is set."""

    gate: threading.Event
    all: list[SlowWatch]
    begun: list[Listener]

    def __init__(self, uri: str, listener: Listener) -> None:
        self.begun.append(listener)
        self.gate.wait(SOON)
        self.missing = None
        self.listener = listener
        self.closed = False
        self.all.append(self)

    def running(self) -> list[Found]:
        return []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[SlowWatch]:
    monkeypatch.setattr(SlowWatch, "gate", threading.Event(), raising=False)
    monkeypatch.setattr(SlowWatch, "all", [], raising=False)
    monkeypatch.setattr(SlowWatch, "begun", [], raising=False)
    monkeypatch.setattr(finder, "Watch", SlowWatch)
    monkeypatch.setattr(finder, "OPEN", 0.02)
    return SlowWatch


def test_a_frozen_libvirt_is_connected_to_once(slow: type[SlowWatch]) -> None:
    async def run() -> None:
        async with watching() as host:
            await until(lambda: host.said.problems)
            await asyncio.sleep(0.5)
            assert len(slow.begun) == 1
            slow.gate.set()
            await until(host.finder._connected.is_set)
            (one,) = slow.all
            looks = []
            host.finder.on_life = lambda: looks.append(1)  # type: ignore[method-assign]
            one.listener.on_life()
            await until(lambda: looks)
            # It breaks: from then on the next is heard, and it alone.
            one.listener.on_close()
            host.finder._look.set()
            await until(lambda: len(slow.all) == 2 and host.finder._connected.is_set())
            assert one.closed and not slow.all[1].closed
            looks.clear()
            one.listener.on_life()
            one.listener.on_balloon("a", 1)
            slow.all[1].listener.on_life()
            await until(lambda: looks)
            await asyncio.sleep(0.05)
            assert len(looks) == 1

    play(run())


def test_a_connection_that_comes_too_late_is_closed(slow: type[SlowWatch]) -> None:
    async def run() -> None:
        async with watching() as host:
            await until(lambda: host.said.problems)
        slow.gate.set()
        await until(lambda: slow.all and slow.all[0].closed)

    play(run())


def test_statistics() -> None:
    reply = {
        "actual": 262144,
        "last_update": 77,
        "available": 250_000,
        "usable": 200_000,
        "swap_in": 4,
        "major_fault": 9,
        "rss": 1,
        "of_the_future": -1,
    }
    found = domain.stats(reply, RAM)
    assert found.date == 77
    assert found.at(1.0) == Stats(
        1.0, total=250_000 << 10, available=200_000 << 10, swap_in=4096, major_faults=9
    )


@given(
    st.dictionaries(
        st.sampled_from([*domain.SIZES, *domain.SWAPPED, *domain.COUNTS, "last_update", "x"]),
        st.integers(-(1 << 70), 1 << 70),
    )
)
def test_any_statistics(reply: dict[str, int]) -> None:
    with suppress(QmpDataError):
        found = domain.stats(reply, RAM).at(0.0)
        assert found.total is None or 0 <= found.total <= RAM
        assert found.swap_out is None or 0 <= found.swap_out < 1 << 63


@given(st.text())
def test_any_xml(text: str) -> None:
    domain.has_balloon(text)
    assert not domain.has_balloon("<domain><devices/></domain>")
    assert domain.has_balloon(XML.format(name="a", model="virtio-transitional"))
    assert not domain.has_balloon(XML.format(name="a", model="none"))


def test_where_a_pid_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert pid_files("qemu:///system", "a") == [Path("/run/libvirt/qemu/a.pid")]
    assert pid_files("qemu:///session", "a") == [Path("/run/user/7/libvirt/qemu/run/a.pid")]
    assert Path("/x/qemu/run/a.pid") in pid_files("qemu+unix:///session?socket=/x/sock", "a")
    assert pid_files("qemu:///system", "../a") == []
    assert pid_files("qemu+ssh://other/system", "a") == []
    assert is_local("qemu+unix:///system") and not is_local("qemu+tls://other/system")


def test_a_call_that_blocks_holds_up_no_other() -> None:
    async def run() -> None:
        workers, gate = Workers(), threading.Event()
        stuck = [workers.submit(gate.wait) for _ in range(20)]
        assert await workers.submit(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await workers.submit(lambda: 1 // 0)
        assert not any(one.done() for one in stuck)
        gate.set()
        assert await asyncio.gather(*stuck) == [True] * 20

    play(run())


def test_statistics_of_the_driver_are_not_invented() -> None:
    async def run() -> None:
        async with watching() as host:
            connection = libvirt.open(URI)
            made = connection.createXML(XML.format(name="c", model="virtio"), 0)
            try:
                await until(lambda: len(host.all(GuestRead, "c")) > 3)
                date = made.memoryStats().get("last_update", 0)
                assert bool(host.all(StatsRead, "c")) == bool(date)
            finally:
                made.destroy()

    play(run())
