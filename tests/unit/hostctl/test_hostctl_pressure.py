# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure sources against this machine's kernel, where it has them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure import psi, vmpressure
from hostctl.pressure.choose import choose
from hostctl.pressure.source import PressureSource

V2_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
LIMIT = 16 << 20
# Joins the group, then churns page cache, more of it than the group may have.
CHURN = """
import os, sys
group, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
for procs in group.split(":"):
    with open(procs + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
block = bytes(1 << 20)
with open(path, "wb") as file:
    for _ in range(size >> 20):
        file.write(block)
    os.fsync(file.fileno())
while True:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
"""


def make_group(root: Path) -> Path:
    group = root / f"hostctl-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"cannot make a cgroup below {root}: {exc.strerror}")
    return group


def remove_group(group: Path) -> None:
    with suppress(FileNotFoundError):
        group.rmdir()


@pytest.fixture
def v1_group() -> Iterator[Path]:
    if not vmpressure.offered(vmpressure.ROOT):
        pytest.skip("no cgroup v1 memory controller")
    group = make_group(vmpressure.ROOT)
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield group
    finally:
        remove_group(group)


@pytest.fixture
def v2_group() -> Iterator[Path]:
    root = next((r for r in V2_ROOTS if (r / "cgroup.controllers").exists()), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy")
    group = make_group(root)
    try:
        if not (group / psi.GROUP_FILE).exists():
            pytest.skip("no PSI in cgroup v2")
        yield group
    finally:
        remove_group(group)


@pytest.fixture
def churn(tmp_path: Path) -> Iterator[Callable[..., None]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*groups: Path) -> None:
        names = ":".join(map(str, groups))
        args = [sys.executable, "-c", CHURN, names, str(tmp_path / "file"), str(4 * LIMIT)]
        started.append(subprocess.Popen(args))

    yield start
    for process in started:
        process.kill()
        process.wait()


async def first_event(
    source: PressureSource, act: Callable[[], None], seconds: float = 30
) -> tuple[int, list[str]]:
    """Events and end reasons up to the first of either, after `act`."""
    events, gone = 0, list[str]()
    happened = asyncio.Event()

    def pressed() -> None:
        nonlocal events
        events += 1
        happened.set()

    def ended(why: str) -> None:
        gone.append(why)
        happened.set()

    source.start(pressed, ended)
    act()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happened.wait()
    return events, gone


@pytest.mark.parametrize("level", list(Level))
def test_vmpressure_registers_at_each_level(v1_group: Path, level: Level) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = vmpressure.VmPressure(v1_group, level)
    assert source.level is level
    source.close()
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_vmpressure_event(v1_group: Path, churn: Callable[..., None]) -> None:
    source = choose("auto", v1_group, Level.LOW)
    assert isinstance(source, vmpressure.VmPressure)
    try:
        assert asyncio.run(first_event(source, lambda: None, 0.5)) == (0, [])
        assert asyncio.run(first_event(source, lambda: churn(v1_group))) == (1, [])
    finally:
        source.close()


def test_vmpressure_group_removed(v1_group: Path) -> None:
    source = vmpressure.VmPressure(v1_group, Level.LOW)
    events, gone = asyncio.run(first_event(source, v1_group.rmdir))
    assert events == 0
    assert len(gone) == 1 and str(v1_group) in gone[0]
    source.close()


def test_vmpressure_refused(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostctlError, match="no vmpressure at level low"):
        vmpressure.VmPressure(tmp_path, Level.LOW)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def machine_psi() -> Path:
    if not os.access(psi.MACHINE, os.R_OK | os.W_OK):
        pytest.skip(f"cannot write {psi.MACHINE}")
    return psi.MACHINE


@pytest.mark.parametrize("level", list(Level))
def test_psi_registers_at_each_level(machine_psi: Path, level: Level) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = psi.Psi(machine_psi, level)
    source.close()
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_psi_window_refused(machine_psi: Path) -> None:
    # Above the kernel's longest window of 10 s, which no capability allows.
    with pytest.raises(HostctlError, match="window 20000000 us.*whole multiple of 2000000"):
        psi.Psi(machine_psi, Level.LOW, window_us=20_000_000)


def test_psi_without_file(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="psi=1"):
        psi.Psi(tmp_path / psi.GROUP_FILE, Level.LOW)


def test_psi_event(v1_group: Path, v2_group: Path, churn: Callable[..., None]) -> None:
    source = choose("auto", v2_group, Level.LOW)
    assert isinstance(source, psi.Psi)
    try:
        assert asyncio.run(first_event(source, lambda: None, 0.5)) == (0, [])
        events, gone = asyncio.run(first_event(source, lambda: churn(v1_group, v2_group)))
    finally:
        source.close()
    assert (events, gone) == (1, [])


def test_psi_group_removed(v2_group: Path) -> None:
    source = psi.Psi(v2_group / psi.GROUP_FILE, Level.LOW)
    events, gone = asyncio.run(first_event(source, v2_group.rmdir))
    assert events == 0
    assert len(gone) == 1 and str(v2_group) in gone[0]
    source.close()


def test_choose_none() -> None:
    assert choose("none", Path("/does/not/exist"), Level.LOW) is None


def test_choose_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="no pressure source.*--pressure none"):
        choose("auto", None, Level.LOW, v1_root=tmp_path / "v1", machine=tmp_path / "psi")
    with pytest.raises(HostctlError, match="no such cgroup"):
        choose("auto", tmp_path / "group", Level.LOW)
    with pytest.raises(HostctlError, match="no vmpressure"):
        choose("vmpressure", None, Level.LOW, v1_root=tmp_path)


def test_choose_falls_back_to_psi(tmp_path: Path, machine_psi: Path) -> None:
    source = choose("auto", None, Level.LOW, v1_root=tmp_path)
    assert source is not None and source.name == f"psi:{machine_psi}"
    source.close()
