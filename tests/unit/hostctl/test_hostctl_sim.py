# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulator: its memory adds up, follows the lab's facts in kind, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from hostctl import cli
from hostctl.engine import Verdict
from hostctl.policy import stats_every
from hostctl.policy.model import Event, StatsRead
from hostctl.sim.command import simulate
from hostctl.sim.loads import KINDS, LOADS, Loads
from hostctl.sim.measure import Targets
from hostctl.sim.memory import Array, Demand, Memory
from hostctl.sim.parameters import MIB, Parameters
from hostctl.sim.world import NONE, Plan, World

RAM = 1024.0 * MIB
P = Parameters()


def row(*mib: float) -> Array:
    return np.array([mib]) * MIB


def demand(*anon: float, hot: float = 1.0, stream: float = 0, files: float = 0) -> Demand:
    same = np.ones((1, len(anon)))
    return Demand(row(*anon), hot * same, stream * MIB * same, files * MIB * same)


def memory(want: Demand, limit: float = 1e6, *, reporting: bool = False) -> Memory:
    ram = np.full(want.anon.shape, RAM)
    return Memory(ram, np.array([limit * MIB]), want, P, reporting)


def run(model: Memory, want: Demand, steps: int) -> None:
    for _ in range(steps):
        model.step(want)


def mib(values: Array) -> list[int]:
    return [round(float(value) / MIB) for value in values.ravel()]


def test_a_load_that_fits_makes_no_pressure() -> None:
    model = memory(demand(100))
    run(model, demand(700), 3)
    assert mib(model.anon) == [700] and not model.level.any()


def test_growth_takes_page_cache_first_and_says_low() -> None:
    model = memory(demand(100, files=0))
    model.cache[:] = 600 * MIB
    run(model, demand(500), 1)
    assert mib(model.anon) == [500] and model.level[0, 0] == 1
    assert not model.swap_out.any()


def test_growth_beyond_the_guest_swaps_and_says_more() -> None:
    model = memory(demand(100))
    run(model, demand(1000), 5)
    assert model.level[0, 0] >= 2 and model.swap_out[0, 0] > 0
    # No page is lost: what is resident and what is in swap is what it has.
    assert model.guest_swap[0, 0] <= model.anon[0, 0] <= 1000 * MIB


def test_a_stream_fills_free_memory_and_then_says_low_for_ever() -> None:
    model = memory(demand(100))
    run(model, demand(100, stream=40), 30)
    assert model.level[0, 0] == 1
    assert mib(model.free) == [20]
    assert mib(model.available)[0] > 700
    assert not model.refault.any() and not model.swap_out.any()


def test_a_lost_file_working_set_is_read_again() -> None:
    model = memory(demand(100, files=300))
    model.target[:] = 300 * MIB
    run(model, demand(100, files=300), 60)
    assert model.refault[0, 0] > 0 and model.level[0, 0] >= 1


def test_inflation_through_cache_has_the_labs_speed_and_is_slow_when_it_is_cancelled() -> None:
    def inflate(*, cancel: bool) -> int:
        model = memory(demand(100))
        model.cache[:] = 800 * MIB
        for _ in range(10):
            model.target[:] = 500 * MIB
            model.step(demand(100))
            if cancel and model.level[0, 0]:
                model.target[:] = model.size
                model.step(demand(100))
        return 1024 - mib(model.size)[0]

    assert 180 <= inflate(cancel=False) <= 350
    assert inflate(cancel=True) < 160


def test_an_idle_guests_balloon_frees_next_to_nothing() -> None:
    model = memory(demand(50))
    before = model.usage[0]
    model.target[:] = 300 * MIB
    run(model, demand(50), 20)
    assert mib(model.size) == [300]
    assert before - model.usage[0] < 10 * MIB


def test_freed_memory_stays_with_the_host_unless_it_is_reported() -> None:
    for reporting, left in ((False, 782), (True, 200)):
        model = memory(demand(700), reporting=reporting)
        run(model, demand(100), 2)
        assert abs(mib(model.touched)[0] - left) <= 10, reporting


def test_a_balloon_takes_what_was_freed_and_not_reported() -> None:
    model = memory(demand(700))
    run(model, demand(100), 2)
    model.target[:] = 300 * MIB
    run(model, demand(100), 20)
    assert mib(model.touched)[0] <= 300


def test_a_host_above_its_limit_swaps_and_used_memory_comes_back() -> None:
    model = memory(demand(100, 100), 1000)
    run(model, demand(600, 600), 5)
    assert model.host_out[0] > 300 * MIB
    assert model.usage[0] <= 1000 * MIB + 1
    out = model.host_in[0]
    run(model, demand(600, 600), 5)
    assert model.host_in[0] > out
    quiet = memory(demand(100, 100), 3000)
    run(quiet, demand(600, 600), 10)
    assert not quiet.host_out.any()


