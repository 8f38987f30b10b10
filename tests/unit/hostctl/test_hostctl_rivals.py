# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of MOM and Proxmox, with examples computed from what is published."""

from __future__ import annotations

from hostctl.policy import POLICIES, Policy, Settings
from hostctl.policy.model import (
    HOST,
    Decision,
    Event,
    GuestState,
    HostState,
    PoolRead,
    Stats,
    StatsRead,
    Tick,
)

MIB = 1 << 20
GIB = 1 << 30


def guest(name: str, size: int, free: int, *, ram: int = 4 * GIB, floor: int = GIB) -> GuestState:
    return GuestState(name, ram, size, size, floor, stats=Stats(0.0, free=free))


def run(policy: Policy, usage: int, *guests: GuestState, now: float = 10.0) -> dict[str, int]:
    """What the policy makes of a host of 10 GiB, with its guests' sizes in MiB."""
    state = HostState({one.name: one for one in guests})
    events: list[Event] = [
        StatsRead(now, one.name, one.stats) for one in guests if one.stats is not None
    ]
    events += [PoolRead(now, HOST, 10 * GIB, usage), Tick(now)]
    found: list[Decision] = []
    for event in events:
        state = state.after(event)
        found += policy.decide(state, event)
    return {one.guest: one.new_target // MIB for one in found}


def mom() -> Policy:
    return POLICIES["mom"](Settings())


def proxmox() -> Policy:
    return POLICIES["proxmox"](Settings())


def test_mom_grows_by_a_twentieth_while_a_fifth_of_the_host_is_free() -> None:
    # 2048 MiB with 1024 used: 5 % more is 2150, used and 20 % would be 1433.
    assert run(mom(), 8 * GIB, guest("a", 2 * GIB, GIB)) == {"a": 2150}


def test_mom_grows_to_what_is_used_and_a_fifth_at_once() -> None:
    # 2048 used, and 409 on top, is more than 2150.
    assert run(mom(), 8 * GIB, guest("a", 2 * GIB, 0)) == {"a": 2457}
    assert run(mom(), 8 * GIB, guest("a", 4 * GIB - MIB, 0)) == {}


def test_mom_shrinks_below_a_fifth_towards_a_scaled_free_share() -> None:
    # 10 % of the host free: a guest keeps 10 % of its size free, and loses 5 % at most.
    assert run(mom(), 9 * GIB, guest("a", 2 * GIB, GIB)) == {"a": 1945}
    assert run(mom(), 9 * GIB, guest("a", 2 * GIB, 250 * MIB)) == {"a": 2048 - 250 + 204}
    assert run(mom(), 9 * GIB, guest("a", 2 * GIB, 100 * MIB)) == {}


def test_mom_makes_guests_swap_at_a_twentieth() -> None:
    # 2 % free: the share is -3 %, below what is used.
    found = run(mom(), 10 * GIB - 205 * MIB, guest("a", 2 * GIB, 0))
    assert found["a"] in range(1985, 1990)


def test_mom_keeps_its_minimum_and_small_changes_to_itself() -> None:
    assert run(mom(), 9 * GIB, guest("a", GIB + 30 * MIB, GIB)) == {"a": 1024}
    assert run(mom(), 9 * GIB, guest("a", GIB + 2 * MIB, GIB)) == {}


def test_mom_runs_every_10_s() -> None:
    policy = mom()
    assert run(policy, 9 * GIB, guest("a", 2 * GIB, GIB), now=10.0)
    assert not run(policy, 9 * GIB, guest("a", 2 * GIB, GIB), now=19.9)
    assert run(policy, 9 * GIB, guest("a", 2 * GIB, GIB), now=20.0)


def test_proxmox_goes_for_80_per_cent_by_100_mib_at_most() -> None:
    assert run(proxmox(), 9 * GIB, guest("a", 2 * GIB, GIB)) == {"a": 1948}
    assert run(proxmox(), 7 * GIB, guest("a", 2 * GIB, 0)) == {"a": 2148}
    assert run(proxmox(), 8 * GIB + 9 * MIB, guest("a", 2 * GIB, GIB)) == {}


def test_proxmox_shares_what_is_needed() -> None:
    # 60 MiB too much: both have 1 GiB above their minimum, and each gives 30.
    found = run(proxmox(), 8 * GIB + 60 * MIB, guest("a", 2 * GIB, GIB), guest("b", 2 * GIB, GIB))
    assert found == {"a": 2018, "b": 2018}


def test_proxmox_spares_the_short_until_nobody_else_can() -> None:
    short = guest("b", 3 * GIB, 10 * MIB)
    assert run(proxmox(), 9 * GIB, guest("a", 2 * GIB, GIB), short) == {"a": 1948}
    assert run(proxmox(), 9 * GIB, guest("a", GIB, GIB), short) == {"b": 3072 - 100}


def test_proxmox_grows_the_short_first() -> None:
    found = run(proxmox(), 7 * GIB, guest("a", 2 * GIB, GIB), guest("b", 2 * GIB, 10 * MIB))
    assert found == {"b": 2148}
