# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of QMP sockets, watched: guests come and go at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

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
        *,
        period: float = PERIOD,
    ) -> None:
        self._folder = folder
        self._make = make
        self._report = report
        self._period = period
        self._inodes: dict[str, int] = {}
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
            found = {
                path.name: path.lstat().st_ino
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
            path = self._folder / name
            guest = self.guests.get(path.stem)
            if guest is None:
                self._start(self._make(path))
            elif self._inodes.get(name) != inode:
                guest.retry_now()
        self._inodes = found

    def _start(self, guest: QmpGuest) -> None:
        self.guests[guest.name] = guest
        task = asyncio.create_task(guest.run(), name=f"guest {guest.name}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self.guests[guest.name]

        task.add_done_callback(ended)
