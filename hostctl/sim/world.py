# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts under their controllers: the memory model on one side, an engine a host on the other.

The engine is the daemon's, with its policies and its guard. It gets the events that the daemon
would: messages when a guest reclaims, sizes while a balloon moves, statistics and readings of the
pool in their intervals, pressure when the host swaps. Statistics come late as they do there.
Those that do not differ from the last ones are left out for a while: parameters.py
says for how long, and why that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hostctl.engine import Engine
from hostctl.guard import Limits, Refusal, floor_of
from hostctl.policy import POLICIES, Policy, Settings, stats_every
from hostctl.policy.model import (
    HOST,
    PAGE,
    Decision,
    Event,
    GuestActual,
    GuestMessage,
    GuestRead,
    HostPressure,
    Level,
    Occupancy,
    PoolRead,
    Stats,
    StatsRead,
    Tick,
)
from hostctl.pressure.occupancy import BUSY
from hostctl.sim.loads import Loads
from hostctl.sim.measure import Result, Targets
from hostctl.sim.memory import Array, Demand, Memory
from hostctl.sim.parameters import Parameters

NONE = "none"
"""No policy: nobody touches a balloon."""
SIZES = (1, 2, 4, 8)
"""GiB of RAM that guests have, each as often as the others."""
LEVELS = (Level.LOW, Level.MEDIUM, Level.CRITICAL)
LOADS_EVERY = 5.0
"""Seconds; so often it is looked what the guests want."""
_QUIET = 60.0
"""A guest is watched for so long after a message: for so long policies think of it."""

Watch = Callable[[int, Event, list[Decision | Refusal]], None]
"""Sees each event of each host, with the verdicts on what was decided."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated."""

    hosts: int
    guests: int
    """On each host."""
    seconds: float
    policy: str
    load: str
    seed: int
    overcommit: float = 1.5
    """All guests' RAM as a multiple of their host's."""
    reporting: bool = True
    """Free page reporting is on."""
    tells: bool = True
    """Guests have our driver; otherwise statistics alone tell of their pressure."""
    settings: Settings = Settings()
    parameters: Parameters = Parameters()


class Wants(Protocol):
    """What guests want over time."""

    def at(self, now: float) -> Demand:
        """What they want at `now` seconds; times do not go back."""
        ...


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a plan, in arrays with a row for each. Bytes."""

    ram: Array
    limit: Array
    loads: Wants
    touched: float = 0.0
    """Of each guest's RAM, what its boot has touched, though it may be free again."""


def by_chance(plan: Plan, rng: np.random.Generator) -> Hosts:
    """Hosts of guests of any of SIZES, with the plan's load."""
    ram = rng.choice(SIZES, (plan.hosts, plan.guests)).astype(float) * (1 << 30)
    own = plan.parameters.overhead * plan.guests
    limit = np.floor(ram.sum(1) / plan.overcommit) + own
    return Hosts(ram, limit, Loads(plan.load, ram, rng))


class _Nothing:
    """The policy that decides nothing."""

    def decide(self, state: object, event: Event) -> list[Decision]:
        return []

    def closely(self, now: float) -> Collection[str]:
        return ()


