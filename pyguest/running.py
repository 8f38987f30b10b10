# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that another process of the lab keeps running: how to find and reach them."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabric import Connection
from paramiko import SSHException

from . import network, paths
from .errors import LabError
from .vm import Vm, open_ssh


def _entries() -> Path:
    return paths.state_dir("running")


@contextmanager
def announce(vm: Vm) -> Iterator[None]:
    """Let other processes find a guest while the context lasts."""
    entry = _entries() / f"{vm.name}.json"
    entry.write_text(json.dumps({
        "pid": os.getpid(),
        "index": vm.config.index,
        "network": vm.network.handle(vm.config.index),
        "ssh_key": str(vm.config.ssh_key),
    }))
    try:
        yield
    finally:
        entry.unlink(missing_ok=True)


def names() -> list[str]:
    """The guests that are announced and whose lab still runs."""
    found = []
    for entry in _entries().glob("*.json"):
        if Path(f"/proc/{json.loads(entry.read_text())['pid']}").exists():
            found.append(entry.stem)
        else:
            entry.unlink(missing_ok=True)
    return sorted(found)


def connect(name: str) -> Connection:
    """An SSH connection to a running guest. LabError when there is none of that name."""
    running = names()
    if name not in running:
        known = f"running are: {', '.join(running)}" if running else "none is running"
        raise LabError(f"no guest {name!r}: {known}; start one with `bin/pyguest boot {name}`")
    entry = json.loads((_entries() / f"{name}.json").read_text())
    where = network.attach(entry["network"], entry["index"])
    return open_ssh(where.connect(entry["index"], 30.0), Path(entry["ssh_key"]))


def run(name: str, command: str) -> int:
    """Run a command in a running guest, its output on ours; the command's exit status."""
    with connect(name) as connection:
        try:
            # With a terminal, Ctrl-C reaches the command and a closed connection ends it.
            done = connection.run(command, warn=True, in_stream=False, pty=sys.stdout.isatty())
        except (SSHException, EOFError) as error:
            raise LabError(f"guest {name}: the connection broke ({error}): is it still running?"
                           ) from error
    return int(done.return_code)
