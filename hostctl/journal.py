# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: every event and decision as one JSON object a line.

Each record has `time` (seconds since the epoch), `mono` (seconds of the monotonic clock, when it
happened) and `event`, its kind. Sizes are bytes, targets and actual sizes are sizes of the guest
(not of its balloon), levels are low, medium or critical. The kinds and their other keys:

start          policy, settings (of all policies), guard (its limits), dry_run, sockets, libvirt,
               pools (their groups; none is the machine)
stop           nothing: the guests stay as they are
reload         policy, settings, guard, changed (whether anything did), restart (keys that only a
               restart applies)
continued      as start: this file is a new one, and goes on from another
known          of (a kind), and that kind's keys: after continued, what was known until then. It is
               no news: mono is when it was news
tick           nothing: time alone led to what follows
guest-added    guest, ram, actual, target, floor, balloon (false: has none, is left alone),
               target_known (false: QEMU does not tell, and actual is taken for it), pool, most
               (its ceiling, or null), tells (false: its driver sends no messages), pid (of its
               QEMU on this host, or null)
guest-lost     guest, why
guest-silent   guest: its QEMU does not answer in time; it is not inflated until guest-read
guest-read     as guest-added: a later reading that differs from what was known, or the first
               after guest-silent
guest-message  guest, level, actual
actual         guest, actual (QEMU's BALLOON_CHANGE)
stats          guest, taken (when the guest's driver answered, as mono), and what it told: total,
               free, available, caches, swap_in, swap_out (bytes), major_faults, oom_kills,
               stalls (events), scanned, reclaimed (pages); when changed, when something was
               decided on it, and now and then
held           guest, why: it is left alone until released
released       guest
host-pressure  level, source, pool
pool           pool, limit, usage, swapped (or null), occupied (by guest, what the host holds of
               its QEMU: in memory and in swap): a reading, written as stats are
pool-lost      pool, why: its group is gone, or cannot be read, until the next pool record
decision       guest, old, new (targets), reason (see Reason in policy/model.py), policy, why
refused        the same, and refusal: why the guard refused it
target-taken   guest, target: its QEMU has taken the target
error          about (a guest, a path or a part), message
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hostctl.errors import HostctlError
from hostctl.writing import write_some

MODE = 0o600
LINE_MOST = 500
"""Characters of a reported problem."""
AGAIN = 60.0
"""Seconds after which something else that is wrong with the same is reported."""
SAID_MOST = 1000
"""Characters of a line on standard error: in UTF-8 they go in one write."""


def say(line: str) -> None:
    """A line for the operator, on standard error; a closed or stalled one costs the line alone."""
    data = f"hostctl: {line}"[:SAID_MOST] + "\n"
    with suppress(OSError):
        sys.stderr.flush()
        write_some(sys.stderr.fileno(), data.encode(errors="replace"))


class Journal:
    """Appends records to a file of mode 0600, or to standard output.

    A record is one write, so that a reader never sees half a line; what a full disk leaves of
    one is cut off again. A full disk, or a reader that has stalled, costs records and not the
    daemon: it is said once on standard error. A file of `size` bytes becomes FILE.1, that
    becomes FILE.2, and so on up to FILE.`keep`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        size: int = 64 << 20,
        keep: int = 4,
        wall: Callable[[], float] = time.time,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open `path` for appending; None is standard output. Raises HostctlError."""
        self.size = size
        self.keep = keep
        self.head: Callable[[], Iterable[Mapping[str, object]]] = tuple
        """The records that a new file begins with; `size` is without them."""
        self._path = path
        self._wall = wall
        self._mono = mono
        self._name = str(path) if path else "standard output"
        self._fd = -1 if path else sys.stdout.fileno()
        self._written = 0
        self._rotates = False
        self._torn = False
        """The file ends in half a line: the next record begins with a new one."""
        self._failing = False
        self._unrotated = False
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, MODE)
        except OSError as exc:
            raise HostctlError(
                f"journal {path}: {exc.strerror}; give a file in a folder that exists and "
                "can be written, with --journal or journal.file"
            ) from exc
        found = os.fstat(self._fd)
        self._rotates = stat.S_ISREG(found.st_mode)
        self._written = found.st_size
        if self._rotates:
            # A file of an earlier run may have been made with another mode, and end in half a
            # line.
            if found.st_uid == os.geteuid():
                os.fchmod(self._fd, MODE)
            self._torn = found.st_size > 0 and (os.pread(self._fd, 1, found.st_size - 1) != b"\n")

    def write(self, event: str, **fields: object) -> None:
        """Append a record of kind `event` about what happens now."""
        self.put({"mono": self._mono(), "event": event, **fields})

    def put(self, record: Mapping[str, object]) -> None:
        """Append a record that has its `mono` and `event` already."""
        line = self._line(record)
        if self._rotates and self._written and self._written + len(line) >= self.size:
            self._rotate()
        self._append(line)

    def _line(self, record: Mapping[str, object]) -> bytes:
        stamped = {"time": self._wall(), **record}
        return json.dumps(stamped, separators=(",", ":"), default=str).encode()

    def _append(self, line: bytes) -> None:
        data = b"\n" + line + b"\n" if self._torn else line + b"\n"
        done = 0
        try:
            while done < len(data):
                done += write_some(self._fd, data[done:])
        except OSError as exc:
            if done:
                self._cut(done)
            if not self._failing:
                say(
                    f"journal {self._name}: {exc.strerror}; records are lost until it can be "
                    "written again"
                )
            self._failing = True
        else:
            self._written += done
            self._torn = False
            self._failing = False

    def _cut(self, size: int) -> None:
        """Take the last `size` bytes off again, part of a record."""
        try:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - size)
        except OSError:
            self._torn = True

    def reopen(self) -> None:
        """Go on in a new file, if somebody has moved the old one away. Raises HostctlError."""
        if self._path is not None:
            old = self._fd
            self._open(self._path)
            os.close(old)
            if self._rotates and not self._written:
                for record in self.head():
                    self._append(self._line(record))
                self._written = 0

    def _rotate(self) -> None:
        """Go on in a new file; where that cannot be done, in the old one."""
        assert self._path is not None
        try:
            for number in range(self.keep, 0, -1):
                source = _numbered(self._path, number - 1)
                with suppress(FileNotFoundError):
                    source.replace(_numbered(self._path, number))
            if not self.keep:
                self._path.unlink(missing_ok=True)
            self.reopen()
        except (OSError, HostctlError) as exc:
            # Tried again when as much again is written, and not with each record.
            self._written = 0
            if not self._unrotated:
                say(f"journal {self._name}: it is not rotated ({exc}), and goes on to grow")
            self._unrotated = True
        else:
            self._unrotated = False

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            os.close(self._fd)
            self._path = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _numbered(path: Path, number: int) -> Path:
    """The file itself for 0, else the one that was moved away `number` rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


class Reporter:
    """Says what is wrong once, on standard error and in the journal, until it is cleared.

    Of one guest, path or part it says something at most once in `AGAIN` seconds, whatever a
    hostile guest makes up and however often it is well in between.
    """

    def __init__(
        self,
        journal: Journal,
        on_problem: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_problem` is called with each that is said."""
        self._journal = journal
        self._on_problem = on_problem
        self._clock = clock
        self._said: dict[str, tuple[str | None, float]] = {}
        """By what it is about: what was said last (None: it is well again), and when."""

    def problem(self, about: str, message: str) -> None:
        """Report `message` about a guest, path or part, unless it is the last one reported."""
        message = " ".join(message.split())[:LINE_MOST]  # it may quote a hostile QEMU
        now = self._clock()
        last, when = self._said.get(about, (None, -math.inf))
        if message == last or now < when + AGAIN:
            return
        self._said[about] = message, now
        self._on_problem()
        self._journal.write("error", about=about, message=message)
        say(f"{about}: {message}")

    def clear(self, about: str) -> None:
        """All is well with `about` again: its next problem is reported even if it is the same."""
        if found := self._said.get(about):
            self._said[about] = None, found[1]

    def forget(self, about: str) -> None:
        """`about` is gone, with each part of it, named `ABOUT (PART)`: the next is another."""
        for one in [key for key in self._said if key == about or key.startswith(f"{about} (")]:
            del self._said[one]
