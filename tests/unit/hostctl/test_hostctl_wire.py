# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP's lines: any bytes in any pieces, replies that are late, wrong or missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.guests.keeper import EndedError
from hostctl.guests.pace import Pace
from hostctl.guests.wire import (
    LINE_MOST,
    LINES_BURST,
    UNSENT_MOST,
    CommandError,
    Message,
    Wire,
)

HELLO = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


class Qemu(asyncio.Transport):
    """The other side: takes what is written, and says what a test wants."""

    def __init__(self, on_event: Callable[[Message], None] = lambda _: None) -> None:
        super().__init__()
        self.wire = Wire(on_event)
        self.written: list[dict[str, object]] = []
        self.unsent = 0
        self.paused = False
        self._closing = False
        self.wire.connection_made(self)

    def say(self, data: bytes, size: int = 1 << 18) -> None:
        """As asyncio hands it on: in pieces, while it is read, until it is closed."""
        for start in range(0, len(data), size):
            if not self._closing:
                self.wire.data_received(data[start : start + size])

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(json.loads(bytes(data)))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.wire.connection_lost, None)


def play(story: Coroutine[object, object, None]) -> None:
    asyncio.run(story)


LINES = st.one_of(
    st.binary(max_size=50),
    st.sampled_from(
        [
            b'{"event": "X", "data": {}}',
            b'{"return": {}, "id": 1}',
            b'{"return": {}, "id": "1"}',
            b'{"error": 5, "id": 1}',
            b'{"error": {"class": 5}, "id": 1}',
            b'{"id": 1}',
            b'{"id": true, "return": 1}',
            b"[" * 10_000,
            b"1" * 5_000,
            b"{}",
            b"null",
        ]
    ),
)


@given(st.lists(LINES, max_size=8), st.integers(1, 64), st.booleans())
@settings(max_examples=200)
def test_any_bytes_in_any_pieces_end_the_connection_or_nothing(
    lines: list[bytes], size: int, greeted: bool
) -> None:
    async def run() -> None:
        qemu = Qemu()
        if greeted:
            qemu.say(HELLO)
        call = asyncio.create_task(qemu.wire.call(0.01, "query-balloon", {}))
        await asyncio.sleep(0)
        qemu.say(b"\n".join(lines) + b"\n", size)
        with pytest.raises((CommandError, EndedError, TimeoutError)):
            found = await call
            raise TimeoutError(f"a reply: {found!r}")
        assert qemu.is_closing() == (qemu.wire.wrong is not None)
        qemu.wire.close()
        await asyncio.wait_for(qemu.wire.ended, 5)
        assert not qemu.wire.running

    play(run())


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)), st.integers(1, 99)
)
def test_events_come_whole_and_in_order(data: list[dict[str, int]], size: int) -> None:
    async def run() -> None:
        heard: list[Message] = []
        qemu = Qemu(heard.append)
        events = [{"event": "X", "data": one} for one in data]
        qemu.say(HELLO + b"".join(json.dumps(one).encode() + b"\r\n" for one in events), size)
        while len(heard) < len(events):
            await asyncio.sleep(0)
        assert heard == events and qemu.wire.wrong is None

    play(run())


def test_replies_find_their_commands() -> None:
    async def run() -> None:
        qemu = Qemu()
        qemu.say(HELLO)
        await qemu.wire.greeted
        one = asyncio.create_task(qemu.wire.call(5, "a", {}))
        two = asyncio.create_task(qemu.wire.call(5, "b", {"x": 1}))
        late = asyncio.create_task(qemu.wire.call(0.01, "c", {}))
        with pytest.raises(TimeoutError):
            await late
        assert qemu.written[1] == {"execute": "b", "arguments": {"x": 1}, "id": 2}
        qemu.say(b'{"return": 3, "id": 3}\n{"return": 2, "id": 2}\n')
        qemu.say(b'{"error": {"class": "DeviceNotFound", "desc": "no"}, "id": 1}\n')
        assert await two == 2
        with pytest.raises(CommandError, match="no") as caught:
            await one
        assert caught.value.kind == "DeviceNotFound"
        assert qemu.wire.running

    play(run())


def test_no_greeting_no_connection() -> None:
    async def run() -> None:
        qemu = Qemu()
        qemu.say(b'{"return": {}}\n')
        with pytest.raises(EndedError, match="did not speak QMP"):
            await qemu.wire.greeted
        with pytest.raises(EndedError):
            await qemu.wire.call(1, "a", {})

    play(run())


def test_a_line_without_end_and_a_qemu_that_does_not_read() -> None:
    async def run() -> None:
        qemu = Qemu()
        qemu.say(HELLO)
        qemu.unsent = UNSENT_MOST + 1
        with pytest.raises(TimeoutError):
            await qemu.wire.call(1, "a", {})
        assert qemu.written == []
        qemu.say(b"x" * (LINE_MOST + 1), 1000)
        assert "a line of more than" in str(qemu.wire.wrong)

    play(run())


def test_a_flood_is_read_no_faster_than_its_budget() -> None:
    async def run() -> None:
        heard: list[Message] = []
        qemu = Qemu(heard.append)
        qemu.say(HELLO + b'{"event": "X"}\n' * (3 * int(LINES_BURST)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert qemu.wire.flooded and qemu.paused
        assert LINES_BURST / 2 < len(heard) < 2 * LINES_BURST
        before = len(heard)
        while len(heard) == before:
            await asyncio.sleep(0.01)
        qemu.wire.close()

    play(run())


def test_turns_come_one_after_another() -> None:
    async def run() -> None:
        pace, order = Pace(0.001), []

        async def guest(number: int) -> None:
            await pace.turn()
            order.append(number)

        await asyncio.gather(*map(guest, range(20)))
        assert order == list(range(20))

    play(run())
