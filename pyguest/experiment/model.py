# SPDX-License-Identifier: GPL-2.0-or-later
"""A trial in hostctl's simulator: the same guests, host and load, to hold the model against it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy import stats

from hostctl.sim.measure import Result
from hostctl.sim.memory import PAGE, Demand
from hostctl.sim.parameters import Parameters
from hostctl.sim.world import LOADS_EVERY, NONE, Hosts, Plan, World

from ..bench.stats import figure, markdown
from .contestants import CONTESTANTS
from .loads import GUEST_OWN, QEMU_OWN, Load, Step
from .outcome import Outcome
from .report import contestants, values

MIB = 1 << 20
LEAD = 30.0
"""Seconds from when a guest is up until its load begins."""
BOOTED = 200
"""What a guest has touched when it is up: its QEMU has 265 to 295 MiB then. In the lab it has as
much with free page reporting, and here none of that is left."""
SLIGHT = 256
"""Pages: 1 MiB."""
UNKNOWN = ("automatic",)
"""Contestants that the simulator does not have."""


@dataclass(frozen=True)
class _Wants:
    """One guest's demand, in MiB; `fresh` of a file that is read for the first time."""

    anon: float = 0.0
    hot: float = 0.0
    fresh: float = 0.0
    files: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """What was moved in a trial, in pages of 4 KiB."""

    swapped_in: float
    swapped_out: float
    guests_in: float
    guests_out: float
    refaults: float


class Steps:
    """What the guests of a load want, from LEAD on."""

    def __init__(self, load: Load) -> None:
        self._guests = list(load.guests.values())

    def at(self, now: float) -> Demand:
        """As hostctl.sim.world.Wants."""
        wants = [_wants(steps, now - LEAD) for steps in self._guests]
        stream = [one.fresh / LOADS_EVERY for one in wants]
        return Demand(_row([one.anon for one in wants]) * MIB, _row([one.hot for one in wants]),
                      _row(stream) * MIB, _row([one.files for one in wants]) * MIB)


def simulate(load: Load, contestant: str, seed: int = 1) -> Simulated:
    """What the simulator makes of a trial of one of CONTESTANTS but UNKNOWN."""
    who = CONTESTANTS[contestant]
    count = len(load.guests)
    parameters = replace(Parameters(), kernel=GUEST_OWN / load.guest_mib,
                         overhead=QEMU_OWN * MIB)
    plan = Plan(1, count, LEAD + load.seconds, who.policy or NONE, load.name, seed,
                reporting=who.reporting, parameters=parameters)
    ram = np.full((1, count), float(load.guest_mib * MIB))
    limit = np.array([float(load.limit_mib * MIB)])
    world = World(plan, hosts=Hosts(ram, limit, Steps(load), BOOTED * MIB))
    while world.now < LEAD:
        world.step()
    before = _moved(world.result())
    after = _moved(world.run())
    return Simulated(*(later - sooner for later, sooner in zip(after, before, strict=True)))


def against(load: Load, found: Sequence[Outcome]) -> str | None:
    """The simulator's figures beside those of trials, as Markdown; None: it has too few of them."""
    names = [name for name in contestants(found) if name not in UNKNOWN]
    if len(names) < 2:
        return None
    pairs = {name: (_swapped(found, name), simulate(load, name)) for name in names}
    measured = [out + own for (out, own), _ in pairs.values()]
    simulated = [one.swapped_out + one.guests_out for _, one in pairs.values()]
    rows = [(name, *map(figure, (out, one.swapped_out, own, one.guests_out)))
            for name, ((out, own), one) in pairs.items()]
    said = markdown(("pages swapped out", "host", "simulated", "guests", "simulated"), rows)
    if len({*measured}) > 1 and len({*simulated}) > 1:
        order = stats.spearmanr(measured, simulated).statistic
        said += ("\n\nOf both together: rank correlation of the contestants (Spearman) "
                 f"{order:.2f}; the simulator is off by a factor of "
                 f"{_off(measured, simulated):.2g} (median).")
    return said


def _swapped(found: Sequence[Outcome], name: str) -> tuple[float, float]:
    """Out by the host and by the guests, medians."""
    return (median(values(found, name, lambda one: one.swapped_out)),
            median(values(found, name, lambda one: one.total("swap_out"))))


def _off(measured: Sequence[float], simulated: Sequence[float]) -> float:
    """The middle one of their ratios, upside down where less than 1. SLIGHT is added to both: next
    to nothing is as good as nothing."""
    ratios = [(a + SLIGHT) / (b + SLIGHT) for a, b in zip(measured, simulated, strict=True)]
    return median(max(ratio, 1 / ratio) for ratio in ratios)


def _moved(result: Result) -> tuple[float, ...]:
    found = (result.host_in, result.host_out, result.guest_in, result.guest_out, result.refault)
    return tuple(size / PAGE for size in found)


def _wants(steps: tuple[Step, ...], now: float) -> _Wants:
    """What a guest wants at that time. Reading a file once takes the time of one look."""
    begin = 0.0
    if now < 0:
        return _Wants()
    for step in steps:
        since, begin = now - begin, begin + max(step.seconds, LOADS_EVERY * (step.kind == "read"))
        if now >= begin:
            continue
        match step.kind:
            case "chunks":
                return _Wants(anon=step.mib, hot=1.0)
            case "anon":
                return _Wants(anon=step.mib)
            case "read" if since < LOADS_EVERY:
                return _Wants(fresh=step.mib)
            case "again" | "pgbench":
                return _Wants(files=step.mib)
        break
    return _Wants()


def _row(values: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([values], float)
