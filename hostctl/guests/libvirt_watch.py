# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to libvirt that tells which domains there are, and what happens to them.

All of it blocks, and its callbacks come from libvirt's own thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import libvirt
import libvirt_qemu

from hostctl.guests.domain import KIB
from hostctl.guests.libvirt_link import connect

PRESSURE = "BALLOON_PRESSURE"
"""Our device's event of the monitor."""


@dataclass(frozen=True, slots=True)
class Found:
    """A domain that runs; it gets another id when it is started anew."""

    name: str
    uuid: str
    id: int


class Listener(Protocol):
    """What is called, in libvirt's thread."""

    def on_life(self) -> None:
        """A domain has come, gone or changed its state."""
        ...

    def on_balloon(self, uuid: str, actual: int) -> None:
        """A domain's size is now `actual` bytes."""
        ...

    def on_monitor(self, uuid: str, event: str, details: str) -> None:
        """An event of a QEMU that libvirt hands on as it is; `details` is JSON."""
        ...

    def on_close(self) -> None:
        """The connection has ended."""
        ...


class Watch:
    """A connection with all events registered. Its methods raise libvirtError."""

    def __init__(self, uri: str, listener: Listener) -> None:
        self.missing: str | None = None
        """Why the guests' messages do not come, if they do not."""
        self._connection = connect(uri)
        self._undo: list[Callable[[], object]] = []
        try:
            self._register(listener)
        except libvirt.libvirtError:
            self.close()
            raise

    def _register(self, listener: Listener) -> None:
        connection = self._connection

        def life(*_: object) -> None:
            listener.on_life()

        def balloon(_: object, domain: libvirt.virDomain, actual: int, *__: object) -> None:
            listener.on_balloon(domain.UUIDString(), actual * KIB)

        def monitor(_: object, domain: libvirt.virDomain, event: str, *rest: object) -> None:
            listener.on_monitor(domain.UUIDString(), event, str(rest[2]))

        for kind, call in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, life),
            (libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, balloon),
        ):
            number = connection.domainEventRegisterAny(None, kind, call, None)
            self._undo.append(partial(connection.domainEventDeregisterAny, number))
        with suppress(libvirt.libvirtError):  # a driver within this process cannot be lost
            connection.registerCloseCallback(lambda *_: listener.on_close(), None)
            self._undo.append(connection.unregisterCloseCallback)
        try:
            found = libvirt_qemu.qemuMonitorEventRegister(connection, None, PRESSURE, monitor, None)
        except libvirt.libvirtError as exc:
            self.missing = str(exc)
        else:
            self._undo.append(lambda: libvirt_qemu.qemuMonitorEventDeregister(connection, found))

    def running(self) -> list[Found]:
        """The domains that run, or are paused."""
        found = []
        for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            # One that ends meanwhile has the id -1.
            if (number := domain.ID()) > 0:
                found.append(Found(domain.name(), domain.UUIDString(), number))
        return found

    def close(self) -> None:
        """Let the connection go: what is registered would keep it."""
        for undo in self._undo:
            with suppress(libvirt.libvirtError):
                undo()
        with suppress(libvirt.libvirtError):
            self._connection.close()
