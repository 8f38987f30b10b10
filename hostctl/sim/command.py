# SPDX-License-Identifier: GPL-2.0-or-later
"""`hostctl simulate`: policies on the same hosts, guests and loads, side by side."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import reduce
from multiprocessing import get_context
from operator import add

from rich.console import Console
from rich.table import Table

from hostctl.errors import HostctlError
from hostctl.policy import POLICIES
from hostctl.sim.loads import LOADS, MIXED
from hostctl.sim.measure import SWING, Result
from hostctl.sim.world import NONE, Plan, World

NAMES = (NONE, *POLICIES)
PART = 50
"""Hosts that are simulated together, with random numbers of their own."""
EPILOG = """\
examples:
  hostctl simulate --hosts 4 --guests 50 --hours 2
      every policy and none, on the same guests with mixed loads
  hostctl simulate --hosts 200 --guests 50 --hours 24 --policy transfer --load daily

What the model takes from the world, and from where, is in hostctl/sim/parameters.py; what the
columns mean and what the model leaves out, in docs/policy.md.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `simulate` to the command line."""
    parser = commands.add_parser(
        "simulate",
        help="try policies on simulated hosts",
        description="Simulates hosts of guests under each policy and prints what it cost.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--hosts", type=_from(1, int), default=4, metavar="N")
    parser.add_argument("--guests", type=_from(1, int), default=50, metavar="N", help="on a host")
    parser.add_argument("--hours", type=_from(0.001, float), default=2.0, metavar="H")
    parser.add_argument(
        "--policy",
        action="append",
        choices=NAMES,
        help="may be given several times (all of them)",
    )
    parser.add_argument("--load", choices=LOADS, default=MIXED, help=f"({MIXED})")
    parser.add_argument("--seed", type=_from(0, int), default=1, metavar="N")
    parser.add_argument(
        "--overcommit",
        type=_from(0.1, float),
        default=2.5,
        metavar="X",
        help="the guests' RAM as a multiple of their host's (2.5)",
    )
    parser.add_argument(
        "--no-reporting", action="store_true", help="guests have no free page reporting"
    )
    parser.add_argument(
        "--stock", action="store_true", help="guests have a stock driver: statistics alone"
    )
    parser.add_argument(
        "--processes",
        type=_from(1, int),
        default=os.cpu_count() or 1,
        metavar="N",
        help="hosts are shared out over so many (one for each core)",
    )


def run(args: argparse.Namespace) -> int:
    """Simulate and print; 0."""
    console = Console()
    plans = [
        Plan(
            args.hosts,
            args.guests,
            args.hours * 3600,
            policy,
            args.load,
            args.seed,
            overcommit=args.overcommit,
            reporting=not args.no_reporting,
            tells=not args.stock,
        )
        for policy in dict.fromkeys(args.policy or NAMES)
    ]
    results: list[tuple[str, Result]] = []
    started = time.monotonic()
    for plan in plans:
        with console.status(f"{plan.policy}: {args.hosts} hosts, {args.hours:g} h"):
            results.append((plan.policy, simulate(plan, args.processes)))
    console.print(table(results))
    for name, result in results:
        if result.reasons:
            reasons = ", ".join(f"{k} {v}" for k, v in result.reasons.most_common())
            console.print(f"{name}: {reasons}; refused by the guard {result.refused}")
    guests = args.hosts * args.guests
    console.print(
        f"{guests} guests on {args.hosts} hosts, {args.hours:g} h, load {args.load}, "
        f"seed {args.seed}; {time.monotonic() - started:.0f} s"
    )
    return 0


def simulate(plan: Plan, processes: int) -> Result:
    """Run `plan`, its hosts shared out over `processes`; the outcome is the same with any number.

    Raises HostctlError when there cannot be so many.
    """
    parts = -(-plan.hosts // PART)
    sizes = [plan.hosts // parts + (i < plan.hosts % parts) for i in range(parts)]
    plans = [replace(plan, hosts=size, seed=plan.seed + (i << 32)) for i, size in enumerate(sizes)]
    if min(parts, processes) == 1:
        return reduce(add, map(_run, plans))
    try:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            return reduce(add, pool.map(_run, plans))
    except OSError as exc:
        raise HostctlError(
            f"{parts} processes: {exc.strerror}; give fewer with --processes"
        ) from exc


def table(results: Sequence[tuple[str, Result]]) -> Table:
    """A column for each policy."""
    found = Table(box=None, pad_edge=False)
    found.add_column("", no_wrap=True)
    for name, _ in results:
        found.add_column(name, justify="right", no_wrap=True)
    gib = 1 << 30
    rows: list[tuple[str, Callable[[Result], str]]] = [
        ("host swapped in, GiB", lambda r: f"{r.host_in / gib:.1f}"),
        ("host swapped out, GiB", lambda r: f"{r.host_out / gib:.1f}"),
        ("guests swapped in, GiB", lambda r: f"{r.guest_in / gib:.1f}"),
        ("guests swapped out, GiB", lambda r: f"{r.guest_out / gib:.1f}"),
        ("files read again, GiB", lambda r: f"{r.refault / gib:.1f}"),
        ("not to be had, GiB s", lambda r: f"{r.unmet / gib:.1f}"),
        ("host under pressure", lambda r: f"{r.host_pressed / r.seconds / r.hosts:.2%}"),
        ("guest low", lambda r: f"{r.guest_low / r.seconds / r.guests:.2%}"),
        ("guest medium, critical", lambda r: f"{r.guest_pressed / r.seconds / r.guests:.2%}"),
        ("balloons, GiB", lambda r: f"{r.balloon / gib:.0f}"),
        ("decisions a guest and h", lambda r: f"{_hourly(r, r.changes):.2f}"),
        (f"turned in {SWING / 60:.0f} min, guest and h", lambda r: f"{_hourly(r, r.turns):.3f}"),
    ]
    for name, show in rows:
        found.add_row(name, *(show(result) for _, result in results))
    return found


def _hourly(result: Result, count: int) -> float:
    return count / result.guests / (result.seconds / 3600)


def _run(plan: Plan) -> Result:
    return World(plan).run()


def _from(least: float, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: give a number") from None
        if not least <= value < 1e9:
            raise argparse.ArgumentTypeError(f"{text}: give {least:g} or more")
        return value

    return parse
