# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools of real groups: what they tell, and that they come back after their group."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest
from hostctl_groups import LIMIT, MIB, group, make_group, remove_group, root_of, workers

from hostctl.errors import HostctlError
from hostctl.journal import Journal, Reporter
from hostctl.policy.model import HOST, Event, HostPressure, Level, PoolLost, PoolRead
from hostctl.pools import Pools
from hostctl.pressure import memory, psi, watch
from hostctl.pressure.cgroups import Mount
from hostctl.pressure.pool import Pool, PoolConfig

SOON = 20.0
OFTEN = 0.2
NEVER = 3600.0


class Told:
    """What a pool has emitted, and said to the operator."""

    def __init__(self, pool: Pool, journal: Path) -> None:
        self.pool = pool
        self.events: list[Event] = []
        self._journal = journal

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def reads(self) -> list[PoolRead]:
        return [event for event in self.events if isinstance(event, PoolRead)]

    @property
    def said(self) -> list[str]:
        return self._journal.read_text().splitlines()

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end, f"it did not come in time; {self.events} {self.said}"
            await asyncio.sleep(0.01)


@pytest.fixture
def v1_group() -> Iterator[Path]:
    with group(1) as folder:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield folder


@asynccontextmanager
async def running(tmp_path: Path, config: PoolConfig, **proc: Path) -> AsyncIterator[Told]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = tmp_path / "journal"
    with Journal(file) as journal:
        minutes = itertools.count(0, 60)  # what is said is not to be limited
        report = Reporter(journal, clock=lambda: next(minutes))
        pool = Pool(config, report, **proc)
        told = Told(pool, file)
        try:
            pool.start(told.events.append)
            yield told
        finally:
            pool.close()
            pool.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    count = len(told.events)
    await asyncio.sleep(2 * OFTEN)
    assert len(told.events) == count  # closed


def test_machine(tmp_path: Path) -> None:
    async def run() -> None:
        config = PoolConfig(source="none", interval=OFTEN)
        async with running(tmp_path, config) as told:
            await told.until(lambda: len(told.reads) >= 3)
            ram = memory.of_machine().limit
            assert all(read.limit == ram and 0 < read.usage < ram for read in told.reads)
            assert told.reads[0].pool == HOST and told.reads[0].swapped is not None
            times = [read.time for read in told.reads]
            assert times == sorted(times) and times[-1] <= time.monotonic()

    asyncio.run(run())


def test_usage_is_read_at_its_thresholds(tmp_path: Path, v1_group: Path) -> None:
    async def run() -> None:
        config = PoolConfig("p", v1_group, thresholds=(0.5, 0.9), interval=NEVER)
        async with running(tmp_path, config) as told:
            assert [(read.pool, read.limit) for read in told.reads] == [("p", LIMIT)]
            with workers() as make:
                worker = make()
                worker.do("join", v1_group)
                worker.do("anon", 20 * MIB)
                await asyncio.sleep(0.3)
                assert len(told.reads) == 1
                worker.do("anon", 20 * MIB)
                await told.until(lambda: told.reads[-1].usage >= 32 * MIB)
                count = len(told.reads)
                assert count <= 4
                worker.do("drop")
                await told.until(lambda: told.reads[-1].usage < 32 * MIB)
            await asyncio.sleep(0.3)
            count = len(told.reads)
            await asyncio.sleep(0.5)
            assert len(told.reads) == count  # and rest
            assert not told.of(HostPressure)

    asyncio.run(run())


