# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pressure source: as told, or by what the host has."""

from __future__ import annotations

from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure import psi, vmpressure
from hostctl.pressure.source import PressureSource

SOURCES = ("auto", "vmpressure", "psi", "none")


def choose(
    source: str,
    memcg: Path | None,
    level: Level,
    *,
    v1_root: Path = vmpressure.ROOT,
    machine: Path = psi.MACHINE,
) -> PressureSource | None:
    """Make the source named `source` (one of SOURCES); None for `none`.

    Without `memcg` it is the whole machine: the root of the v1 hierarchy where it is mounted,
    as in the seed, else the machine's PSI. Raises HostctlError where there is no source.
    """
    if source == "none":
        return None
    if memcg is not None and not memcg.is_dir():
        raise HostctlError(
            f"pressure.memcg {memcg}: no such cgroup; give the folder of a memory cgroup (v1) "
            "or of a cgroup (v2), or leave it out to watch the whole machine"
        )
    psi_file = memcg / psi.GROUP_FILE if memcg else machine
    if source == "vmpressure" or (source == "auto" and vmpressure.offered(memcg or v1_root)):
        return vmpressure.VmPressure(memcg or v1_root, level)
    if source == "psi" or psi_file.exists():
        return psi.Psi(psi_file, level)
    raise HostctlError(
        f"pressure.source auto: no pressure source, neither "
        f"{(memcg or v1_root) / vmpressure.LEVEL_FILE} (cgroup v1) nor {psi_file} (PSI) exists; "
        "mount the v1 memory controller, boot with psi=1, or use --pressure none to act on the "
        "guests' messages alone"
    )
