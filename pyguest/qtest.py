# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU without a guest: a test or a measurement is its CPU (qtest), and watches over QMP."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from qemu.qmp import ConnectError, EventListener, QMPClient

DEADLINE = 10.0
"""Seconds for any single answer of QEMU."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

T = TypeVar("T")


class RefusedError(RuntimeError):
    """QEMU ended before it could be talked to: its exit status, and what it wrote."""

    def __init__(self, command: str, status: int | None, log: str) -> None:
        super().__init__(f"{command}: {log}")
        self.status, self.log = status, log


class QTest:
    """The qtest protocol: one command a line, one answer each. Raises RuntimeError on FAIL."""

    def __init__(self, connection: socket.socket, deadline: float = DEADLINE) -> None:
        connection.settimeout(deadline)
        self._socket = connection
        self._lines = connection.makefile("r", encoding="ascii")
        self.lazy = False
        """Do not wait for the answers of stores: fast, but nothing is done before `sync`."""
        self._unanswered = 0

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def command(self, *words: str | int) -> list[str]:
        """Send a command; return the words after OK."""
        line = self._send(words)
        for _ in range(self._unanswered):
            self._answer("an earlier store")
        self._unanswered = 0
        return self._answer(line)

    def sync(self) -> None:
        """Until all that was sent is done."""
        self.command("clock_step", "1")

    def _send(self, words: Sequence[str | int]) -> str:
        line = " ".join(w if isinstance(w, str) else hex(w) for w in words)
        self._socket.sendall(line.encode("ascii") + b"\n")
        return line

    def _answer(self, line: str) -> list[str]:
        while True:
            answer = self._lines.readline().split()
            if not answer:
                raise RuntimeError(f"QEMU closed the qtest socket on: {line[:80]}")
            if answer[0] == "IRQ":
                continue
            if answer[0] != "OK":
                raise RuntimeError(f"qtest {line[:80]}: {' '.join(answer)}")
            return answer[1:]

    def io_write(self, port: int, value: int, size: int = 4) -> None:
        self.command("out" + "?bw?l"[size], port, value)

    def io_read(self, port: int, size: int = 4) -> int:
        return int(self.command("in" + "?bw?l"[size], port)[0], 16)

    def store(self, address: int, value: int, size: int) -> None:
        """One access of `size` bytes, as a CPU makes to a device's register."""
        words = ("write" + "?bw?l???q"[size], address, value)
        if self.lazy:
            self._send(words)
            self._unanswered += 1
        else:
            self.command(*words)

    def load(self, address: int, size: int) -> int:
        return int(self.command("read" + "?bw?l???q"[size], address)[0], 16)

    def write(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        if data:
            self.command("write", address, len(data), "0x" + data.hex())

    def fill(self, address: int, size: int, value: int) -> None:
        """Set `size` bytes of guest memory to `value`."""
        self.command("memset", address, size, value)

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.command("read", address, size)[0].removeprefix("0x"))


class Machine:
    """A q35 that executes nothing. Use it as a context manager: the process always ends.

    With `accel` "tcg" its CPU is halted, and the guest's clock goes on by itself.
    """

    RAM = 256 << 20

    def __init__(
        self, binary: Path, arguments: Sequence[str], ram: int = RAM, accel: str = "qtest",
        deadline: float = DEADLINE,
    ) -> None:
        self._deadline = deadline
        self._command = [
            str(binary), "-nodefaults", "-display", "none", "-machine", "q35",
            "-accel", accel, "-m", f"{ram}B", *arguments,
        ]  # fmt: skip
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._qmp = QMPClient("test")
        self._events = EventListener()
        self._qmp.register_listener(self._events)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._loop.close)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qtest-")))
            # Listening before QEMU starts saves polling for its sockets.
            servers = []
            for name in ("qtest", "qmp"):
                server = stack.enter_context(socket.socket(socket.AF_UNIX))
                server.bind(str(folder / name))
                server.listen(1)
                server.settimeout(DEADLINE)
                servers.append(server)
            self._log = folder / "stderr"
            self.process = stack.enter_context(self._start(folder))
            stack.callback(self.process.kill)
            self.qtest = QTest(self._accept(servers[0], folder), self._deadline)
            stack.callback(self.qtest.close)
            try:
                self._wait(self._qmp.connect(self._accept(servers[1], folder)))
            except ConnectError as error:
                raise self._refused() from error
            stack.callback(self._disconnect)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None, use_errno=True)
        # A PC wants to have one. If a CPU runs it, it halts: HLT, JMP back.
        firmware = folder / "firmware"
        firmware.write_bytes(bytes((64 << 10) - 16) + b"\xf4\xeb\xfd".ljust(16, b"\0"))
        sockets = ["-qtest", f"unix:{folder}/qtest", "-qmp", f"unix:{folder}/qmp"]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*self._command, "-bios", firmware, "-qtest-log", "none", *sockets],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def _accept(self, server: socket.socket, folder: Path) -> socket.socket:
        # Short waits, so that a QEMU that refuses its arguments is told at once.
        server.settimeout(0.1)
        for _ in range(round(self._deadline / 0.1)):
            try:
                return server.accept()[0]
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        raise self._refused()

    def _refused(self) -> RefusedError:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEADLINE)
        return RefusedError(" ".join(self._command), self.process.returncode, self.log())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, self._deadline))

    def _disconnect(self) -> None:
        # A QEMU that has died makes this fail; the test has failed by then.
        with suppress(EOFError):
            self._wait(self._qmp.disconnect())

    def log(self) -> str:
        """What QEMU wrote to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def qmp(self, command: str, **arguments: object) -> object:
        return self._wait(self._qmp.execute(command, arguments))

    def step(self, seconds: float) -> None:
        """Let the guest's clock go on, which stands still otherwise; to the nanosecond.

        Not with tcg.
        """
        self.qtest.command("clock_step", str(round(seconds * 1e9)))

    def wait_for(self, command: str, **wanted: object) -> None:
        """Until the reply to a query holds these members; TimeoutError if it does not."""
        end = time.monotonic() + DEADLINE
        while True:
            reply = self.qmp(command)
            if isinstance(reply, dict) and reply.items() >= wanted.items():
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{command}: {reply} and not {wanted}")
            time.sleep(0.01)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The data of the events of that name since the last call, oldest first."""
        # QMP answers in order: what was sent before this answer has arrived.
        self.qmp("query-status")
        found = [e["data"] for e in self._events.clear() if e["event"] == name]
        return [data for data in found if isinstance(data, dict)]


def has_property(binary: Path, name: str) -> bool:
    """Has this QEMU's virtio-balloon-pci that property?"""
    # Patient: with the sanitizer QEMU is slow to start.
    with Machine(binary, [], deadline=6 * DEADLINE) as machine:
        found = machine.qmp("device-list-properties", typename="virtio-balloon-pci")
    assert isinstance(found, list)
    return any(one["name"] == name for one in found)


def without_ioeventfd(binary: Path) -> str:
    """Option of a balloon whose kick is answered when its work is done.

    A balloon without that property has no eventfd anyway.
    """
    return ",ioeventfd=off" if has_property(binary, "ioeventfd") else ""
