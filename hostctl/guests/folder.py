# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of QMP sockets, watched: guests come and go at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hostctl.guests.names import Names
from hostctl.guests.qmp import QmpGuest
from hostctl.journal import Reporter

SUFFIX = ".qmp"
PERIOD = 1.0
"""Seconds between two looks into the folder."""


class Folder:
    """Runs a guest for each `*.qmp` in `folder`, made by `make`, for as long as it is there."""

    def __init__(
        self,
        folder: Path,
        make: Callable[[Path], QmpGuest],
        report: Reporter,
        names: Names | None = None,
        *,
        period: float = PERIOD,
    ) -> None:
        """`names` are shared with other Finders, so that no guest is kept twice."""
        self._folder = folder
        self._make = make
        self._report = report
        self._names = names or Names()
        self._period = period
        self._inodes: dict[str, int] = {}
        """By guest, as of the last look."""
        self._changed: int | None = None
        """The folder's time of change at the last look,"""
        self._seen: int | None = None
        """and at the last two, if it was the same: there is nothing new since."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.guests: dict[str, QmpGuest] = {}

    async def run(self) -> None:
        """Watch until cancelled, then close all connections."""
        try:
            while True:
                self._look()
                await asyncio.sleep(self._period)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _look(self) -> None:
        about = str(self._folder)
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed == self._seen and self._inodes.keys() <= self.guests.keys():
                return  # to look at each of a thousand each second would cost
            found = {
                path.stem: path.lstat().st_ino
                for path in self._folder.iterdir()
                if path.suffix == SUFFIX
            }
        except FileNotFoundError:
            if self._folder.is_dir():
                return  # a socket went while we looked: the next look will see
            self._report.problem(about, "the sockets' folder is gone; waiting for it to return")
            return
        except OSError as exc:
            self._report.problem(about, f"the sockets' folder cannot be read: {exc.strerror}")
            return
        self._report.clear(about)
        for name, inode in found.items():
            guest = self.guests.get(name)
            if guest is None:
                self._claim(self._folder / f"{name}{SUFFIX}")
            elif self._inodes.get(name) != inode:
                guest.retry_now()
        for name in self._inodes.keys() - found.keys():
            self._report.forget(str(self._folder / f"{name}{SUFFIX}"))
        self._inodes = found
        # Two changes within a tick of the kernel's clock have the same time: one more look is
        # taken after each.
        self._seen, self._changed = (changed if changed == self._changed else None), changed

    def _claim(self, path: Path) -> None:
        other = self._names.claim(path.stem, str(self._folder))
        if other is None:
            self._report.forget(str(path))
            self._start(self._make(path))
        else:
            self._report.problem(
                str(path),
                f"there is a guest {path.stem} already, in {other}: this socket is left alone; "
                "rename it, or take one of them away",
            )

    def _start(self, guest: QmpGuest) -> None:
        self.guests[guest.name] = guest
        task = asyncio.create_task(guest.run(), name=f"guest {guest.name}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self.guests[guest.name]
            self._names.release(guest.name, str(self._folder))

        task.add_done_callback(ended)
