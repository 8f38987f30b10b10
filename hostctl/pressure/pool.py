# SPDX-License-Identifier: GPL-2.0-or-later
"""A pool: host memory that guests share, a cgroup with its limit or the whole machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.journal import Reporter
from hostctl.policy.model import HOST, Event, HostPressure, Level, PoolLost, PoolRead
from hostctl.pressure.cgroups import PROC, Groups, groups_of, locate, mounts_of
from hostctl.pressure.memory import Reading
from hostctl.pressure.source import PressureSource
from hostctl.pressure.watch import Watch

THRESHOLDS = (0.80, 0.90, 0.95)
"""Shares of the capacity. The outer two are MOM's: pressed below 20 % free, critical at 5 %."""
INTERVAL = 2.0
"""Seconds between two readings; our own choice: a reading costs well under a millisecond."""
GATHER = 0.002
"""Seconds in which the levels of one event come in: the kernel signals each by itself."""
READ_GAP = 0.1
"""Seconds between two readings that thresholds ask for: usage may dance on one."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What a pool is. Times are seconds."""

    name: str = HOST
    group: Path | None = None
    """A cgroup's folder, v1 or v2, which need not exist yet; None: the whole machine."""
    source: str = "auto"
    """One of choose.SOURCES."""
    level: Level = Level.LOW
    """Pressure below this is not told."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Shares of the capacity at which usage is read at once, where the kernel tells (v1)."""
    interval: float = INTERVAL
    """Between two readings, and between two looks for a group that is gone."""


class Pool:
    """Tells a pool's pressure and usage. A group that goes is waited for, and said once."""

    def __init__(self, config: PoolConfig, report: Reporter, *, proc: Path = PROC) -> None:
        """Raises HostctlError where config.group can be no cgroup, there now or not."""
        self.name = config.name
        self._config = config
        self._report = report
        self._proc = proc
        self._place = locate(config.group, mounts_of(proc)) if config.group else None
        self._about = f"pool {config.name}"
        self._emit: Callable[[Event], None] = lambda event: None
        self._watch: Watch | None = None
        """None: the group is gone, or cannot be watched now."""
        self._read_at = 0.0
        self._capacity = 0
        self._heard: tuple[Level, PressureSource] | None = None
        """The highest level that is still to be told."""
        self._told: tuple[Level, float] | None = None
        """The level that was told last, and when."""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    @property
    def depth(self) -> int:
        """How deep the group is in its hierarchy; the machine is above all groups."""
        return len(self._place.path.parts) if self._place else 0

    def holds(self, groups: Groups) -> bool:
        """Whether a process with these groups is in the pool; the machine holds all."""
        return self._place is None or self._place.holds(groups)

    def start(self, emit: Callable[[Event], None]) -> None:
        """Begin to emit, in the running event loop; the first reading at once.

        A group that is not there is waited for. Raises HostctlError where the machine, or a group
        that is there, cannot be watched, and emits nothing then.
        """
        self._emit = emit
        try:
            if not self._open():
                self._say(f"cgroup {self._config.group} does not exist")
        except OSError as exc:
            raise HostctlError(f"{self._about}: {exc}") from exc
        self._later(self._config.interval, self._tick)

    def close(self) -> None:
        """Emit no more, and give back what is held; may be called twice."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._heard = self._told = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _tick(self) -> None:
        self._later(self._config.interval, self._tick)
        if self._watch is not None:
            self._read()
        else:
            try:
                self._open()
            except (OSError, HostctlError) as exc:
                self._say(str(exc))

    def _open(self) -> bool:
        """Watch, and emit the first reading; False: there is no such group.

        Raises OSError and HostctlError.
        """
        if self._place is not None and not self._place.folder.is_dir():
            return False
        config = self._config
        levels = [level for level in Level if level.rank >= config.level.rank]
        watch = Watch(self._place, config.source, levels, config.thresholds, self._proc)
        try:
            reading = watch.read()
            watch.start(self._pressed, self._lose)
        except (OSError, HostctlError):
            watch.close()
            raise
        self._watch, self._capacity = watch, 0
        self._report.clear(self._about)
        self._tell_reading(reading)
        return True

    def _read(self) -> None:
        """Emit a reading, or that there is none any more."""
        assert self._watch is not None
        try:
            reading = self._watch.read()
        except (OSError, HostctlError) as exc:
            self._lose(str(exc))
        else:
            self._tell_reading(reading)

    def _tell_reading(self, reading: Reading) -> None:
        assert self._watch is not None
        if reading.capacity != self._capacity:
            self._capacity = reading.capacity
            self._watch.arm(reading.capacity, self._usage_changed)
        self._read_at = time.monotonic()
        self._emit(
            PoolRead(self._read_at, self.name, reading.limit, reading.usage, reading.swapped)
        )

    def _usage_changed(self) -> None:
        if self._read_soon not in self._timers:
            wait = self._read_at + READ_GAP - time.monotonic()
            self._later(max(wait, 0.0), self._read_soon)

    def _read_soon(self) -> None:
        self._read()

    def _pressed(self, source: PressureSource, level: Level) -> None:
        if self._heard is None:
            self._later(GATHER, self._tell_pressure)
        if self._heard is None or level.rank > self._heard[0].rank:
            self._heard = (level, source)

    def _tell_pressure(self) -> None:
        """Emit the highest level that was heard, unless it was told a moment ago."""
        assert self._heard is not None
        (level, source), self._heard = self._heard, None
        now = time.monotonic()
        if self._told is not None:
            last, when = self._told
            if level.rank <= last.rank and now - when < source.gap:
                return
        # Who acts on pressure needs the usage of now; and a removal looks like pressure.
        self._read()
        if self._watch is not None:
            self._told = (level, now)
            self._emit(HostPressure(now, level, source.name, self.name))

    def _lose(self, why: str) -> None:
        """The group is gone, or cannot be read: look for it from time to time."""
        self.close()
        self._later(self._config.interval, self._tick)
        self._say(why)
        self._emit(PoolLost(time.monotonic(), self.name, why))

    def _say(self, problem: str) -> None:
        self._report.problem(
            self._about,
            f"{problem}; going on without it, and trying again each {self._config.interval:g} s",
        )

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        """Run `act`, one of this class's methods, after `delay` seconds; only once at a time."""

        def due() -> None:
            del self._timers[act]
            act()

        self._timers[act] = asyncio.get_running_loop().call_later(delay, due)


def pool_of(pid: int, pools: Iterable[Pool], proc: Path = PROC) -> str:
    """The name of the deepest of `pools` that holds the process; model.HOST if none does."""
    try:
        groups = groups_of(pid, proc)
    except OSError:
        return HOST  # it has just ended
    holding = [pool for pool in pools if pool.holds(groups)]
    return max(holding, key=lambda pool: pool.depth).name if holding else HOST
