# SPDX-License-Identifier: GPL-2.0-or-later
"""What every way to a guest is to the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

PoolOf = Callable[[int], str]
"""The name of the pool that a process, by its pid, belongs to."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a guest is."""

    pool: str
    pid: int | None = None
    """Its QEMU's process; None: not known, or on another host."""


class Channel(Protocol):
    """A guest. Its events go to the daemon's `emit`, in the loop's own thread."""

    @property
    def name(self) -> str:
        """The guest's name, which no other guest of the daemon has."""
        ...

    def set_target(self, target: int) -> None:
        """Have the guest's target set to `target` bytes, soon; a later call replaces it."""
        ...

    def attend(self, *, closely: bool) -> None:
        """Read the guest's statistics often from now on, or as often as is configured."""
        ...


class Finder(Protocol):
    """Finds guests where it looks, and keeps a channel to each."""

    @property
    def guests(self) -> Mapping[str, Channel]:
        """The channels that are there now, by name."""
        ...

    async def run(self) -> None:
        """Look until cancelled, then close all."""
        ...
