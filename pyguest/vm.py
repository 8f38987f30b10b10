# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest: its QEMU process, its serial console, QMP and SSH.

A guest never hangs its user: each wait has a deadline, QEMU dies with this process, a panic
ends it, and a boot that fails shows the last serial lines.
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from fabric import Connection
from qemu.qmp.legacy import QEMUMonitorProtocol

from .accel import TB_SIZE_MIB, Accel, fall_back
from .errors import LabError
from .network import Network

READY = "lab: ready"
BOOT_DEADLINE = 120.0
"""Seconds for a boot; the slowest seen under TCG on a busy machine is a third of it."""

MIGRATION_DEADLINE = 60.0
"""Seconds for what is left of a migration once it has no limits."""

KVM_FIRST_LINE = 15.0
"""Seconds within which a kernel under KVM must have said something."""

SOCKET_PATH_MOST = 107
"""Characters in a Unix socket's path: sun_path of unix(7), less its end."""

FIRMWARE = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))


@dataclass(frozen=True)
class VmConfig:
    """What a guest is made of. Sizes in MiB."""

    name: str
    qemu: Path
    accel: Accel
    vmlinux: Path
    initrd: Path
    disk: Path
    """An image; what the guest writes is thrown away, unless `keeps_disk`."""
    ssh_key: Path
    memory_mib: int = 512
    cpus: int = 2
    index: int = 0
    """The guest's number on the lab's network."""
    link: int | None = None
    """The network's link that QEMU is on; the one of `index` when None."""
    balloon: str = "virtio-balloon-pci,message-vq=on"
    """The balloon device's options; empty for none."""
    keeps_disk: bool = False
    """The guest writes to `disk`, as one must that migrates to another QEMU."""
    direct: bool = False
    """The host keeps no page cache of `disk`, as one with many guests should not. What the guest
    writes and is thrown away goes through it nevertheless: QEMU's snapshot=on has it so."""
    append: str = ""
    """More for the kernel's command line."""
    extra: tuple[str, ...] = ()
    """More QEMU arguments."""
    prefix: tuple[str, ...] = ()
    """A command that QEMU is started by, to put it into a cgroup for example."""
    qmp_dir: Path | None = None
    """Where hostctl's QMP socket, NAME.qmp, is put; the run folder when None."""
    tb_size_mib: int = TB_SIZE_MIB
    """TCG's translation cache."""
    patience: float = 1.0
    """How many times as long as usual each wait for the guest may take."""


def open_ssh(sock: socket.socket, key: Path) -> Connection:
    """A login over an open socket."""
    connection = Connection(
        "guest", user="root",
        connect_kwargs={
            "sock": sock, "key_filename": str(key), "look_for_keys": False, "allow_agent": False,
            "banner_timeout": 60, "auth_timeout": 60,
        },
    )
    connection.open()
    return connection


def command(config: VmConfig, run: Path, network: Network) -> list[str]:
    """The QEMU command line."""
    # Under KVM the first kernel line is waited for; under TCG each line costs. An emulated timer
    # may be late on a busy machine; the check of it would end in a panic (under KVM there is none).
    emulated = "quiet loglevel=4 no_timer_check" if config.accel.kind == "tcg" else ""
    append = (
        f"console=ttyS0 root=/dev/vda rw panic=-1 oops=panic mitigations=off {emulated} "
        f"net.ifnames=0 lab.name={config.name} lab.address={network.guest_address(config.index)} "
        f"{config.append}"
    )
    argv = [*network.prefix(), *config.prefix, "setpriv", "--pdeathsig", "KILL", "--"]
    argv += [str(config.qemu), "-name", config.name, "-nodefaults", "-no-user-config",
             "-display", "none", "-no-reboot", "-machine", "q35,usb=off,vmport=off",
             *config.accel.arguments(config.tb_size_mib),
             "-m", str(config.memory_mib), "-smp", str(config.cpus)]
    for folder in FIRMWARE:
        argv += ["-L", str(folder)]
    argv += ["-kernel", str(config.vmlinux), "-initrd", str(config.initrd),
             "-append", " ".join(append.split())]
    snapshot = "off" if config.keeps_disk else "on"
    direct = "on" if config.direct else "off"
    argv += ["-drive", f"file={config.disk},format=raw,if=none,id=root,snapshot={snapshot},"
             f"cache.direct={direct}",
             "-device", "virtio-blk-pci,drive=root,romfile="]
    argv += network.netdev_args(config.index, config.link)
    if config.balloon:
        argv += ["-device", f"{config.balloon},id=balloon"]
    argv += ["-serial", f"file:{run / 'serial.log'}"]
    for path in (run / "lab.qmp", hostctl_socket(config, run)):
        argv += ["-qmp", f"unix:{path},server=on,wait=off"]
    return argv + list(config.extra)


