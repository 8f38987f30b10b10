# SPDX-License-Identifier: GPL-2.0-or-later
"""Outcomes as Markdown. Pure: it looks at nothing but the outcomes."""

from collections.abc import Callable, Sequence

from ..bench.stats import figure, markdown, percentile
from .compare import chance, median
from .contestants import BASE, CONTESTANTS
from .loads import Load
from .outcome import GuestOutcome, Outcome

MIB = 1 << 20
PAGE = 4096

Measure = Callable[[Outcome], float | None]
"""None: there is no such figure."""
GuestMeasure = Callable[[GuestOutcome], float]

IN, OUT = "host swapped in (pages, machine)", "host swapped out (pages, machine)"
ROWS: dict[str, Measure] = {
    IN: lambda one: one.swapped_in,
    OUT: lambda one: one.swapped_out,
    "guests swapped in (pages)": lambda one: one.total("swap_in"),
    "guests swapped out (pages)": lambda one: one.total("swap_out"),
    "guests' files read again (pages)": lambda one: one.total("refaults"),
    "these five together": lambda one: one.lost,
    "pages of zeros besides, swapped in by the host": lambda one: one.zeros_in,
    "pages of zeros besides, swapped out": lambda one: one.zeros_out,
    "faulted back in (pages, the host's group)": lambda one: one.faulted_in,
    "most swap used (MiB, the host's group)": lambda one: one.most_swap / MIB,
    "waits for memory (s, machine)": lambda one: one.stalled,
    "guests' OOM kills": lambda one: one.total("oom_kills"),
    "loads that ended early": lambda one: sum(
        guest.broken is not None for guest in one.guests.values()),
    "samples that a QEMU did not answer": lambda one: one.unsampled,
    "targets changed": lambda one: one.decisions,
    "guests' messages": lambda one: one.messages,
}
GUEST_ROWS: dict[str, GuestMeasure] = {
    "elapsed (s)": lambda one: one.elapsed,
    "QEMU's user (s)": lambda one: one.counters.user,
    "QEMU's sys (s)": lambda one: one.counters.sys,
    "QEMU's CPU (%)": lambda one: 100 * (one.counters.user + one.counters.sys) / one.elapsed,
    "QEMU's major faults": lambda one: one.counters.major_faults,
    "QEMU's minor faults": lambda one: one.counters.minor_faults,
    "swapped in (pages)": lambda one: one.counters.swap_in,
    "swapped out (pages)": lambda one: one.counters.swap_out,
    "files read again (pages)": lambda one: one.counters.refaults,
}
"""Of each guest, where they are few."""
FEW = 2


def table(load: Load, found: Sequence[Outcome]) -> str:
    """One load's outcomes: a column for each contestant, medians of the rounds with intervals."""
    names = contestants(found)

    def row(what: str, measure: Measure, base: str | None = None) -> tuple[str, ...]:
        return (what, *(median(values(found, name, measure, base)) for name in names))

    rows = [row(what, measure) for what, measure in ROWS.items()]
    rows += [row(f"{what.split(' (')[0]}, against {BASE}", ROWS[what], BASE) for what in (IN, OUT)]
    for guest in load.guests:
        if len(load.guests) <= FEW:
            rows += [row(f"{guest}: {what}", _of_guest(guest, measure))
                     for what, measure in GUEST_ROWS.items()]
        if (unit := load.unit(guest)) is not None:
            speed = _of_guest(guest, lambda one: one.speed)
            rows.append(row(f"{guest}: {unit}", _of_guest(guest, lambda one: one.done)))
            rows.append(row(f"{guest}: {unit}/s", speed))
            rows.append(row(f"{guest}: {unit}/s, against {BASE}", speed, BASE))
            if unit == "MiB read":
                rows.append(row(f"{guest}: read from its page cache", _of_guest(guest, hits)))
    return markdown(("", *names), rows + _waits(found, names))


def verdict(found: Sequence[Outcome], ours: str) -> str:
    """`ours` against each other contestant, by all that was moved for want of memory."""
    mine = values(found, ours, lambda one: one.lost)
    rows = [(ours, median(mine), "", "")]
    for name in contestants(found):
        if name != ours:
            theirs = values(found, name, lambda one: one.lost)
            rows.append((name, median(theirs), f"{chance(mine, theirs):.2f}",
                         f"{chance(theirs, mine):.2f}"))
    return markdown((f"pages moved, {ours} against", "median", "p of less", "p of more"), rows)


def contestants(found: Sequence[Outcome]) -> list[str]:
    """Those that there are outcomes of, in their usual order."""
    there = {one.contestant for one in found}
    return [name for name in CONTESTANTS if name in there]


def values(found: Sequence[Outcome], name: str, measure: Measure, base: str | None = None
           ) -> list[float]:
    """The contestant's values; over those of `base` in the same rounds, where these are not 0."""
    mine = {one.round: measure(one) for one in found if one.contestant == name}
    if base is None:
        return [value for value in mine.values() if value is not None]
    below = {one.round: measure(one) for one in found if one.contestant == base}
    return [value / below_it for number, value in mine.items()
            if value is not None and (below_it := below.get(number))]


def hits(one: GuestOutcome) -> float:
    """The share of pages read again that were in the guest's page cache.

    Refaults are all of the guest's, so that it is no less than this.
    """
    pages = one.done * MIB / PAGE
    return 1 - one.counters.refaults / pages if pages else 0.0


def _of_guest(guest: str, measure: GuestMeasure) -> Measure:
    return lambda one: measure(one.guests[guest])


def _waits(found: Sequence[Outcome], names: Sequence[str]) -> list[tuple[str, ...]]:
    """How long guests waited, of all rounds together."""
    waits = {name: [wait for one in found if one.contestant == name for wait in one.waits]
             for name in names}

    def line(what: str, say: Callable[[list[float]], str]) -> tuple[str, ...]:
        return (what, *(say(waits[name]) if waits[name] else "-" for name in names))

    return [
        line("message to larger target: times", lambda some: str(len(some))),
        line("message to larger target: p50 (ms)",
             lambda some: figure(1000 * percentile(some, 50))),
        line("message to larger target: p99 (ms)",
             lambda some: figure(1000 * percentile(some, 99))),
        ("messages without, at the end", *(
            str(sum(one.unheard for one in found if one.contestant == name)) for name in names)),
    ]
