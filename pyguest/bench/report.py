# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's measurements as Markdown. Pure: it looks at nothing but the records."""

from collections import Counter
from collections.abc import Callable, Sequence

from . import inflation, latency, share
from .stats import figure, markdown, percentile, spread

Distance = Callable[[latency.Burst], float | None]


def _acking(burst: latency.Burst) -> float | None:
    if burst.acked_ms is None or burst.queued_ms is None:
        return None
    return burst.acked_ms - burst.queued_ms


def _driver(burst: latency.Burst) -> float | None:
    if burst.window_ms is None or burst.queued_ms is None:
        return None
    # What was left of the burst before may have completed the window sooner.
    return max(burst.queued_ms - burst.window_ms, 0.0)


DISTANCES: dict[str, Distance] = {
    "first reclaim to device's use": lambda burst: burst.acked_ms,
    "first reclaim to message queued": lambda burst: burst.queued_ms,
    "message queued to device's use": _acking,
    f"first reclaim to {latency.WINDOW} pages scanned (the hog)": lambda burst: burst.window_ms,
    f"{latency.WINDOW} pages scanned to message queued (the driver)": _driver,
}


def latency_table(bursts: Sequence[latency.Burst]) -> str:
    """The distances, of all bursts and by hog, and why bursts had no message."""
    told = [burst for burst in bursts if burst.outcome == latency.TOLD]
    rows = []
    for name, distance in DISTANCES.items():
        for hog in ("all", *latency.HOGS):
            values = [value for burst in told if hog in ("all", burst.hog)
                      and (value := distance(burst)) is not None]
            if values:
                rows.append((name, hog, str(len(values)), figure(percentile(values, 50)),
                             figure(percentile(values, 99)), figure(max(values))))
    levels = Counter(burst.level for burst in told)
    lines = [markdown(("distance (ms)", "hog", "bursts", "p50", "p99", "worst"), rows), "",
             f"{len(bursts)} bursts, {len(told)} told"
             f" ({', '.join(f'{levels[level]} {level}' for level in levels) or 'none'}),"
             f" {spread(float(burst.scanned) for burst in told)} pages scanned in each."]
    lines += [f"- {count} not measured: {why}" for why, count in Counter(
        burst.outcome for burst in bursts if burst.outcome != latency.TOLD).items()]
    if 0 < len(told) < 100:
        lines.append("With fewer than 100 bursts, p99 (nearest rank) is the worst one.")
    return "\n".join(lines)


def share_table(windows: Sequence[share.Window]) -> str:
    """The driver's share of the CPUs, and what the tracer did to reclaim."""
    plain = [window for window in windows if not window.traced]
    traced = [window for window in windows if window.traced]
    names = sorted({name for window in traced for name in window.calls},
                   key=lambda name: -sum(w.calls[name].seconds for w in traced
                                         if name in w.calls))
    none = share.Calls(0, 0.0)

    def scanned(some: Sequence[share.Window]) -> str:
        return spread(window.scanned / window.seconds for window in some)

    def swapped(some: Sequence[share.Window]) -> str:
        return spread(window.swapped / window.seconds for window in some)

    def busy(some: Sequence[share.Window]) -> str:
        return spread((window.busy_share for window in some), 100)

    rows = [
        ("pages scanned a second", scanned(plain), scanned(traced)),
        ("pages swapped a second, in and out", swapped(plain), swapped(traced)),
        ("CPU time used, % of elapsed x CPUs", busy(plain), busy(traced)),
        ("the driver, % of elapsed x CPUs", "-", spread((w.of_all for w in traced), 100)),
        ("the driver, % of CPU time used", "-", spread((w.of_busy for w in traced), 100)),
        ("calls of the shrinker's count a second", "-", spread(
            w.calls.get(share.COUNT, none).count / w.seconds for w in traced)),
    ]
    rows += [(f"`{name}`: calls a second; us a call; % of elapsed x CPUs", "-", "; ".join((
        spread(w.calls.get(name, none).count / w.seconds for w in traced),
        spread((w.calls[name].seconds / w.calls[name].count for w in traced if name in w.calls),
               1e6),
        spread((w.calls.get(name, none).seconds / (w.seconds * w.cpus) for w in traced), 100),
    ))) for name in names]
    lines = [markdown(("reclaim flat out", "without tracer", "function graph tracer on"), rows),
             "", "The driver's time is an upper bound for its functions: the tracer's own cost and "
             "interrupts that fell into a call are in it; the workqueue's cost of starting its "
             "work is not."]
    lost = sum(window.lost for window in traced)
    if lost:
        lines.append(f"{lost} trace records were lost: the driver's figures are too low.")
    return "\n".join(lines)


def inflation_table(found: Sequence[inflation.Inflation],
                    who: Sequence[inflation.Contestant]) -> str:
    """Speed and swap-in of each contestant, and its speed against the stock driver's."""
    rows = []
    for state in inflation.STATES:
        for one in who:
            base = next(other for other in who if other.append == one.append)
            mine = [each for each in found if each.state == state
                    and (each.contestant, each.init_on_alloc) == (one.label, one.init_on_alloc)]
            in_mib = inflation.PAGE / inflation.MIB
            rows.append((
                one.label, one.init_on_alloc, state,
                spread(each.speed for each in mine),
                spread(inflation.ratios(found, one, base, state)),
                spread((each.swapped_before for each in mine), 1 / inflation.MIB),
                spread((each.pswpin for each in mine), in_mib),
                spread((each.refaults for each in mine), in_mib),
                spread(each.major_faults for each in mine),
                spread((each.scanned for each in mine), in_mib),
            ))
    return "\n".join((
        markdown(("driver", "init_on_alloc", "guest's memory", "MiB/s", "against stock",
                  "in swap before (MiB)", "swapped in, machine (MiB)",
                  "faulted in, group (MiB)", "QEMU major faults",
                  "scanned in the guest (MiB)"), rows),
        "", f"{inflation.INFLATE_MIB} MiB each, from the target's setting to the size reached. "
        "`against stock`: speed over the stock driver's at the same init_on_alloc, round by round. "
        "Swapped in is the whole machine's pswpin (with read-ahead); faulted in is the group's "
        "workingset_refault_anon.",
    ))
