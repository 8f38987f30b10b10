# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd of the test's own: in folders of its own, and as an ordinary user's.

Root gets it in a user namespace, so that it is no system daemon there either.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt
from balloon import SLOT

from pyguest.qtest import QTest

DAEMONS = ("libvirtd", "virtlogd")
FOLDERS = {
    "HOME": "home",
    "XDG_RUNTIME_DIR": "run",
    "XDG_CONFIG_HOME": "config",
    "XDG_CACHE_HOME": "cache",
    "XDG_DATA_HOME": "data",
}
DEADLINE = 60.0

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='virtio'>
      <address type='pci' domain='0' bus='0' slot='{slot}' function='0'/>
    </memballoon>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-bios'/><qemu:arg value='{firmware}'/>
    <qemu:arg value='-global'/><qemu:arg value='virtio-balloon-pci.message-vq=on'/>
    <qemu:arg value='-qtest'/><qemu:arg value='unix:{qtest},server=on,wait=off'/>
    <qemu:arg value='-qtest-log'/><qemu:arg value='none'/>
  </qemu:commandline>
</domain>
"""
FIRMWARE = bytes((64 << 10) - 16) + b"\xf4\xeb\xfd".ljust(16, b"\0")
"""A CPU without work: HLT, JMP back."""


def missing() -> str | None:
    """Why there can be none here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for name in (*DAEMONS, "unshare"):
        if shutil.which(name, path=path) is None:
            return f"no {name}: install libvirt-daemon, libvirt-daemon-driver-qemu"
    return None


@dataclass(frozen=True)
class CPU:
    """The CPU of a domain."""

    qtest: QTest


class Libvirtd:
    """libvirtd with its virtlogd, in `folder`; a context manager that ends the domains as well."""

    def __init__(self, folder: Path, *, remote: bool = False) -> None:
        self._folder = folder
        self._environment = {**os.environ}
        for variable, name in FOLDERS.items():
            (folder / name).mkdir(mode=0o700)
            self._environment[variable] = str(folder / name)
        self.socket = folder / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.remote_uri = f"qemu+tcp://127.0.0.1:{port}/session"
        """By which another host would reach it, if it is to be `remote`: anybody here can then."""
        self._remote = remote
        (folder / "config/libvirt").mkdir()
        (folder / "config/libvirt/libvirtd.conf").write_text(
            'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\n'
            f'tcp_port = "{port}"\nauth_tcp = "none"\n')
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Libvirtd:
        try:
            for name in reversed(DAEMONS):
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for path in (self._folder / "run/libvirt/qemu/run").glob("*.pid"):
            if path.stem != "driver":
                with suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGKILL)
        for name in list(self._processes):
            self.end(name, signal.SIGTERM)

    def create(self, name: str, emulator: Path) -> None:
        """Start a domain of that name, in which no system runs."""
        firmware = self._folder / "firmware"
        firmware.write_bytes(FIRMWARE)
        connection = libvirt.open(self.uri)
        try:
            connection.createXML(DOMAIN.format(
                name=name, emulator=emulator, firmware=firmware, slot=SLOT,
                qtest=self._qtest(name)), 0)
        finally:
            connection.close()

    def _qtest(self, domain: str) -> Path:
        return self._folder / f"{domain}.qtest"

    @contextmanager
    def played(self, domain: str) -> Iterator[CPU]:
        """What a domain's CPU would do if it had a system, done by a test."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._qtest(domain)))
            qtest = QTest(connection)
            try:
                yield CPU(qtest)
            finally:
                qtest.close()

    def pid(self, domain: str) -> int:
        """The PID of a domain's QEMU."""
        return int((self._folder / f"run/libvirt/qemu/run/{domain}.pid").read_text())

    def start(self, name: str) -> None:
        """Start one of the daemons, and wait until it listens."""
        path = self.socket if name == "libvirtd" else self.socket.with_name(f"{name}-sock")
        path.unlink(missing_ok=True)  # one that was killed leaves it
        program = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
        argv = [str(program), "-p", str(self._folder / f"{name}.pid")]
        if name == "libvirtd" and self._remote:
            argv.append("--listen")
        if os.getuid() == 0:
            argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", *argv]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                argv, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + DEADLINE
        while not path.is_socket():
            assert self._processes[name].poll() is None, self._log(name)
            assert time.monotonic() < end, self._log(name)
            time.sleep(0.05)

    def end(self, name: str, how: signal.Signals) -> None:
        """End one of the daemons by a signal."""
        process = self._processes.pop(name)
        process.send_signal(how)
        process.wait(DEADLINE)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
