# SPDX-License-Identifier: GPL-2.0-or-later
"""What the core has channels do beside setting targets."""

from __future__ import annotations

from pathlib import Path

from hostctl.config import Config, GuestsConfig
from hostctl.core import Core
from hostctl.journal import Journal
from hostctl.policy.model import GuestLost, GuestMessage, GuestRead, Level, PoolRead, Tick

GIB = 1 << 30


class Attended:
    """A channel that writes down how it is to read its guest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[bool] = []

    def set_target(self, target: int) -> None:
        """Nothing follows."""

    def attend(self, *, closely: bool) -> None:
        """As Channel."""
        self.asked.append(closely)


def test_a_guest_that_says_something_is_attended_to_for_a_while(tmp_path: Path) -> None:
    channels = {name: Attended(name) for name in "ab"}
    config = Config(GuestsConfig(), control=tmp_path / "control")
    with Journal(tmp_path / "journal") as journal:
        core = Core(config, journal, dry_run=False)
        core.channel = channels.get
        for name in channels:
            core.emit(GuestRead(0.0, name, GIB, GIB, GIB, 0, True, True))
        core.emit(PoolRead(100.0, "host", 2 * GIB, 2 * GIB))
        core.emit(GuestMessage(100.0, "a", Level.LOW, GIB))
        for now in (101.0, 102.0, 120.0, 121.0):
            core.emit(Tick(now))
        assert (channels["a"].asked, channels["b"].asked) == ([True, False], [])
        core.emit(GuestMessage(130.0, "a", Level.LOW, GIB))
        core.emit(Tick(131.0))
        core.emit(GuestLost(132.0, "a", "gone"))
        core.emit(GuestRead(133.0, "a", GIB, GIB, GIB, 0, True, True))
        core.emit(GuestMessage(134.0, "a", Level.LOW, GIB))
        core.emit(Tick(135.0))  # another QEMU, which was not told yet
        assert channels["a"].asked == [True, False, True, True]
