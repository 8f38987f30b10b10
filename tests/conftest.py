# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests: what they are made of, a shared one and own ones, and what they complained of.

The kernel's complaints are compared before and after each test that has a guest; what kmemleak
has found, where the kernel has it, is looked at when a guest is left. Serial logs and journals
stay in the cache's runs folder; a failed test's report says where.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guests import PATIENCE, complaints, leaks
from hypothesis import settings

from pyguest import lab as guest_lab
from pyguest import paths
from pyguest.vm import Vm

SERIAL_LINES = 20
FOLDER_MOST = 30

_FOLDERS = pytest.StashKey[list[Path]]()
_FAILED = pytest.StashKey[bool]()

Boot = Callable[..., Vm]

# A busy machine is no failure. CI has the same examples each time: what it refuses is the change.
settings.register_profile("lab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("lab")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell where a failed test's logs are, with the last lines of the serial consoles."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        for folder in item.stash.get(_FOLDERS, []):
            report.sections.append(("logs kept", str(folder)))
            for serial in sorted(folder.rglob("serial.log")):
                lines = serial.read_text(errors="replace").splitlines()[-SERIAL_LINES:]
                report.sections.append((str(serial), "\n".join(lines)))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time that this run's kernel needs."""
    for item in items:
        usual = item.get_closest_marker("timeout")
        if usual and PATIENCE != 1:
            longer = pytest.mark.timeout(usual.args[0] * PATIENCE, **usual.kwargs)
            item.add_marker(longer, append=False)


@pytest.fixture(scope="session")
def parts() -> Iterator[guest_lab.Parts]:
    """All that a guest is made of, built when it is not in the cache.

    A second run waits here: both would use the same run folders.
    """
    with paths.lock("tests"):
        yield guest_lab.prepare()


@pytest.fixture
def run_folder(request: pytest.FixtureRequest) -> Path:
    """An empty folder for what the test's guests and daemons write."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))
    # Short, because the paths of sockets must be.
    folder = paths.state_dir(f"tests/{name[:FOLDER_MOST]}")
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    request.node.stash.setdefault(_FOLDERS, []).append(folder)
    return folder


@pytest.fixture
def lab(parts: guest_lab.Parts, run_folder: Path) -> guest_lab.Lab:
    """A lab of the test's own, to be entered; its run folder is the test's."""
    return guest_lab.Lab(parts, str(run_folder.relative_to(paths.cache_root() / "runs")))


@pytest.fixture
def boot(lab: guest_lab.Lab) -> Iterator[Boot]:
    """Boot a guest of the test's own: `boot(name, driver, **changes)` as `Lab.vm`."""
    vms: list[Vm] = []

    def start(name: str, driver: Path | None = None, **changes: object) -> Vm:
        vm = lab.vm(name, driver, **changes)
        vms.append(vm)
        vm.boot()
        return vm

    with lab:
        yield start
        for vm in vms:
            assert not complaints(vm)
            assert not leaks(vm)


class _Shared:
    """The guest that is shared: booted when it is first needed, and again after a failure."""

    def __init__(self, parts: guest_lab.Parts) -> None:
        self._parts = parts
        self._stack = ExitStack()
        self._vm: Vm | None = None

    def get(self) -> Vm:
        if self._vm is None:
            one = self._stack.enter_context(guest_lab.Lab(self._parts, "tests/shared"))
            sockets = one.run_dir / "qmp"
            sockets.mkdir(mode=0o700, exist_ok=True)
            vm = one.vm("shared", qmp_dir=sockets)
            vm.boot()
            self._vm = vm
        return self._vm

    def leaks(self) -> list[str]:
        """What all the tests of this guest have left behind; nothing if it is not running."""
        return leaks(self._vm) if self._vm else []

    def drop(self) -> None:
        self._vm = None
        self._stack.close()


@pytest.fixture(scope="session")
def shared(parts: guest_lab.Parts) -> Iterator[_Shared]:
    holder = _Shared(parts)
    yield holder
    try:
        assert not holder.leaks()
    finally:
        holder.drop()


@pytest.fixture
def guest(shared: _Shared, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """The shared guest: our driver on our QEMU, the whole of its RAM, no load, nothing queued.

    Its page cache is empty, or each process of a test would have to reclaim.

    A test leaves it as it was. After one that failed, the next gets a new one.
    """
    vm = shared.get()
    request.node.stash.setdefault(_FOLDERS, []).append(vm.run_dir)
    before = complaints(vm)
    vm.sh("echo 3 > /proc/sys/vm/drop_caches")
    # What an earlier test left to be told may come late.
    while vm.events("BALLOON_PRESSURE", 0.3):
        pass
    yield vm
    try:
        if not request.node.stash.get(_FAILED, False):
            assert complaints(vm) == before
            assert vm.balloon_actual() == vm.config.memory_mib << 20, "the balloon is not empty"
    except BaseException:
        request.node.stash[_FAILED] = True
        raise
    finally:
        if request.node.stash.get(_FAILED, False):
            shared.drop()
