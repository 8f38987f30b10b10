# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory a pool may use, and how much it uses.

*Usage* is all that is charged to a group (anonymous and shared memory, page cache, kernel
memory) less the page cache that the kernel can drop without writing anything:

    usage = charged - (inactive_file + active_file - dirty - writeback)

The two file lists hold pages of files alone: shared memory and tmpfs stand on the anonymous
lists, since they can only be swapped, and locked pages on the unevictable one (the kernel's
Documentation/admin-guide/cgroup-v2.rst, memory.stat, and cgroup-v1/memory.rst, 5.2). MemAvailable
is made of the same two lists (Documentation/filesystems/proc.rst). Reclaimable slab stays in: v1
does not tell it. So does a guest's memory in a tmpfs or memfd file; in a file on a disk it would
be taken for cache.

*Limit* is what the group may use now: its own limit, and each ancestor's and the machine's RAM
less what others use there. So `limit - usage` is the least room that there is on the way up, and
the limit moves when a neighbour does. *Capacity* is the same with no neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.pressure.cgroups import PROC, Place

NO_LIMIT = 1 << 62
"""Bytes; v1 writes no limit as nearly 1 << 63, v2 as "max"."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A pool's memory in bytes; see above."""

    limit: int
    usage: int
    capacity: int
    swapped: int | None = None
    """What of it is in swap space; None: the kernel does not tell."""


def of_machine(proc: Path = PROC) -> Reading:
    """The whole machine's. Raises OSError, or HostctlError for a file that tells no sizes."""
    file = proc / "meminfo"
    sizes = {key: kib << 10 for key, kib in counters(file.read_text(errors="replace")).items()}
    total = _of(sizes, "MemTotal", file)
    used = max(total - _of(sizes, "MemAvailable", file), 0)
    swapped = max(_of(sizes, "SwapTotal", file) - _of(sizes, "SwapFree", file), 0)
    return Reading(total, used, total, swapped)


def of_group(place: Place, proc: Path = PROC) -> Reading:
    """A group's that has the memory controller. Raises OSError and HostctlError."""
    alone = _v1 if place.mount.version == 1 else _v2
    limit = _v1_limit if place.mount.version == 1 else _v2_limit
    # Reading the statistics costs more than the limit.
    above = [alone(folder) for folder in place.ancestors if limit(folder) < NO_LIMIT]
    return within(alone(place.folder), [*above, of_machine(proc)])


def has_memory(place: Place) -> bool:
    """Whether the group exists with the memory controller: in v2 it may not be switched on."""
    name = "memory.usage_in_bytes" if place.mount.version == 1 else "memory.current"
    return (place.folder / name).exists()


def within(own: Reading, others: Iterable[Reading]) -> Reading:
    """A group's reading inside others' that hold it: ancestors, the machine."""
    limit, capacity = own.limit, own.capacity
    for other in others:
        limit = min(limit, other.limit - max(other.usage - own.usage, 0))
        capacity = min(capacity, other.capacity)
    return Reading(max(limit, 0), own.usage, capacity, own.swapped)


def counters(text: str) -> Mapping[str, int]:
    """The `name value` or `name: value kB` lines of a kernel's file; other lines are passed over.

    Values are as written, and none is negative.
    """
    found: dict[str, int] = {}
    for line in text.split("\n"):
        words = line.split()
        # Longer than any number of the kernel's is garbage, and would cost time to read.
        if len(words) >= 2 and len(words[1]) <= 20 and words[1].isascii() and words[1].isdigit():
            found[words[0].removesuffix(":")] = int(words[1])
    return found


def _v1(folder: Path) -> Reading:
    """A v1 group's, with the least limit of it and all above it, seen from here or not."""
    file = folder / "memory.stat"
    stat = counters(file.read_text(errors="replace"))
    cache = _of(stat, "total_inactive_file", file) + _of(stat, "total_active_file", file)
    busy = _of(stat, "total_dirty", file) + _of(stat, "total_writeback", file)
    usage = _used(_size(folder / "memory.usage_in_bytes"), cache, busy)
    limit = _of(stat, "hierarchical_memory_limit", file)
    return Reading(limit, usage, limit, stat.get("total_swap"))


def _v1_limit(folder: Path) -> int:
    return _size(folder / "memory.limit_in_bytes")


def _v2(folder: Path) -> Reading:
    """A v2 group's, with its own limit."""
    file = folder / "memory.stat"
    stat = counters(file.read_text(errors="replace"))
    cache = _of(stat, "inactive_file", file) + _of(stat, "active_file", file)
    busy = _of(stat, "file_dirty", file) + _of(stat, "file_writeback", file)
    usage = _used(_size(folder / "memory.current"), cache, busy)
    swap = folder / "memory.swap.current"
    limit = _v2_limit(folder)
    return Reading(limit, usage, limit, _size(swap) if swap.exists() else None)


def _v2_limit(folder: Path) -> int:
    """Above memory.high a group is slowed down and reclaimed from, so that it counts as well."""
    files = [folder / name for name in ("memory.max", "memory.high")]
    # The top of the hierarchy has neither.
    return min((_size(file) for file in files if file.exists()), default=NO_LIMIT)


def _used(charged: int, cache: int, busy: int) -> int:
    # The figures are not of one moment.
    return max(charged - max(cache - busy, 0), 0)


def _size(file: Path) -> int:
    text = file.read_text(errors="replace").strip()
    if text == "max":
        return NO_LIMIT
    return min(_of(counters(f"size {text}"), "size", file), NO_LIMIT)


def _of(values: Mapping[str, int], key: str, file: Path) -> int:
    if key not in values:
        raise HostctlError(f"{file}: tells no {key}; hostctl cannot read how much memory is used")
    return values[key]
