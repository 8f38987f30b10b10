# SPDX-License-Identifier: GPL-2.0-or-later
"""The balloon device as QMP shows it: where it is in QOM, and what it can tell."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from hostctl.guests import parse
from hostctl.guests.wire import CommandError

PERIPHERALS = ("/machine/peripheral", "/machine/peripheral-anon")
"""Where QEMU keeps the devices given with -device, with an id and without."""


class Call(Protocol):
    """A QMP command, as Connection.call."""

    def __call__(self, command: str, **arguments: object) -> Awaitable[object]: ...


async def sizes(call: Call) -> tuple[int, int | None]:
    """The guest's RAM and its actual size in bytes; None: it has no balloon."""
    ram = parse.memory(await call("query-memory-size-summary"))
    try:
        return ram, parse.balloon(await call("query-balloon"), ram)
    except CommandError as exc:
        if exc.kind != "DeviceNotActive":
            raise
        return ram, None


@dataclass(frozen=True, slots=True)
class Device:
    """A balloon device; stock QEMU's has neither target, messages nor automatic."""

    path: str
    has_target: bool
    has_messages: bool
    """It offers the message queue."""

    async def target(self, call: Call, ram: int) -> int | None:
        """The size asked for in bytes; None: it does not tell."""
        if not self.has_target:
            return None
        return parse.target(await call("qom-get", path=self.path, property="target"), ram)

    async def tells(self, call: Call) -> bool:
        """Did the guest's driver accept the message queue?"""
        if not self.has_messages:
            return False
        try:
            return parse.tells(await call("x-query-virtio-status", path=self.path))
        except CommandError:
            return False  # the command is a debugging aid, and may be compiled out

    async def automatic(self, call: Call) -> bool:
        """Does QEMU size the guest by itself?"""
        return self.has_target and await _flag(call, self.path, "automatic")

    async def poll_stats(self, call: Call, interval: int) -> None:
        """Have QEMU ask the driver for statistics each `interval` seconds, from now on."""
        name = "guest-stats-polling-interval"
        await call("qom-set", path=self.path, property=name, value=interval)

    async def stats(self, call: Call, ram: int) -> parse.StatsReply:
        """The last that the driver has answered."""
        return parse.stats(await call("qom-get", path=self.path, property="guest-stats"), ram)


async def find(call: Call) -> Device | None:
    """The balloon device (QEMU has one at most); None when QOM does not show it."""
    for folder in PERIPHERALS:
        for name in parse.balloons(await call("qom-list", path=folder)):
            path = f"{folder}/{name}"
            try:
                await call("qom-get", path=path, property="target")
            except CommandError:
                return Device(path, has_target=False, has_messages=False)
            return Device(path, True, await _flag(call, path, "message-vq"))
    return None


async def _flag(call: Call, path: str, name: str) -> bool:
    """A property that QEMU may lack: it is off then (`automatic` is for Linux alone)."""
    try:
        return parse.flag(name, await call("qom-get", path=path, property=name))
    except CommandError:
        return False
