# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of limited memory: a memory cgroup and a swap file of a run's own, and what they count.

Sizes are bytes. Everything made here carries the maker's pid in its name, so that a later run
finds and removes what a killed one has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pyguest.errors import LabError

_PREFIX = "autoballoon-"
_SWAP_SUFFIX = ".swap"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20
# Kept free on the disk beside the swap file.
_DISK_MARGIN = 256 * _MIB
# How long the kernel may take until a killed process has left its cgroup.
_REMOVE_SECONDS = 5.0
_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

Progress = Callable[[str], None]


@dataclass(frozen=True)
class MemoryController:
    """Where memory cgroups are: version 1 or 2, and the root of the hierarchy."""

    version: int
    root: Path


@dataclass(frozen=True)
class HostUsage:
    """One sample: ``time`` is monotonic seconds, sizes are bytes, ``pswp*`` are pages since boot.

    ``swap_used_bytes`` is the group's; ``pswpin`` and ``pswpout`` are the whole machine's. Pages
    of zeros, which Linux swaps without writing them (from 6.12 on), are ``swp*_zero`` alone.
    """

    time: float
    used_bytes: int
    limit_bytes: int
    swap_used_bytes: int
    swap_total_bytes: int
    pswpin: int
    pswpout: int
    workingset_refault_anon: int
    swpin_zero: int = 0
    swpout_zero: int = 0


@dataclass(frozen=True)
class ProcessUsage:
    """From /proc/PID/stat: page faults and seconds of CPU since the start, resident bytes."""

    pid: int
    parent: int
    minor_faults: int
    major_faults: int
    user_seconds: float
    sys_seconds: float
    waited_seconds: float
    """Of CPU, of children that have ended."""
    rss_bytes: int


@dataclass(frozen=True)
class SwapArea:
    """A line of /proc/swaps, sizes in bytes."""

    path: Path
    size: int
    used: int


def parse_counters(text: str) -> dict[str, int]:
    """Parse ``key value`` lines (/proc/vmstat, memory.stat); other lines are skipped."""
    counters = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key and value.isascii() and value.isdigit():
            counters[key] = int(value)
    return counters


def parse_process(text: str) -> ProcessUsage:
    """Parse /proc/PID/stat (proc(5)); the name in it may hold spaces and brackets."""
    head, bracket, tail = text.rpartition(")")
    fields = tail.split()
    try:
        if not bracket:
            raise ValueError("no name")
        return ProcessUsage(
            int(head.split(maxsplit=1)[0]),
            parent=int(fields[1]),
            minor_faults=int(fields[7]),
            major_faults=int(fields[9]),
            user_seconds=int(fields[11]) / _TICKS,
            sys_seconds=int(fields[12]) / _TICKS,
            waited_seconds=(int(fields[13]) + int(fields[14])) / _TICKS,
            rss_bytes=int(fields[21]) * _PAGE,
        )
    except (ValueError, IndexError) as error:
        raise LabError(f"/proc/PID/stat not understood: {text[:80]!r}") from error


def parse_swaps(text: str) -> list[SwapArea]:
    """Parse /proc/swaps; sizes there are KiB, blanks in names are octal escapes."""
    areas = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) == 5 and fields[2].isdigit() and fields[3].isdigit():
            path = fields[0].replace("\\040", " ")
            areas.append(SwapArea(Path(path), int(fields[2]) << 10, int(fields[3]) << 10))
    return areas


def find_memory_controller(
    mounts: str, controllers: Callable[[Path], str]
) -> MemoryController | None:
    """Find the memory controller in the text of /proc/mounts; None if no hierarchy has it.

    ``controllers`` returns the ``cgroup.controllers`` of a v2 root.
    """
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        root = Path(fields[1])
        if fields[2] == "cgroup" and "memory" in fields[3].split(","):
            return MemoryController(1, root)
        if fields[2] == "cgroup2" and "memory" in controllers(root).split():
            return MemoryController(2, root)
    return None


def memory_controller() -> MemoryController | None:
    """This machine's memory controller."""

    def controllers(root: Path) -> str:
        try:
            return (root / "cgroup.controllers").read_text()
        except OSError:
            return ""

    return find_memory_controller(Path("/proc/mounts").read_text(), controllers)


def _owner_is_gone(name: str) -> bool:
    """Is this the name of something of ours whose maker does not run any more?"""
    pid = name.removeprefix(_PREFIX).removesuffix(_SWAP_SUFFIX)
    return name.startswith(_PREFIX) and pid.isdigit() and not Path(f"/proc/{pid}").exists()


