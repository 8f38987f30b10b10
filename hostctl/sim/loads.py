# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests do: load models, drawn once for each guest and then a function of time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hostctl.sim.memory import Array, Demand

MIB = 1 << 20
DAY = 86400.0
KINDS = ("idle", "steps", "daily", "spikes", "leaks", "cache")
MIXED = "mixed"
"""Each guest has one of the kinds."""
LOADS = (*KINDS, MIXED)
CHUNKS = np.array([1024, 824, 624, 424, 224]) / 1331.2
"""The seed's steps (chunks of 1 MiB in guests of 1.3 GiB), as shares of RAM."""
STEP = 60.0
"""Seconds, of the seed's steps."""


class Loads:
    """The loads of an array of guests; `at` gives what they want."""

    def __init__(self, kind: str, ram: Array, rng: np.random.Generator) -> None:
        """`kind` is one of LOADS; all that is random comes from `rng`."""
        self._ram, self._rng = ram, rng
        shape = ram.shape
        self._kind: NDArray[np.int64] = (
            rng.integers(0, len(KINDS), shape)
            if kind == MIXED
            else np.full(shape, KINDS.index(kind))
        )
        is_, random = self._is, rng.random
        # Shares of RAM: what is always there, and files that are read again and again.
        self._base = np.where(is_("leaks"), 0.10, rng.uniform(0.10, 0.25, shape))
        self._files = np.where(is_("cache"), rng.uniform(0.15, 0.40, shape), 0.05)
        hot = {"idle": 0.3, "steps": 1.0, "daily": 0.6, "spikes": 0.8, "leaks": 0.3, "cache": 0.6}
        self._hot = np.select([is_(name) for name in KINDS], [hot[name] for name in KINDS])
        self._phase = random(shape)
        self._swing = rng.uniform(0.2, 0.55, shape)
        self._down = random(shape) < 0.5
        self._grow = rng.uniform(2 * 3600, 12 * 3600, shape)
        """Seconds in which a leak fills its guest; then its program is started anew."""
        self._speed = rng.uniform(5 * MIB, 40 * MIB, shape)
        self._until = np.zeros(shape)
        """End of the spike or stream, or of the pause, that is under way."""
        self._on = np.zeros(shape, bool)

    def _is(self, name: str) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self._kind == KINDS.index(name)
        return mask

    def at(self, now: float) -> Demand:
        """What the guests want at `now` seconds; times must not go back."""
        self._switch(now)
        anon = self._base.copy()
        daily, steps, leaks = self._is("daily"), self._is("steps"), self._is("leaks")
        wave = (1 - np.cos(2 * np.pi * (now / DAY + self._phase))) / 2
        anon += np.where(daily, self._swing * wave, 0)
        anon += np.where(self._is("spikes") & self._on, self._swing, 0)
        anon += np.where(leaks, 0.75 * ((now / self._grow + self._phase) % 1), 0)
        if steps.any():
            anon = np.where(steps, self._steps(now), anon)
        streams = self._is("cache") & self._on
        return Demand(
            anon * self._ram, self._hot, np.where(streams, self._speed, 0), self._files * self._ram
        )

    def _steps(self, now: float) -> Array:
        """Down, or up a step later, and a pause; again and again. Pairs need not be in phase."""
        place = (now / STEP + np.floor(self._phase * 20)) % 10
        index = np.floor(place).astype(int)
        down = CHUNKS[np.clip(index, 0, 4)]
        up = CHUNKS[::-1][np.clip(index - 1, 0, 4)]
        on = np.where(self._down, index < 5, (index >= 1) & (index < 6))
        return np.where(on, np.where(self._down, down, up), 0.05)

    def _switch(self, now: float) -> None:
        over = now >= self._until
        if not over.any():
            return
        count = int(over.sum())
        on = self._on[over]
        spikes = self._is("spikes")[over]
        # Spikes last 1 to 10 minutes and are half an hour apart, streams last and rest 5 to 30.
        busy = np.where(
            spikes, self._rng.uniform(60, 600, count), self._rng.uniform(300, 1800, count)
        )
        rest = np.where(
            spikes, self._rng.exponential(1800, count), self._rng.uniform(300, 1800, count)
        )
        self._until[over] = now + np.where(on, rest, busy)
        self._on[over] = ~on
        # Nobody begins with a spike: the first turn is a pause.
        if now == 0:
            self._on[over] = False
