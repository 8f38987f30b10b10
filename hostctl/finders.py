# SPDX-License-Identifier: GPL-2.0-or-later
"""The places that a configuration names, and how the finder for each is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.config import GuestsConfig
from hostctl.guests.channel import Finder, PoolOf
from hostctl.guests.folder import Folder
from hostctl.guests.keeper import Timing
from hostctl.guests.names import Names
from hostctl.guests.pace import Pace
from hostctl.guests.qmp import QmpGuest
from hostctl.journal import Reporter
from hostctl.policy.model import Event

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Place:
    """Where guests are looked for: it is known by its name."""

    name: str
    make: Callable[[Emit, Reporter], Finder] = field(compare=False)


def places(config: GuestsConfig, pool_of: PoolOf, names: Names) -> Iterator[Place]:
    """Each place of the configuration; `names` are all finders' together."""
    timing = Timing(timeout=config.timeout, refresh=config.refresh, stats=config.stats_interval)
    pace = Pace()

    def folder(path: Path) -> Place:
        def make(emit: Emit, report: Reporter) -> Finder:
            def guest(sock: Path) -> QmpGuest:
                return QmpGuest(sock, emit, report, timing, pool_of, pace)

            return Folder(path, guest, report, names)

        return Place(str(path), make)

    def libvirt(uri: str) -> Place:
        def make(emit: Emit, report: Reporter) -> Finder:
            # Only where it is asked for: its library starts threads.
            from hostctl.guests.libvirt import Libvirt

            return Libvirt(uri, emit, report, timing, pool_of, names)

        return Place(uri, make)

    yield from map(folder, config.sockets)
    yield from map(libvirt, config.libvirt)
