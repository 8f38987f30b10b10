# SPDX-License-Identifier: GPL-2.0-or-later
"""Experiments: what is planned, how fast a guest is helped, and the tables."""

from __future__ import annotations

import json
import os
from collections import Counter as Count
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pyguest import paths
from pyguest.bench.stats import figure
from pyguest.errors import LabError
from pyguest.experiment import command, compare, goals, model, postgres, report, results
from pyguest.experiment.command import _name
from pyguest.experiment.contestants import CONTESTANTS
from pyguest.experiment.disturbance import Surroundings, disturbances, others, strangers
from pyguest.experiment.loads import GUEST_OWN, LOADS, QEMU_OWN, Work, cache, seed
from pyguest.experiment.outcome import Counters, GuestOutcome, Outcome
from pyguest.experiment.plan import PLANS, Plan
from pyguest.experiment.reaction import reactions
from pyguest.experiment.record import Record
from pyguest.host import ProcessUsage

MIB = 1 << 20


def test_the_seeds_load_at_full_scale() -> None:
    load = seed(1.0, 1.0)
    assert (load.guest_mib, load.limit_mib) == (1331, 2048)
    assert [step.mib for step in load.guests["down"]] == [1024, 824, 624, 424, 224]
    assert [step.mib for step in load.guests["up"]] == [0, 224, 424, 624, 824, 1024]
    assert load.seconds == 360


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("scale", [0.1, 0.25, 1.0, 4.0])
def test_no_host_has_room_for_all_that_its_guests_touch(name: str, scale: float) -> None:
    load = LOADS[name](scale, 1.0)
    # What was read once stays in the page cache beside what is wanted then.
    most = [sum(step.mib for step in steps if step.kind == "read")
            + max((step.mib for step in steps if step.kind != "read"), default=0)
            for steps in load.guests.values()]
    assert max(most) < load.guest_mib + 200 * scale  # where a part of that is read again
    own = len(load.guests) * (GUEST_OWN + QEMU_OWN)
    assert load.limit_mib < sum(most) + own
    assert load.limit_mib < len(load.guests) * (load.guest_mib + QEMU_OWN)


def test_a_file_that_was_read_is_read_again_in_part() -> None:
    first, again = cache(0.25, 0.5).guests["keeps"]
    assert first.command().startswith("dd if=/data of=/dev/null bs=1M count=250 ")
    assert again.command() == f"/run/lab/bin/cacheload -r {32 * MIB} -S 120 -s {50 * MIB} /data"
    made = cache(0.25, 0.5).preparation("keeps")
    assert made is not None
    assert made.startswith("dd if=/dev/urandom of=/data bs=1M count=250 oflag=direct")
    assert cache(0.25, 0.5).preparation("wants") is None


def test_a_guest_is_known_before_its_memory_is_wanted() -> None:
    for make in (cache, LOADS["spike"]):
        waits = [step.seconds for step in make(0.25, 0.1).guests["wants" if make is cache
                                                                 else "jumps"]]
        assert waits[0] == 30.0


def test_what_a_step_has_done_is_in_what_it_says() -> None:
    again = cache(1.0, 1.0).guests["keeps"][1]
    assert again.work(f"read {MIB}\nread {6 * MIB}\n") == Work(6.0, 240.0)
    with pytest.raises(LabError, match="cacheload"):
        again.work("cacheload: killed")
    with pytest.raises(LabError, match="pgbench"):
        LOADS["database"](1.0, 1.0).guests["db"][0].work("ERROR: out of disk")
    said = "scaling factor: 7\nnumber of transactions actually processed: 1548\ntps = 104.6\n"
    assert postgres.transactions(said) == 1548


def test_each_round_has_each_once_in_an_order_of_its_own() -> None:
    plan = Plan(("none", "classic", "transfer", "mom"), ("seed", "cache"), rounds=3)
    turns = list(plan.turns())
    assert turns == list(plan.turns())
    assert set(Count(turns).values()) == {1}
    assert len(turns) == 24
    seeds = [[c for n, load, c in turns if (n, load) == (number, "seed")] for number in range(3)]
    assert len({tuple(order) for order in seeds}) > 1
    assert _name(plan) != _name(replace(plan, rounds=2)) != _name(PLANS["full"])
    assert _name(PLANS["full"]) == "experiment-full" != _name(replace(PLANS["full"], rounds=1))
    assert plan.command == ("bin/pyguest experiment seed cache --contestants "
                            "none,classic,transfer,mom --rounds 3 --scale 0.25 --pace 0.25")
    full = replace(PLANS["full"], rounds=1)
    assert full.command == "bin/pyguest experiment --plan full --rounds 1"


