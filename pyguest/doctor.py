# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine can do for the lab, and what to do about what it cannot.

``gather`` looks at the machine once; the checks are pure functions of what it saw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyguest import host, kvm, paths

Status = Literal["ok", "warn", "fail"]

_GIB = 1 << 30
# Two 512 MiB guests with their QEMUs, the page cache of the build and a margin.
NEED_MEMORY = 5 * _GIB // 2
# Sources, builds, images and the demo's swap file.
NEED_DISK = 6 * _GIB
# Debian releases that the lab was tried on.
DISTRIBUTIONS = (("debian", "12"), ("debian", "13"))
# What the builds call; the package that has it.
COMMANDS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc",
    "make": "make",
    "pkg-config": "pkg-config",
    "flex": "flex",
    "bison": "bison",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "swapon": "mount",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table; ``remedy`` is empty when nothing is to be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Facts:
    """What was seen of a machine; sizes in bytes. Tests make their own."""

    kvm: kvm.KvmProbe
    controller: host.MemoryController | None
    v1_pressure_level: bool
    psi: bool
    psi_windows: tuple[int, ...]
    """Windows (s) of a PSI trigger that the kernel accepts from this user, of 1 and 2."""
    uid: int
    swaps: tuple[host.SwapArea, ...]
    swap_commands: bool
    tun_error: str
    """Why /dev/net/tun does not open; empty if it does."""
    cores: int
    memory_available: int
    cache: str
    cache_free: int
    distribution: tuple[str, str]
    machine: str
    missing: tuple[str, ...]


def check_kvm(facts: Facts) -> Finding:
    if facts.kvm.usable:
        return Finding("KVM", "ok", facts.kvm.reason)
    return Finding(
        "KVM", "warn", facts.kvm.reason, "the lab goes on under TCG, about ten times slower"
    )


def check_user(facts: Facts) -> Finding:
    if facts.uid == 0:
        return Finding("user", "ok", "root")
    return Finding(
        "user",
        "warn",
        f"user id {facts.uid}: no limited host, no swap of its own, no taps",
        "use sudo for the demonstration",
    )


def check_cgroup(facts: Facts) -> Finding:
    if facts.controller is None:
        return Finding(
            "memory cgroup",
            "fail",
            "no cgroup hierarchy has the memory controller",
            "mount it: systemd does; without: mount -t cgroup -o memory memory "
            "/sys/fs/cgroup/memory (cgroup_disable=memory must not be on the command line)",
        )
    return Finding(
        "memory cgroup", "ok", f"version {facts.controller.version} at {facts.controller.root}"
    )


def check_pressure(facts: Facts) -> Finding:
    """A source of host pressure: v1's vmpressure, or a PSI trigger."""
    sources = []
    if facts.v1_pressure_level:
        sources.append("vmpressure (memory.pressure_level)")
    if facts.psi_windows:
        sources.append(f"PSI trigger (windows from {min(facts.psi_windows)} s)")
    if sources:
        return Finding("host pressure", "ok", ", ".join(sources))
    if facts.psi:
        return Finding(
            "host pressure",
            "fail",
            "PSI files are there, but the kernel refuses triggers",
            "use sudo, or a newer kernel, where users may set triggers with windows of 2 s",
        )
    return Finding(
        "host pressure",
        "fail",
        "neither cgroup v1 memory.pressure_level nor /proc/pressure/memory",
        "boot with psi=1",
    )


def check_swap(facts: Facts) -> Finding:
    have = sum(area.size for area in facts.swaps) >> 20
    existing = f"the machine has {have} MiB" if have else "the machine has none"
    if facts.uid == 0 and facts.swap_commands:
        return Finding("swap", "ok", f"a swap file of its own is possible; {existing}")
    if facts.uid == 0:
        return Finding(
            "swap", "fail", "mkswap, swapon or swapoff is missing", "install mount, util-linux"
        )
    if have:
        return Finding("swap", "ok", f"{existing}; none of its own without root")
    return Finding("swap", "warn", f"{existing}, and making it needs root", "use sudo, or add swap")


def check_network(facts: Facts) -> Finding:
    if facts.uid == 0 and not facts.tun_error:
        return Finding("network", "ok", "bridge and taps in a namespace of their own")
    if facts.uid == 0:
        return Finding(
            "network",
            "warn",
            f"/dev/net/tun does not open ({facts.tun_error}): user networking",
            "modprobe tun",
        )
    return Finding("network", "ok", "user networking (taps need root)")


def check_cores(facts: Facts) -> Finding:
    if facts.cores >= 2:
        return Finding("processors", "ok", str(facts.cores))
    return Finding("processors", "warn", "one: two guests share it", "expect double times")


