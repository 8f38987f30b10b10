# SPDX-License-Identifier: GPL-2.0-or-later
"""What the project wants to reach, held against what was found. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from ..bench.stats import figure, markdown
from . import compare
from .contestants import BASE, CONTESTANTS
from .outcome import GuestOutcome, Outcome
from .plan import PLANS, Plan
from .report import OUT, ROWS, Measure, contestants, hits, values

OURS = ("transfer", "transfer+reporting")
PEER = "reporting"
OUT_MOST = {"transfer": 0.005, "transfer+reporting": 0.0002}
"""Of what the host swaps out without a balloon. In 2014 it was 0.022."""
SPEED_LEAST = 1.02
CACHE_MOST = 0.02
HITS_LEAST = 0.95
ENOUGH = 3
"""Rounds of each contestant; with fewer nothing is judged."""
SURE = 0.05
"""What comes by chance so rarely; three rounds of each reach it where all of one are below all of
the other. It is not corrected for the number of comparisons."""


@dataclass(frozen=True)
class Goal:
    """One goal, and what was found."""

    what: str
    wanted: str
    found: str
    met: bool | None
    """None: there are too few rounds to say."""


def goals(plan: Plan, found: Sequence[Outcome], spoiled: Sequence[Outcome] = (),
          failed: Sequence[str] = ()) -> Iterator[Goal]:
    """Goals of the plan's loads, from the outcomes that count.

    `spoiled` are those that do not, `failed` the contestants of trials that had no outcome.
    """
    full = PLANS["full"]
    seed = [one for one in found if one.load == "seed"]
    cache = [one for one in found if one.load == "cache"]
    for ours in (name for name in OURS if name in plan.contestants):
        if "seed" in plan.loads and (plan.scale, plan.pace) == (full.scale, full.pace):
            yield from _seed(seed, ours)
        if "cache" in plan.loads:
            yield from _cache(cache, ours)
    yield from _all(found)
    yield from _ends(found, [*found, *spoiled], failed)


def table(found: Sequence[Goal]) -> str:
    """The goals as Markdown."""
    said = {True: "met", False: "**missed**", None: "too few rounds"}
    rows = [(one.what, one.wanted, one.found, said[one.met]) for one in found]
    return markdown(("goal", "wanted", "found", ""), rows)


def _seed(found: Sequence[Outcome], ours: str) -> Iterator[Goal]:
    """At the seed's own sizes and times."""
    about, out = f"seed, {ours}: ", ROWS[OUT]
    yield _share(f"{about}host swapped out, against {BASE}", found, ours, BASE, out,
                 most=OUT_MOST[ours])
    if CONTESTANTS[ours].reporting:
        mine, peers = values(found, ours, out), values(found, PEER, out)
        yield Goal(f"{about}host swapped out, pages",
                   f"no more than {PEER} alone: {compare.median(peers)}", compare.median(mine),
                   _judged(mine, peers, lambda: median(mine) <= median(peers)))
    measures: dict[str, Measure] = {
        "host swapped in, pages": lambda one: one.swapped_in,
        "guests swapped out, pages": lambda one: one.total("swap_out"),
    }
    for what, measure in measures.items():
        moved = values(found, ours, measure)
        yield Goal(f"{about}{what}", "0 in each round", compare.median(moved),
                   _judged(moved, moved, lambda: max(moved) <= 0))  # noqa: B023
    for guest in sorted({name for one in found for name in one.guests}):
        yield _share(f"{about}records/s of {guest}, against {BASE}", found, ours, BASE,
                     _of(guest, lambda one: one.speed), least=SPEED_LEAST)


def _cache(found: Sequence[Outcome], ours: str) -> Iterator[Goal]:
    about = f"cache, {ours}: "
    yield _share(f"{about}host swapped out, against {PEER}", found, ours, PEER, ROWS[OUT],
                 most=CACHE_MOST)
    yield _share(f"{about}the working cache's hits, against {PEER}", found, ours, PEER,
                 _of("keeps", hits), least=HITS_LEAST)


def _share(what: str, found: Sequence[Outcome], ours: str, base: str, measure: Measure, *,
           most: float = inf, least: float = -inf) -> Goal:
    """The ratio within a round, whose median is judged; anything against 0 is without bounds.

    A load that ended early says nothing good: what was left out was its hardest part.
    """
    mine = {one.round: one for one in found if one.contestant == ours}
    theirs = {one.round: one for one in found if one.contestant == base}
    ratios = [_ratio(measure(mine[number]) or 0, measure(theirs[number]) or 0)
              for number in sorted(mine.keys() & theirs.keys())]
    finite = [ratio for ratio in ratios if ratio < inf]
    said = compare.median(finite)
    if len(finite) < len(ratios):
        said += f"; in {len(ratios) - len(finite)} rounds {base} has 0"
    if early := any(guest.broken for one in mine.values() for guest in one.guests.values()):
        said += "; a load ended early"
    wanted = f"at most {figure(most)}" if most < inf else f"at least {figure(least)}"
    return Goal(what, wanted, said,
                _judged(ratios, ratios, lambda: not early and least <= median(ratios) <= most))


def _ratio(mine: float, base: float) -> float:
    if base:
        return mine / base
    return inf if mine else 0.0


def _judged(mine: Sequence[float], theirs: Sequence[float], judge: Callable[[], bool]
            ) -> bool | None:
    return judge() if min(len(mine), len(theirs)) >= ENOUGH else None


def _all(found: Sequence[Outcome]) -> Iterator[Goal]:
    """What is moved for want of memory, by the better one of ours, chosen on each load."""
    less: dict[str, list[bool]] = {}
    for load in dict.fromkeys(one.load for one in found):
        here = [one for one in found if one.load == load]
        moved = {name: values(here, name, lambda one: one.lost) for name in contestants(here)}
        others = [name for name in moved if name not in OURS]
        there = [name for name in OURS if name in moved]
        if not there or not others:
            continue
        ours = min(there, key=lambda name: median(moved[name]))
        mine = moved[ours]
        for name in others:
            if min(len(mine), len(moved[name])) >= ENOUGH:
                less.setdefault(name, []).append(compare.chance(mine, moved[name]) <= SURE)
        best = min(others, key=lambda name: median(moved[name]))
        yield Goal(f"{load}, {ours}: pages moved for want of memory",
                   f"no more than the best other, {best}: {compare.median(moved[best])}",
                   compare.median(mine),
                   _judged(mine, moved[best], lambda: median(mine) <= median(moved[best])))  # noqa: B023
    for name, loads in less.items():
        yield Goal(f"less moved than {name} by the better one of ours (p of at most {SURE})",
                   "on a load at least", f"on {sum(loads)} of {len(loads)}", any(loads))


def _ends(found: Sequence[Outcome], run: Sequence[Outcome], failed: Sequence[str]
          ) -> Iterator[Goal]:
    """Of ours, in all that was run."""
    ours = [one for one in run if one.contestant in OURS]
    if not ours:
        return
    kills = sum(int(one.total("oom_kills")) for one in ours)
    yield Goal("OOM kills in guests of ours", "0", str(kills), kills == 0)
    early = sum(guest.broken is not None for one in found if one.contestant in OURS
                for guest in one.guests.values())
    yield Goal("loads of ours that ended early", "0", str(early), early == 0)
    lost = sum(name in OURS for name in failed)
    yield Goal("trials of ours that failed", "0", str(lost), lost == 0)


def _of(guest: str, measure: Callable[[GuestOutcome], float]) -> Measure:
    return lambda one: measure(one.guests[guest]) if guest in one.guests else None