def _members(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()
                if pid != "0"]  # of another pid namespace
    except FileNotFoundError:
        return []


def _name_of(pid: int) -> str:
    try:
        return f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return str(pid)


def _remove_group(group: Path, seconds: float = _REMOVE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() >= end:
                left = ", ".join(_name_of(pid) for pid in _members(group)) or error.strerror
                raise LabError(
                    f"cgroup {group} is still in use by {left}: end it, then rmdir the group"
                ) from error
            time.sleep(0.05)
        else:
            return


def _run(command: list[str], remedy: str) -> None:
    program = shutil.which(command[0], path=_SBIN)
    if program is None:
        raise LabError(f"command {command[0]} not found: install util-linux and mount")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise LabError(f"{' '.join(command)}: {said}: {remedy}")


def _active_swap(path: Path) -> SwapArea | None:
    areas = parse_swaps(Path("/proc/swaps").read_text())
    return next((area for area in areas if area.path == path), None)


def _remove_swap(path: Path, progress: Progress) -> None:
    """Swap off, saying how much is left to be read back, and delete the file."""
    area = _active_swap(path)
    if area is not None:
        program = shutil.which("swapoff", path=_SBIN) or "swapoff"
        worker = subprocess.Popen([program, str(path)], stderr=subprocess.PIPE, text=True)
        while True:
            try:
                _, said = worker.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                area = _active_swap(path)
                if area is not None:
                    progress(f"reading back swap: {area.used // _MIB} MiB left")
        if worker.returncode:
            raise LabError(f"swapoff {path}: {' '.join(said.split())}: free memory, then repeat it")
    path.unlink(missing_ok=True)


def _quiet(_: str) -> None:
    pass


def reap_leftovers(swap_dir: Path | None = None, progress: Progress = _quiet) -> list[str]:
    """Remove groups and swap files of runs whose process is gone; return their names. Root only.

    Processes left in such a group are killed. Swap files are found where they are in use, and
    in ``swap_dir``.
    """
    gone = []
    controller = memory_controller()
    if controller is not None:
        for group in controller.root.glob(f"{_PREFIX}*"):
            if _owner_is_gone(group.name):
                for pid in _members(group):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                _remove_group(group)
                gone.append(str(group))
    files = {area.path for area in parse_swaps(Path("/proc/swaps").read_text())}
    if swap_dir is not None:
        files.update(swap_dir.resolve().glob(f"{_PREFIX}*{_SWAP_SUFFIX}"))
    for path in sorted(files):
        if path.name.endswith(_SWAP_SUFFIX) and _owner_is_gone(path.name):
            _remove_swap(path, progress)
            gone.append(str(path))
    return gone


class LimitedHost:
    """A memory cgroup with a limit and a swap file of its own; a context manager, root only.

    The owner ends the processes in the group before leaving it. Nothing is left behind: if a
    process does stay, the swap is removed all the same and LabError names the process.
    """

    def __init__(
        self,
        limit_bytes: int,
        swap_bytes: int,
        swap_dir: Path,
        swappiness: int = 60,
        progress: Progress = _quiet,
    ) -> None:
        """``swap_bytes`` may be 0 for none. ``swappiness`` is set where groups have it (v1);
        with 0 a v1 group is OOM-killed instead of swapping."""
        for name, value, low in (
            ("limit_bytes", limit_bytes, _MIB), ("swap_bytes", swap_bytes, 0)
        ):  # fmt: skip
            if value < low:
                raise LabError(f"{name} is {value}: at least {low} is needed")
        if not 0 <= swappiness <= 100:
            raise LabError(f"swappiness is {swappiness}: use 0 to 100")
        self._limit, self._swap, self._swappiness = limit_bytes, swap_bytes, swappiness
        self._progress = progress
        self._swap_path = swap_dir.absolute() / f"{_PREFIX}{os.getpid()}{_SWAP_SUFFIX}"
        self._stack = ExitStack()
        self._group: Path | None = None
        self._version = 0

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError(
                f"a host of limited memory needs root (user id {os.geteuid()}): use sudo"
            )
        controller = memory_controller()
        if controller is None:
            raise LabError("no memory cgroup controller on this machine: mount cgroup v1 or v2")
        with ExitStack() as stack:
            self._swap_path.parent.mkdir(parents=True, exist_ok=True)
            self._swap_path = self._swap_path.parent.resolve() / self._swap_path.name
            reap_leftovers(self._swap_path.parent, self._progress)
            if self._swap:
                self._make_swap(stack)
            self._make_group(stack, controller)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _make_swap(self, stack: ExitStack) -> None:
        path, size = self._swap_path, self._swap
        have, need = shutil.disk_usage(path.parent).free, size + _DISK_MARGIN
        if have < need:
            raise LabError(
                f"swap file in {path.parent} needs {need // _MIB} MiB and {have // _MIB} MiB are "
                "free: free some, or choose another folder"
            )
        if path.exists():
            raise LabError(f"{path} exists: one limited host a process and folder")
        stack.callback(_remove_swap, path, self._progress)
        # Written whole: the kernel refuses a swap file with holes.
        block = bytes(4 * _MIB)
        path.touch(mode=0o600, exist_ok=False)
        with path.open("r+b") as file:
            for at in range(0, size, len(block)):
                file.write(block[: size - at])
                if at % (64 * _MIB) == 0:
                    self._progress(f"writing swap file: {at // _MIB} of {size // _MIB} MiB")
        _run(["mkswap", str(path)], "use a size of some MiB")
        _run(
            ["swapon", "--priority", "100", str(path)],
            "the folder must be on a disk (ext4, xfs), not tmpfs or overlay",
        )

    def _make_group(self, stack: ExitStack, controller: MemoryController) -> None:
        self._version = controller.version
        group = controller.root / f"{_PREFIX}{os.getpid()}"
        try:
            if controller.version == 2:
                (controller.root / "cgroup.subtree_control").write_text("+memory")
            group.mkdir()
            stack.callback(_remove_group, group)
            if controller.version == 1:
                (group / "memory.limit_in_bytes").write_text(str(self._limit))
                (group / "memory.swappiness").write_text(str(self._swappiness))
            else:
                (group / "memory.max").write_text(str(self._limit))
                (group / "memory.swap.max").write_text("max")
        except OSError as error:
            raise LabError(
                f"cgroup {group} cannot be set up ({error}): "
                "is another run of this process using it, or are the cgroups read-only?"
            ) from error
        self._group = group

    @property
    def memcg(self) -> Path:
        """The group's folder, for hostctl and for the device."""
        if self._group is None:
            raise LabError("the limited host is not entered yet")
        return self._group

    @property
    def procs_file(self) -> Path:
        """Writing a pid here puts the process into the group."""
        return self.memcg / "cgroup.procs"

    def prefix(self) -> list[str]:
        """Command prefix that enters the group and then becomes the command."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.procs_file)]

    def add(self, pid: int) -> None:
        """Move a process into the group; memory that it has already stays where it is charged."""
        try:
            self.procs_file.write_text(str(pid))
        except OSError as error:
            raise LabError(f"process {pid} cannot enter {self.memcg} ({error.strerror})") from error

    def set_limit(self, size: int) -> None:
        """Change the limit to ``size`` bytes; what is above it is swapped out at once.

        Raises LabError when the kernel could not get the group below it.
        """
        name = "memory.limit_in_bytes" if self._version == 1 else "memory.max"
        try:
            (self.memcg / name).write_text(str(size))
        except OSError as error:
            raise LabError(f"{self.memcg / name}: {size // _MIB} MiB: {error.strerror}: "
                           "give the group more swap") from error
        self._limit = size

    def usage(self) -> HostUsage:
        """Sample the group and the machine's swap counters."""
        stat = parse_counters((self.memcg / "memory.stat").read_text())
        vmstat = parse_counters(Path("/proc/vmstat").read_text())
        if self._version == 1:
            used = int((self.memcg / "memory.usage_in_bytes").read_text())
            swap = stat.get("swap", 0)
        else:
            used = int((self.memcg / "memory.current").read_text())
            swap = int((self.memcg / "memory.swap.current").read_text())
        return HostUsage(
            time.monotonic(),
            used,
            self._limit,
            swap,
            self._swap,
            vmstat.get("pswpin", 0),
            vmstat.get("pswpout", 0),
            stat.get("workingset_refault_anon", 0),
            vmstat.get("swpin_zero", 0),
            vmstat.get("swpout_zero", 0),
        )


def process_usage(pid: int) -> ProcessUsage | None:
    """Faults and resident bytes of a process; None if it is gone."""
    try:
        return parse_process(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes() -> dict[int, ProcessUsage]:
    """All of the machine's by their PIDs, the kernel's threads among them."""
    found = (process_usage(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return {one.pid: one for one in found if one is not None}