class World:
    """The hosts of a plan, and their time."""

    def __init__(self, plan: Plan, watch: Watch | None = None, hosts: Hosts | None = None) -> None:
        """`hosts` are the plan's own, or by chance."""
        self.plan, self.p = plan, plan.parameters
        self._watch = watch
        rng = np.random.default_rng(plan.seed)
        if hosts is None:
            hosts = by_chance(plan, rng)
        shape = (plan.hosts, plan.guests)
        self._loads = hosts.loads
        self.now = 0.0
        self._demand = self._loads.at(0.0)
        self.memory = Memory(
            hosts.ram, hosts.limit, self._demand, self.p, plan.reporting, hosts.touched
        )
        self.names = [f"g{i}" for i in range(plan.guests)]
        self._index = {name: i for i, name in enumerate(self.names)}
        self.targets = Targets()
        self._messages = 0
        self._low = self._pressed = self._host_pressed = self._balloon = 0.0
        self.engines = [Engine(self._policy(), Limits()) for _ in range(plan.hosts)]
        self._every = stats_every(plan.policy)
        # Each host's readings come at a time of its own.
        self._stats_at = np.zeros(shape) + rng.uniform(0, self._every, (plan.hosts, 1))
        self._closely = np.zeros(shape, bool)
        """Guests whose statistics the policy wants often."""
        self._attended: list[frozenset[str]] = [frozenset()] * plan.hosts
        """The same by name."""
        self._read_at = -rng.uniform(0, self.p.read_every, plan.hosts)
        self._tick_at = rng.uniform(0, self.p.tick_every, plan.hosts)
        self._read_usage = np.zeros(plan.hosts)
        self._last_message = np.full(shape, -_QUIET)
        self._sample_time = np.zeros(shape)
        self._arrives = np.zeros(shape)
        """When the sample is read: QEMU asks the driver, and the daemon QEMU, each in its time."""
        self._delay = np.random.default_rng((plan.seed, 1))
        self._samples = np.zeros((9, *shape))
        self._sent = np.full((9, *shape), -np.inf)
        """The samples that were delivered last."""
        self._sent_time = np.full(shape, -np.inf)
        self._due = np.zeros(shape, bool)
        """The sample differs from what was delivered."""
        self._sample(np.ones(shape, bool))
        for host in range(plan.hosts):
            self._begin(host)

    def _policy(self) -> Policy:
        if self.plan.policy == NONE:
            return _Nothing()
        return POLICIES[self.plan.policy](self.plan.settings)

    def _begin(self, host: int) -> None:
        for guest, name in enumerate(self.names):
            ram = int(self.memory.ram[host, guest])
            floor = floor_of(ram, None)
            self._take(
                host,
                GuestRead(0.0, name, ram, ram, ram, floor, True, True, tells=self.plan.tells),
            )
        self._deliver(host, np.arange(self.plan.guests))
        self._read(host)

    def run(self) -> Result:
        """What is left of the plan."""
        for _ in range(round((self.plan.seconds - self.now) / self.p.step)):
            self.step()
        return self.result()

    def step(self) -> None:
        """A step of the model, then what the hosts' controllers see of it."""
        p, memory = self.p, self.memory
        self.now += p.step
        if self.now % LOADS_EVERY < p.step:
            self._demand = self._loads.at(self.now)
        moving: NDArray[np.bool_] = np.not_equal(memory.size, memory.target)
        memory.step(self._demand)
        usage = memory.usage
        level = memory.level
        told = level > 0
        full = (memory.target >= memory.ram) & (level == 1)
        told &= ~full | (self.now - self._last_message >= p.repeated)
        speaks = np.logical_or.reduce(told, 1)
        self._last_message[told] = self.now
        self._messages += int(level.sum())
        swaps = memory.last_out > 0
        self._low += float((level == 1).sum()) * p.step
        self._pressed += float((level > 1).sum()) * p.step
        self._host_pressed += float(swaps.sum()) * p.step
        self._balloon += float((memory.ram - memory.size).sum()) * p.step
        crossed = np.abs(usage - self._read_usage) > p.moved * memory.limit
        ticks = self._tick_at <= self.now
        self._tick_at[ticks] += p.tick_every
        near = swaps | (memory.limit - usage < p.watched * memory.limit)
        moves = np.logical_or.reduce(moving, 1)
        wait = np.where(near | moves, p.read_every, p.ample_every)
        reads = crossed | (self.now - self._read_at >= wait)
        self._read_at[reads] = self.now
        watched = (self.now - self._last_message < _QUIET) | near[:, None]
        stale = np.where(self._closely, p.closely_every, p.stale)
        news = self._due | (watched & (self._sample_time - self._sent_time >= stale))
        news &= self._arrives <= self.now
        told_news = np.logical_or.reduce(news, 1)
        seen: NDArray[np.bool_] = speaks | swaps | reads | ticks | moves | told_news
        for host in np.nonzero(seen)[0]:
            self._host(
                int(host),
                moving=moving[host] if moves[host] else None,
                told=np.where(told[host], level[host], 0) if speaks[host] else None,
                swaps=bool(swaps[host]),
                read=bool(reads[host]),
                tick=bool(ticks[host]),
                news=news[host] if told_news[host] else None,
            )
        due: NDArray[np.bool_] = self._stats_at <= self.now
        if due.any():
            # The one before has been read by now.
            self._sample(due)
            every = np.where(self._closely, p.closely_every, self._every)
            # At the latest with the next.
            late = np.minimum(self._delay.uniform(*p.late, (len(due), 1)), every - p.step)
            self._stats_at[due] += every[due]
            self._arrives[due] = self.now + late[due]

    def _host(
        self,
        host: int,
        *,
        moving: NDArray[np.generic] | None,
        told: NDArray[np.generic] | None,
        swaps: bool,
        read: bool,
        tick: bool,
        news: NDArray[np.bool_] | None,
    ) -> None:
        """What one host's controller sees of the step, in the order in which it happens."""
        memory = self.memory
        if moving is not None:
            for guest in np.nonzero(moving)[0]:
                size = int(memory.size[host, guest])
                self._take(host, GuestActual(self.now, self.names[guest], size))
        if news is not None:
            self._deliver(host, np.nonzero(news)[0])
        if read:
            self._read(host)
        if told is not None and self.plan.tells:
            for guest in np.nonzero(told)[0]:
                size = int(memory.size[host, guest])
                for level in LEVELS[: told[guest]]:
                    self._take(host, GuestMessage(self.now, self.names[guest], level, size))
        if swaps:
            self._take(host, HostPressure(self.now, self._host_level(host), "simulated"))
        if tick:
            self._take(host, Tick(self.now))
        attended = frozenset(self.engines[host].closely(self.now))
        if attended != self._attended[host]:
            self._attend(host, attended)

    def _attend(self, host: int, attended: frozenset[str]) -> None:
        """Have the statistics of these guests come often, and no others'."""
        for name in attended ^ self._attended[host]:
            guest = self._index[name]
            self._closely[host, guest] = name in attended
            if name in attended:
                soon = self.now + self.p.closely_every
                self._stats_at[host, guest] = min(self._stats_at[host, guest], soon)
        self._attended[host] = attended

    def _host_level(self, host: int) -> Level:
        """By what was swapped: nothing was measured of vmpressure's levels at a limit but that
        the first burst has all of them."""
        share = self.memory.last_out[host] / (self.p.swap * self.p.step)
        return Level.CRITICAL if share >= 1 else Level.MEDIUM if share >= 0.2 else Level.LOW

    def _read(self, host: int) -> None:
        memory = self.memory
        usage = memory.usage_of(host)
        self._read_usage[host] = usage
        swapped = int(memory.host_swap[host].sum())
        limit = int(memory.limit[host])
        occupied: dict[str, Occupancy] = {}
        if usage + swapped >= BUSY * limit:
            out = memory.host_swap[host]
            held = (memory.touched[host] - out + self.p.overhead).astype(np.int64).tolist()
            occupied = dict(
                zip(self.names, map(Occupancy, held, out.astype(np.int64).tolist()), strict=True)
            )
        self._take(host, PoolRead(self.now, HOST, limit, int(usage), swapped, occupied))

    def _sample(self, due: NDArray[np.bool_]) -> None:
        memory, p = self.memory, self.p
        faults = memory.swap_in / PAGE / p.cluster + p.mapped * memory.refault / PAGE / p.cluster
        for row, values in enumerate(
            (
                memory.size,
                memory.free,
                memory.available,
                memory.cache,
                memory.swap_in,
                memory.swap_out,
                faults,
                memory.scanned,
                memory.reclaimed,
            )
        ):
            self._samples[row, due] = values[due]
        self._sample_time[due] = self.now
        changes = np.abs(self._samples[:, due] - self._sent[:, due])
        # Pages are bytes here, as far as it matters whether they differ.
        self._due[due] = np.logical_or.reduce(changes > p.changed * memory.ram[due], 0)

    def _deliver(self, host: int, guests: NDArray[np.intp]) -> None:
        """The samples of the statistics of the host's `guests`."""
        times = self._sample_time[host, guests]
        sample = self._samples[:, host, guests]
        self._sent[:, host, guests] = sample
        self._sent_time[host, guests] = times
        self._due[host, guests] = False
        rows = sample.astype(np.int64).T.tolist()
        for guest, time, row in zip(guests.tolist(), times.tolist(), rows, strict=True):
            stats = Stats(time, *row[:-2])
            if not self.plan.tells:  # only such guests need what levels are computed from
                stats = replace(stats, scanned=row[-2], reclaimed=row[-1])
            self._take(host, StatsRead(self.now, self.names[guest], stats))

    def _take(self, host: int, event: Event) -> None:
        """Give an event to the host's engine, and carry its verdicts out."""
        verdicts = self.engines[host].take(event)
        if self._watch is not None:
            self._watch(host, event, verdicts)
        for verdict in verdicts:
            if isinstance(verdict, Refusal):
                self.targets.refused += 1
                continue
            change = verdict.new_target - verdict.old_target
            self.targets.add(host, verdict.guest, self.now, change, verdict.reason)
            self.memory.target[host, self._index[verdict.guest]] = verdict.new_target

    def result(self) -> Result:
        """What it has cost until now."""
        memory, targets = self.memory, self.targets
        return Result(
            hosts=self.plan.hosts,
            guests=self.plan.hosts * self.plan.guests,
            seconds=self.now,
            host_in=float(memory.host_in.sum()),
            host_out=float(memory.host_out.sum()),
            guest_in=float(memory.swap_in.sum()),
            guest_out=float(memory.swap_out.sum()),
            refault=float(memory.refault.sum()),
            unmet=float(memory.unmet.sum()),
            host_pressed=self._host_pressed,
            guest_low=self._low,
            guest_pressed=self._pressed,
            messages=self._messages if self.plan.tells else 0,
            changes=targets.changes,
            turns=targets.turns,
            refused=targets.refused,
            reasons=targets.reasons,
            balloon=self._balloon / max(self.now, 1),
        )