def test_thresholds_follow_the_limit(tmp_path: Path, v1_group: Path) -> None:
    async def run() -> None:
        config = PoolConfig("p", v1_group, thresholds=(0.5,), interval=0.5)
        async with running(tmp_path, config) as told:
            (v1_group / "memory.limit_in_bytes").write_text(str(2 * LIMIT))
            await told.until(lambda: told.reads[-1].limit == 2 * LIMIT)
            told.pool._config = PoolConfig(interval=NEVER)
            await asyncio.sleep(1)  # the last reading that is due by time
            count = len(told.reads)
            with workers() as make:
                worker = make()
                worker.do("join", v1_group)
                worker.do("anon", 40 * MIB)
                await asyncio.sleep(0.3)
                assert len(told.reads) == count
                worker.do("anon", 40 * MIB)
                await told.until(lambda: told.reads[-1].usage >= LIMIT)

    asyncio.run(run())


def test_pressure_with_the_usage_of_then(tmp_path: Path, v1_group: Path) -> None:
    async def run() -> None:
        config = PoolConfig("p", v1_group, source="vmpressure", thresholds=(), interval=NEVER)
        async with running(tmp_path, config) as told:
            with workers() as make:
                worker = make()
                worker.do("join", v1_group)
                worker.do("anon", 40 * MIB)
                worker.do("write", tmp_path / "file", LIMIT)
                worker.begin("churn", tmp_path / "file")
                await told.until(lambda: told.of(HostPressure))
            kinds = [type(event) for event in told.events]
            first = kinds.index(HostPressure)
            read, pressure = told.events[first - 1], told.events[first]
            assert isinstance(read, PoolRead) and read.usage >= 40 * MIB
            assert isinstance(pressure, HostPressure)
            assert (pressure.pool, pressure.source) == ("p", f"vmpressure:{v1_group}")

    asyncio.run(run())


def test_a_limit_above_presses_as_well(tmp_path: Path, v1_group: Path) -> None:
    async def run() -> None:
        for name in ("pool", "other"):
            (v1_group / name).mkdir()
        config = PoolConfig("p", v1_group / "pool", interval=NEVER)
        async with running(tmp_path, config) as told:
            assert told.reads[0].limit <= LIMIT
            with workers() as make:
                worker = make()
                worker.do("join", v1_group / "other")
                worker.do("write", tmp_path / "file", 2 * LIMIT)
                worker.begin("churn", tmp_path / "file")
                await told.until(lambda: told.of(HostPressure))
            (pressure, *_) = told.of(HostPressure)
            assert isinstance(pressure, HostPressure)
            assert (pressure.pool, pressure.source) == ("p", f"vmpressure:{v1_group}")

    asyncio.run(run())


class FakeSource:
    """Pressure that is made by hand."""

    name = "fake"

    def __init__(self, gap: float) -> None:
        self.gap = gap

    def start(self, on_pressure: Callable[[Level], None], on_gone: Callable[[str], None]) -> None:
        self.press = on_pressure
        self.go = on_gone

    def close(self) -> None:
        pass


def fake(monkeypatch: pytest.MonkeyPatch, gap: float) -> FakeSource:
    source = FakeSource(gap)
    monkeypatch.setattr(watch, "choose", lambda *args: [source])
    return source


def test_the_levels_of_a_burst_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fake(monkeypatch, NEVER)

    async def run() -> None:
        async with running(tmp_path, PoolConfig("p", interval=NEVER)) as told:

            async def levels() -> list[Level]:
                await asyncio.sleep(0.1)
                return [event.level for event in told.events if isinstance(event, HostPressure)]

            source.press(Level.LOW)
            source.press(Level.MEDIUM)
            assert await levels() == [Level.MEDIUM]
            source.press(Level.MEDIUM)
            source.press(Level.LOW)
            assert await levels() == [Level.MEDIUM]  # nothing new
            source.press(Level.CRITICAL)
            source.press(Level.LOW)
            assert await levels() == [Level.MEDIUM, Level.CRITICAL]
            source.gap = 0.0
            source.press(Level.LOW)
            assert await levels() == [Level.MEDIUM, Level.CRITICAL, Level.LOW]

    asyncio.run(run())