def test_who_has_which_driver_and_device() -> None:
    group = Path("/cg/host")
    assert CONTESTANTS["reporting"].stock
    assert CONTESTANTS["reporting"].balloon(group) == "virtio-balloon-pci,free-page-reporting=on"
    assert not CONTESTANTS["transfer"].stock
    assert CONTESTANTS["transfer+reporting"].balloon(group) == (
        "virtio-balloon-pci,message-vq=on,free-page-reporting=on")
    assert CONTESTANTS["automatic"].balloon(group).endswith("automatic=on,memcg-path=/cg/host")


def record(event: str, mono: float, guest: str = "a", **fields: object) -> dict[str, Any]:
    return {"event": event, "mono": mono, "guest": guest, **fields}


def test_a_wait_is_from_the_first_message_to_the_larger_target() -> None:
    journal = [
        record("guest-added", 0.0, ram=100, target=100),
        record("guest-message", 1.0, level="low"),  # has all of its RAM
        record("target-taken", 2.0, target=50),
        record("guest-message", 3.0, level="low"),
        record("guest-message", 3.2, level="critical"),
        record("target-taken", 3.25, target=50),
        record("guest-read", 3.4, ram=100, target=60),
        record("target-taken", 3.5, target=60),
        record("target-taken", 3.6, target=70),  # nobody waits any more
        record("guest-message", 9.0, level="low"),
        record("guest-added", 9.0, "b", ram=100, target=80),
        record("guest-message", 9.5, "b", level="low"),
        record("target-taken", 10.5, "b", target=100),
        {"event": "stop", "mono": 11.0},
    ]
    found = reactions(journal)
    assert found.waits == [0.5, 1.0]
    assert found.unheard == 1
    later = reactions(journal, since=4.0)
    assert later.waits == [1.0]
    assert later.unheard == 1


def outcome(contestant: str, number: int, swapped: int, done: float) -> Outcome:
    guest = GuestOutcome(Counters(1, 2, 3.0, 4.0, 5, 6, 7, 0), 90.0, done, 10.0)
    return Outcome("seed", contestant, number, swapped, 2 * swapped, 0, 7 * MIB, 0.5,
                   {"up": guest, "down": guest}, waits=[0.001] if swapped else [],
                   decisions=None if contestant == "none" else 4)


def test_a_table_compares_within_each_round() -> None:
    found = [outcome("none", 0, 1000, 100), outcome("classic", 0, 10, 110),
             outcome("classic", 1, 100, 90), outcome("none", 1, 200, 100)]
    assert report.values(found, "classic", report.ROWS[report.IN], "none") == [0.01, 0.5]
    table = report.table(seed(1.0, 1.0), found)
    assert "| up: records/s | 10.0 | 10.0 [9.00, 11.0] |" in table
    assert "| host swapped in, against none | 1.00 | 0.255 [0.0100, 0.500] |" in table
    assert "| most swap used (MiB, the host's group) | 7.00 | 7.00 |" in table
    assert "| message to larger target: times | 2 | 2 |" in table
    assert "| up: QEMU's CPU (%) | 7.78 | 7.78 |" in table
    assert "| targets changed | - | 4.00 |" in table  # none has no hostctl


def test_the_working_caches_hit_rate() -> None:
    load, one = cache(1.0, 1.0), outcome("none", 0, 1, 10.0)
    keeps = one.guests["up"]
    found = [replace(one, load="cache", guests={"keeps": keeps, "wants": keeps})]
    # 7 pages of 2,560.
    assert "| keeps: read from its page cache | 0.997 |" in report.table(load, found)


def test_what_was_moved_is_all_that_went_for_want_of_memory() -> None:
    assert outcome("none", 0, 100, 1.0).lost == 100 + 200 + 2 * (5 + 6 + 7)
    mine, theirs = (10, 20, 30), (100, 200, 300)
    found = [outcome(name, number, swapped, 1.0) for name, values in
             (("transfer", mine), ("none", theirs)) for number, swapped in enumerate(values)]
    verdict = report.verdict(found, "transfer")
    assert "| transfer | 96.0 [66.0, 126] |  |  |" in verdict
    assert "| none | 636 [336, 936] | 0.05 | 1.00 |" in verdict


