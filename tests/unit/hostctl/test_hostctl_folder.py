# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of sockets is looked through only when something in it has changed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hostctl.guests.folder import Folder
from hostctl.guests.keeper import Timing
from hostctl.guests.qmp import QmpGuest
from hostctl.journal import Journal, Reporter


def test_changes_within_a_tick_of_the_clock_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))
    sockets = tmp_path / "sockets"
    sockets.mkdir()

    def make(name: str) -> None:
        (sockets / f"{name}.qmp").touch()
        os.utime(sockets, ns=(5, 5))  # as if it had been in the same tick

    async def run() -> None:
        with Journal(tmp_path / "journal") as journal:
            report = Reporter(journal)
            folder = Folder(
                sockets,
                lambda path: QmpGuest(path, lambda _: None, report, Timing(1.0, 1.0, 1.0)),
                report,
            )
            make("a")
            folder._look()
            make("b")
            folder._look()
            assert folder.guests.keys() == {"a", "b"}
            for _ in range(5):
                folder._look()
            assert len(listed) == 2
            os.utime(sockets, ns=(6, 6))
            folder._look()
            assert len(listed) == 3
            for task in folder._tasks:
                task.cancel()
            await asyncio.gather(*folder._tasks, return_exceptions=True)
            assert not folder.guests
            # A guest that has ended and whose file is there is one to look for.
            folder._look()
            assert folder.guests.keys() == {"a", "b"}
            for task in folder._tasks:
                task.cancel()

    asyncio.run(run())
