# SPDX-License-Identifier: GPL-2.0-or-later
"""All that is held of a group, or the machine, while it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure import memory, usage
from hostctl.pressure.cgroups import PROC, Mount, Place, mounts_of
from hostctl.pressure.choose import choose
from hostctl.pressure.memory import Reading
from hostctl.pressure.source import PressureSource


class Watch:
    """Pressure sources, usage thresholds and readings of one group as it was when this was made.

    It is of no use once the group was removed, even if one of the same name came in its place.
    """

    def __init__(
        self,
        place: Place | None,
        source: str,
        levels: Sequence[Level],
        thresholds: Sequence[float],
        proc: Path = PROC,
    ) -> None:
        """Register pressure with the kernel. Raises OSError and HostctlError."""
        mounts = mounts_of(proc)
        self._proc = proc
        self._thresholds = thresholds
        self._memory = None if place is None else _with_memory(place, mounts)
        folders = {one.folder for one in (place, self._memory) if one is not None}
        self._inodes = {folder: folder.stat().st_ino for folder in folders}
        self._usage: usage.UsageWatch | None = None
        self._sources = choose(source, place, levels, mounts, proc)

    def start(
        self,
        on_pressure: Callable[[PressureSource, Level], None],
        on_gone: Callable[[str], None],
    ) -> None:
        """Begin to call back; when the group is removed, either of the two."""
        for source in self._sources:
            source.start(partial(on_pressure, source), on_gone)

    def arm(self, capacity: int, on_usage: Callable[[], None]) -> None:
        """Call back at the thresholds of `capacity` bytes, instead of at those before."""
        if self._usage is not None:
            self._usage.close()
            self._usage = None
        if self._memory is not None:
            sizes = [int(share * capacity) for share in self._thresholds]
            self._usage = usage.watch(self._memory, sizes)
        if self._usage is not None:
            self._usage.start(on_usage)

    def read(self) -> Reading:
        """The memory as it is now. Raises OSError, and HostctlError where the group is gone."""
        for folder, inode in self._inodes.items():
            if not folder.exists() or folder.stat().st_ino != inode:
                raise HostctlError(f"cgroup {folder} was removed")
        if self._memory is None:
            return memory.of_machine(self._proc)
        return memory.of_group(self._memory, self._proc)

    def close(self) -> None:
        """Unregister all; may be called twice."""
        with ExitStack() as stack:
            for source in self._sources:
                stack.callback(source.close)
            if self._usage is not None:
                stack.callback(self._usage.close)


def _with_memory(place: Place, mounts: Sequence[Mount]) -> Place:
    """Where the memory of the group at `place` can be read: there, or in the other hierarchy."""
    for one in (place, place.twin(mounts)):
        if one is not None and memory.has_memory(one):
            return one
    raise HostctlError(
        f"cgroup {place.folder}: has no memory controller, so that its limit and usage are not "
        "known; switch it on in cgroup.subtree_control of the group above, or give the group's "
        "folder in the v1 memory hierarchy"
    )