def rounds(load: str, contestant: str, moved: tuple[int, ...], done: float = 100.0,
           **counters: int) -> list[Outcome]:
    """Outcomes of so many pages swapped out by the host."""
    guest = GuestOutcome(Counters(**counters), 90.0, done, 10.0)
    return [Outcome(load, contestant, number, 0, pages, 0, 0, 0.0,
                    {"keeps": guest, "wants": guest})
            for number, pages in enumerate(moved)]


PLAN = replace(PLANS["full"], loads=tuple(LOADS), contestants=tuple(CONTESTANTS))


def judged(found: list[Outcome], plan: Plan = PLAN) -> dict[str, tuple[str, bool | None]]:
    return {goal.what: (goal.found, goal.met) for goal in goals.goals(plan, found)}


def test_the_seeds_goals_are_of_its_own_sizes_and_times() -> None:
    base = rounds("seed", "none", (1000, 1000, 1000))
    ours = rounds("seed", "transfer", (4, 5, 900), 102.0)
    found = judged(base + ours)
    assert found["seed, transfer: host swapped out, against none"] == (
        "0.00500 [0.00400, 0.900]", True)
    assert found["seed, transfer: host swapped in, pages"] == ("0", True)
    assert found["seed, transfer: records/s of keeps, against none"] == ("1.02", True)
    worse = judged(base + rounds("seed", "transfer", (4, 6, 6), 101.0, swap_out=1))
    assert worse["seed, transfer: host swapped out, against none"][1] is False
    assert worse["seed, transfer: guests swapped out, pages"] == ("2.00", False)
    assert worse["seed, transfer: records/s of wants, against none"][1] is False
    for other in (replace(PLAN, scale=0.25), replace(PLAN, pace=0.5)):
        assert not any("swapped" in what for what in judged(base + ours, other)
                       if what.startswith("seed"))


def test_nothing_is_to_swap_in_any_round() -> None:
    some = rounds("seed", "transfer", (0, 0, 0))
    some[1] = replace(some[1], swapped_in=1)
    assert judged(some)["seed, transfer: host swapped in, pages"] == ("0 [0, 1.00]", False)


def test_with_too_few_rounds_nothing_is_judged() -> None:
    two = rounds("seed", "none", (1000, 1000)) + rounds("seed", "transfer", (1, 1))
    found = judged(two)
    assert found["seed, transfer: host swapped out, against none"] == ("0.00100", None)
    assert found["seed, transfer: pages moved for want of memory"] == ("1.00", None)
    assert found["cache, transfer: host swapped out, against reporting"] == ("-", None)
    assert not any("less moved than" in what for what in found)
    assert "| too few rounds |" in goals.table(list(goals.goals(PLAN, two)))


def test_anything_against_nothing_is_without_bounds() -> None:
    what = "cache, transfer: host swapped out, against reporting"
    peer = rounds("cache", "reporting", (0, 0, 1000))
    assert judged(peer + rounds("cache", "transfer", (5, 5, 1)))[what] == (
        "0.00100; in 2 rounds reporting has 0", False)
    assert judged(peer + rounds("cache", "transfer", (0, 0, 1)))[what][1] is True


def test_a_load_that_ended_early_meets_no_goal() -> None:
    base, ours = rounds("seed", "none", (9, 9, 9)), rounds("seed", "transfer", (0, 0, 0), 200.0)
    guests = {**ours[2].guests, "wants": replace(ours[2].guests["wants"], broken="killed")}
    ours[2] = replace(ours[2], guests=guests)
    found = judged(base + ours)
    assert found["seed, transfer: records/s of keeps, against none"] == (
        "2.00; a load ended early", False)
    assert found["loads of ours that ended early"] == ("1", False)


def test_with_reporting_no_more_is_swapped_than_by_reporting_alone() -> None:
    what = "seed, transfer+reporting: host swapped out, pages"
    peer = rounds("seed", "reporting", (10, 26, 90))
    assert judged(peer + rounds("seed", "transfer+reporting", (26, 1, 99)))[what][1] is True
    assert judged(peer + rounds("seed", "transfer+reporting", (27, 1, 99)))[what][1] is False
    assert judged(peer + rounds("seed", "transfer", (26, 1, 99)))[what][1] is None


