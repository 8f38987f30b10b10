# SPDX-License-Identifier: GPL-2.0-or-later
"""Long steps that say what they do, how far they are and how long it took."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError

TICK = 15.0
"""Seconds between two lines of progress where the output is not a terminal."""


class Step:
    """One step under way. On a terminal it keeps one line, elsewhere a line each TICK."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._start = time.monotonic()
        self._shown = self._start
        self._tty = sys.stderr.isatty()
        self._say("", end="" if self._tty else "\n")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def update(self, how_far: str) -> None:
        """Say how far the step is; cheap to call often."""
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._tty else TICK):
            self._shown = now
            self._say(f"{how_far} {self.seconds:.0f} s", end="" if self._tty else "\n")

    def done(self, word: str) -> None:
        if self._tty or self.seconds >= 2:
            self._say(f"{word} {self.seconds:.1f} s", end="\n")

    def _say(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._tty else ""
        print(f"{start}  {self.what} ... {text}".rstrip(), end=end, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[Step]:
    """Announce a step, and its time when it is over."""
    current = Step(what)
    try:
        yield current
    except BaseException:
        current.done("failed after")
        raise
    current.done("done in")


def run(
    command: Sequence[str | Path],
    log: Path,
    progress: Step,
    *,
    how_far: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command with its output in `log`; `how_far` is a pattern whose group 0 is shown.

    Raises LabError with the last lines of the log when the command fails.
    """
    argv = [str(part) for part in command]
    pattern = re.compile(how_far) if how_far else None
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print("+", " ".join(argv), file=file, flush=True)
        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", cwd=cwd, env=env,
            )
        except FileNotFoundError as error:
            raise LabError(
                f"{argv[0]} is not installed, and {progress.what!r} needs it: run `make setup`"
            ) from error
        try:
            assert child.stdout
            for line in child.stdout:
                file.write(line)
                found = pattern.search(line) if pattern else None
                progress.update(found.group(0) if found else "")
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if status:
        tail = "\n".join(f"    {line}" for line in log.read_text().splitlines()[-15:])
        raise LabError(
            f"{progress.what}: {Path(argv[0]).name} failed with status {status}; "
            f"its last lines follow, the whole log is {log}\n{tail}"
        )
