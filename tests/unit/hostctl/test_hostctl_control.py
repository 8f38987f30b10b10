# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: any request, any client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.control import answers, client, server
from hostctl.control.protocol import (
    COMMANDS,
    REQUEST_MOST,
    Explain,
    Hold,
    Release,
    Request,
    SetSize,
    Status,
    ask,
    parse,
)
from hostctl.control.server import Answer, ControlServer
from hostctl.errors import HostctlError

NAMES = st.text(min_size=1, max_size=20).filter(str.isprintable)
REQUESTS = st.one_of(
    st.just(Status()),
    st.builds(Explain, NAMES),
    st.builds(Hold, NAMES, NAMES),
    st.builds(Release, NAMES),
    st.builds(SetSize, NAMES, st.integers(0, (1 << 63) - 1)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(REQUESTS)
def test_a_request_comes_through(request: Request) -> None:
    assert parse(ask(request)) == request


@given(st.binary())
def test_any_bytes_are_a_request_or_a_value_error(line: bytes) -> None:
    try:
        parse(line)
    except ValueError as exc:
        assert str(exc)


@given(
    st.dictionaries(
        st.sampled_from(["command", "guest", "why", "size"]) | st.text(max_size=3),
        st.sampled_from([*COMMANDS]) | JSON,
        max_size=4,
    )
)
def test_any_object_is_a_checked_request_or_a_value_error(data: dict[str, object]) -> None:
    try:
        found = parse(json.dumps(data).encode())
    except ValueError:
        return
    for name in ("guest", "why"):
        value = getattr(found, name, "x")
        assert isinstance(value, str) and value and value.isprintable()
    size = getattr(found, "size", 0)
    assert type(size) is int and 0 <= size < 1 << 63


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("[]", "not an object"),
        ('{"command": "halt"}', "known are status"),
        ('{"command": ["status"]}', "unknown command"),
        ('{"command": "explain"}', "explain needs guest"),
        ('{"command": "explain", "guest": "a\\u001b[2J"}', "guest of explain"),
        ('{"command": "explain", "guest": "a", "size": 5}', "unknown field 'size'"),
        ('{"command": "set", "guest": "a", "size": true}', "size of set"),
        ('{"command": "set", "guest": "a", "size": -1}', "size of set"),
        ('{"command": "set", "guest": "a", "size": 1.5}', "size of set"),
    ],
)
def test_what_is_wrong_is_said(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text.encode())
    assert part in str(caught.value)


def echo(request: Request) -> Answer:
    if isinstance(request, Release):
        raise HostctlError("a is not held")
    return answers.one(asked=str(request))


@asynccontextmanager
async def serving(path: Path, patience: float = 5.0) -> AsyncIterator[ControlServer]:
    one = ControlServer(path, echo, patience=patience)
    task = asyncio.create_task(one.run())
    while not path.exists() or not listens(path):
        await asyncio.sleep(0.01)
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not path.exists()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


async def say(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_requests_are_answered_and_the_socket_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "control"

    async def run() -> None:
        old = os.umask(0)
        try:
            async with serving(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                reply = await asyncio.to_thread(client.call, path, Explain("a"))
                assert reply["asked"] == str(Explain("a"))
                with pytest.raises(HostctlError, match="a is not held"):
                    await asyncio.to_thread(client.call, path, Release("a"))
                assert b"not JSON" in await say(path, b"hello\n")
        finally:
            os.umask(old)

    asyncio.run(run())


def test_what_a_killed_daemon_left_does_not_hinder(tmp_path: Path) -> None:
    path = tmp_path / "control"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    async def run() -> None:
        async with serving(path):
            assert b"true" in await say(path, ask(Status()))

    asyncio.run(run())
    path.write_text("mine")

    async def other() -> None:
        with pytest.raises(HostctlError, match="no socket"):
            await ControlServer(path, echo).run()

    asyncio.run(other())
    assert path.read_text() == "mine"


def test_slow_silent_and_long_clients_are_dropped_and_delay_nobody(tmp_path: Path) -> None:
    path = tmp_path / "control"

    async def run() -> None:
        async with serving(path, patience=0.3):
            silent = [await asyncio.open_unix_connection(path) for _ in range(8)]
            assert b"true" in await say(path, ask(Status()))
            assert b"at most" in await say(path, b"x" * REQUEST_MOST)
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
            assert b"true" in await say(path, ask(Status()))

    asyncio.run(run())


def test_few_clients_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "control"

    async def run() -> None:
        async with serving(path, patience=60):
            silent = [await asyncio.open_unix_connection(path) for _ in range(server.CLIENTS_MOST)]
            assert await say(path, ask(Status())) == b""
            silent[0][1].close()
            while not await say(path, ask(Status())):
                await asyncio.sleep(0.01)
            for _, writer in silent:
                writer.close()

    asyncio.run(run())


def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "control"
    taken = []

    def endless(request: Request) -> Iterator[str]:
        while True:
            taken.append(1)
            yield "x" * 65536

    async def run() -> None:
        one = ControlServer(path, endless, patience=0.3)
        task = asyncio.create_task(one.run())
        while not path.exists():
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(path, limit=16)
        writer.write(ask(Status()))
        await asyncio.sleep(1)
        before = len(taken)
        await asyncio.sleep(0.3)
        assert 0 < len(taken) == before
        writer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_other_users_get_no_answer() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    path = folder / "control"

    def as_nobody(sock: socket.socket) -> bytes:
        got, send = os.pipe()
        if os.fork() == 0:
            try:
                os.setuid(65534)
                sock.connect(str(path))
                sock.sendall(ask(Status()))
                os.write(send, b"answer" if sock.recv(10) else b"none")
            except ConnectionError:
                os.write(send, b"none")
            finally:
                os._exit(0)
        os.close(send)
        return os.read(got, 10)

    async def run() -> None:
        async with serving(path):
            path.chmod(0o666)  # as if somebody had opened it
            with socket.socket(socket.AF_UNIX) as sock:
                assert await asyncio.to_thread(as_nobody, sock) == b"none"
            assert b"true" in await say(path, ask(Status()))

    asyncio.run(run())
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (b"", "without an answer"),
        (b"hello", "without an answer"),
        (b"[]", "without an answer"),
        (b'{"ok": false, "error": "no"}', "no"),
    ],
)
def test_the_subcommands_name_what_is_wrong(tmp_path: Path, answer: bytes, part: str) -> None:
    path = tmp_path / "control"
    with pytest.raises(HostctlError, match="no hostctl listens"):
        client.call(path, Status())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        def serve() -> None:
            one, _ = sock.accept()
            with one:
                one.recv(100)
                one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(HostctlError) as caught:
            client.call(path, Status())
        thread.join()
    assert part in str(caught.value) and "\n" not in str(caught.value)
