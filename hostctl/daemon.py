# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: pressure source and guests -> policy -> guard -> QMP, all of it journalled.

It remembers nothing between two runs: what a guest's target is, it reads back from QEMU.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from hostctl import guard
from hostctl.config import Config
from hostctl.guests.folder import Folder
from hostctl.guests.qmp import QmpGuest, Timing
from hostctl.journal import Journal, Reporter, say
from hostctl.policy import POLICIES
from hostctl.policy.model import (
    Decision,
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    HostPressure,
    HostState,
    TargetSent,
)
from hostctl.pressure.source import PressureSource


class Daemon:
    """One host's guests under one policy; `source` is None to act on messages alone."""

    def __init__(self, config: Config, journal: Journal, source: PressureSource | None) -> None:
        self._config = config
        self._journal = journal
        self._source = source
        self._report = Reporter(journal)
        self._policy = POLICIES[config.policy](config.step, config.hysteresis)
        self._folder = Folder(config.sockets, self._make_guest, self._report)
        self._stop = asyncio.Event()
        self.state = HostState()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or `stop`. The guests then stay as they are."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self._say_start()
        if self._source is not None:
            self._source.start(self._on_host_pressure, self._on_source_gone)
        watcher = asyncio.create_task(self._folder.run(), name="folder")
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait((watcher, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            watcher.cancel()
            results = await asyncio.gather(watcher, return_exceptions=True)
            self._journal.write("stop")
        if isinstance(results[0], Exception):
            raise results[0]

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    def emit(self, event: Event) -> None:
        """Take an event in: state, journal, policy, guard, guests."""
        before = self.state
        self.state = before.after(event)
        self._record(event, before)
        for decision in self._policy.decide(self.state, event):
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        name = self._config.policy
        known = self.state.guests.get(decision.guest)
        verdict = guard.check(known, decision)
        handle = self._folder.guests.get(decision.guest)
        if known is None or handle is None or isinstance(verdict, guard.Refusal):
            why = verdict.why if isinstance(verdict, guard.Refusal) else "the guest is gone"
            self._journal.write(
                "refused",
                guest=decision.guest,
                old=decision.old_target,
                new=decision.new_target,
                reason=decision.reason,
                policy=name,
                why=why,
            )
            return
        handle.set_target(verdict.new_target)
        # Known from now on, so that ten events in a row make ten steps.
        self.state = self.state.after(
            TargetSent(time.monotonic(), verdict.guest, verdict.new_target)
        )
        self._journal.write(
            "decision",
            guest=verdict.guest,
            old=verdict.old_target,
            new=verdict.new_target,
            reason=verdict.reason,
            policy=name,
            actual=known.actual,
            asked=decision.new_target,
        )

    def _record(self, event: Event, before: HostState) -> None:
        write = self._journal.write
        match event:
            case HostPressure():
                write("host-pressure", level=event.level, source=event.source)
            case GuestMessage():
                write("guest-message", guest=event.guest, level=event.level, actual=event.actual)
            case GuestActual():
                write("actual", guest=event.guest, actual=event.actual)
            case GuestLost():
                write("guest-lost", guest=event.guest, why=event.why)
            case GuestSilent():
                write("guest-silent", guest=event.guest)
            case GuestRead():
                sizes = {
                    "guest": event.guest,
                    "ram": event.ram,
                    "actual": event.actual,
                    "target": event.target,
                    "floor": event.floor,
                    "balloon": event.balloon,
                }
                if event.guest not in before.guests:
                    write("guest-added", **sizes, target_known=event.target_known)
                elif before.guests[event.guest] != self.state.guests[event.guest]:
                    write("guest-read", **sizes)

    def _on_host_pressure(self) -> None:
        assert self._source is not None
        self.emit(HostPressure(time.monotonic(), self._source.level, self._source.name))

    def _on_source_gone(self, why: str) -> None:
        assert self._source is not None
        self._journal.write("host-pressure-lost", source=self._source.name, why=why)
        self._report.problem(
            self._source.name,
            f"{why}; going on with the guests' messages alone, restart hostctl to watch again",
        )

    def _make_guest(self, path: Path) -> QmpGuest:
        config = self._config
        floor = config.floors.get(path.stem, config.floor)
        timing = Timing(timeout=config.timeout, refresh=config.refresh)
        return QmpGuest(path, floor, self.emit, self._report, timing)

    def _say_start(self) -> None:
        config = self._config
        source = self._source.name if self._source else None
        self._journal.write(
            "start",
            policy=config.policy,
            step=config.step,
            hysteresis=config.hysteresis,
            sockets=str(config.sockets),
            pressure=source,
            level=config.level,
        )
        say(
            f"policy {config.policy}, sockets {config.sockets}, "
            f"host pressure {source or 'not watched'}"
        )
