# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the host's pressure comes from: what is chosen, what is refused, and real pressure."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from balloon import MESSAGE, PATH, Driver, machine
from hostgroup import FakeGroup, state
from qemu.qmp import ExecuteError

from pyguest import host, paths
from pyguest.qtest import DEADLINE, Machine, RefusedError

MIB = 1 << 20
PSI = Path("/proc/pressure/memory")
LIMIT = 32 * MIB

DEVICE = "-device virtio-balloon-pci"


def psi_is_usable() -> bool:
    """Is there pressure stall information, and does the kernel take a trigger from us?"""
    try:
        file = os.open(PSI, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.write(file, b"some 2000000 2000000\0") > 0
    except OSError:
        return False
    finally:
        os.close(file)


needs_psi = pytest.mark.skipif(
    not psi_is_usable(), reason=f"no trigger on {PSI}: boot with psi=1, and Linux 6.5 or root"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a limited host needs root: use sudo")


@pytest.fixture
def group(tmp_path: Path) -> FakeGroup:
    return FakeGroup(tmp_path / "group")


def refused(binary: Path, options: str, offered: tuple[int, ...] = (MESSAGE,)) -> str:
    """The last line that QEMU says before it gives up, without the options that it repeats."""
    with (
        pytest.raises(RefusedError) as caught,
        machine(binary, offered, options=f",automatic=on{options}"),
    ):
        pass
    assert caught.value.status == 1
    said = caught.value.log.splitlines()[-1]
    assert said.count(DEVICE) == 1
    # "BINARY: -device virtio-balloon-pci,...: what is wrong"
    return said.partition(DEVICE)[2].partition(": ")[2]


@pytest.mark.parametrize(("source", "missing", "names", "remedy"), [
    ("auto", "", "memcg-path 'GROUP' is no folder", "leave it out for the whole machine"),
    ("auto", "files", "neither 'GROUP/memory.pressure_level' (cgroup v1) nor "
                      "'GROUP/memory.pressure' (PSI)", "set memcg-path"),
    ("vmpressure", "files", "'GROUP/memory.pressure_level'", "set memcg-path"),
    ("vmpressure", "control", "'GROUP/cgroup.event_control'", "set memcg-path"),
    ("psi", "files", "'GROUP/memory.pressure'", "pressure-source=vmpressure"),
])  # fmt: skip
def test_a_missing_source_is_named(
    qemu_binary: Path, tmp_path: Path, source: str, missing: str, names: str, remedy: str
) -> None:
    folder = tmp_path / "group"
    if missing:
        folder.mkdir()
    if missing == "control":
        (folder / "memory.pressure_level").touch()
    said = refused(qemu_binary, f",memcg-path={folder},pressure-source={source}")
    assert names.replace("GROUP", str(folder)) in said
    assert remedy in said
    if source != "auto":
        assert "No such file or directory" in said


@needs_root
def test_auto_takes_what_it_may_open(qemu_binary: Path, group: FakeGroup) -> None:
    """A file that is there but must not be written is no source."""
    (group.folder / "memory.pressure").touch()
    for name in ("cgroup.event_control", "memory.pressure"):
        (group.folder / name).chmod(0o444)
    # Root may write anything: not without these two.
    script = group.folder / "qemu"
    drop = "-dac_override,-dac_read_search"
    script.write_text(f'#!/bin/sh\nexec setpriv --inh-caps {drop} --bounding-set {drop} '
                      f'"{qemu_binary}" "$@"\n')
    script.chmod(0o755)
    said = refused(script, f",memcg-path={group.folder}")
    assert "no host memory pressure source" in said
    (group.folder / "memory.pressure").chmod(0o666)
    # Now it is PSI that is chosen; the file is none, but takes what is written.
    with machine(script, options=f",automatic=on,memcg-path={group.folder}") as qemu:
        assert state(qemu)["source"] == "psi"


def test_a_control_file_that_refuses(qemu_binary: Path, group: FakeGroup) -> None:
    (group.folder / "cgroup.event_control").unlink()
    (group.folder / "cgroup.event_control").symlink_to("/dev/full")
    said = refused(qemu_binary, f",memcg-path={group.folder}")
    assert "no vmpressure at level 'low'" in said
    assert "No space left" in said


@pytest.mark.parametrize(("options", "words"), [
    (",automatic-step=0", "automatic-step is 0 bytes; set it to a multiple of 4096"),
    (",automatic-step=4097", "automatic-step is 4097 bytes"),
    (",pressure-source=fire", "pressure-source"),
    (",level=loud", "level"),
])  # fmt: skip
def test_values_that_mean_nothing(
    qemu_binary: Path, group: FakeGroup, options: str, words: str
) -> None:
    assert words in refused(qemu_binary, f",memcg-path={group.folder}{options}")


def test_needs_the_message_queue(qemu_binary: Path, group: FakeGroup) -> None:
    assert "needs message-vq=on" in refused(qemu_binary, f",memcg-path={group.folder}", ())


def test_nothing_is_opened_while_off(qemu_binary: Path) -> None:
    with machine(qemu_binary, options=",memcg-path=/nonexistent,automatic-step=0") as qemu:
        for value in ("memcg-path", "automatic-step"):
            # Not while it is realized: switching reads them.
            with pytest.raises(ExecuteError, match="after it was realized"):
                qemu.qmp("qom-set", path=PATH, property=value, value="1")
        with pytest.raises(ExecuteError, match="multiple of 4096"):
            qemu.qmp("qom-set", path=PATH, property="automatic", value=True)
        assert not state(qemu)["on"]
        qemu.qmp("balloon", value=Machine.RAM // 2)


@pytest.mark.parametrize("level", ["low", "medium", "critical"])
def test_the_level_is_registered(qemu_binary: Path, group: FakeGroup, level: str) -> None:
    options = f",automatic=on,memcg-path={group.folder},level={level}"
    with machine(qemu_binary, options=options):
        assert group.order()[1] == level


@needs_psi
@pytest.mark.parametrize(("options", "trigger"), [
    # Shorter than any window that the kernel has.
    (",psi-window-us=100000", "some 5000 100000"),
    (",psi-window-us=100000,level=medium", "some 20000 100000"),
    (",psi-window-us=100000,level=critical", "full 10000 100000"),
    (",psi-threshold-us=2000001", "some 2000001 2000000"),
])  # fmt: skip
def test_the_kernel_refuses_a_trigger(qemu_binary: Path, options: str, trigger: str) -> None:
    said = refused(qemu_binary, f",pressure-source=psi{options}")
    assert f"'{PSI}' refuses the PSI trigger '{trigger}'" in said
    assert "psi-window-us has to be" in said


@pytest.fixture
def powerless(qemu_binary: Path, tmp_path: Path) -> Path:
    """The same QEMU without CAP_SYS_RESOURCE, which nobody but root has."""
    script = tmp_path / "qemu"
    drop = "setpriv --bounding-set -sys_resource" if os.geteuid() == 0 else ""
    if drop and subprocess.run([*drop.split(), "true"], capture_output=True).returncode:
        pytest.skip("setpriv may not take a capability away: it needs CAP_SETPCAP")
    script.write_text(f'#!/bin/sh\nexec {drop} "{qemu_binary}" "$@"\n')
    script.chmod(0o700)
    return script


@needs_psi
def test_without_privileges(powerless: Path) -> None:
    """The default window is one that anybody may have."""
    with machine(powerless, options=",automatic=on,pressure-source=psi") as qemu:
        assert state(qemu)["source"] == "psi"
    said = refused(powerless, ",pressure-source=psi,psi-window-us=1000000")
    assert "Invalid argument" in said
    assert "multiple of 2000000" in said


def press_until(limited: host.LimitedHost, file: Path, done: Callable[[], bool]) -> None:
    """Read a file that is larger than the host, again and again, in the host's cgroup."""
    read = f"while cat {file} >/dev/null; do :; done"
    with subprocess.Popen([*limited.prefix(), "sh", "-c", read]) as load:
        try:
            end = time.monotonic() + 3 * DEADLINE
            while not done():
                assert time.monotonic() < end, "no pressure of the host"
                time.sleep(0.05)
        finally:
            load.kill()
            load.wait()


@contextmanager
def small_host() -> Iterator[tuple[host.LimitedHost, Path]]:
    """A host of a few MiB, and a file on a disk that does not fit and that nobody has cached."""
    folder = paths.state_dir("tests")
    file = folder / f"large-{os.getpid()}"
    try:
        with file.open("wb") as out:
            out.write(bytes(3 * LIMIT))
            out.flush()
            os.fsync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with host.LimitedHost(LIMIT, 0, folder) as limited:
            yield limited, file
    finally:
        file.unlink()


@needs_root
def test_real_pressure_of_a_group(qemu_binary: Path) -> None:
    """By itself QEMU takes what the group has, and is told when the group is removed."""
    with small_host() as (limited, file):
        v1 = host.memory_controller() == host.MemoryController(1, limited.memcg.parent)
        options = f",automatic=on,memcg-path={limited.memcg},automatic-floor=64M"
        with machine(qemu_binary, options=options) as qemu:
            assert state(qemu)["source"] == ("vmpressure" if v1 else "psi")
            Driver(qemu)
            press_until(limited, file, lambda: bool(state(qemu)["host-pressure-events"]))
            (event, *_) = qemu.events("BALLOON_AUTOMATIC")
            assert (event["reason"], event["old"]) == ("host-pressure", Machine.RAM)
            assert event["new"] == Machine.RAM - 32 * MIB
            limited.__exit__(None, None, None)
            end = time.monotonic() + DEADLINE
            while "source" in state(qemu):
                assert time.monotonic() < end, "the group's end was not noticed"
            assert "its cgroup is gone" in qemu.log()


@needs_root
@needs_psi
def test_real_stalls_of_the_machine(qemu_binary: Path) -> None:
    """A group at its limit stalls, and that counts for the machine."""
    options = ",automatic=on,pressure-source=psi,psi-threshold-us=1"
    with (
        small_host() as (limited, file),
        machine(qemu_binary, options=options) as qemu,
    ):
        Driver(qemu)
        press_until(limited, file, lambda: bool(qemu.events("BALLOON_AUTOMATIC")))
        assert state(qemu)["reason"] == "host-pressure"


@needs_psi
def test_a_group_of_version_2_is_psi(qemu_binary: Path) -> None:
    """Any group of the unified hierarchy has the file, with the memory controller or without."""
    roots = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()
             if line.split()[2] == "cgroup2"]
    group = next((root for root in roots if (root / "memory.pressure").exists()), None)
    if group is None or not os.access(group / "memory.pressure", os.W_OK):
        pytest.skip("no cgroup v2 with a memory.pressure that may be written")
    options = f",automatic=on,memcg-path={group},psi-threshold-us=1"
    with machine(qemu_binary, options=options) as qemu:
        assert state(qemu)["source"] == "psi"


