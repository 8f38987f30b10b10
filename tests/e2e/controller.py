# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl as an operator runs it, and what its journal says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from guests import wait_until

from pyguest import paths
from pyguest.jsonl import read_lines

Record = dict[str, Any]


class Hostctl:
    """A hostctl process; its journal and what it said lie in `folder`. A context manager."""

    def __init__(self, sockets: Path, folder: Path, *options: str) -> None:
        self.journal = folder / "journal.jsonl"
        argv = [sys.executable, "-m", "hostctl", "run", "--sockets", str(sockets),
                "--journal", str(self.journal), "--control", str(folder / "control"), *options]
        self._seen = len(self._records())
        with (folder / "hostctl.log").open("a") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(paths.TREE)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """End it with a signal, if it still runs; its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(20)

    def alive(self) -> bool:
        return self._process.poll() is None

    def _records(self) -> list[Record]:
        return list(read_lines(self.journal))

    def events(self, kind: str, **fields: object) -> list[Record]:
        """The records of this process of that kind, with these values."""
        return [
            record for record in self._records()[self._seen:]
            if record["event"] == kind and fields.items() <= record.items()
        ]

    def wait_for(self, kind: str, **fields: object) -> Record:
        """Wait for such a record; the first."""
        wait_until(lambda: bool(self.events(kind, **fields)), f"{kind} {fields} in {self.journal}")
        return self.events(kind, **fields)[0]
