# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pressure sources: as told, or by what the host has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure import psi, vmpressure
from hostctl.pressure.cgroups import PROC, Mount, Place
from hostctl.pressure.source import PressureSource

SOURCES = ("auto", "vmpressure", "psi", "none")


def choose(
    source: str,
    place: Place | None,
    levels: Sequence[Level],
    mounts: Sequence[Mount],
    proc: Path = PROC,
) -> list[PressureSource]:
    """Make what `source` (one of SOURCES) names, for a group or, with None, the whole machine.

    For a v1 group that is vmpressure of it and of all groups above it: the kernel tells a group
    of its own limit alone, and a limit above, or the machine's end, presses it as much. PSI counts
    the time that the group's tasks lose, for whatever reason. Raises HostctlError where there is
    no source.
    """
    if source == "none":
        return []
    groups = _v1_groups(place, mounts)
    stalls = _psi_file(place, mounts, proc)
    if source == "vmpressure" or (source == "auto" and groups and vmpressure.offered(groups[0])):
        if not groups:
            raise HostctlError(
                f"pressure.source vmpressure: {_named(place)} has none: no cgroup v1 memory group; "
                "mount the v1 memory controller, or use --pressure psi"
            )
        return _vmpressure(groups, levels)
    if source == "psi" or stalls.exists():
        return [psi.Psi(stalls, levels)]
    raise HostctlError(
        f"pressure.source auto: {_named(place)} has no pressure source, neither vmpressure "
        f"(cgroup v1) nor {stalls} (PSI); mount the v1 memory controller, boot with psi=1, or use "
        "--pressure none to act on the guests' messages alone"
    )


def _named(place: Place | None) -> str:
    return f"cgroup {place.folder}" if place else "the machine"


def _v1_groups(place: Place | None, mounts: Sequence[Mount]) -> list[Path]:
    """The v1 groups whose shortage presses the pool, its own first."""
    if place is None:
        top = PurePosixPath("/")
        return [one.point for one in mounts if one.version == 1 and one.root == top][:1]
    return [place.folder, *place.ancestors] if place.mount.version == 1 else []


def _psi_file(place: Place | None, mounts: Sequence[Mount], proc: Path) -> Path:
    if place is None:
        return proc / psi.MACHINE_FILE
    file = place.folder / psi.GROUP_FILE
    if not file.exists() and (twin := place.twin(mounts)) is not None:
        return twin.folder / psi.GROUP_FILE
    return file


def _vmpressure(groups: Sequence[Path], levels: Sequence[Level]) -> list[PressureSource]:
    with ExitStack() as undo:
        made: list[PressureSource] = []
        for group in groups:
            made.append(vmpressure.VmPressure(group, levels))
            undo.callback(made[-1].close)
        undo.pop_all()
    return made
