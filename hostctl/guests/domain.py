# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's balloon over libvirt. libvirt's sizes are KiB."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree

import libvirt

from hostctl.errors import QmpDataError
from hostctl.guests.freshness import Freshness
from hostctl.guests.keeper import Reading, RefusedError
from hostctl.guests.libvirt_link import Link
from hostctl.guests.parse import StatsReply
from hostctl.guests.target import BY_HAND, Guessed
from hostctl.policy.model import PAGE, SIZE_END, Stats

T = TypeVar("T")

KIB = 1 << 10
SIZES = {
    "available": "total",
    "unused": "free",
    "usable": "available",
    "disk_caches": "caches",
}
"""libvirt's names (virDomainMemoryStatTags) and ours in Stats, of parts of the guest's RAM."""
SWAPPED = {"swap_in": "swap_in", "swap_out": "swap_out"}
COUNTS = {"major_fault": "major_faults"}


def stats(reply: Mapping[str, int], ram: int) -> StatsReply:
    """What memoryStats gives; names that we do not know are passed over.

    Raises QmpDataError for a size above the RAM, and for what is no size.
    """
    values = {}
    for names, unit, most in (
        (SIZES, KIB, ram),
        (SWAPPED, KIB, SIZE_END - 1),
        (COUNTS, 1, SIZE_END - 1),
    ):
        for key, ours in names.items():
            if key in reply:
                values[ours] = _within(key, reply[key] * unit, most)
    return StatsReply(_within("last_update", reply.get("last_update", 0), SIZE_END - 1), values)


def _within(key: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise QmpDataError(
            f"memoryStats: {key} is {value} and not within {most}; "
            "this guest's word on it is ignored"
        )
    return value


def has_balloon(xml: str) -> bool:
    """Does the domain, by its XML, have a virtio balloon?"""
    try:
        found = ElementTree.fromstring(xml).find("./devices/memballoon")
    except ElementTree.ParseError:
        return False
    return found is not None and found.get("model", "none").startswith("virtio")


@dataclass(frozen=True, slots=True)
class _Sizes:
    ram: int
    actual: int
    balloon: bool


class DomainBalloon:
    """The balloon of the domain `uuid`, while that runs.

    libvirt does not tell the target, so that a manual change is seen when the guest gets smaller.
    `local`: it is on this host, and has our wall clock.
    """

    def __init__(self, link: Link, uuid: str, *, local: bool) -> None:
        self.told = False
        """It has sent a message."""
        self._link = link
        self._uuid = uuid
        self._local = local
        self._ram = 0
        self._balloon = False
        self._target = Guessed()
        self._freshness = Freshness()

    async def read(self) -> Reading:
        """As Balloon.read."""

        def sizes(domain: libvirt.virDomain) -> _Sizes:
            ram = domain.maxMemory() * KIB
            if not has_balloon(domain.XMLDesc()):
                return _Sizes(ram, ram, False)
            return _Sizes(ram, _reply(domain)["actual"] * KIB, True)

        now = await self._call(sizes)
        if now.ram <= 0 or now.ram % PAGE or not 0 <= now.actual <= now.ram:
            raise QmpDataError(
                f"libvirt tells of {now.actual} of {now.ram} bytes of RAM, which cannot be; "
                "this guest's word on it is ignored"
            )
        self._ram, self._balloon = now.ram, now.balloon
        if not now.balloon:
            return Reading(now.ram, now.ram, now.ram, balloon=False)
        foreign = self._target.foreign(now.ram, now.actual, None)
        target = self._target.take(now.ram, now.actual, None)
        held = BY_HAND.format(now.actual) if foreign else None
        return Reading(now.ram, now.actual, target, tells=self.told, held=held)

    async def set(self, target: int) -> bool:
        """As Balloon.set."""
        if not self._balloon:
            return False
        self._target.sending(target)
        await self._call(
            lambda domain: domain.setMemoryFlags(target // KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        )
        return True

    async def stats(self) -> Stats | None:
        """As Balloon.stats."""
        if not self._balloon:
            return None
        reply = stats(await self._call(_reply), self._ram)
        wall = time.time() if self._local else None
        when = self._freshness.read(reply.date, time.monotonic(), wall)
        return None if when is None else reply.at(when)

    def suspect(self, actual: int) -> bool:
        """As Balloon.suspect."""
        return self._target.suspect(actual)

    async def poll(self, interval: int) -> None:
        """As Balloon.poll."""
        if not self._balloon:
            return
        # Not every driver polls; it shows in the age of the statistics.
        with suppress(RefusedError):
            await self._call(
                lambda domain: domain.setMemoryStatsPeriod(interval, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            )

    async def _call(self, do: Callable[[libvirt.virDomain], T]) -> T:
        return await self._link.call(
            self._uuid, lambda connection: do(connection.lookupByUUIDString(self._uuid))
        )


def _reply(domain: libvirt.virDomain) -> Mapping[str, int]:
    reply: object = domain.memoryStats()
    if not isinstance(reply, dict) or "actual" not in reply:
        raise QmpDataError("memoryStats: no actual size; this guest's word on it is ignored")
    return reply
