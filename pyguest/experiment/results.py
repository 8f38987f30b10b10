# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of an experiment: Markdown with pictures, and the outcomes that it was made of."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LabError
from ..jsonl import read_lines
from ..progress import step
from . import goals, model, pictures, report
from .goals import OURS
from .loads import LOADS, Load
from .outcome import Outcome
from .plan import Plan
from .record import OUTCOMES, Record

TITLE = "# The plan"
FINDINGS = "findings.md"
"""Written by hand, beside the report, which takes it in: why a goal is missed, what was tried, and
each change that came of it with its before and after."""
WHERE = """\
Pages are of 4 KiB. *Machine*: counters of the whole machine; *the host's group*: the memory cgroup
that the guests' QEMUs share; QEMUs' faults and CPU are their processes', guests' figures their own
kernels'. The figures are medians of the rounds, in brackets the bootstrap interval (95 %) of the
median: of three rounds that is their range. *Against* another: the ratio within the same round,
where the other's is not 0. *p*: how probable ranks like these are without a difference (Wilcoxon's
rank sum, all permutations): with three rounds of each it is 0.05 at best. The load's times are
scaled by the plan's pace; the policies' own, statistics every 2 to 20 s above all, are not."""
SIMULATED = """\
The same in hostctl's simulator, whose constants are of other measurements or assumed, but for what
a guest has touched when it is up; with one choice of the chances in it:"""
SEED = """\
The table of 2014, averages of three runs, pages: host swapped in 36,479 without and 2.66 with
ballooning, out 372,551 and 8,225; QEMUs' major faults 2,773 and 107 (down), 2,054 and 64 (up);
elapsed 1.89 and 1.92 % lower; records/s 4,692 to 4,711 (down) and 4,684 to 4,704 (up); the guest
up swapped 823 pages out."""


def write(run: Path, into: Path) -> None:
    """Make the report of what is in `run` so far, in the folder `into`. Raises LabError.

    Where nothing was run, it is made anew of the outcomes that are in `into`, with the pictures
    over time as they are.
    """
    source = next((one for one in (run, into) if (one / OUTCOMES).exists()), run)
    record = Record(source / OUTCOMES)
    if not record.outcomes:
        raise LabError(f"{record.path}: no outcomes: run the experiment first")
    page = into / "README.md"
    if page.exists() and not page.read_text().startswith(TITLE):
        raise LabError(f"{page} is no report of an experiment: give another folder")
    into.mkdir(parents=True, exist_ok=True)
    plan, found = record.plan, record.valid()
    parts = [f"{TITLE} {plan.name}", _about(record, plan), WHERE, _spoiled(record),
             "![All loads](summary.png)"]
    if plan.rounds >= goals.ENOUGH:
        spoiled = [one for one in record.outcomes if one not in found]
        failed = [failure["contestant"] for failure in record.failures]
        parts += ["## Goals", goals.table(list(goals.goals(plan, found, spoiled, failed)))]
    if (by_hand := into / FINDINGS).exists():
        parts.append(by_hand.read_text().strip())
    with step("the report") as progress:
        pictures.summary(found, into / "summary.png")
        for name in plan.loads:
            if outcomes := [one for one in found if one.load == name]:
                progress.update(f"{name},")
                load = LOADS[name](plan.scale, plan.pace)
                parts.append(_section(run, into, load, plan, outcomes))
    page.write_text("\n\n".join(parts) + "\n")
    if source != into:
        shutil.copyfile(record.path, into / OUTCOMES)


def _about(record: Record, plan: Plan) -> str:
    about = record.about
    done = len({(one.round, one.load, one.contestant) for one in record.valid()})
    all_ = len(list(plan.turns()))
    beside = f" {about['beside']} other QEMUs ran beside, all the time." if about["beside"] else ""
    missing = f" {done} of {all_} trials are there." if done < all_ else ""
    return (f"`{plan.command}`, on {about['day']}: commit {about['commit']}, Linux "
            f"{about['kernel']} in the guests, QEMU {about['qemu_version']} under "
            f"{about['accel']}, {about['cpus']} CPUs ({about['cpu']}), host Linux "
            f"{about['host_kernel']}.{beside}{missing} The outcomes are in "
            f"[outcomes.jsonl](outcomes.jsonl); samples and journals stay where the command runs.")


def _section(run: Path, into: Path, load: Load, plan: Plan, found: Sequence[Outcome]) -> str:
    parts = [f"## {load.name}", load.why]
    if load.name == "seed":
        parts.append(SEED)
    parts += [f"Guests of {load.guest_mib} MiB, a host of {load.limit_mib} MiB, "
              f"{load.seconds:.0f} s.", report.table(load, found)]
    names = report.contestants(found)
    parts += [report.verdict(found, ours) for ours in OURS if ours in names and len(names) > 1]
    if (simulated := model.against(load, found)) is not None:
        parts += [SIMULATED, simulated]
    picture = into / f"{load.name}.png"
    if trials := _samples(run, plan, found):
        first = min(one.round for one in found)
        pictures.timeline(f"{load.name}, round {first + 1}", trials, picture)
    if picture.exists():
        parts.append(f"![{load.name} over time]({picture.name})")
    return "\n\n".join(parts)


def _samples(run: Path, plan: Plan, found: Sequence[Outcome]
             ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Of each contestant's first trial; those of a run on another machine are not there."""
    trials = {}
    for name in plan.contestants:
        one = min((one for one in found if one.contestant == name), key=lambda one: one.round,
                  default=None)
        if one is not None:
            path = run / one.folder / "samples.jsonl"
            if path.exists() and (samples := list(read_lines(path))):
                trials[name] = samples
    return trials


def _spoiled(record: Record) -> str:
    """What did not go as it should, and what became of it."""
    counted = record.valid()
    lines = [
        f"- round {one.round + 1} of {one.load}, {one.contestant}, disturbed: "
        f"{', '.join(one.disturbed)}; "
        + ("**counted all the same**, as none of its runs was not" if one in counted
           else "run again")
        for one in record.outcomes if one.disturbed]
    for failure in record.failures:
        turn = failure["round"], failure["load"], failure["contestant"]
        lines.append(f"- round {turn[0] + 1} of {turn[1]}, {turn[2]}, failed: {failure['why']}; "
                     + ("run again" if record.is_done(turn) else "**missing**"))
    if not lines:
        return "No trial was disturbed from outside, and none failed."
    return "Trials that were disturbed or failed:\n\n" + "\n".join(lines)
