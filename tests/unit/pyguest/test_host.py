# SPDX-License-Identifier: GPL-2.0-or-later
"""The limited host: parsers by property, group and swap for real as root, nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest import host
from pyguest.errors import LabError

_MIB = 1 << 20
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or host.memory_controller() is None,
    reason="needs root and a memory cgroup controller",
)

_V1 = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n"
_V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
_OTHER = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n/dev/vda / ext4 rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "controllers", "expected"),
    [
        (_OTHER + _V1, "", host.MemoryController(1, Path("/sys/fs/cgroup/memory"))),
        (_OTHER + _V2, "cpu memory io\n", host.MemoryController(2, Path("/sys/fs/cgroup"))),
        (_V2 + _V1, "", host.MemoryController(1, Path("/sys/fs/cgroup/memory"))),
        (_V2, "cpu io\n", None),
        (_OTHER, "memory", None),
        ("", "memory", None),
    ],
)
def test_memory_controller_is_found_where_it_is(
    mounts: str, controllers: str, expected: host.MemoryController | None
) -> None:
    assert host.find_memory_controller(mounts, lambda _: controllers) == expected


def test_process_with_an_awkward_name() -> None:
    fields = ["S", *(str(number) for number in range(4, 53))]
    usage = host.parse_process("77 (a) b (c) " + " ".join(fields))
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    assert usage == host.ProcessUsage(
        77, parent=4, minor_faults=10, major_faults=12, user_seconds=14 / ticks,
        sys_seconds=15 / ticks, waited_seconds=33 / ticks, rss_bytes=24 * page)


def test_own_process_has_memory_and_a_dead_one_none() -> None:
    usage = host.process_usage(os.getpid())
    assert usage is not None
    assert usage.rss_bytes > _MIB
    assert usage.minor_faults > 0
    child = subprocess.Popen(["true"])
    child.wait()
    assert host.process_usage(child.pid) is None


@given(st.text())
def test_parsers_take_any_text(text: str) -> None:
    assert all(value >= 0 for value in host.parse_counters(text).values())
    assert all(area.size >= 0 for area in host.parse_swaps(text))
    try:
        host.parse_process(text)
    except LabError as error:
        assert "\n" not in str(error)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.integers(0, 2**64 - 1)))
def test_counters_come_back(counters: dict[str, int]) -> None:
    text = "".join(f"{key} {value}\n" for key, value in counters.items())
    assert host.parse_counters(text) == counters


def test_swaps() -> None:
    text = (
        "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/a\\040b/x.swap                 file\t\t8188\t\t4\t\t100\n"
    )
    assert host.parse_swaps(text) == [host.SwapArea(Path("/a b/x.swap"), 8188 << 10, 4 << 10)]


def test_not_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root .user id 1000.: use sudo"):
        host.LimitedHost(64 * _MIB, 0, tmp_path).__enter__()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: host.LimitedHost(0, 0, d), "limit_bytes is 0"),
        (lambda d: host.LimitedHost(64 * _MIB, -1, d), "swap_bytes is -1"),
        (lambda d: host.LimitedHost(64 * _MIB, 0, d, swappiness=101), "swappiness is 101"),
    ],
)
def test_bad_sizes(make: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=expected):
        make(tmp_path)


@needs_root
def test_full_disk_names_folder_need_and_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100 * _MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabError, match=rf"{tmp_path} needs 320 MiB and 100 MiB are free"):
        host.LimitedHost(64 * _MIB, 64 * _MIB, tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


@needs_root
def test_group_limits_its_processes_and_swaps_to_its_own_file(tmp_path: Path) -> None:
    said: list[str] = []
    hog = (
        "import time; b = bytearray(b'x' * 4096) * (48 * 256)\n"
        "print(len(b), flush=True); time.sleep(60)"
    )
    with host.LimitedHost(32 * _MIB, 64 * _MIB, tmp_path, progress=said.append) as limited:
        group = limited.memcg
        before = limited.usage()
        swap = next(tmp_path.iterdir())
        assert swap.stat().st_mode & 0o777 == 0o600
        assert any(a.path == swap for a in host.parse_swaps(Path("/proc/swaps").read_text()))
        child = subprocess.Popen([*limited.prefix(), "python3", "-c", hog], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == str(48 * _MIB).encode()
            usage = limited.usage()
            limited.set_limit(24 * _MIB)
            lowered = limited.usage()
            assert lowered.used_bytes <= lowered.limit_bytes == 24 * _MIB
            assert lowered.swap_used_bytes > usage.swap_used_bytes
            with pytest.raises(LabError, match="0 MiB: .*more swap"):
                limited.set_limit(1 << 14)
        finally:
            child.kill()
            child.communicate()
        assert usage.used_bytes <= usage.limit_bytes == 32 * _MIB
        assert usage.swap_used_bytes > 8 * _MIB
        assert usage.pswpout - before.pswpout > 8 * _MIB // 4096
    assert not group.exists()
    assert not list(tmp_path.iterdir())
    assert str(swap) not in Path("/proc/swaps").read_text()
    assert said[0].startswith("writing swap file")


@needs_root
def test_everything_goes_when_the_body_raises(tmp_path: Path) -> None:
    limited = host.LimitedHost(32 * _MIB, 8 * _MIB, tmp_path)
    with pytest.raises(ValueError, match="inner"), limited:
        raise ValueError("inner")
    assert not limited.memcg.exists()
    assert not list(tmp_path.iterdir())


@needs_root
def test_process_that_stays_is_named_and_the_swap_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host._remove_group, "__defaults__", (0.2,))
    limited = host.LimitedHost(32 * _MIB, 8 * _MIB, tmp_path)
    child = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(LabError, match=rf"{child.pid} .sleep."), limited:
            limited.add(child.pid)
        assert not list(tmp_path.iterdir())
    finally:
        child.kill()
        child.wait()
        limited.memcg.rmdir()


@needs_root
def test_leftovers_of_a_dead_run_are_removed(tmp_path: Path) -> None:
    """A run that was killed leaves group, process and swap; the next one takes them away."""
    code = (
        "import sys, os, subprocess, pathlib; from pyguest import host\n"
        f"with host.LimitedHost({32 * _MIB}, {8 * _MIB}, pathlib.Path(sys.argv[1])) as limited:\n"
        "    child = subprocess.Popen([*limited.prefix(), 'sleep', '60'], stdout=-3)\n"
        "    import time\n"
        "    while str(child.pid) not in limited.procs_file.read_text(): time.sleep(0.01)\n"
        "    print(limited.memcg, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = Path(host.__file__).parent.parent
    done = subprocess.run(
        ["python3", "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, cwd=root, check=False
    )
    group = Path(done.stdout.strip())
    assert group.exists()
    assert str(tmp_path) in Path("/proc/swaps").read_text()
    gone = host.reap_leftovers(tmp_path)
    assert str(group) in gone
    assert not group.exists()
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/swaps").read_text()
