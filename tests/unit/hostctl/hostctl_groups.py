# SPDX-License-Identifier: GPL-2.0-or-later
"""Cgroups of this machine for tests, and a process in them that uses memory as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from hostctl.errors import HostctlError
from hostctl.pressure import vmpressure
from hostctl.pressure.cgroups import mounts_of

MIB = 1 << 20
LIMIT = 64 * MIB

WORKER = """
import mmap, os, sys
kept = []
def anon(size):
    kept.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    fill(kept[-1], size)
def shared(size):
    kept.append(mmap.mmap(-1, size))
    fill(kept[-1], size)
def fill(area, size):
    for at in range(0, size, 4096):
        area[at] = 1
def drop():
    while kept:
        kept.pop().close()
def write(path, size):
    block = bytes(1 << 20)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        os.fsync(file.fileno())
def churn(path):
    while True:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
def join(*groups):
    for group in groups:
        with open(group + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
print(flush=True)
for line in sys.stdin:
    eval(line)
    print(flush=True)
"""


def root_of(version: int) -> Path:
    """Where the v1 memory or the v2 hierarchy is mounted here; skips where it is not."""
    with suppress(HostctlError):
        for mount in mounts_of():
            if mount.version == version:
                return mount.point
    pytest.skip(f"no cgroup v{version} hierarchy{' with memory' if version == 1 else ''}")


def make_group(folder: Path) -> Path:
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"cannot make the cgroup {folder}: {exc.strerror}")
    return folder


def remove_group(folder: Path) -> None:
    """Remove a group and those below it; what was in it has ended, but may not be gone yet."""
    if not folder.exists():
        return
    for child in folder.iterdir():
        if child.is_dir():
            remove_group(child)
    end = time.monotonic() + 5
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


@contextmanager
def group(version: int) -> Iterator[Path]:
    """A new group at the top of a hierarchy; gone afterwards with all below it."""
    root = root_of(version)
    if version == 1 and not vmpressure.offered(root):
        pytest.skip(f"no vmpressure in {root}")
    folder = make_group(root / f"hostctl-test-{os.getpid()}")
    try:
        yield folder
    finally:
        remove_group(folder)


class Worker:
    """A process that does what it is told and answers when it has."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, name: str, *args: object) -> None:
        """One of WORKER's functions; a Path is passed as a text."""
        self.begin(name, *args)
        self._answer()

    def begin(self, name: str, *args: object) -> None:
        """The same, without waiting for its end."""
        texts = [repr(str(arg) if isinstance(arg, Path) else arg) for arg in args]
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}({', '.join(texts)})\n".encode())
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n", "the worker ended"


@contextmanager
def workers() -> Iterator[type[Worker]]:
    """Makes workers that end afterwards."""
    with ExitStack() as stack:

        class Ended(Worker):
            def __init__(self) -> None:
                super().__init__()
                stack.callback(self.end)

        yield Ended
