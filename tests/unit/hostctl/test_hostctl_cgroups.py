# SPDX-License-Identifier: GPL-2.0-or-later
"""What is mounted where, and which groups a process is in: parsers, places, pool_of."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostctl.errors import HostctlError
from hostctl.journal import Journal, Reporter
from hostctl.policy.model import HOST
from hostctl.pressure.cgroups import (
    Groups,
    Mount,
    Place,
    groups_of,
    locate,
    mounts_of,
    parse_groups,
    parse_mounts,
)
from hostctl.pressure.pool import Pool, PoolConfig, pool_of

TOP = PurePosixPath("/")
SYSTEMD_HYBRID = """\
24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 24 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,size=4096k,mode=755
32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid shared:11 master:3 - cgroup cgroup rw,name=systemd
36 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
40 31 0:36 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
"""
# What the kernel writes in a group's name and in a path: anything but a slash and a newline.
NAMES = st.text(
    st.characters(blacklist_characters="/\n\0", blacklist_categories=["Cs"]), min_size=1
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, max_size=4).map(lambda names: "/" + "/".join(names))


def escaped(path: str) -> str:
    """As the kernel writes it in mountinfo."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in path)


def test_mounts_of_a_hybrid_host() -> None:
    found = parse_mounts(SYSTEMD_HYBRID)
    assert [(str(m.point), m.version) for m in found if m.version] == [
        ("/sys/fs/cgroup/unified", 2),
        ("/sys/fs/cgroup/memory", 1),
    ]
    assert len(found) == 6


@given(PATHS, PATHS, st.lists(st.sampled_from(["shared:1", "master:2", "unbindable"])))
def test_mountinfo_escapes_are_read_back(root: str, point: str, optional: list[str]) -> None:
    fields = ["1", "2", "0:3", escaped(root), escaped(point), "rw", *optional, "-"]
    line = " ".join([*fields, "cgroup2", "none", "rw"])
    (mount,) = parse_mounts(f"nonsense\n{line}\n")
    assert mount == Mount(Path(point), PurePosixPath(root), 2)


def test_mountinfo_escapes_stand_for_bytes() -> None:
    raw = b"1 2 0:3 / /a\\040b\\134040\xff rw - cgroup x rw,memory\n"
    (mount,) = parse_mounts(os.fsdecode(raw))
    assert os.fsencode(mount.point) == b"/a b\\040\xff"
    assert mount.version == 1


@given(st.text())
@example(" - ")
@example("1 2 3 / / rw - cgroup2 x y\n1 2 3 / \\ rw -  \n")
@example("a b c \\777 /\\400 e - f g h")
def test_any_mountinfo_is_taken(text: str) -> None:
    for mount in parse_mounts(text):
        assert mount.point.is_absolute() and mount.root.is_absolute()


@given(NAMES.filter(lambda name: ":" not in name), PATHS, PATHS)
def test_groups_are_read_back(name: str, v1: str, v2: str) -> None:
    text = f"9:name={name}:/other\n4:cpu,memory:{v1}\n3:cpuset:/not\n0::{v2}\n"
    assert parse_groups(text) == Groups(PurePosixPath(v1), PurePosixPath(v2))


def test_groups_that_are_not_told() -> None:
    assert parse_groups("") == Groups()
    assert parse_groups("0::/a:b\n") == Groups(v2=PurePosixPath("/a:b"))
    assert parse_groups("4:memory:relative\n0:x:/a\nmemory\n5:memoryx:/b\n") == Groups()


@given(st.text())
@example("::/")
@example("0::")
def test_any_groups_are_taken(text: str) -> None:
    found = parse_groups(text)
    for path in (found.v1, found.v2):
        assert path is None or path.is_absolute()


def test_own_groups() -> None:
    own = groups_of(os.getpid())
    assert own.v1 or own.v2
    with pytest.raises(OSError):
        groups_of(1 << 22)


def test_place_by_the_deepest_mount() -> None:
    mounts = parse_mounts(SYSTEMD_HYBRID)
    place = locate(Path("/sys/fs/cgroup/memory/machine/x"), mounts)
    assert (place.mount.version, str(place.path)) == (1, "/machine/x")
    assert [str(one) for one in place.ancestors] == [
        "/sys/fs/cgroup/memory/machine",
        "/sys/fs/cgroup/memory",
    ]
    assert locate(Path("/sys/fs/cgroup/unified"), mounts).ancestors == []
    for folder in ("/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup", "/nowhere", "/"):
        with pytest.raises(HostctlError, match=f"cgroup {folder}: .*give the folder"):
            locate(Path(folder), mounts)
    with pytest.raises(HostctlError, match="none is mounted"):
        locate(Path("/x"), [])


