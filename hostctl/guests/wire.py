# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP's lines on a socket: commands and their replies, and events.

Of our own, and not qemu.qmp: with a thousand guests a reply costs a third of what it costs
there (two tasks and three queues a connection), and reading can be held back. A QEMU is not
trusted: a line has a greatest length, and lines are read no faster than a budget allows. What a
QEMU sends beyond that stays in its own socket, and blocks it alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from hostctl.guests.keeper import EndedError, RefusedError

LINE_MOST = 1 << 17
"""Bytes in a line of QMP that we are ready to hold; the replies we ask for are far smaller."""
LINES_RATE = 500.0
"""Lines a second that a QEMU is heard with for long. It limits balloon events itself, to some
40 a second; our own commands make a few."""
LINES_BURST = 1000.0
LINE_UNIT = 1024
"""A line costs one, and one more for each so many bytes."""
TURN = 32
"""Lines after which others have their turn."""
UNSENT_MOST = 1 << 16
"""Bytes that QEMU has not taken, after which it gets no more: it is frozen."""

Message = Mapping[str, object]


class CommandError(RefusedError):
    """QEMU's error, with its class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Budget:
    """How much may be read: `LINES_BURST` at once, coming back at `LINES_RATE`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = LINES_BURST
        self._when = clock()

    def charge(self, size: int) -> float:
        """Take a line of `size` bytes into account; seconds to wait before the next."""
        now = self._clock()
        self._left = min(self._left + (now - self._when) * LINES_RATE, LINES_BURST)
        self._when = now
        self._left -= 1 + size / LINE_UNIT
        return max(-self._left / LINES_RATE, 0.0)


class Wire(asyncio.Protocol):
    """One connection. Before its first command, `greeted` is to be waited for."""

    def __init__(self, on_event: Callable[[Message], None]) -> None:
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        """Done at QMP's greeting; EndedError when there is none."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the connection is no more."""
        self.wrong: str | None = None
        """What QEMU has done that is not QMP; it ended the connection."""
        self.flooded = False
        """QEMU has sent more than the budget allows."""
        self._on_event = on_event
        self._transport: asyncio.Transport | None = None
        self._budget = Budget()
        self._data = bytearray()
        self._searched = 0
        """There is no line's end before this in the data."""
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._last = 0
        self._paused: asyncio.Handle | None = None

    @property
    def running(self) -> bool:
        """The connection is there."""
        return self._transport is not None and not self._transport.is_closing()

    async def call(self, timeout: float, command: str, arguments: Mapping[str, object]) -> object:
        """A command's reply. Raises CommandError, TimeoutError and EndedError."""
        if self._transport is None or self._transport.is_closing():
            raise EndedError(self.wrong or "the connection ended")
        if self._transport.get_write_buffer_size() > UNSENT_MOST:
            raise TimeoutError
        self._last += 1
        request: dict[str, object] = {"execute": command, "id": self._last}
        if arguments:
            request["arguments"] = arguments
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Message] = loop.create_future()
        self._replies[self._last] = reply
        # Cheaper than asyncio.timeout, and this runs a hundred times a second.
        timer = loop.call_later(timeout, _expire, reply)
        number = self._last
        try:
            self._transport.write(json.dumps(request).encode() + b"\n")
            message = await reply
        finally:
            timer.cancel()
            del self._replies[number]
        if "return" in message:
            return message["return"]
        error = message.get("error")
        told: Mapping[str, object] = error if isinstance(error, dict) else {}
        raise CommandError(str(told.get("class")), str(told.get("desc")))

    def close(self) -> None:
        """End the connection, without waiting for the other side."""
        if self._paused is not None:
            self._paused.cancel()
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._paused is not None:
            self._paused.cancel()
        why = EndedError(self.wrong or "the connection ended")
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(why)
        if not self.greeted.done():
            self.greeted.set_exception(why)
            self.greeted.exception()  # nobody need have waited for it
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._paused is None:
            self._take()

    def _take(self) -> None:
        """Take the lines that are there, so many as their budget and others' turn allow."""
        assert self._transport is not None
        for _ in range(TURN):
            end = self._data.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._data)
                if self._searched > LINE_MOST:
                    self._break(f"a line of more than {LINE_MOST} bytes")
                return
            line = bytes(self._data[:end])
            del self._data[: end + 1]
            self._searched = 0
            try:
                self._line(line)
            except (ValueError, RecursionError) as exc:
                # Without its text: that has what QEMU sent, and would differ each time.
                self._break(type(exc).__name__)
            if self._transport.is_closing():
                return
            wait = self._budget.charge(len(line))
            if wait > 0:
                self.flooded = True
                self._pause(wait)
                return
        self._pause(0.0)

    def _pause(self, wait: float) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._paused = asyncio.get_running_loop().call_later(wait, self._resume)

    def _resume(self) -> None:
        assert self._transport is not None
        self._paused = None
        self._transport.resume_reading()
        self._take()

    def _line(self, line: bytes) -> None:
        """One line. Raises ValueError for what is not QMP."""
        if len(line) > LINE_MOST:
            raise ValueError
        message: Any = json.loads(line.decode())
        if not isinstance(message, dict):
            raise ValueError
        if not self.greeted.done():
            if not isinstance(message.get("QMP"), dict):
                raise ValueError
            self.greeted.set_result(None)
        elif "event" in message:
            self._on_event(message)
        elif type(number := message.get("id")) is int:
            # A reply that comes too late has nobody waiting any more.
            reply = self._replies.get(number)
            if reply is not None and not reply.done():
                reply.set_result(message)
        else:
            raise ValueError

    def _break(self, why: str) -> None:
        self.wrong = f"QEMU did not speak QMP ({why})"
        self.close()


def _expire(reply: asyncio.Future[Message]) -> None:
    if not reply.done():
        reply.set_exception(TimeoutError())
