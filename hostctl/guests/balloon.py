# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's balloon over QMP: what it is like, whose its target is, what its driver tells."""

from __future__ import annotations

import time
from collections.abc import Callable

from hostctl.errors import QmpDataError
from hostctl.guests import device
from hostctl.guests.device import Call, Device
from hostctl.guests.freshness import Freshness
from hostctl.guests.keeper import Reading, RefusedError
from hostctl.guests.target import BY_HAND, Guessed, Target, Told
from hostctl.policy.model import Stats

AUTOMATIC = (
    "automatic=on: QEMU sizes it by itself; switch that off (qom-set automatic false), "
    "then release the guest"
)


class QmpBalloon:
    """The balloon of one QEMU.

    It outlives connections to the same QEMU. `complain` is told of what it can do without: which
    part, and what is wrong with it.
    """

    def __init__(self, complain: Callable[[str, str], None]) -> None:
        self._complain = complain
        self._call: Call
        self._ram = 0
        self._device: Device | None = None
        self._target: Target | None = None
        self._freshness = Freshness()
        self._refused = False

    def use(self, call: Call) -> None:
        """There is a new connection."""
        self._call = call

    async def read(self) -> Reading:
        """As Balloon.read."""
        try:
            return await self._read()
        except RefusedError:
            self._target = None  # the device may have been replaced: it is looked for again
            raise

    async def _read(self) -> Reading:
        call = self._call
        ram, actual = await device.sizes(call)
        if actual is None:
            self._device = self._target = None
            return Reading(ram, ram, ram, balloon=False)
        look = self._refused
        if self._target is None:
            self._target = await self._find()
            look = True
        asked = await self._asked(ram)
        foreign = self._target.foreign(ram, actual, asked)
        if foreign:
            # Once more: memory may have been plugged in between two answers.
            ram, again = await device.sizes(call)
            actual = ram if again is None else again
            asked = await self._asked(ram)
            foreign = self._target.foreign(ram, actual, asked)
        held = None
        if (look or foreign) and self._device and await self._device.automatic(call):
            held = AUTOMATIC
        elif foreign:
            held = BY_HAND.format(actual if asked is None else asked)
        self._ram, self._refused = ram, False
        target = self._target.take(ram, actual, asked)
        return Reading(ram, actual, target, True, asked is not None, await self._tells(), held)

    async def set(self, target: int) -> bool:
        """As Balloon.set."""
        if self._target is None:
            return False
        asked = await self._asked(self._ram)
        if asked is not None and self._target.foreign(self._ram, self._ram, asked):
            return False
        self._target.sending(target)
        try:
            await self._call("balloon", value=target)
        except RefusedError:
            self._refused = True
            raise
        self._target.sent(target)
        return True

    async def stats(self) -> Stats | None:
        """As Balloon.stats."""
        if self._device is None:
            return None
        reply = await self._device.stats(self._call, self._ram)
        when = self._freshness.read(reply.date, time.monotonic(), time.time())
        return None if when is None else reply.at(when)

    async def poll(self, interval: int) -> None:
        """As Balloon.poll."""
        if self._device is not None:
            await self._device.poll_stats(self._call, interval)

    def suspect(self, actual: int) -> bool:
        """As Balloon.suspect."""
        return self._target is not None and self._target.suspect(actual)

    async def _find(self) -> Target:
        self._device = await device.find(self._call)
        self._freshness = Freshness()
        if self._device is None:
            return Guessed()
        return Told() if self._device.has_target else Guessed()

    async def _tells(self) -> bool:
        try:
            return self._device is not None and await self._device.tells(self._call)
        except QmpDataError as exc:
            # A debugging aid: QEMU may change its reply at any time.
            self._complain("driver", f"{exc}; its statistics tell when it is short")
            return False

    async def _asked(self, ram: int) -> int | None:
        return None if self._device is None else await self._device.target(self._call, ram)
