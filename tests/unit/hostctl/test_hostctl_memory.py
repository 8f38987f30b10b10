# SPDX-License-Identifier: GPL-2.0-or-later
"""Limit and usage: from files as each kernel writes them, and of a real group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest
from hostctl_groups import LIMIT, MIB, group, workers
from hypothesis import example, given
from hypothesis import strategies as st

from hostctl.errors import HostctlError
from hostctl.pressure import memory
from hostctl.pressure.cgroups import Mount, Place, locate, mounts_of
from hostctl.pressure.memory import NO_LIMIT, Reading

RAM = 1024 * MIB
TOP = PurePosixPath("/")
SIZES = st.integers(0, 1 << 40)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    lines = {"MemTotal": RAM, "MemAvailable": 824 * MIB, "SwapTotal": 64 * MIB, "SwapFree": 4 * MIB}
    text = "".join(f"{key}:   {size >> 10} kB\n" for key, size in lines.items())
    (folder / "meminfo").write_text(f"{text}HugePages_Total:       0\n")
    return folder


def write(folder: Path, files: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, dict):
            content = "\n".join(f"{key} {size * MIB}" for key, size in content.items())
        (folder / name).write_text(f"{content}\n")


def v2(
    folder: Path, current: int, cache: int = 0, dirty: int = 0, top: object = "max", **files: object
) -> None:
    stat = {
        "anon": current - cache,
        "file": cache + 1,
        "inactive_file": cache,
        "active_file": 1,
        "file_dirty": dirty,
        "file_writeback": 1,
    }
    write(folder, {"memory.current": current * MIB, "memory.stat": stat, "memory.max": top})
    write(folder, {name.replace("_", "."): value for name, value in files.items()})


def at(root: Path, version: int, path: str) -> Place:
    return Place(Mount(root, TOP, version), root / path)


def test_machine(proc: Path) -> None:
    assert memory.of_machine(proc) == Reading(RAM, 200 * MIB, RAM, 60 * MIB)


def test_v2_usage_is_without_clean_cache(tmp_path: Path, proc: Path) -> None:
    v2(tmp_path / "cg/a", 300, cache=200, dirty=50, top=400 * MIB, memory_high="max")
    found = memory.of_group(at(tmp_path / "cg", 2, "a"), proc)
    assert found == Reading(400 * MIB, 150 * MIB, 400 * MIB, None)
    (tmp_path / "cg/a/memory.swap.current").write_text("4096\n")
    assert memory.of_group(at(tmp_path / "cg", 2, "a"), proc).swapped == 4096


def test_v2_high_counts_and_every_ancestor(tmp_path: Path, proc: Path) -> None:
    root = tmp_path / "cg"
    v2(root / "a/b/c", 20)
    v2(root / "a/b", 20, memory_high=100 * MIB)
    v2(root / "a", 90, top=150 * MIB)
    found = memory.of_group(at(root, 2, "a/b/c"), proc)
    # b leaves 80 MiB of room, a only 60: somebody else uses 70 there.
    assert (found.limit, found.usage, found.capacity) == (80 * MIB, 20 * MIB, 100 * MIB)
    (root / "a/memory.max").write_text(str(1 << 60))
    assert memory.of_group(at(root, 2, "a/b/c"), proc).limit == 100 * MIB
    (root / "a/b/memory.high").write_text("max")
    # No limit left but the machine's, where others use 180 MiB.
    found = memory.of_group(at(root, 2, "a/b/c"), proc)
    assert (found.limit, found.capacity) == (RAM - 180 * MIB, RAM)


def v1_stat(cache: int, dirty: int, limit: int, **more: int) -> dict[str, int]:
    return {
        "cache": 7777,
        "total_cache": cache,
        "total_inactive_file": cache,
        "total_active_file": 0,
        "total_dirty": dirty,
        "total_writeback": 0,
        "hierarchical_memory_limit": limit,
        **more,
    }


def test_v1_files(tmp_path: Path, proc: Path) -> None:
    root = tmp_path / "cg"
    unlimited = {"memory.limit_in_bytes": (1 << 63) - 4096}
    write(root, unlimited)
    stat = v1_stat(200, 50, 400, total_swap=3)
    write(root / "a", {"memory.usage_in_bytes": 300 * MIB, "memory.stat": stat})
    found = memory.of_group(at(root, 1, "a"), proc)
    assert found == Reading(400 * MIB, 150 * MIB, 400 * MIB, 3 * MIB)
    del stat["total_swap"]  # no swap accounting
    write(root / "a", {"memory.stat": stat})
    assert memory.of_group(at(root, 1, "a"), proc).swapped is None


def test_whether_a_group_has_memory(tmp_path: Path) -> None:
    write(tmp_path / "a", {"memory.pressure": "", "memory.stat": ""})
    assert not memory.has_memory(at(tmp_path, 2, "a"))
    write(tmp_path / "a", {"memory.current": 0})
    assert memory.has_memory(at(tmp_path, 2, "a"))
    assert not memory.has_memory(at(tmp_path, 1, "a"))
    assert not memory.has_memory(at(tmp_path, 2, "none"))


@pytest.mark.parametrize("name", ["memory.stat", "memory.current", "memory.max"])
@pytest.mark.parametrize("content", ["", "-1", "lots", "9" * 5000, "\0\xff", "anon 5"])
def test_garbage_is_named(tmp_path: Path, proc: Path, name: str, content: str) -> None:
    v2(tmp_path / "cg/a", 30)
    (tmp_path / "cg/a" / name).write_text(content)
    with pytest.raises(HostctlError, match=f"{name}: tells no .*hostctl cannot read"):
        memory.of_group(at(tmp_path / "cg", 2, "a"), proc)


def test_a_machine_without_figures(proc: Path) -> None:
    (proc / "meminfo").write_text("MemTotal: 1 kB\n")
    with pytest.raises(HostctlError, match="tells no MemAvailable"):
        memory.of_machine(proc)


@given(st.text())
@example("a -1\nb: 1 kB\nc ²\n")
def test_any_counters_are_taken(text: str) -> None:
    assert all(value >= 0 for value in memory.counters(text).values())


@given(st.dictionaries(st.from_regex(r"[A-Za-z_()]+", fullmatch=True), SIZES))
def test_counters_are_read_back(values: dict[str, int]) -> None:
    assert memory.counters("".join(f"{k} {v}\n" for k, v in values.items())) == values
    assert memory.counters("".join(f"{k}:  {v} kB\n" for k, v in values.items())) == values


READINGS = st.builds(
    lambda capacity, usage: Reading(capacity, usage, capacity), SIZES | st.just(NO_LIMIT), SIZES
)


@given(READINGS, st.lists(READINGS))
def test_room_is_the_least_on_the_way_up(own: Reading, others: list[Reading]) -> None:
    found = memory.within(own, others)
    rooms = [own.limit - own.usage]
    rooms += [other.limit - max(other.usage, own.usage) for other in others]
    assert found.usage == own.usage
    assert found.limit == max(min(rooms) + own.usage, 0)
    assert found.capacity == min(one.capacity for one in [own, *others])
    assert found.limit <= found.capacity


def test_a_real_group(tmp_path: Path) -> None:
    with group(1) as folder, workers() as make:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        worker = make()
        worker.do("join", folder)
        place = locate(folder, mounts_of())

        def usage() -> int:
            found = memory.of_group(place)
            assert found.limit == found.capacity == LIMIT
            return found.usage

        before = usage()
        worker.do("anon", 20 * MIB)
        assert 20 * MIB <= usage() - before < 23 * MIB
        worker.do("write", tmp_path / "file", 30 * MIB)
        assert int((folder / "memory.usage_in_bytes").read_text()) > 48 * MIB
        assert usage() - before < 26 * MIB  # what was written is clean
        worker.do("shared", 10 * MIB)
        assert usage() - before >= 30 * MIB  # is a file to the kernel, and can only be swapped


def test_a_real_ancestor_and_its_other_users() -> None:
    with group(1) as parent, workers() as make:
        (parent / "memory.limit_in_bytes").write_text(str(LIMIT))
        for name in ("pool", "other"):
            (parent / name).mkdir()
        place = locate(parent / "pool", mounts_of())
        before = memory.of_group(place)
        assert before.capacity == LIMIT
        worker = make()
        worker.do("join", parent / "other")
        worker.do("anon", 30 * MIB)
        found = memory.of_group(place)
        assert found.capacity == LIMIT
        assert 29 * MIB < before.limit - found.limit < 33 * MIB  # charges are cached per CPU
