# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor on machines that lack something, by fakes, and on this one for real."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pyguest import doctor, host, kvm

_GIB = 1 << 30
GOOD = doctor.Facts(
    kvm=kvm.KvmProbe(True, "/dev/kvm runs 64-bit kernel code", 0.1),
    controller=host.MemoryController(2, Path("/sys/fs/cgroup")),
    v1_pressure_level=False,
    psi=True,
    psi_windows=(1, 2),
    uid=0,
    swaps=(),
    swap_commands=True,
    tun_error="",
    cores=4,
    memory_available=8 * _GIB,
    cache="/var/cache/lab",
    cache_free=40 * _GIB,
    distribution=("debian", "13"),
    machine="x86_64",
    missing=(),
)
NO_KVM = kvm.KvmProbe(False, "/dev/kvm does not exist: load kvm_intel or kvm_amd", 0.0)


def _finding(facts: doctor.Facts, name: str) -> doctor.Finding:
    return next(finding for finding in doctor.run(facts) if finding.name == name)


def test_good_machine_has_nothing_to_mend() -> None:
    findings = doctor.run(GOOD)
    assert {finding.status for finding in findings} == {"ok"}
    assert not any(finding.remedy for finding in findings)
    assert len({finding.name for finding in findings}) == len(doctor.CHECKS)


@pytest.mark.parametrize(
    ("name", "change", "status", "detail", "remedy"),
    [
        ("KVM", {"kvm": NO_KVM}, "warn", "does not exist", "TCG"),
        ("user", {"uid": 1000}, "warn", "user id 1000", "sudo"),
        ("swap", {"uid": 1000}, "warn", "none", "sudo"),
        ("swap", {"swap_commands": False}, "fail", "mkswap", "util-linux"),
        ("network", {"tun_error": "No such file or directory"}, "warn", "No such", "modprobe tun"),
        ("memory cgroup", {"controller": None}, "fail", "no cgroup", "mount"),
        ("host pressure", {"psi_windows": ()}, "fail", "refuses", "sudo"),
        ("host pressure", {"psi_windows": (), "psi": False}, "fail", "neither", "psi=1"),
        ("processors", {"cores": 1}, "warn", "one", "double"),
        ("memory", {"memory_available": _GIB}, "fail", "1.0 GiB available", "end"),
        ("disk", {"cache_free": 3 * _GIB}, "fail", "3.0 GiB free in /var/cache/lab", "XDG_CACHE"),
        ("system", {"distribution": ("fedora", "44")}, "warn", "fedora 44", "Debian 12"),
        ("system", {"machine": "aarch64"}, "fail", "aarch64", "x86-64"),
        ("commands", {"missing": ("mke2fs", "gcc")}, "warn", "mke2fs, gcc", "e2fsprogs gcc"),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(
    name: str, change: dict[str, object], status: str, detail: str, remedy: str
) -> None:
    facts = replace(GOOD, **change)  # type: ignore[arg-type]
    finding = _finding(facts, name)
    assert finding.status == status
    assert detail in finding.detail
    assert remedy in finding.remedy


def test_only_what_cannot_be_done_without_fails() -> None:
    """Without KVM, swap, tun and root the lab still runs: warnings, no failure."""
    facts = replace(GOOD, kvm=NO_KVM, uid=1000, tun_error="Permission denied", psi_windows=(2,))
    assert "fail" not in {finding.status for finding in doctor.run(facts)}


def test_existing_swap_serves_without_root() -> None:
    swaps = (host.SwapArea(Path("/swap"), 2 * _GIB, 0),)
    finding = _finding(replace(GOOD, uid=1000, swaps=swaps), "swap")
    assert finding.status == "ok"
    assert "2048 MiB" in finding.detail


def test_v1_and_v2_pressure_sources_are_both_named() -> None:
    finding = _finding(replace(GOOD, v1_pressure_level=True, psi_windows=(2,)), "host pressure")
    assert "memory.pressure_level" in finding.detail
    assert "2 s" in finding.detail


def test_table_fits_80_columns_and_shows_every_remedy() -> None:
    facts = replace(GOOD, kvm=NO_KVM, controller=None, cache="/[b]" + "long/" * 40, cache_free=0)
    out = io.StringIO()
    doctor.render(doctor.run(facts), Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("->") == 3
    assert "/[b]long" in text


@pytest.mark.parametrize(("facts", "status"), [(GOOD, 0), (replace(GOOD, cache_free=0), 1)])
def test_exit_status_and_json(
    facts: doctor.Facts,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "gather", lambda: facts)
    assert doctor.main(["--json"]) == status
    findings = json.loads(capsys.readouterr().out)
    assert [finding["name"] for finding in findings] == [f.name for f in doctor.run(facts)]


def test_this_machine_is_looked_at_for_real() -> None:
    facts = doctor.gather(commands=("sh", "no-such-command"))
    assert facts.missing == ("no-such-command",)
    assert facts.cores >= 1
    assert facts.memory_available > 0
    assert facts.kvm.reason
