# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl beside guests of the lab, as an operator would run it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import paths
from .errors import LabError

STOP_SECONDS = 10.0


@contextmanager
def hostctl(sockets: Path, folder: Path, *options: str) -> Iterator[int]:
    """Run hostctl for the guests in `sockets`; its pid. SIGTERM ends it.

    Its journal (journal.jsonl, a new one), control socket (control) and what it says
    (hostctl.log) are in `folder`. LabError when it ends by itself.
    """
    for old in folder.glob("journal.jsonl*"):
        old.unlink()
    argv = [
        "setpriv", "--pdeathsig", "TERM", "--",
        sys.executable, "-m", "hostctl", "run", "--sockets", str(sockets),
        "--journal", str(folder / "journal.jsonl"), "--control", str(folder / "control"), *options,
    ]
    log = folder / "hostctl.log"
    with log.open("w") as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                                   env={**os.environ, "PYTHONPATH": str(paths.TREE)})
    try:
        time.sleep(1.0)
        if process.poll() is not None:
            raise LabError(f"hostctl ended at once: {log.read_text().strip()}")
        yield process.pid
        if process.poll() is not None:
            raise LabError(f"hostctl ended early: {log.read_text().strip()}; see {log}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
