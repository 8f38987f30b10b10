# SPDX-License-Identifier: GPL-2.0-or-later
"""What the memory model takes from the world, each with where it was measured.

"Lab" is the project's lab (two cores, TCG, Debian's kernels with init_on_alloc=1); what says
"assumed" was not measured, and is to be fitted to a recorded run of the lab.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sizes are bytes, speeds bytes a second, times seconds, shares of 1."""

    step: float = 1.0
    """Of the model: about the time in which a message has its effect."""

    # The balloon (docs/driver.md: "Inflation", and the lab).
    inflate_free: float = 110 * MIB
    """Through free memory: 110 to 190 in the lab."""
    inflate_cache: float = 25 * MIB
    """Through clean page cache with our driver, which pauses for its own reclaim: 21.8 to 23.6."""
    inflate_swap: float = 5 * MIB
    """Where the guest must swap for it; assumed."""
    deflate: float = 700 * MIB
    """625 to 940 in the lab."""
    reaction: float = 0.2
    """From the reclaim to the answered message: 0.08 to the device, the rest assumed. What a
    cancelled inflation gets through page cache is what it gets in that time."""

    # Swap and files.
    swap: float = 50 * MIB
    """Each way, of a host's and of a guest's swap: a swap file in the lab."""
    touch: float = 800 * MIB
    """Of a load that fills memory: 750 to 935 with init_on_alloc=0."""
    read: float = 74 * MIB
    """Of files: 9p in the lab."""
    cluster: int = 16
    """Pages a major fault brings in: page-cluster and readaround; assumed."""
    mapped: float = 0.25
    """Share of a file working set that is mapped, so that its loss is seen as faults; assumed."""

    # The guest.
    watermark: float = 0.02
    """Share of RAM that its kernel keeps free: about 20 MiB of 1 GiB."""
    kernel: float = 0.08
    """Share of RAM for what it can never reclaim: about 80 MiB of 1 GiB after boot."""
    swap_space: float = 0.5
    """Its own swap, as a share of RAM; assumed."""
    found: tuple[float, float, float, float] = (1.0, 0.35, 0.10, 0.02)
    """Share of scanned pages that reclaim gets: from cold page cache, from hot page cache and
    cold anonymous memory, from hot anonymous memory, and where nothing is left; assumed."""

    # The host.
    overhead: int = 60 * MIB
    """Of a QEMU beside its guest's memory: tb-size=32 and its own; assumed."""
    misjudged: float = 0.2
    """Share of what the host swaps out that the guest is using: its list of pages knows less than
    the guest's; assumed."""
    reported: float = 0.05
    """With free page reporting, free memory that stays with the host, as a share of what is used:
    blocks below order 9 are not reported. 590 to 212 MiB in the lab."""

    # What the daemon sees.
    closely_every: float = 2.0
    """Between two samples of the statistics of guests that the policy attends to; of others it is
    the policy's interval."""
    late: tuple[float, float] = (0.5, 2.5)
    """Each is delivered so long after: QEMU dates them in whole seconds, and is read 1.5 s after
    the interval."""
    read_every: float = 5.0
    tick_every: float = 10.0
    moved: float = 0.01
    """Share of a pool's limit: usage thresholds are so far apart."""
    ample_every: float = 30.0
    """As `read_every`, where a pool has room (see `watched`) and nothing moves."""
    repeated: float = 9.0
    """A guest that has no balloon, and so can be given nothing, is heard so often when it says low
    all the time: no policy's memory is shorter than 10 s."""
    changed: float = 1 / 256
    """Share of RAM: statistics that differ by less from those that were delivered are not
    delivered again, to save the time, until those are `stale`."""
    stale: float = 15.0
    """The guard and the policies take them for current for 30 s: the next sample, with its delay,
    comes by then."""
    watched: float = 0.5
    """Share of its limit: where a pool has more room no policy takes anything (transfer begins
    there), and statistics are not renewed before they differ, but for guests that send messages."""