def test_the_caches_goals_are_against_reporting() -> None:
    peer = rounds("cache", "reporting", (1000, 1000, 1000))
    out = "cache, transfer: host swapped out, against reporting"
    kept = "cache, transfer: the working cache's hits, against reporting"
    good = judged(peer + rounds("cache", "transfer", (20, 20, 20), refaults=1280))
    assert good[out] == ("0.0200", True)
    assert good[kept] == ("0.950", True)  # of 25,600 pages
    bad = judged(peer + rounds("cache", "transfer", (21, 21, 21), refaults=1281))
    assert bad[out][1] is False
    assert bad[kept][1] is False


def test_the_better_one_of_ours_is_held_against_the_best_other() -> None:
    found = [*rounds("both", "none", (100, 200, 300)), *rounds("both", "mom", (10, 90, 95)),
             *rounds("both", "transfer", (500, 500, 500)),
             *rounds("both", "transfer+reporting", (40, 50, 90)),
             *rounds("spike", "mom", (9, 9, 9)), *rounds("spike", "transfer", (9, 9, 9))]
    seen = judged(found)
    assert seen["both, transfer+reporting: pages moved for want of memory"] == (
        "50.0 [40.0, 90.0]", True)
    assert seen["spike, transfer: pages moved for want of memory"] == ("9.00", True)
    less = "less moved than {} by the better one of ours (p of at most 0.05)"
    assert seen[less.format("none")] == ("on 1 of 1", True)
    assert seen[less.format("mom")] == ("on 0 of 2", False)


def test_kills_count_in_trials_that_do_not_and_so_do_failures() -> None:
    found = rounds("both", "transfer", (1, 1, 1))
    assert judged(found)["OOM kills in guests of ours"] == ("0", True)
    spoiled = rounds("both", "transfer", (1,), oom_kills=1)
    seen = {goal.what: (goal.found, goal.met)
            for goal in goals.goals(PLAN, found, spoiled, ["transfer", "none"])}
    assert seen["OOM kills in guests of ours"] == ("2", False)
    assert seen["trials of ours that failed"] == ("1", False)


def test_a_policys_model_decides_what_is_measured() -> None:
    names = {str(path.relative_to(paths.TREE)) for path in command.code()}
    assert "hostctl/policy/model.py" in names
    assert "pyguest/experiment/trial.py" in names
    assert "pyguest/experiment/model.py" not in names


def test_the_simulator_runs_the_same_loads() -> None:
    load = seed(0.25, 0.25)
    none, relieved = model.simulate(load, "none"), model.simulate(load, "reporting")
    assert none.swapped_out > 10_000  # nothing that was freed comes back
    assert relieved.swapped_out == 0
    # What was read once counts until somebody else wants memory.
    kept = cache(0.25, 0.25)
    assert model.simulate(kept, "reporting").swapped_out == model.simulate(kept, "none").swapped_out
    assert model.simulate(kept, "none").swapped_out > 10_000


def test_a_step_wants_what_it_says_while_it_lasts() -> None:
    steps = model.Steps(cache(1.0, 1.0))
    at = {when: steps.at(model.LEAD + when) for when in (-5.0, 0.0, 5.0, 60.0, 239.0, 250.0)}
    assert at[-5.0].stream.sum() == at[-5.0].files.sum() == at[-5.0].anon.sum() == 0
    assert at[0.0].stream.tolist() == [[200 * MIB, 0]]
    assert at[5.0].files.tolist() == [[200 * MIB, 0]]
    assert at[60.0].anon.tolist() == [[0, 1000 * MIB]]
    assert at[239.0].hot.tolist() == [[0, 1.0]]
    assert at[250.0].anon.sum() == 0


