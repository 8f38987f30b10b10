# SPDX-License-Identifier: GPL-2.0-or-later
"""Where cgroups are: what is mounted, a folder's place in it, the groups of a process.

Only the memory controller's v1 hierarchy and the v2 hierarchy count. Nothing is taken to be
mounted at its usual place. See the kernel's Documentation/filesystems/proc.rst (mountinfo) and
cgroups(7) (/proc/PID/cgroup).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.errors import HostctlError

PROC = Path("/proc")
_ESCAPE = re.compile(r"\\([0-3][0-7]{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted filesystem."""

    point: Path
    root: PurePosixPath
    """What of the filesystem is seen at `point`."""
    version: int | None
    """1: cgroup v1 with the memory controller, 2: cgroup v2, None: anything else."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A process's groups, as paths from the top of each hierarchy; None: it has none there."""

    v1: PurePosixPath | None = None
    v2: PurePosixPath | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A cgroup, which need not exist, in a hierarchy that is mounted."""

    mount: Mount
    folder: Path

    @property
    def path(self) -> PurePosixPath:
        """From the top of the hierarchy, as /proc/PID/cgroup tells it."""
        return self.mount.root / self.folder.relative_to(self.mount.point)

    @property
    def ancestors(self) -> list[Path]:
        """The folders of the groups above that can be seen, the nearest first."""
        above = self.folder.relative_to(self.mount.point).parents
        return [self.mount.point / one for one in above]

    def holds(self, groups: Groups) -> bool:
        """Whether a process with these groups is in this one, or in one below it."""
        theirs = groups.v1 if self.mount.version == 1 else groups.v2
        if theirs is None or not theirs.is_relative_to(self.path):
            return False
        # "/../x" is beside the top of our cgroup namespace, and not below it.
        return ".." not in theirs.relative_to(self.path).parts

    def twin(self, mounts: Iterable[Mount]) -> Place | None:
        """The group of the same path in the other hierarchy, where systemd's hybrid mode has it."""
        for mount in mounts:
            other = {1: 2, 2: 1}.get(mount.version or 0) == self.mount.version
            if other and self.path.is_relative_to(mount.root):
                folder = mount.point / self.path.relative_to(mount.root)
                if folder.is_dir():
                    return Place(mount, folder)
        return None


def mounts_of(proc: Path = PROC) -> list[Mount]:
    """What this process sees mounted. Raises HostctlError."""
    file = proc / "self/mountinfo"
    try:
        return parse_mounts(os.fsdecode(file.read_bytes()))
    except OSError as exc:
        raise HostctlError(f"{file}: {exc.strerror}; hostctl needs /proc mounted") from exc


def parse_mounts(text: str) -> list[Mount]:
    """The mounts in a text as /proc/PID/mountinfo, in its order; other lines are passed over."""
    return [mount for line in text.split("\n") if (mount := _mount(line)) is not None]


def _mount(line: str) -> Mount | None:
    # Any number of optional fields stands between the mount's own and the filesystem's.
    own, separator, rest = line.partition(" - ")
    fields, of_filesystem = own.split(" "), rest.split(" ")
    if not separator or len(fields) < 6 or len(of_filesystem) < 3:
        return None
    root, point = _plain(fields[3]), _plain(fields[4])
    if not root.startswith("/") or not point.startswith("/"):
        return None
    kind, options = of_filesystem[0], of_filesystem[2].split(",")
    version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options else None
    return Mount(Path(point), PurePosixPath(root), version)


def _plain(field: str) -> str:
    """A field without the kernel's octal escapes, which stand for bytes."""
    if "\\" not in field:
        return field
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), os.fsencode(field).decode("latin-1"))
    return os.fsdecode(raw.encode("latin-1"))


def groups_of(pid: int, proc: Path = PROC) -> Groups:
    """The groups of the process `pid`. Raises OSError where it is gone."""
    return parse_groups(os.fsdecode((proc / str(pid) / "cgroup").read_bytes()))


def parse_groups(text: str) -> Groups:
    """The groups in a text as /proc/PID/cgroup; other lines are passed over."""
    v1: PurePosixPath | None = None
    v2: PurePosixPath | None = None
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            v2 = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            v1 = PurePosixPath(path)
    return Groups(v1, v2)


def locate(folder: Path, mounts: Sequence[Mount]) -> Place:
    """The place of a cgroup's `folder`. Raises HostctlError where it can be no such group."""
    try:
        real = folder.resolve()
    except (OSError, RuntimeError) as exc:
        raise HostctlError(f"cgroup {folder}: {exc}; give the folder of a cgroup") from exc
    below = [mount for mount in mounts if real.is_relative_to(mount.point)]
    # The deepest mount is the one that is seen, and of those in one place the last.
    found = max(reversed(below), key=lambda mount: len(mount.point.parts), default=None)
    if found is None or found.version is None:
        known = ", ".join(str(mount.point) for mount in mounts if mount.version)
        raise HostctlError(
            f"cgroup {folder}: not below a hierarchy with memory ({known or 'none is mounted'}); "
            "give the folder of a memory cgroup (v1) or of a cgroup (v2), or leave it out to watch "
            "the whole machine"
        )
    return Place(found, real)