@pytest.mark.parametrize("load", LOADS)
def test_memory_adds_up_under_any_load_and_target(load: str) -> None:
    rng = np.random.default_rng(7)
    ram = rng.choice([512.0, 1024.0, 4096.0], (20, 5)) * MIB
    loads = Loads(load, ram, rng)
    model = Memory(ram, ram.sum(1) / 2, loads.at(0.0), P, reporting=True)
    for second in range(600):
        if second % 20 == 0:
            model.target = ram * rng.uniform(0.25, 1, ram.shape)
        model.step(loads.at(float(second)))
        slack = 1.0
        for part in (model.anon, model.cache, model.guest_swap, model.host_swap, model.unmet):
            assert (part >= -slack).all()
        assert (model.guest_swap <= model.anon + slack).all()
        assert (model.guest_swap <= P.swap_space * ram + slack).all()
        assert (model.free >= -slack).all(), second
        assert (model.size <= ram + slack).all()
        assert (model.touched <= np.maximum(model.size, model.used) + slack).all()
        assert (model.host_swap <= model.touched + slack).all()
        assert (model.usage <= model.limit + slack).all()
        assert ((model.level >= 0) & (model.level <= 3)).all()


def test_loads_stay_within_their_guests() -> None:
    rng = np.random.default_rng(1)
    ram = np.full((1, 600), RAM)
    loads = Loads("mixed", ram, rng)
    seen = [loads.at(second * 60.0).anon / ram for second in range(24 * 60)]
    assert np.min(seen) > 0.03 and np.max(seen) < 0.95
    for kind in range(len(KINDS)):
        mine = np.array([values[0, loads._kind[0] == kind] for values in seen])
        assert (mine.std(0) > 0.01).all() == (KINDS[kind] not in ("idle", "cache")), KINDS[kind]


def test_a_turn_is_memory_taken_that_was_just_given() -> None:
    targets = Targets()
    for now, change, reason in (
        (0.0, -10, "reserve"),
        (10.0, -10, "reserve"),
        (20.0, 5, "cancel"),
        (30.0, 10, "guest-pressure"),
        (40.0, -10, "reserve"),
        (1000.0, 10, "guest-pressure"),
    ):
        targets.add(0, "a", now, change, reason)
        targets.add(1, "a", now, -abs(change), "reserve")
    assert (targets.changes, targets.turns) == (12, 2)


def test_the_same_seed_is_the_same_run_in_any_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(2, 8, 180.0, "transfer", "cache", 5, overcommit=2.0)
    one = simulate(plan, 1)
    assert one == simulate(plan, 1) and one.changes > 0
    assert one != simulate(Plan(2, 8, 180.0, "transfer", "cache", 6, overcommit=2.0), 1)
    many = Plan(51, 2, 20.0, "classic", "mixed", 5)
    assert simulate(many, 1) == simulate(many, 2)


def test_policies_move_balloons_and_none_does_not() -> None:
    def balloon(policy: str) -> float:
        return World(Plan(2, 8, 180.0, policy, "cache", 5, overcommit=2.0)).run().balloon

    assert balloon(NONE) == 0
    assert min(balloon(name) for name in ("classic", "transfer", "mom", "proxmox")) > 0


def test_stock_guests_are_relieved_by_their_statistics() -> None:
    plan = Plan(6, 8, 300.0, "transfer", "mixed", 5, overcommit=2.0, tells=False)
    result = World(plan).run()
    assert result.reasons["guest-pressure"] > 0 and result.messages == 0


def test_statistics_come_late_and_none_is_lost_for_that() -> None:
    made: dict[int, list[float]] = {host: [] for host in range(20)}
    late: list[float] = []

    def watch(host: int, event: Event, verdicts: list[Verdict]) -> None:
        if isinstance(event, StatsRead) and event.guest == "g0" and event.time > 0:
            made[host].append(event.stats.time)
            late.append(event.time - event.stats.time)

    every = Parameters(changed=-1.0)
    for policy in ("mom", "transfer"):
        for times in made.values():
            times.clear()
        World(Plan(20, 2, 120.0, policy, "mixed", 5, parameters=every), watch).run()
        assert P.late[0] <= min(late) and max(late) <= P.late[1] + 2 * P.step
        assert max(late) - min(late) > 1.0
        gaps = np.concatenate([np.diff(times) for times in made.values()])
        usual = np.isclose(gaps, stats_every(policy))
        if policy == "mom":
            assert usual.all()
        else:  # often while it attends to a guest, and never less often than usual
            assert usual.any() and np.isclose(gaps, P.closely_every).any()
            assert gaps.max() <= stats_every(policy) + P.step


def test_statistics_left_out_were_of_no_use() -> None:
    """With every sample delivered, a run is the same in what it costs, to a few per cent."""
    every = Parameters(changed=-1.0)
    runs = [
        World(Plan(10, 10, 600.0, "transfer", "mixed", 5, overcommit=2.5, parameters=p)).run()
        for p in (P, every)
    ]
    costs = [(r.host_in + r.guest_in + r.host_out + r.guest_out) for r in runs]
    assert abs(costs[0] - costs[1]) <= 0.1 * max(costs)


def test_the_command_prints_a_column_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["simulate", "--hosts", "1", "--guests", "4", "--hours", "0.02", "--policy", "none"]
    assert cli.main([*argv, "--policy", "transfer", "--overcommit", "3"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].split() == ["none", "transfer"]
    assert "host swapped in, GiB" in said and "4 guests on 1 hosts, 0.02 h" in said
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--hosts", "0"])
