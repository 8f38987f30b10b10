# SPDX-License-Identifier: GPL-2.0-or-later
"""The pools that are watched now, as the configuration has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from hostctl.errors import HostctlError
from hostctl.policy.model import Event, PoolLost
from hostctl.pressure.pool import Pool, PoolConfig, pool_of


class Pools:
    """Watches pools, each made by `make`; what they tell goes to `emit`."""

    def __init__(self, make: Callable[[PoolConfig], Pool], emit: Callable[[Event], None]) -> None:
        self._make = make
        self._emit = emit
        self._pools: dict[PoolConfig, Pool] = {}

    def change(self, configs: Iterable[PoolConfig]) -> None:
        """Watch these from now on, and no others. Raises HostctlError with nothing changed."""
        wanted = list(configs)
        new: dict[PoolConfig, Pool] = {}
        early: list[Event] = []
        begun = False

        def tell(event: Event) -> None:
            # What a pool tells at its start counts when all have started.
            (self._emit if begun else early.append)(event)

        try:
            for config in wanted:
                if config not in self._pools:
                    new[config] = self._make(config)
                    new[config].start(tell)
        except HostctlError:
            for pool in new.values():
                pool.close()
            raise
        names = {config.name for config in wanted}
        for config in [one for one in self._pools if one not in wanted]:
            self._pools.pop(config).close()
            if config.name not in names:
                why = "it is not watched any more"
                self._emit(PoolLost(time.monotonic(), config.name, why))
        self._pools.update(new)
        begun = True
        for event in early:
            self._emit(event)

    def of(self, pid: int) -> str:
        """The name of the pool that a process belongs to."""
        return pool_of(pid, self._pools.values())

    def close(self) -> None:
        """Stop watching."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