def test_pressure_below_the_level_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Level]] = []
    monkeypatch.setattr(watch, "choose", lambda s, p, levels, *rest: asked.append(levels) or [])

    async def run() -> None:
        for level in Level:
            async with running(tmp_path, PoolConfig(level=level)):
                pass

    asyncio.run(run())
    assert asked == [list(Level), [Level.MEDIUM, Level.CRITICAL], [Level.CRITICAL]]


# Each of them tells a removal; both together, and the thresholds are first.
@pytest.mark.parametrize(("source", "thresholds"), [("vmpressure", ()), ("none", (0.5,))])
def test_a_group_that_goes_and_returns(
    tmp_path: Path, source: str, thresholds: tuple[float, ...]
) -> None:
    async def run() -> None:
        folder = root_of(1) / f"hostctl-test-{os.getpid()}"
        config = PoolConfig("p", folder, source=source, thresholds=thresholds, interval=OFTEN)
        try:
            async with running(tmp_path, config) as told:
                await asyncio.sleep(3 * OFTEN)
                assert not told.events
                (line,) = told.said
                assert "pool p" in line and "does not exist" in line
                for count in (1, 2):
                    make_group(folder)
                    (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
                    await told.until(lambda: told.reads and told.reads[-1].limit == LIMIT)
                    with workers() as make:
                        worker = make()
                        worker.do("join", folder)
                        worker.do("write", tmp_path / "file", 2 * LIMIT)
                        if source != "none":
                            told.events.clear()
                            worker.begin("churn", tmp_path / "file")
                            await told.until(lambda: told.of(HostPressure))
                    told.events.clear()
                    remove_group(folder)
                    await told.until(lambda: told.of(PoolLost))
                    assert not told.of(HostPressure)  # a removal looks like it to the kernel
                    await asyncio.sleep(3 * OFTEN)
                    assert len(told.of(PoolLost)) == 1
                    assert isinstance(told.events[-1], PoolLost)
                    assert "was removed" in told.events[-1].why
                    assert len(told.said) == 1 + count  # once each time
        finally:
            remove_group(folder)

    asyncio.run(run())


def test_a_group_that_another_replaces_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        with group(1) as folder:
            config = PoolConfig("p", folder, interval=OFTEN)
            async with running(tmp_path, config) as told:
                folder.rmdir()
                folder.mkdir()
                await told.until(lambda: told.of(PoolLost))
                await told.until(lambda: isinstance(told.events[-1], PoolRead))
                (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
                told.events.clear()
                with workers() as make:
                    worker = make()
                    worker.do("join", folder)
                    worker.do("write", tmp_path / "file", 2 * LIMIT)
                    worker.begin("churn", tmp_path / "file")
                    await told.until(lambda: told.of(HostPressure))

    asyncio.run(run())


def test_a_source_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fake(monkeypatch, 0.0)

    async def run() -> None:
        async with running(tmp_path, PoolConfig("p", interval=OFTEN)) as told:
            source.press(Level.LOW)
            source.go("switched off")
            await told.until(lambda: isinstance(told.events[-1], PoolRead) and len(told.events) > 2)
            assert [type(event) for event in told.events] == [PoolRead, PoolLost, PoolRead]
            source.press(Level.LOW)
            await told.until(lambda: told.of(HostPressure))
            assert len(told.said) == 1

    asyncio.run(run())


class FakePool:
    """A pool that tells a reading when it starts, or cannot start."""

    def __init__(self, config: PoolConfig) -> None:
        self.name, self.closed = config.name, False

    def start(self, emit: Callable[[Event], None]) -> None:
        if self.name == "bad":
            raise HostctlError("it cannot be watched")
        emit(PoolRead(0.0, self.name, 1, 1))

    def close(self) -> None:
        self.closed = True


def test_pools_that_cannot_all_start_tell_nothing() -> None:
    events: list[Event] = []
    pools = Pools(FakePool, events.append)  # type: ignore[arg-type]
    old, new, bad = (PoolConfig(name) for name in ("old", "new", "bad"))
    pools.change([old])
    with pytest.raises(HostctlError):
        pools.change([new, bad])
    assert [type(event) for event in events] == [PoolRead], "nobody watches the pool new"
    pools.change([new])
    assert [(type(e), getattr(e, "pool", "")) for e in events[1:]] == [
        (PoolLost, "old"), (PoolRead, "new"),
    ]  # fmt: skip


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "self/mountinfo").write_text("")
    (folder / "meminfo").write_text(MEMINFO)
    return folder


MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


def test_figures_that_fail_are_said_once_and_come_back(tmp_path: Path, proc: Path) -> None:
    async def run() -> None:
        config = PoolConfig(source="none", interval=OFTEN)
        async with running(tmp_path, config, proc=proc) as told:
            assert [(read.limit, read.usage) for read in told.reads] == [(1000 << 10, 400 << 10)]
            (proc / "meminfo").write_text("nothing")
            await told.until(lambda: told.of(PoolLost))
            count = len(told.events)
            await asyncio.sleep(5 * OFTEN)
            assert len(told.events) == count and len(told.said) == 1
            (proc / "meminfo").write_text(MEMINFO)
            await told.until(lambda: len(told.events) > count)
            assert isinstance(told.events[-1], PoolRead)
            (proc / "meminfo").write_text("nothing")
            await told.until(lambda: len(told.of(PoolLost)) == 2)
            assert len(told.said) == 2

    asyncio.run(run())


def test_what_cannot_be_watched_is_an_error_at_the_start(tmp_path: Path, proc: Path) -> None:
    async def run() -> None:
        for config, match in (
            (PoolConfig(), "no pressure source"),
            (PoolConfig(group=tmp_path), f"cgroup {tmp_path}.*not below a hierarchy"),
        ):
            with pytest.raises(HostctlError, match=match):
                async with running(tmp_path, config, proc=proc):
                    pass
        (proc / "meminfo").unlink()
        with pytest.raises(HostctlError, match="pool host:.*meminfo"):
            async with running(tmp_path, PoolConfig(source="none"), proc=proc):
                pass

    asyncio.run(run())


def test_a_v2_group_without_the_controller(tmp_path: Path) -> None:
    async def run() -> None:
        with group(2) as folder:
            if memory.has_memory(memory.Place(Mount(folder, PurePosixPath("/"), 2), folder)):
                pytest.skip("cgroup v2 has the memory controller here")
            config = PoolConfig("p", folder, source="psi", interval=NEVER)
            with pytest.raises(HostctlError, match="no memory controller.*subtree_control"):
                async with running(tmp_path, config):
                    pass
            with group(1) as twin:
                (twin / "memory.limit_in_bytes").write_text(str(LIMIT))
                async with running(tmp_path, config) as told:
                    assert told.reads[0].limit == LIMIT

    asyncio.run(run())


def test_psi_of_a_group_that_goes_and_returns(tmp_path: Path, v1_group: Path) -> None:
    async def run() -> None:
        with group(2) as folder, workers() as make:
            if not (folder / psi.GROUP_FILE).exists():
                pytest.skip("no PSI in cgroup v2")
            worker = make()
            config = PoolConfig("p", v1_group, source="psi", interval=OFTEN)
            async with running(tmp_path, config) as told:
                folder.rmdir()
                await told.until(lambda: told.of(PoolLost))
                await told.until(lambda: len(told.said) == 2)  # gone, and no PSI without it
                folder.mkdir()
                await told.until(lambda: isinstance(told.events[-1], PoolRead))
                worker.do("join", v1_group, folder)
                worker.do("anon", 50 * MIB)
                worker.do("write", tmp_path / "file", 2 * LIMIT)
                worker.begin("churn", tmp_path / "file")
                await told.until(lambda: told.of(HostPressure))
                (pressure, *_) = told.of(HostPressure)
                assert isinstance(pressure, HostPressure)
                assert pressure.source == f"psi:{folder / psi.GROUP_FILE}"

    asyncio.run(run())
