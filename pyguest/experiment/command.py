# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs an experiment: each contestant on each load, in rounds, each in an order of its own."""

import datetime
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import host, lab, paths
from ..errors import LabError
from ..progress import step
from . import report, results, trial
from .contestants import CONTESTANTS
from .disturbance import strangers
from .loads import LOADS
from .plan import PLANS, Plan
from .record import OUTCOMES, Record

MIB = 1 << 20
JUDGES = {
    Path(__file__).with_name(f"{name}.py")
    for name in ("compare", "goals", "model", "pictures", "report", "results")
}
"""What looks at outcomes alone: it may change while an experiment goes on."""


def folder(plan: Plan) -> Path:
    """Where a plan's outcomes are, and each trial's samples."""
    return paths.state_dir(_name(plan))


def _name(plan: Plan) -> str:
    """Of its own for each plan, so that none ends what another has measured."""
    own = PLANS.get(plan.name) != plan
    return f"experiment-{paths.content_key(repr(plan)) if own else plan.name}"


def main(plan: Plan, into: Path | None = None, *, again: bool = False) -> int:
    """Run what is not there yet of `plan`, or all `again`; print its tables as Markdown, or write
    its report. 0 when all is there."""
    if os.geteuid() != 0:
        raise LabError("an experiment makes a limited host (a memory cgroup and a swap file), "
                       "which needs root: use sudo")
    parts = lab.prepare()
    with ExitStack() as stack:
        one = stack.enter_context(lab.Lab(parts, _name(plan)))
        # A run of hours may have begun on another machine of this kind.
        record = Record(one.run_dir / OUTCOMES, into and into / OUTCOMES)
        record.begin(_about(plan, one), again=again)
        loads = {name: LOADS[name](plan.scale, plan.pace) for name in plan.loads}
        with step("the host of limited memory") as progress:
            limited = stack.enter_context(host.LimitedHost(
                max(load.limit_mib for load in loads.values()) * MIB,
                max(len(load.guests) * load.guest_mib for load in loads.values()) * MIB,
                paths.cache_root(), progress=progress.update))
        failed = _run(plan, one, limited, record)
    if into is not None and record.outcomes:
        results.write(one.run_dir, into)
        print(f"report: {into}")
    else:
        for name, load in loads.items():
            if found := [outcome for outcome in record.valid() if outcome.load == name]:
                print(f"\n### {name}: guests of {load.guest_mib} MiB, a host of {load.limit_mib} "
                      f"MiB\n\n{report.table(load, found)}")
    print(f"\n`{plan.command}`: Linux {parts.kernel.release} under {one.accel.kind}, "
          f"{os.cpu_count()} CPUs; medians of {plan.rounds} rounds with their intervals"
          + (f"; {failed} trials failed and are not in them" if failed else "")
          + f"\nrecord: {record.path}")
    return 1 if failed else 0


def _run(plan: Plan, one: lab.Lab, limited: host.LimitedHost, record: Record) -> int:
    """Run what is not done; how many trials failed. One that was disturbed is run again."""
    turns = list(plan.turns())
    loads = {name: LOADS[name](plan.scale, plan.pace) for name in plan.loads}
    planned, spent, failed = 0.0, 0.0, 0
    for count, turn in enumerate(turns, 1):
        number, name, contestant = turn
        while not record.is_done(turn):
            what = f"{count} of {len(turns)}: {name}, {contestant}"
            if planned:
                left = sum(loads[other[1]].seconds for other in turns[count - 1:]
                           if not record.is_done(other))
                what += f"; {left * spent / planned / 60:.0f} min left"
            begin = time.monotonic()
            try:
                with step(what) as progress:
                    outcome = trial.run(one, limited, loads[name], CONTESTANTS[contestant], number,
                                        record.tries(turn), progress)
            except Exception as error:  # whatever it is, the others can still be compared
                failed += 1
                why = " ".join(str(error).split()) or type(error).__name__
                record.fail(turn, why)
                print(f"pyguest: round {number} of {name}, {contestant}: {why}; "
                      "the same command tries it again", file=sys.stderr)
                break
            planned, spent = planned + loads[name].seconds, spent + time.monotonic() - begin
            record.add(outcome)
            for why in outcome.disturbed:
                print(f"pyguest: round {number} of {name}, {contestant}: disturbed: {why}",
                      file=sys.stderr)
    return failed


def code() -> list[Path]:
    """What decides what is measured."""
    return sorted(path for top in ("hostctl", "pyguest")
                  for path in (paths.TREE / top).rglob("*.py") if path not in JUDGES)


def _about(plan: Plan, one: lab.Lab) -> dict[str, Any]:
    """All that makes two runs the same, and what a reader wants to know of one."""
    parts = one.parts
    version = subprocess.run([parts.qemu.binary, "--version"], capture_output=True, text=True,
                             check=True).stdout.split()[3]
    return {"kind": "about", "kernel": parts.kernel.release, "qemu": str(parts.qemu.binary),
            "qemu_version": version, "driver": str(parts.driver), "image": str(parts.image.disk),
            "accel": one.accel.kind, "cpus": os.cpu_count(), "cpu": _cpu(),
            "host_kernel": platform.release(), "code": paths.content_key(*code()),
            "beside": len(strangers(())), "commit": _commit(),
            "day": datetime.date.today().isoformat(), **asdict(plan)}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    """The tree's, where that is known."""
    done = subprocess.run(["git", "-C", str(paths.TREE), "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
