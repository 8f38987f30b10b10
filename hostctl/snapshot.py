# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's state as the events that make it again: what a journal that begins anew starts with."""

from __future__ import annotations

from collections.abc import Iterator

from hostctl.policy.model import (
    Event,
    GuestMessage,
    GuestRead,
    GuestSilent,
    GuestState,
    Held,
    HostState,
    PoolRead,
    StatsRead,
)


def events(state: HostState, now: float) -> Iterator[Event]:
    """The events that lead from an empty host to `state`, in their order."""
    for pool in state.pools.values():
        yield PoolRead(pool.time, pool.name, pool.limit, pool.usage, pool.swapped)
    for guest in state.guests.values():
        yield from _of_guest(guest, now)


def _of_guest(guest: GuestState, now: float) -> Iterator[Event]:
    yield GuestRead(
        now,
        guest.name,
        guest.ram,
        guest.actual,
        guest.target,
        guest.floor,
        guest.balloon,
        target_known=True,
        pool=guest.pool,
        most=guest.most,
        tells=guest.tells,
        pid=guest.pid,
    )
    if guest.last_message is not None and guest.level is not None:
        yield GuestMessage(guest.last_message, guest.name, guest.level, guest.actual)
    if guest.stats is not None:
        yield StatsRead(now, guest.name, guest.stats)
    if guest.held is not None:
        yield Held(now, guest.name, guest.held)
    if not guest.fresh:
        yield GuestSilent(now, guest.name)
