# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure sources against this machine's kernel, where it has them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

import pytest
from hostctl_groups import MIB, group, root_of, workers

from hostctl.errors import HostctlError
from hostctl.policy.model import Level
from hostctl.pressure import psi, vmpressure
from hostctl.pressure.cgroups import PROC, Mount, locate, mounts_of
from hostctl.pressure.choose import choose
from hostctl.pressure.source import PressureSource
from hostctl.pressure.usage import FileChanges

LIMIT = 16 * MIB
TOP = PurePosixPath("/")
LEVELS = list(Level)


@pytest.fixture
def v1_group() -> Iterator[Path]:
    with group(1) as folder:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield folder


@pytest.fixture
def v2_group() -> Iterator[Path]:
    with group(2) as folder:
        if not (folder / psi.GROUP_FILE).exists():
            pytest.skip("no PSI in cgroup v2")
        yield folder


@pytest.fixture
def churn(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Has a process read a file in groups, more of it than the first may have."""
    with workers() as make:

        def start(*groups: Path) -> None:
            worker = make()
            worker.do("join", *groups)
            worker.do("write", tmp_path / "file", 4 * LIMIT)
            worker.begin("churn", tmp_path / "file")

        yield start


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def first_event(
    source: PressureSource, act: Callable[[], None], seconds: float = 30
) -> tuple[list[Level], list[str]]:
    """Levels and end reasons up to the first of either, after `act`."""
    levels, gone = list[Level](), list[str]()
    happened = asyncio.Event()

    def pressed(level: Level) -> None:
        levels.append(level)
        happened.set()

    def ended(why: str) -> None:
        gone.append(why)
        happened.set()

    source.start(pressed, ended)
    act()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happened.wait()
    return levels, gone


def test_vmpressure_registers_all_levels(v1_group: Path) -> None:
    before = descriptors()
    source = vmpressure.VmPressure(v1_group, LEVELS)
    assert descriptors() == before + 3
    source.close()
    source.close()
    assert descriptors() == before


def test_vmpressure_event(v1_group: Path, churn: Callable[..., None]) -> None:
    source = vmpressure.VmPressure(v1_group, LEVELS)
    try:
        assert asyncio.run(first_event(source, lambda: None, 0.5)) == ([], [])
        levels, gone = asyncio.run(first_event(source, lambda: churn(v1_group)))
    finally:
        source.close()
    assert levels and not gone


def test_vmpressure_of_a_group_below_is_its_own(v1_group: Path, churn: Callable[..., None]) -> None:
    (v1_group / "memory.limit_in_bytes").write_text("-1")
    below = v1_group / "below"
    below.mkdir()
    (below / "memory.limit_in_bytes").write_text(str(LIMIT))

    # Nobody listens there, so that in the kernel's own mode it would go up to who does.
    source = vmpressure.VmPressure(v1_group, LEVELS)
    try:
        assert asyncio.run(first_event(source, lambda: churn(below), 2)) == ([], [])
    finally:
        source.close()
    assert int((below / "memory.failcnt").read_text()) > 0


def test_vmpressure_refused(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(HostctlError, match="no vmpressure at level low"):
        vmpressure.VmPressure(tmp_path, LEVELS)
    assert descriptors() == before


@pytest.fixture
def machine_psi() -> Path:
    file = PROC / psi.MACHINE_FILE
    if not os.access(file, os.R_OK | os.W_OK):
        pytest.skip(f"cannot write {file}")
    return file


def test_psi_registers_all_levels(machine_psi: Path) -> None:
    before = descriptors()
    source = psi.Psi(machine_psi, LEVELS)
    source.close()
    source.close()
    assert descriptors() == before


def test_psi_window_refused(machine_psi: Path) -> None:
    before = descriptors()
    # Above the kernel's longest window of 10 s, which no capability allows.
    with pytest.raises(HostctlError, match="window 20000000 us.*whole multiple of 2000000"):
        psi.Psi(machine_psi, LEVELS, window_us=20_000_000)
    assert descriptors() == before


def test_psi_without_file(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="psi=1"):
        psi.Psi(tmp_path / psi.GROUP_FILE, LEVELS)


def test_psi_event(v1_group: Path, v2_group: Path, churn: Callable[..., None]) -> None:
    # Of the same name, as systemd has it where both hierarchies are in use.
    mounts = mounts_of()
    place = locate(v1_group, mounts)
    (source,) = choose("psi", place, LEVELS, mounts)
    assert source.name == f"psi:{v2_group / psi.GROUP_FILE}"
    try:
        assert asyncio.run(first_event(source, lambda: None, 0.5)) == ([], [])
        levels, gone = asyncio.run(first_event(source, lambda: churn(v1_group, v2_group)))
    finally:
        source.close()
    assert levels and not gone


def test_psi_group_removed(v2_group: Path) -> None:
    source = psi.Psi(v2_group / psi.GROUP_FILE, LEVELS)
    events, gone = asyncio.run(first_event(source, v2_group.rmdir))
    assert not events
    assert len(gone) == 1 and str(v2_group) in gone[0]
    source.close()


def test_changes_of_a_file(v2_group: Path) -> None:
    # The kernel says it of cgroup.events as of memory.events, which needs the controller.
    changes = 0

    async def run() -> None:
        happened = asyncio.Event()

        def changed() -> None:
            nonlocal changes
            changes += 1
            happened.set()

        async def next_change() -> None:
            async with asyncio.timeout(10):
                await happened.wait()
            await asyncio.sleep(0.2)  # and no more of them than there were
            happened.clear()

        with workers() as make, ExitStack() as stack:
            watch = FileChanges(v2_group / "cgroup.events")
            stack.callback(watch.close)
            watch.start(changed)
            await asyncio.sleep(0.2)
            assert changes == 0
            worker = make()
            worker.do("join", v2_group)  # populated 1
            await next_change()
            assert changes == 1
            worker.do("join", root_of(2))  # populated 0
            await next_change()
            assert changes == 2
            # Another change, but the file is gone before it is looked at.
            worker.do("join", v2_group)
            worker.do("join", root_of(2))
            v2_group.rmdir()
            await next_change()
            assert changes == 3

    before = descriptors()
    asyncio.run(run())
    assert descriptors() == before


def test_choose_none(v1_group: Path) -> None:
    assert choose("none", locate(v1_group, mounts_of()), LEVELS, mounts_of()) == []


def test_choose_takes_the_groups_above_too(v1_group: Path) -> None:
    mounts = mounts_of()
    below = v1_group / "a/b"
    below.mkdir(parents=True)
    sources = choose("auto", locate(below, mounts), LEVELS, mounts)
    groups = [below, below.parent, v1_group, root_of(1)]
    try:
        assert [one.name for one in sources] == [f"vmpressure:{one}" for one in groups]
    finally:
        for one in sources:
            one.close()


def test_choose_names_what_is_missing(tmp_path: Path) -> None:
    v1, v2 = Mount(tmp_path / "v1", TOP, 1), Mount(tmp_path / "v2", TOP, 2)
    for place, mounts in (
        (None, []),
        (None, [v1]),
        (locate(tmp_path / "v1/a", [v1]), [v1]),
        (locate(tmp_path / "v2/a", [v2]), [v2]),
    ):
        with pytest.raises(HostctlError, match="no pressure source.*--pressure none"):
            choose("auto", place, LEVELS, mounts, tmp_path)
    with pytest.raises(HostctlError, match="the machine has none.*--pressure psi"):
        choose("vmpressure", None, LEVELS, [v2], tmp_path)
    with pytest.raises(HostctlError, match=f"cgroup {tmp_path}/v2/a has none.*--pressure psi"):
        choose("vmpressure", locate(tmp_path / "v2/a", [v2]), LEVELS, [v2], tmp_path)
    with pytest.raises(HostctlError, match="no vmpressure"):
        choose("vmpressure", None, LEVELS, [v1], tmp_path)


def test_choose_of_the_machine(machine_psi: Path) -> None:
    (source,) = choose("auto", None, LEVELS, [])
    assert source.name == f"psi:{machine_psi}"
    source.close()
    (source,) = choose("auto", None, LEVELS, mounts := [Mount(root_of(1), TOP, 1)])
    assert source.name == f"vmpressure:{mounts[0].point}"
    source.close()