def hostctl_socket(config: VmConfig, run: Path) -> Path:
    """The QMP socket that is hostctl's."""
    return (config.qmp_dir or run) / f"{config.name}.qmp"


@dataclass
class Vm:
    """A guest's run: a context manager that stops it."""

    config: VmConfig
    run_dir: Path
    network: Network
    boot_seconds: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _qmp: QEMUMonitorProtocol | None = None
    _ssh: Connection | None = None
    _started: float = field(default_factory=time.monotonic)

    def __enter__(self) -> "Vm":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def serial_log(self) -> Path:
        return self.run_dir / "serial.log"

    @property
    def pid(self) -> int:
        """QEMU's process (setpriv and the prefixes exec it)."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start QEMU; `wait_ready` waits for the guest."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        for path in (self.run_dir / "lab.qmp", hostctl_socket(self.config, self.run_dir)):
            if len(str(path)) > SOCKET_PATH_MOST:
                raise LabError(f"{path}: {len(str(path))} characters are too many for a socket "
                               f"({SOCKET_PATH_MOST}): give a shorter name, or point "
                               "XDG_CACHE_HOME at a shorter folder")
        self.serial_log.unlink(missing_ok=True)
        argv = command(self.config, self.run_dir, self.network)
        (self.run_dir / "command").write_text(shlex.join(argv) + "\n")
        self._started = time.monotonic()
        with (self.run_dir / "qemu.log").open("wb") as log:
            # umask: QMP sockets and logs are the owner's alone.
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, umask=0o077)

    def boot(self, deadline: float = BOOT_DEADLINE) -> None:
        """Start the guest and wait until it takes logins; falls back from KVM to TCG."""
        self.start()
        self.check_kernel_runs()
        self.wait_ready(deadline)

    def check_kernel_runs(self) -> None:
        """Under KVM, wait for a first kernel line; without one, start again under TCG."""
        if self.config.accel.kind != "kvm":
            return
        try:
            self._wait_serial("Linux version", KVM_FIRST_LINE)
        except LabError:
            ended = not self.alive()
            self.stop()
            accel = fall_back(f"{self.name}'s QEMU ended at once" if ended else
                              f"{self.name} showed no kernel line in {KVM_FIRST_LINE:.0f} s")
            self.config = replace(self.config, accel=accel)
            self.start()

    def wait_ready(self, deadline: float = BOOT_DEADLINE) -> None:
        """Wait for the guest's word on the serial console, then log in once."""
        self._wait_serial(READY, deadline)
        _ = self.qmp, self.ssh
        self.boot_seconds = time.monotonic() - self._started

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def serial_text(self) -> str:
        try:
            return self.serial_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def ssh(self) -> Connection:
        """The kept SSH connection."""
        if self._ssh is None:
            sock = self.network.connect(self.config.index, 30.0, link=self.config.link)
            try:
                self._ssh = open_ssh(sock, self.config.ssh_key)
            except Exception as error:
                raise self._failure(f"SSH failed ({error})") from error
        return self._ssh

    def sh(self, command: str, *, timeout: float = 60.0, check: bool = True) -> str:
        """Run a shell command in the guest; its standard output. LabError when it fails.

        `timeout` in seconds, for a guest of usual speed.
        """
        timeout *= self.config.patience
        end = time.monotonic() + timeout
        try:
            # Not left to run(): told to end, it would wait for the command's output first.
            running = self.ssh.run(command, hide=True, warn=True, in_stream=False,
                                   asynchronous=True)
            while not running.runner.process_is_finished:
                if time.monotonic() > end:
                    running.runner.kill()
                    raise TimeoutError(f"not done in {timeout:.0f} s")
                time.sleep(0.005)
            done = running.join()
        except Exception as error:
            raise self._failure(f"{command!r}: {error}") from error
        if check and done.failed:
            raise LabError(f"guest {self.name}: {command!r} failed with status {done.return_code}: "
                           f"{(done.stderr or done.stdout).strip()[-500:]}")
        return str(done.stdout)

    @property
    def qmp(self) -> QEMUMonitorProtocol:
        """The lab's own QMP connection."""
        if self._qmp is None:
            qmp = QEMUMonitorProtocol(str(self.run_dir / "lab.qmp"))
            qmp.settimeout(20)
            qmp.connect()
            self._qmp = qmp
        return self._qmp

    def command(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401
        """A QMP command; what it returns."""
        return self.qmp.cmd(name, **arguments)

    def events(self, name: str, seconds: float, enough: int = 0) -> list[dict[str, Any]]:
        """The QMP events of that name since the last call, and for so many seconds more.

        Returns early once there are `enough` (0: waits out the time); `seconds` are then a
        deadline, for a guest of usual speed.
        """
        if enough:
            seconds *= self.config.patience
        found: list[dict[str, Any]] = []
        end = time.monotonic() + seconds
        while True:
            self.command("query-status")  # lets the client read what has come
            found += [event for event in self.qmp.get_events() if event["event"] == name]
            left = end - time.monotonic()
            if left <= 0 or (enough and len(found) >= enough):
                return found
            time.sleep(min(left, 0.05))

    def balloon_actual(self) -> int:
        """The guest's RAM less its balloon, in bytes."""
        return int(self.command("query-balloon")["actual"])

    def set_target(self, size: int) -> None:
        """Ask for a RAM size in bytes."""
        self.command("balloon", value=size)

    @contextmanager
    def migrating(self, to: "Vm") -> Iterator[None]:
        """Migrate the guest, live, to a QEMU that waits for it (`Lab.twin`), which runs it then.

        The body runs while it is under way; it is made to come to its end after that. This QEMU
        stays, stopped, and can be asked over QMP.
        """
        uri = f"unix:{to.run_dir / 'migration'}"
        to._wait_socket()
        to.command("migrate-incoming", uri=uri)
        # So slow that it has no end by itself.
        self.command("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
        self.command("migrate", uri=uri)
        yield
        # No limits: whatever is left is sent with the guest stopped.
        self.command("migrate-set-parameters", **{"max-bandwidth": 0, "downtime-limit": 2_000_000})
        self._wait_qmp("query-migrate", "completed")
        to._wait_qmp("query-status", "running")

    def _wait_socket(self) -> None:
        """QEMU has just been started, and no guest's word shows that it is there."""
        end = time.monotonic() + MIGRATION_DEADLINE
        with socket.socket(socket.AF_UNIX) as probe:
            # Of the two sockets this is made last, and takes connections one after the other.
            while probe.connect_ex(str(hostctl_socket(self.config, self.run_dir))):
                if not self.alive() or time.monotonic() > end:
                    raise self._failure("QEMU does not answer over QMP")
                time.sleep(0.05)

    def _wait_qmp(self, query: str, status: str) -> None:
        end = time.monotonic() + MIGRATION_DEADLINE * self.config.patience
        while (reply := self.command(query))["status"] != status:
            if time.monotonic() > end or reply["status"] == "failed":
                raise self._failure(f"{query} says {reply} and not {status}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End QEMU at once; what the guest wrote is thrown away by design."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        for closing in (self._ssh, self._qmp):
            if closing is not None:
                with suppress(Exception):  # a dead peer cannot be closed in good order
                    closing.close()
        self._ssh = self._qmp = None
        hostctl_socket(self.config, self.run_dir).unlink(missing_ok=True)
        (self.run_dir / "lab.qmp").unlink(missing_ok=True)

    def _wait_serial(self, text: str, deadline: float) -> None:
        deadline *= self.config.patience
        end = time.monotonic() + deadline
        while text not in self.serial_text():
            if not self.alive():
                raise self._failure("QEMU ended before the guest was up")
            if time.monotonic() > end:
                raise self._failure(f"no {text!r} on the serial console in {deadline:.0f} s")
            time.sleep(0.05)

    def _failure(self, what: str) -> LabError:
        log = self.run_dir / "qemu.log"
        said = log.read_text(errors="replace").strip()[-400:] if log.exists() else ""
        serial = self.serial_text().splitlines()
        # A panic's reason stands above its stack trace.
        shown = [line for line in serial[:-12] if "Kernel panic" in line] + serial[-12:]
        lines = "\n".join(f"    {line}" for line in shown)
        return LabError(f"guest {self.name}: {what}; the serial log is {self.serial_log}"
                        + (f"; QEMU said: {said}" if said else "")
                        + (f"; its last lines:\n{lines}" if lines else ""))


def boot_all(vms: Sequence[Vm], deadline: float = BOOT_DEADLINE) -> None:
    """Boot guests side by side. Where they have to share a CPU, each has so much more time."""
    deadline *= max(1.0, len(vms) / (os.cpu_count() or 1))
    for vm in vms:
        vm.start()
    for vm in vms:
        vm.check_kernel_runs()
    for vm in vms:
        vm.wait_ready(deadline)
