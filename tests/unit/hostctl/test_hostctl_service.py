# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as an operator and a service manager have it: a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hostctl
from hostctl.config import GuestsConfig
from hostctl.control.client import call
from hostctl.control.protocol import Hold, Request, Status
from hostctl.errors import HostctlError
from hostctl.runtime import Locks

TREE = Path(__file__).parents[3]
SOON = 20.0
UNIT = Path(hostctl.__file__).parent / "systemd" / "hostctl.service"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.02)


class Service:
    """A hostctl process for a configuration in `folder`, and what becomes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.control = folder / "run" / "control"
        self.config = folder / "hostctl.toml"
        self.sockets = folder / "sockets"
        self.sockets.mkdir()
        self.write()
        self._processes: list[subprocess.Popen[str]] = []

    def write(self, more: str = "", sockets: Path | None = None) -> None:
        """Write the configuration."""
        self.config.write_text(
            f'[guests]\nsockets = "{sockets or self.sockets}"\n'
            f'[journal]\nfile = "{self.journal}"\n'
            f'[control]\nsocket = "{self.control}"\n'
            f'[pool.machine]\nsource = "none"\n{more}\n'
        )

    def start(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start it, without waiting."""
        process = subprocess.Popen(
            [sys.executable, "-m", "hostctl", "run", "--config", str(self.config), *args],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TREE), **environ},
        )
        self._processes.append(process)
        return process

    def up(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start it, and wait until it answers."""
        process = self.start(*args, **environ)
        until(lambda: self.answers() or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        return process

    def ask(self, request: Request) -> dict[str, Any]:
        return call(self.control, request)

    def answers(self) -> bool:
        try:
            self.ask(Status())
        except HostctlError:
            return False
        return True

    def records(self, kind: str) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        found = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [record for record in found if record["event"] == kind]

    def hang_up(self, process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
        """Have the configuration read again; the record that comes of it."""
        count = len(self.records(kind))
        process.send_signal(signal.SIGHUP)
        until(lambda: len(self.records(kind)) > count)
        return self.records(kind)[-1]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    one = Service(tmp_path)
    yield one
    one.close()


def test_one_controller_a_host_and_a_killed_one_hinders_nobody(service: Service) -> None:
    first = service.up()
    second = service.start()
    assert second.wait(SOON) == 1
    assert second.stderr is not None
    (line,) = second.stderr.read().splitlines()
    assert "runs already" in line and f"process {first.pid};" in line
    assert service.answers()
    first.kill()
    first.wait()
    assert service.control.exists(), "a killed daemon leaves its socket"
    third = service.up()
    assert service.ask(Status())["pid"] == third.pid
    third.terminate()
    assert third.wait(SOON) == 0
    assert not service.control.exists()


def test_a_folder_has_one_controller_and_two_folders_have_two(service: Service) -> None:
    first = service.up()
    control = service.folder / "other" / "control"
    same = service.start("--control", str(control), "--journal", "-")
    assert same.wait(SOON) == 1 and same.stderr is not None
    assert f"{service.sockets}: another hostctl has its guests" in same.stderr.read()
    apart = service.folder / "apart"
    apart.mkdir()
    other = service.start("--control", str(control), "--sockets", str(apart), "--journal", "-")
    until(control.exists)
    # To move to what another has is a fault as any other, and to leave a place frees it.
    service.write(sockets=apart)
    assert "another hostctl" in service.hang_up(first, "error")["message"]
    other.terminate()
    assert other.wait(SOON) == 0
    assert service.hang_up(first, "reload")["changed"] is True
    again = service.start("--control", str(control), "--sockets", str(service.sockets))
    until(control.exists)
    again.terminate()
    assert again.wait(SOON) == 0


def test_a_libvirt_has_one_controller(tmp_path: Path) -> None:
    one, two = Locks(tmp_path / "run"), Locks(tmp_path / "run")
    system = GuestsConfig(libvirt=("qemu:///system", "qemu+ssh://h/system?x=../y"))
    with closing(one), closing(two):
        one.take(system)
        one.take(system)
        with pytest.raises(HostctlError, match=f"process {os.getpid()};.*leave this libvirt out"):
            two.take(replace(system, sockets=(tmp_path,)))
        one.take(replace(system, sockets=(tmp_path,)))  # what is refused leaves nothing locked
        one.keep(GuestsConfig(libvirt=("qemu:///session",)))
        two.take(replace(system, sockets=(tmp_path,)))
        with pytest.raises(HostctlError, match="guests.libvirt: .*XDG_RUNTIME_DIR"):
            Locks(tmp_path / "not" / "there").take(system)


def test_the_folder_is_closed_to_others(service: Service) -> None:
    service.up()
    assert service.control.parent.stat().st_mode & 0o777 == 0o700
    assert service.control.stat().st_mode & 0o777 == 0o600
    service.control.parent.chmod(0o777)
    open_to_all = service.start("--control", str(service.control.parent / "other"))
    assert open_to_all.wait(SOON) == 1
    assert open_to_all.stderr and "others may write" in open_to_all.stderr.read()


def test_reload_applies_what_it_can_and_says_what_it_cannot(service: Service) -> None:
    process = service.up()
    other = service.folder / "other"
    other.mkdir()
    service.write('[policy]\nname = "mom"\n[metrics]\nlisten = "127.0.0.1:1"', sockets=other)
    record = service.hang_up(process, "reload")
    assert record["changed"] is True and record["restart"] == [
        "guests.stats_interval",  # mom's is another
        "metrics.listen",
    ]
    assert service.ask(Status())["policy"] == "mom"
    service.write('[policy]\nname = "best"\nstep = 3', sockets=service.folder / "none")
    service.hang_up(process, "error")
    until(lambda: len(service.records("error")) == 2)
    messages = [record["message"] for record in service.records("error")]
    assert "policy.name = 'best'" in messages[0] and "the old one stays" in messages[0]
    assert "policy.step = 3" in messages[1]
    assert service.ask(Status())["policy"] == "mom"
    # The same fault is asked for anew, and so told anew.
    service.hang_up(process, "error")
    service.write(sockets=other)
    assert service.hang_up(process, "reload")["changed"] is True
    assert service.ask(Status())["policy"] == "transfer"
    assert process.poll() is None


def test_the_journal_is_opened_anew_on_reload(service: Service) -> None:
    process = service.up()
    service.journal.rename(service.folder / "away")
    service.hang_up(process, "reload")
    process.terminate()
    assert process.wait(SOON) == 0
    assert len(service.records("stop")) == 1


def test_a_full_disk_ends_nothing(service: Service) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    process = service.up("--journal", "/dev/full")
    process.send_signal(signal.SIGHUP)
    until(service.answers)
    process.terminate()
    assert process.wait(SOON) == 0
    assert process.stderr is not None
    told = [line for line in process.stderr.read().splitlines() if "/dev/full" in line]
    assert len(told) == 1 and "records are lost" in told[0]


def test_readers_that_have_stalled_stop_nothing(service: Service) -> None:
    """As a journald that hangs: neither records nor lines to say go anywhere."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    process = subprocess.Popen(
        [sys.executable, "-m", "hostctl", "run", "--config", str(service.config), "--journal", "-"],
        stdout=writer,
        stderr=writer,
        env={**os.environ, "PYTHONPATH": str(TREE)},
    )
    try:
        until(service.answers)
        process.send_signal(signal.SIGHUP)
        until(service.answers)
        process.terminate()
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