def test_a_mount_upon_a_mount_is_the_one_that_counts(tmp_path: Path) -> None:
    below, above = Mount(tmp_path, TOP, 1), Mount(tmp_path, TOP, 2)
    assert locate(tmp_path / "x", [below, above]).mount is above
    with pytest.raises(HostctlError):
        locate(tmp_path / "x", [below, Mount(tmp_path, TOP, None)])


def test_a_folder_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    place = locate(tmp_path / "link/x", [Mount(tmp_path / "real", TOP, 1)])
    assert str(place.path) == "/x"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(HostctlError, match="loop"):
        locate(tmp_path / "loop", [Mount(tmp_path / "real", TOP, 1)])


@given(st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=3), st.booleans())
def test_a_group_holds_itself_and_what_is_below(
    own: list[str], more: list[str], first: bool
) -> None:
    mount = Mount(Path("/m"), TOP, 1 if first else 2)
    place = Place(mount, Path("/m", *own))
    path = PurePosixPath("/", *own, *more)
    groups = Groups(v1=path) if first else Groups(v2=path)
    other = Groups(v2=path) if first else Groups(v1=path)
    assert place.holds(groups)
    assert not place.holds(other)
    beside = Place(mount, Path("/m", *own, "x" + "".join(more)))
    assert not beside.holds(groups) or more[:1] == ["x" + "".join(more)]


def test_a_mounted_part_of_a_hierarchy_and_a_namespace() -> None:
    inside = Place(Mount(Path("/m"), PurePosixPath("/docker/1"), 2), Path("/m/a"))
    assert inside.holds(Groups(v2=PurePosixPath("/docker/1/a/b")))
    assert not inside.holds(Groups(v2=PurePosixPath("/a/b")))
    top = Place(Mount(Path("/m"), TOP, 2), Path("/m"))
    assert not top.holds(Groups(v2=PurePosixPath("/../other")))


def test_twin_is_the_same_path_in_the_other_hierarchy(tmp_path: Path) -> None:
    v1, v2 = Mount(tmp_path / "v1", TOP, 1), Mount(tmp_path / "v2", PurePosixPath("/up"), 2)
    (tmp_path / "v2/x").mkdir(parents=True)
    mounts = [Mount(tmp_path, TOP, None), v1, v2]
    twin = Place(v1, tmp_path / "v1/up/x").twin(mounts)
    assert twin == Place(v2, tmp_path / "v2/x")
    assert Place(v1, tmp_path / "v1/x").twin(mounts) is None
    assert Place(v1, tmp_path / "v1/up/y").twin(mounts) is None
    assert twin.twin(mounts) is None  # v1/up/x does not exist


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a host with both hierarchies, and of processes to come."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(SYSTEMD_HYBRID)
    return tmp_path


def process(proc: Path, pid: int, text: str) -> int:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(text)
    return pid


def test_pool_of_is_the_deepest(proc: Path) -> None:
    top = Path("/sys/fs/cgroup")
    with Journal(proc / "journal") as journal:
        report = Reporter(journal)
        machine = Pool(PoolConfig("machine"), report, proc=proc)
        slice_ = Pool(PoolConfig("slice", top / "memory/machine.slice"), report, proc=proc)
        inner = Pool(PoolConfig("inner", top / "memory/machine.slice/big"), report, proc=proc)
        v2 = Pool(PoolConfig("v2", top / "unified/qemu"), report, proc=proc)
    pools = [inner, machine, v2, slice_]
    a = process(proc, 10, "5:memory:/machine.slice/big/a\n0::/machine.slice/big/a\n")
    b = process(proc, 11, "5:memory:/machine.slice/bigger\n0::/\n")
    c = process(proc, 12, "5:memory:/\n0::/qemu/1\n")
    d = process(proc, 13, "5:memory:/machine.slices\n0::/machine.slice/big\n")
    found = [pool_of(pid, pools, proc) for pid in (a, b, c, d)]
    assert found == ["inner", "slice", "v2", "machine"]
    assert pool_of(d, [inner, v2, slice_], proc) == HOST
    assert pool_of(99, pools, proc) == HOST  # no such process


def test_what_is_mounted_here() -> None:
    found = mounts_of()
    assert any(mount.point == Path("/") for mount in found)


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="needs /proc"):
        mounts_of(tmp_path)