def check_memory(facts: Facts, need: int = NEED_MEMORY) -> Finding:
    have = f"{facts.memory_available / _GIB:.1f} GiB available"
    if facts.memory_available >= need:
        return Finding("memory", "ok", have)
    return Finding(
        "memory", "fail", f"{have}, the demo needs {need / _GIB:.1f}", "end other programs"
    )


def check_disk(facts: Facts, need: int = NEED_DISK) -> Finding:
    have = f"{facts.cache_free / _GIB:.1f} GiB free in {facts.cache}"
    if facts.cache_free >= need:
        return Finding("disk", "ok", have)
    return Finding(
        "disk",
        "fail",
        f"{have}, building all needs {need / _GIB:.0f}",
        "free some, or set XDG_CACHE_HOME to a folder on another disk",
    )


def check_distribution(facts: Facts) -> Finding:
    name = " ".join(facts.distribution).strip() or "unknown"
    if facts.machine != "x86_64":
        return Finding("system", "fail", f"{name} on {facts.machine}", "use an x86-64 machine")
    if facts.distribution in DISTRIBUTIONS:
        return Finding("system", "ok", f"{name} on {facts.machine}")
    return Finding(
        "system", "warn", f"{name} on {facts.machine}: not tried", "Debian 12 and 13 are"
    )


def check_commands(facts: Facts) -> Finding:
    if not facts.missing:
        return Finding("commands", "ok", "all there")
    packages = sorted({COMMANDS.get(name, name) for name in facts.missing})
    return Finding(
        "commands",
        "warn",
        f"missing: {', '.join(facts.missing)}",
        f"make demo installs them; by hand: apt-get install {' '.join(packages)}",
    )


CHECKS = (
    check_distribution,
    check_user,
    check_kvm,
    check_cores,
    check_memory,
    check_disk,
    check_cgroup,
    check_pressure,
    check_swap,
    check_network,
    check_commands,
)


def run(facts: Facts) -> list[Finding]:
    """All findings, in the table's order."""
    return [check(facts) for check in CHECKS]


def _psi_windows(path: Path) -> tuple[int, ...]:
    accepted = []
    for seconds in (1, 2):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(fd, f"some {seconds * 100_000} {seconds * 1_000_000}\0".encode())
            accepted.append(seconds)
        except OSError:
            pass
        finally:
            os.close(fd)
    return tuple(accepted)


def _tun_error(path: Path) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def _distribution() -> tuple[str, str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return release.get("ID", ""), release.get("VERSION_ID", "")


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def gather(commands: Sequence[str] = tuple(COMMANDS)) -> Facts:
    """Look at this machine; the KVM probe takes up to two seconds, nothing is changed."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    controller = host.memory_controller()
    cache = paths.cache_root()
    psi = Path("/proc/pressure/memory")
    return Facts(
        kvm=kvm.probe(),
        controller=controller,
        v1_pressure_level=controller is not None
        and controller.version == 1
        and (controller.root / "memory.pressure_level").exists(),
        psi=psi.exists(),
        psi_windows=_psi_windows(psi),
        uid=os.geteuid(),
        swaps=tuple(host.parse_swaps(Path("/proc/swaps").read_text())),
        swap_commands=all(shutil.which(c, path=search) for c in ("mkswap", "swapon", "swapoff")),
        tun_error=_tun_error(Path("/dev/net/tun")),
        cores=len(os.sched_getaffinity(0)),
        memory_available=_memory_available(),
        cache=str(cache),
        cache_free=shutil.disk_usage(_existing(cache)).free,
        distribution=_distribution(),
        machine=platform.machine(),
        missing=tuple(name for name in commands if not shutil.which(name, path=search)),
    )


def render(findings: Sequence[Finding], console: Console) -> None:
    """Print the table; remedies stand below the finding that they belong to."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        colour = colours[finding.status]
        table.add_row(
            finding.name, f"[{colour}]{finding.status}[/{colour}]", escape(finding.detail)
        )
        if finding.remedy:
            table.add_row("", "", escape(f"-> {finding.remedy}"))
    console.print(table, markup=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; 1 if something is missing that the lab cannot do without."""
    parser = argparse.ArgumentParser(
        prog="bin/pyguest doctor",
        description="Say what this machine can do for the lab, and how to mend what it cannot.",
        epilog="examples:\n  bin/pyguest doctor\n  sudo bin/pyguest doctor --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(argv)
    findings = run(gather())
    if options.json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        print()
    else:
        render(findings, Console(width=80))
    return int(any(finding.status == "fail" for finding in findings))