class Manager:
    """A service manager's end of sd_notify."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(SOON)

    def hear(self, wanted: str) -> str:
        """The next message that begins so."""
        while True:
            text = self._socket.recv(4096).decode()
            if text.startswith(wanted):
                return text


def test_a_service_manager_is_told(service: Service) -> None:
    manager = Manager(service.folder)
    process = service.start(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000")
    assert "policy transfer" in manager.hear("READY=1")
    for _ in range(3):
        manager.hear("WATCHDOG=1")
    until(service.answers)
    process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in manager.hear("RELOADING=1")
    manager.hear("READY=1")
    manager.hear("WATCHDOG=1")
    process.terminate()
    manager.hear("STOPPING=1")
    assert process.wait(SOON) == 0


def test_a_loop_that_hangs_does_not_feed_the_watchdog(service: Service) -> None:
    manager = Manager(service.folder)
    process = service.start(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000")
    manager.hear("WATCHDOG=1")
    process.send_signal(signal.SIGSTOP)
    manager._socket.settimeout(0.7)
    with pytest.raises(TimeoutError):
        while True:
            manager.hear("WATCHDOG=1")


def test_commands_by_hand(service: Service) -> None:
    service.up()

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hostctl", *args, "--control", str(service.control)],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": str(TREE), "COLUMNS": "80"},
        )  # fmt: skip

    top = run("top", "--once")
    assert top.returncode == 0 and "hostctl transfer  0 guests" in top.stdout
    assert json.loads(run("status", "--json").stdout)["guests"] == []
    for args in (("explain", "x"), ("hold", "x"), ("release", "x"), ("set", "x", "1G")):
        found = run(*args)
        assert found.returncode == 1 and "x: no such guest" in found.stderr
    assert "SIZE = 'much'" in run("set", "x", "much").stderr


def test_holds_outlive_a_kill(service: Service) -> None:
    service.up().kill()
    holds = service.control.with_name("control.holds")
    holds.write_text('{"a": "by hand", "b": 5}')
    process = service.up()
    with pytest.raises(HostctlError, match="no such guest"):
        service.ask(Hold("a"))
    process.kill()
    process.wait()
    holds.write_text("{ half a file")
    service.up()
    assert "holds" in service.records("error")[-1]["message"]


def test_the_unit_is_one(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "hostctl.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/hostctl", sys.executable))
    done = subprocess.run([tool, "verify", unit], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "hostctl.service" in line]
    assert done.returncode == 0 and not told, done.stderr
