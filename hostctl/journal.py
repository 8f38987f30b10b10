# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: every event and decision as one JSON object a line.

Each record has `time` (seconds since the epoch), `mono` (seconds of the monotonic clock) and
`event`, its kind. Sizes are bytes, targets and actual sizes are sizes of the guest (not of its
balloon), levels are low, medium or critical. The kinds and their other keys:

start          policy, step, hysteresis, sockets, pressure (the source's name or null), level
stop           nothing: the guests stay as they are
guest-added    guest, ram, actual, target, floor, balloon (false: has none, is left alone),
               target_known (false: QEMU does not tell, and actual is taken for it)
guest-lost     guest, why
guest-silent   guest: its QEMU does not answer in time; it is not inflated until guest-read
guest-read     guest, ram, actual, target, floor, balloon: a later reading that differs from
               what was known, or the first after guest-silent
host-pressure  level, source
host-pressure-lost  source, why: there will be no more host-pressure from it
guest-message  guest, level, actual
actual         guest, actual (QEMU's BALLOON_CHANGE)
decision       guest, old, new (targets), reason (host-pressure, guest-pressure, cancel), policy,
               actual, asked (the policy's target, where the guard changed it, else equal to new)
refused        guest, old, new, reason, policy, why: the guard refused this decision
error          about (a guest, a path or a part), message
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hostctl.errors import HostctlError

MODE = 0o600
LINE_MOST = 500
"""Characters of a reported problem."""


def say(line: str) -> None:
    """A line for the operator, on standard error; a closed one does not stop the daemon."""
    with suppress(OSError):
        print(f"hostctl: {line}", file=sys.stderr, flush=True)


class Journal:
    """Appends records to a file of mode 0600, or to standard output.

    A record is one write, so that a reader never sees half a line. A full disk costs
    records and not the daemon: it is said once on standard error.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        wall: Callable[[], float] = time.time,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open `path` for appending; None is standard output. Raises HostctlError."""
        self._wall = wall
        self._mono = mono
        self._name = str(path) if path else "standard output"
        self._owned = path is not None
        self._failing = False
        if path is None:
            self._fd = sys.stdout.fileno()
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, MODE)
        except OSError as exc:
            raise HostctlError(
                f"journal {path}: {exc.strerror}; give a file in a folder that exists and "
                "can be written, with --journal or journal.file"
            ) from exc
        # A file of an earlier run may have been made with another mode.
        found = os.fstat(self._fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            os.fchmod(self._fd, MODE)

    def write(self, event: str, **fields: object) -> None:
        """Append a record of kind `event`."""
        record = {"time": self._wall(), "mono": self._mono(), "event": event, **fields}
        data = (json.dumps(record, separators=(",", ":"), default=str) + "\n").encode()
        try:
            done = os.write(self._fd, data)
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError as exc:
            if not self._failing:
                say(
                    f"journal {self._name}: {exc.strerror}; records are lost until it can be "
                    "written again"
                )
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Close the file."""
        if self._owned:
            os.close(self._fd)
            self._owned = False

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Reporter:
    """Says what is wrong once, on standard error and in the journal, until it is cleared."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._said: dict[str, str] = {}

    def problem(self, about: str, message: str) -> None:
        """Report `message` about a guest, path or part, unless it is the last one reported."""
        message = " ".join(message.split())[:LINE_MOST]  # it may quote a hostile QEMU
        if self._said.get(about) == message:
            return
        self._said[about] = message
        self._journal.write("error", about=about, message=message)
        say(f"{about}: {message}")

    def clear(self, about: str) -> None:
        """All is well with `about` again: its next problem is reported even if it is the same."""
        self._said.pop(about, None)
