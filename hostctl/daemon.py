# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: pools and guests -> policy -> guard -> guests, all of it written down.

What a guest's target is, it reads back from QEMU; of an earlier run it knows the holds alone.
Each part is kept at work by itself: one that fails is told of and started again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from hostctl.config import Config, control_socket, record, restart_for
from hostctl.control.server import ControlServer
from hostctl.core import Core
from hostctl.engine import TICK
from hostctl.errors import HostctlError
from hostctl.finders import Place, places
from hostctl.guests.names import Names
from hostctl.journal import Journal, say
from hostctl.metrics import serving
from hostctl.notify import Notifier
from hostctl.places import Places
from hostctl.policy.model import Event, HostState, Tick
from hostctl.pools import Pools
from hostctl.pressure.occupancy import Occupancies
from hostctl.pressure.pool import Pool, PoolConfig
from hostctl.recorder import Record
from hostctl.runtime import Locks
from hostctl.supervise import supervise


class Daemon:
    """One host's guests. `load` reads the configuration again, or raises HostctlError."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        load: Callable[[], Config],
        *,
        notifier: Notifier,
        dry_run: bool = False,
    ) -> None:
        self._config = config
        self._journal = journal
        self._load = load
        self._notifier = notifier
        self._dry_run = dry_run
        self._core = Core(config, journal, dry_run=dry_run)
        self._places = Places(self._core.emit, self._core.report)
        self._core.channel = self._places.channel
        occupancies = Occupancies(lambda: self._core.state)
        self._pools = Pools(self._make_pool, lambda event: self._core.emit(occupancies.add(event)))
        self._names = Names()
        self._locks = Locks(control_socket().parent)
        self._stop = asyncio.Event()
        journal.head = self._head

    @property
    def state(self) -> HostState:
        """The host as it is known now."""
        return self._core.state

    def emit(self, event: Event) -> None:
        """Take an event in."""
        self._core.emit(event)

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or `stop`. The guests then stay as they are.

        Raises HostctlError where another has a place, a pool cannot be watched, or the metrics
        not be served.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_stray)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        report, control = self._core.report, self._config.control
        server = ControlServer(control, self._core.answer)
        with (
            closing(self._locks),
            serving(self._core.metrics, self._config.metrics),
        ):
            self._locks.take(self._config.guests)
            self._say_start()
            self._pools.change(self._config.pools)
            self._places.change(self._wanted(self._config))
            tasks = [
                asyncio.create_task(supervise(str(control), server.run, report)),
                asyncio.create_task(supervise("ticks", self._tick, report)),
                asyncio.create_task(self._notifier.feed()),
            ]
            self._notifier.ready(self._summary())
            try:
                await self._stop.wait()
            finally:
                self._notifier.stopping()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, self._places.close(), return_exceptions=True)
                self._pools.close()
                self._journal.write("stop")

    def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing."""
        self._notifier.reloading()
        self._reopen_journal()
        old = self._config
        try:
            new = self._load()
            # What can fail comes first.
            self._locks.take(new.guests)
            self._pools.change(new.pools)
        except HostctlError as exc:
            self._locks.keep(old.guests)
            for number, line in enumerate(str(exc).splitlines()):
                self._core.report.forget(f"reload {number}")  # asked for anew, told anew
                self._core.report.problem(f"reload {number}", f"{line}; the old one stays")
        else:
            self._config = new
            self._core.change(new)
            self._places.change(self._wanted(new))
            self._locks.keep(new.guests)
            self._journal.size, self._journal.keep = new.journal.size, new.journal.keep
            restart = restart_for(old, new)
            self._journal.write("reload", **record(new), changed=new != old, restart=restart)
            say(f"reloaded: {self._summary()}")
            if restart:
                say(f"reloaded, but for {', '.join(restart)}: a restart applies that")
        self._notifier.ready(self._summary())

    def _reopen_journal(self) -> None:
        try:
            self._journal.reopen()
        except HostctlError as exc:
            self._core.report.problem("journal", f"{exc}; it goes on in the old file")
        else:
            self._core.report.clear("journal")

    def _wanted(self, config: Config) -> Iterator[Place]:
        return places(config.guests, self._pools.of, self._names)

    def _make_pool(self, config: PoolConfig) -> Pool:
        return Pool(config, self._core.report)

    async def _tick(self) -> None:
        while True:
            self.emit(Tick(time.monotonic()))
            await asyncio.sleep(TICK)

    def _on_stray(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has caught is told once, and ends nothing."""
        exc = context.get("exception")
        self._core.report.problem("hostctl", f"{context.get('message')}: {exc!r}; please report it")

    def _summary(self) -> str:
        config = self._config
        found = [*map(str, config.guests.sockets), *config.guests.libvirt]
        dry = " (dry run: nothing is sent)" if self._dry_run else ""
        watched = [f"{one.source} of {one.group or 'the machine'}" for one in config.pools]
        return (
            f"policy {config.policy}{dry}, guests in {', '.join(found)}, "
            f"host pressure {', '.join(watched)}"
        )

    def _say_start(self) -> None:
        self._journal.write("start", **self._about())
        say(self._summary())

    def _head(self) -> Iterator[Record]:
        """What a new file of the journal begins with: all that a replay of it needs."""
        yield {"mono": time.monotonic(), "event": "continued", **self._about()}
        yield from self._core.known()

    def _about(self) -> Record:
        config = self._config
        return {
            **record(config),
            "dry_run": self._dry_run,
            "sockets": [str(path) for path in config.guests.sockets],
            "libvirt": list(config.guests.libvirt),
            "pools": {pool.name: str(pool.group or "") for pool in config.pools},
        }
