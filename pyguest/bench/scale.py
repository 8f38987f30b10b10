# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl's scale: what a thousand guests cost, and how soon a message is answered.

The guests are sockets of a small responder (see responder.py), in a process of its own; hostctl
runs as an operator runs it. What is counted is hostctl's own CPU time and memory; the time from
a message to its command is taken by the responder, at both ends of the same socket.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import host, paths
from ..controller import hostctl
from ..errors import LabError
from ..progress import step
from .stats import figure, markdown, percentile

DEADLINE = 180.0
SETTLE = 15.0
"""Seconds for what only the start costs."""
SHARE = 0.01
"""Of the guests that say each second that they are short."""
GOALS = {"busy": "under 10", "idle": "under 1", "rss": "under 200", "p99": "under 20"}


@dataclass(frozen=True)
class Phase:
    """hostctl's share of one core in a phase, in %, and what was done in it a second."""

    user: float
    system: float
    commands: float


class Responder:
    """The responder's process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def ask(self, line: str) -> str:
        """Tell it something; its answer."""
        print(line, file=self._in, flush=True)
        return self.hear()

    def hear(self) -> str:
        """Its next line."""
        line = self._out.readline()
        if not line:
            raise LabError("the responder ended; run it by hand to see why: "
                           "python -m pyguest.bench.responder FOLDER COUNT")
        return line.strip()


@contextmanager
def responder(folder: Path, count: int) -> Iterator[Responder]:
    """Run the responder."""
    argv = [sys.executable, "-m", "pyguest.bench.responder", str(folder), str(count)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=paths.TREE) as process:
        one = Responder(process)
        if one.hear() != "ready":
            raise LabError("the responder is not ready; run it by hand to see why")
        try:
            yield one
        finally:
            process.kill()


def main(count: int, seconds: float, policy: str) -> int:
    """Measure and print; the exit status."""
    run = paths.state_dir("bench-hostctl")
    with ExitStack() as stack:
        # Short, because the paths of sockets must be; and mode 0700.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostctl-")))
        guests = stack.enter_context(responder(folder, count))
        with step(f"{count:,} guests"):
            begun = time.monotonic()
            pid = stack.enter_context(
                hostctl(folder, run, "--pressure", "none", "--policy", policy))
            _wait_for(run, count, pid)
            connected = time.monotonic() - begun
        time.sleep(SETTLE)
        with step(f"idle for {seconds:g} s"):
            idle = _phase(pid, guests, lambda: time.sleep(seconds))
        answers: list[str] = []
        with step(f"{count * SHARE:g} messages a second for {seconds:g} s"):
            busy = _phase(
                pid, guests,
                lambda: answers.append(guests.ask(f"press {count * SHARE} {seconds}")),
            )
        memory = _process(pid).rss_bytes
    print(_report(count, policy, connected, idle, busy, memory, json.loads(answers[0])))
    return 0


def _report(
    count: int, policy: str, connected: float, idle: Phase, busy: Phase, memory: int,
    answer: dict[str, Any],
) -> str:
    waits = [1000 * wait for wait in answer["waits"]]
    rows = [
        ("CPU, idle (% of a core: user, system)", _cpu(idle), GOALS["idle"]),
        ("CPU, with messages (the same)", _cpu(busy), GOALS["busy"]),
        ("QMP commands a second, idle and with messages",
         f"{figure(idle.commands)}, {figure(busy.commands)}", ""),
        ("memory, RSS (MiB)", figure(memory / 2**20), GOALS["rss"]),
        ("message to command, p50 (ms)", figure(percentile(waits, 50)), ""),
        ("message to command, p99 (ms)", figure(percentile(waits, 99)), GOALS["p99"]),
        ("message to command, greatest (ms)", figure(max(waits)), ""),
        ("messages, without a command", f"{answer['messages']}, {answer['lost']}", ""),
        ("from start to all guests read (s)", figure(connected), ""),
    ]
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return (f"{count:,} guests, policy {policy}; load average {load} on {os.cpu_count()} CPUs\n\n"
            + markdown(("what", "measured", "goal"), rows))


def _cpu(phase: Phase) -> str:
    return f"{figure(phase.user + phase.system)} ({figure(phase.user)}, {figure(phase.system)})"


def _phase(pid: int, guests: Responder, work: Callable[[], None]) -> Phase:
    """hostctl's share of a core while `work` runs."""
    begun, before, served = time.monotonic(), _process(pid), int(guests.ask("commands"))
    work()
    passed, after = time.monotonic() - begun, _process(pid)
    return Phase(100 * (after.user_seconds - before.user_seconds) / passed,
                 100 * (after.sys_seconds - before.sys_seconds) / passed,
                 (int(guests.ask("commands")) - served) / passed)


def _process(pid: int) -> host.ProcessUsage:
    usage = host.process_usage(pid)
    assert usage is not None, "hostctl is gone"
    return usage


def _wait_for(run: Path, count: int, pid: int) -> None:
    """Wait until hostctl has read all guests."""
    journal, log = run / "journal.jsonl", run / "hostctl.log"
    end = time.monotonic() + DEADLINE
    while not journal.exists() or journal.read_bytes().count(b'"guest-added"') < count:
        if not Path(f"/proc/{pid}/statm").read_text().strip("0 \n"):
            raise LabError(f"hostctl ended: {log.read_text().strip()}")
        if time.monotonic() > end:
            raise LabError(f"hostctl has not found {count} guests in {DEADLINE:g} s; see {log}")
        time.sleep(0.5)
