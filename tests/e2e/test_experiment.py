# SPDX-License-Identifier: GPL-2.0-or-later
"""Experiments in small, with `transfer` between real guests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyguest import host, paths
from pyguest.experiment import command, report, trial
from pyguest.experiment.contestants import CONTESTANTS
from pyguest.experiment.loads import LOADS, cache
from pyguest.experiment.plan import PLANS
from pyguest.experiment.record import Record
from pyguest.jsonl import read_lines
from pyguest.lab import Lab
from pyguest.progress import step

pytestmark = [
    pytest.mark.timeout(1800, func_only=True),
    pytest.mark.skipif(os.geteuid() != 0, reason="a limited host needs root: use sudo"),
]

MIB = 1 << 20
SCALE, PACE = 0.15, 0.4


def test_transfer_takes_a_cache_that_nobody_needs(lab: Lab, run_folder: Path) -> None:
    """One guest keeps page cache that it does not need, and the other wants memory.

    The first gives some up, the second nothing, and what was measured is a whole outcome.
    """
    load = cache(SCALE, PACE)
    limit = load.limit_mib * MIB
    with (
        host.LimitedHost(limit, 512 * MIB, paths.cache_root()) as limited, lab,
        step("trial") as progress,
    ):
        outcome = trial.run(lab, limited, load, CONTESTANTS["transfer"], 0, 0, progress)
    folder = run_folder / "cache-transfer-0"
    decisions = [one for one in read_lines(folder / "journal.jsonl") if one["event"] == "decision"]
    assert {one["policy"] for one in decisions} == {"transfer"}
    assert any(one["guest"] == "keeps" and one["new"] < one["old"] for one in decisions)
    # Those of the load; the journal goes on until the guests have ended.
    assert outcome.decisions is not None
    assert 0 < outcome.decisions <= len(decisions)

    samples = list(read_lines(folder / "samples.jsonl"))
    assert min(one["sizes"]["keeps"] for one in samples) < load.guest_mib * MIB
    assert max(one["used"] for one in samples) <= limit
    assert outcome.guests["wants"].done > 0
    assert outcome.guests["keeps"].done > 0
    assert all(one.counters.oom_kills == 0 for one in outcome.guests.values())
    assert "| wants: records/s |" in report.table(load, [outcome])


def test_the_quick_plan_runs_through(tmp_path: Path) -> None:
    """What `make bench-quick` does."""
    plan = PLANS["quick"]
    assert command.main(plan, tmp_path, again=True) == 0
    record = Record(tmp_path / "outcomes.jsonl")
    assert not record.failures
    assert all(record.is_done(turn) for turn in plan.turns())
    for outcome in record.valid():
        load = LOADS[outcome.load](plan.scale, plan.pace)
        assert list(outcome.guests) == list(load.guests)
        for name, guest in outcome.guests.items():
            assert (guest.done > 0) == (load.unit(name) is not None)
            assert guest.broken is None
            assert guest.counters.user > 0
        assert (outcome.decisions is None) == (outcome.contestant == "none")
    text = (tmp_path / "README.md").read_text()
    for load_name in plan.loads:
        assert f"\n## {load_name}\n" in text
        assert (tmp_path / f"{load_name}.png").stat().st_size > 0