def test_the_simulator_is_held_against_what_was_measured() -> None:
    load = seed(0.25, 0.25)
    counted = round(model.simulate(load, "none").swapped_out)
    found = [outcome("none", 0, counted // 2, 1.0), outcome("reporting", 0, 0, 1.0)]
    said = model.against(load, found)
    assert said is not None
    assert f"| none | {figure(counted)} | {figure(counted)} | " in said
    assert "(Spearman) 1.00" in said
    assert model.against(load, found[:1]) is None
    assert model._off([100, 744, 0], [100, 0, 0]) == 1.0
    assert model._off([0, 0], [256, 768]) == 3.0


def test_intervals_and_chances_of_three_rounds() -> None:
    assert compare.interval([3.0]) == (3.0, 3.0)
    assert compare.interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert compare.interval([1.0, 5.0, 3.0]) == (1.0, 5.0)
    assert compare.chance([1, 2, 3], [4, 5, 6]) == pytest.approx(0.05)
    assert compare.chance([4, 5, 6], [1, 2, 3]) == pytest.approx(1.0)
    assert compare.chance([0, 0, 0], [5, 5, 5]) == pytest.approx(0.05)  # ties make it no surer
    assert compare.chance([1, 1, 1], [1, 1, 1]) == pytest.approx(1.0)
    assert compare.chance([1], [2]) == pytest.approx(0.5)
    assert compare.median([]) == "-"


ABOUT = {"kind": "about", "day": "2026-01-01", "commit": "abc", "kernel": "6.1", "cpus": 2,
         "qemu_version": "10.0", "accel": "tcg", "beside": 1, "cpu": "a CPU", "host_kernel": "6.1"}


def about(**changes: object) -> dict[str, Any]:
    return {**ABOUT, **asdict(Plan(("none", "classic"), ("seed",), rounds=1)), **changes}


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    first, last = outcome("none", 0, 10, 100), outcome("classic", 0, 20, 100)

    def found(about: dict[str, Any]) -> list[Outcome]:
        record = Record(path)
        record.begin(about)
        return record.outcomes

    assert found(about()) == []
    Record(path).add(first)
    assert found(about()) == [first]
    assert found(about(day="2026-01-02", commit="def")) == [first]
    with path.open("a") as file:
        file.write('{"kind": "outcome", "load": "se')  # the machine went down here
    assert found(about()) == [first]
    assert len(path.read_text().splitlines()) == 2
    Record(path).add(last)
    assert found(about()) == [first, last]  # it is whole
    record = Record(path)
    record.begin(about(), again=True)
    assert record.outcomes == []
    assert Record(tmp_path / "outcomes.1.jsonl").outcomes == [first, last]
    record.add(first)
    assert found(about(pace=9.0)) == []
    assert Record(tmp_path / "outcomes.2.jsonl").outcomes == [first]


def test_a_run_goes_on_from_the_outcomes_of_a_report(tmp_path: Path) -> None:
    report, path = tmp_path / "report.jsonl", tmp_path / "outcomes.jsonl"
    first, last = outcome("none", 0, 10, 100), outcome("classic", 0, 20, 100)
    Record(report).begin(about())
    Record(report).add(first)
    there = report.read_text()
    for what, found in ((about(cpus=4), []), (about(day="2026-01-02"), [first])):
        path.unlink(missing_ok=True)
        record = Record(path, report)
        record.begin(what)
        assert record.outcomes == Record(path).outcomes == found
    record.add(last)
    assert Record(path, report).outcomes == [first, last]  # what is here comes first
    assert report.read_text() == there


def test_a_trial_that_was_disturbed_is_run_again_and_stays_in_the_record(tmp_path: Path) -> None:
    record = Record(tmp_path / "outcomes.jsonl")
    record.begin(about())
    spoiled = replace(outcome("none", 0, 9, 1), disturbed=["another QEMU came (PID 7)"])
    clean = outcome("none", 0, 10, 1)
    record.add(spoiled)
    assert not record.is_done((0, "seed", "none"))
    assert record.valid() == [spoiled]
    record.add(clean)
    assert record.is_done((0, "seed", "none"))
    assert record.valid() == [clean]
    assert Record(record.path).outcomes == [spoiled, clean]
    for _ in range(Plan().tries):
        assert not record.is_done((0, "seed", "classic"))
        record.add(replace(spoiled, contestant="classic"))
    assert record.is_done((0, "seed", "classic"))
    once = Record(tmp_path / "once.jsonl")
    once.begin(about(tries=1))
    once.add(spoiled)
    assert once.is_done((0, "seed", "none"))


def test_what_spoils_a_trial() -> None:
    before = Surroundings(40 * MIB, 1000.0, 2.0, {1: 70.0, 30: 5.0}, 50.0)
    assert disturbances(before, replace(before, swapped=50 * MIB, uptime=60.0), 2, ()) == []
    quiet = {1: 75.9}  # what 30 had used is its parent's, since it has ended
    assert disturbances(before, replace(before, others=quiet, uptime=60.0), 2, ()) == []
    after = Surroundings(60 * MIB, 998.5, 5.0, {1: 70.5, 30: 5.0, 40: 2.0}, 60.0)
    assert disturbances(before, after, 2, {77, 9}) == [
        "+5120 pages in swap that are not the host's", "the wall clock jumped by -1.5 s",
        "15% of the CPUs' time was taken by a hypervisor",
        "12% of the CPUs' time was taken by other programs, most by PID 40",
        "another QEMU came (PID 9, 77)",
    ]


def test_the_machine_can_be_looked_at(tmp_path: Path) -> None:
    now = Surroundings.now(5)
    assert now.swapped == Surroundings.now(0).swapped - 5
    assert 1 in now.others and os.getpid() not in now.others
    for pid, name in ((7, "qemu-system-x86"), (8, "qemu-system-x86"), (9, "bash")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    assert strangers([7], tmp_path) == {8}


def test_a_trials_own_processes_and_the_kernels_are_no_others() -> None:
    def process(pid: int, parent: int) -> tuple[int, ProcessUsage]:
        return pid, ProcessUsage(pid, parent, 0, 0, 1.0, 2.0, 4.0, 0)

    found = dict([process(1, 0), process(2, 0), process(5, 2), process(10, 1), process(20, 10),
                  process(21, 20), process(30, 10), process(40, 39)])
    assert others(found, 20) == {1: 7.0, 10: 7.0, 30: 7.0, 40: 7.0}


def test_a_report_has_tables_pictures_and_what_was_spoiled(tmp_path: Path) -> None:
    run, into = tmp_path / "run", tmp_path / "results"
    run.mkdir()
    record = Record(run / "outcomes.jsonl")
    record.begin(about(contestants=["none", "transfer"]))
    with pytest.raises(LabError, match="no outcomes"):
        results.write(run, into)
    for name in ("none", "transfer"):
        one = outcome(name, 0, 10, 100)
        record.add(replace(one, disturbed=["the wall clock jumped by +3.0 s"]))
        if name == "none":
            record.add(one)
        (run / one.folder).mkdir()
        samples = [{"time": 5.0 + n, "used": n * MIB, "limit": 9 * MIB, "swap_used": 0,
                    "pswpin": 0, "pswpout": n, "sizes": {"up": MIB, "down": MIB}}
                   for n in range(3)]
        (run / one.folder / "samples.jsonl").write_text(
            "".join(f"{json.dumps(sample)}\n" for sample in samples))
    record.fail((0, "seed", "transfer"), "guest up: QEMU ended")
    results.write(run, into)
    results.write(run, into)  # over the one before
    assert sorted(path.name for path in into.iterdir()) == [
        "README.md", "outcomes.jsonl", "seed.png", "summary.png"]
    text = (into / "README.md").read_text()
    assert "Guests of 405 MiB, a host of 752 MiB" in text
    assert "1 other QEMUs ran beside" in text
    jumped = "disturbed: the wall clock jumped by +3.0 s"
    assert f"- round 1 of seed, none, {jumped}; run again" in text
    assert f"- round 1 of seed, transfer, {jumped}; **counted all the same**" in text
    assert "- round 1 of seed, transfer, failed: guest up: QEMU ended; **missing**" in text
    assert "| pages moved, transfer against | median | p of less | p of more |" in text
    assert "## Goals" not in text  # of one round
    record.path.unlink()
    (into / "findings.md").write_text("## Findings\n\nNone.\n")
    results.write(run, into)  # of what is there
    assert (into / "README.md").read_text() == text.replace(
        "![All loads](summary.png)", "![All loads](summary.png)\n\n## Findings\n\nNone.")
    (into / "README.md").write_text("# Another's")
    with pytest.raises(LabError, match="another folder"):
        results.write(run, into)


def test_what_the_base_did_not_do_has_no_ratio() -> None:
    found = [outcome("none", 0, 0, 100), outcome("classic", 0, 10, 110)]
    assert report.values(found, "classic", report.ROWS[report.IN], "none") == []


def test_counters_are_differences() -> None:
    before, after = Counters(1, 1, 0.5, 1.0, 1, 1, 2, 0), Counters(4, 6, 1.5, 1.25, 1, 3, 2, 1)
    assert after.since(before) == Counters(3, 5, 1.0, 0.25, 0, 2, 0, 1)
