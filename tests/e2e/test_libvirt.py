# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl's guests in a real libvirt, with a QEMU in which no system runs."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import libvirtd
import pytest
from balloon import CRITICAL, Driver, le32

from hostctl.guests.keeper import Timing
from hostctl.guests.libvirt import Libvirt
from hostctl.guests.names import Names
from hostctl.policy.model import (
    Event,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Level,
    TargetTaken,
)
from pyguest import lab

MIB = 1 << 20
SOON = 90.0
E = TypeVar("E")


class Said:
    """A Reporter's problems."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def problem(self, about: str, message: str) -> None:
        if (about, message) not in self.problems:
            self.problems.append((about, message))

    def clear(self, about: str) -> None:
        pass

    def forget(self, about: str) -> None:
        pass


class Host:
    """A libvirt that is watched, and what its guests emit."""

    def __init__(self, uri: str) -> None:
        self.events: list[Event] = []
        self.said = Said()
        self.finder = Libvirt(
            uri,
            self.events.append,
            self.said,  # type: ignore[arg-type]
            Timing(timeout=8.0, refresh=0.5, stats=1.0, retry_first=0.2, grace=60.0),
            lambda pid: f"pool of {pid}",
            Names(),
        )

    def all(self, kind: type[E], guest: str) -> list[E]:
        return [e for e in self.events if isinstance(e, kind) and getattr(e, "guest", "") == guest]

    def is_silent(self, guest: str) -> bool:
        told = [e for e in self.events if getattr(e, "guest", "") == guest]
        return isinstance(told[-1], GuestSilent)

    async def more(self, kind: type[E], guest: str, count: int = 1) -> E:
        """Wait for so many more events of that kind; the last."""
        begun = len(self.all(kind, guest))
        await until(lambda: len(self.all(kind, guest)) >= begun + count)
        return self.all(kind, guest)[-1]


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        await asyncio.sleep(0.02)


def play(
    run: Callable[[Host, libvirtd.Libvirtd], Coroutine[None, None, None]], *, remote: bool
) -> None:
    """Run a story with a libvirtd, watched as this host's or as another's."""

    async def story(daemon: libvirtd.Libvirtd) -> None:
        host = Host(daemon.remote_uri if remote else daemon.uri)
        task = asyncio.create_task(host.finder.run())
        try:
            await run(host, daemon)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    if (why := libvirtd.missing()) is not None:
        pytest.skip(why)
    # In memory: libvirtd syncs a domain's state whenever one is asked. Sockets want short paths.
    with (
        tempfile.TemporaryDirectory(prefix="lv", dir="/dev/shm") as folder,
        libvirtd.Libvirtd(Path(folder), remote=remote) as daemon,
    ):
        asyncio.run(story(daemon))


@pytest.mark.timeout(400)
def test_domains_frozen_gone_and_a_libvirtd_that_restarts(
    parts: lab.Parts,
) -> None:
    async def run(host: Host, daemon: libvirtd.Libvirtd) -> None:
        names = ("a", "b", "c", "d", "e", "f", "g")
        for name in names:
            await asyncio.to_thread(daemon.create, name, parts.qemu.binary)
        for name in names:
            await until(lambda: host.all(GuestRead, name))  # noqa: B023
        read = host.all(GuestRead, "a")[0]
        assert (read.ram, read.actual, read.balloon) == (32 * MIB, 32 * MIB, True)
        assert read.pool == f"pool of {daemon.pid('a')}"
        assert read.pid == daemon.pid("a")

        with daemon.played("a") as cpu:
            driver = await asyncio.to_thread(Driver, cpu)
            await asyncio.to_thread(driver.send, le32(CRITICAL))
        await until(lambda: host.all(GuestMessage, "a"))
        message = host.all(GuestMessage, "a")[0]
        assert (message.level, message.actual) == (Level.CRITICAL, 32 * MIB)

        # More frozen guests than libvirtd takes calls at a time from one client (five).
        frozen = names[:-1]
        for name in frozen:
            os.kill(daemon.pid(name), signal.SIGSTOP)
        for name in frozen:
            await until(lambda: host.all(GuestSilent, name))  # noqa: B023
        silences = len(host.all(GuestSilent, "g"))
        host.finder.guests["g"].set_target(16 * MIB)
        await host.more(GuestRead, "g", 3)
        told = [problem for problem in host.said.problems if problem[0] not in frozen]
        assert len(host.all(GuestSilent, "g")) == silences, told
        assert all(host.is_silent(name) for name in frozen)
        assert host.all(GuestRead, "g")[-1].target == 16 * MIB
        for name in frozen:
            os.kill(daemon.pid(name), signal.SIGCONT)
        for name in frozen:
            await host.more(GuestRead, name)

        daemon.end("libvirtd", signal.SIGKILL)
        for name in names:
            await until(lambda: host.is_silent(name))  # noqa: B023
        await asyncio.to_thread(daemon.start, "libvirtd")
        for name in names:
            await host.more(GuestRead, name)
        assert not [e for e in host.events if isinstance(e, GuestLost)]
        assert host.all(GuestRead, "g")[-1].target == 16 * MIB
        told = [why for about, why in host.said.problems if about == daemon.uri]
        assert 1 <= len(told) <= 3, told

        os.kill(daemon.pid("b"), signal.SIGKILL)
        await until(lambda: host.all(GuestLost, "b"))
        await host.more(GuestRead, "a", 2)
        assert "b" not in host.finder.guests

    play(run, remote=False)


@pytest.mark.timeout(200)
def test_domains_of_another_host_are_a_pool_of_their_own(parts: lab.Parts) -> None:
    async def run(host: Host, daemon: libvirtd.Libvirtd) -> None:
        await asyncio.to_thread(daemon.create, "a", parts.qemu.binary)
        await until(lambda: host.all(GuestRead, "a"))
        read = host.all(GuestRead, "a")[0]
        assert (read.pool, read.pid) == (daemon.remote_uri, None)
        host.finder.guests["a"].set_target(16 * MIB)
        await until(lambda: host.all(TargetTaken, "a"))
        with daemon.played("a") as cpu:
            driver = await asyncio.to_thread(Driver, cpu)
            await asyncio.to_thread(driver.send, le32(CRITICAL))
        await until(lambda: host.all(GuestMessage, "a"))

    play(run, remote=True)
