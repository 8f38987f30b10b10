# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's pressure from two of its statistics, where its driver sends no messages.

Linux 6.12's statistics have what vmpressure computes its levels from; older ones have only the
traces that a shortage leaves.
"""

from __future__ import annotations

from hostctl.policy.model import PAGE, Level, Stats, grew

WINDOW = 512
"""Pages that are scanned before a level is told: vmpressure_win of the kernel's mm/vmpressure.c."""
MEDIUM = 60
"""Per cent of scanned pages that were not reclaimed: vmpressure_level_med."""
CRITICAL = 95
"""vmpressure_level_critical."""
PERIOD = 10.0
"""Seconds over which statistics are compared that come more often and show nothing, so that slow
reclaim is not taken for none. Limits of SWAP_IN and FAULTS are of as much time at least."""
SWAP_IN = WINDOW * PAGE
"""Bytes swapped in within PERIOD: a window's worth was taken too much."""
FAULTS = 200
"""Major faults within PERIOD: starting a program makes some dozens. Our own choice."""
AVAILABLE = 0.05
"""Share of the guest's memory: with less available it will reclaim soon. Our own choice."""


def level(old: Stats, new: Stats) -> Level | None:
    """The pressure from `old` to `new`; None: there is none, or they do not tell."""
    if new.time <= old.time:
        return None
    if grew(old.oom_kills, new.oom_kills) > 0:
        return Level.CRITICAL
    if new.scanned is not None and new.reclaimed is not None:
        return _reclaim(old, new)
    periods = max((new.time - old.time) / PERIOD, 1.0)
    if grew(old.swap_in, new.swap_in) >= SWAP_IN * periods:
        return Level.MEDIUM
    if grew(old.major_faults, new.major_faults) >= FAULTS * periods:
        return Level.LOW
    if (
        new.time - old.time >= PERIOD  # a state, and no event: not more often
        and new.available is not None
        and new.total is not None
        and new.available < AVAILABLE * new.total
    ):
        return Level.LOW
    return None


def _reclaim(old: Stats, new: Stats) -> Level | None:
    """As mm/vmpressure.c has it, over a longer window."""
    scanned = grew(old.scanned, new.scanned)
    if scanned < WINDOW:
        # Somebody had to wait for memory, and next to none was found.
        return Level.LOW if grew(old.stalls, new.stalls) > 0 else None
    missed = (scanned - min(grew(old.reclaimed, new.reclaimed), scanned)) * 100 // scanned
    if missed >= CRITICAL:
        return Level.CRITICAL
    return Level.MEDIUM if missed >= MEDIUM else Level.LOW
