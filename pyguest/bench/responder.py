# SPDX-License-Identifier: GPL-2.0-or-later
"""Many QEMUs in one process, as far as their QMP sockets show: for measuring hostctl's scale.

    python -m pyguest.bench.responder FOLDER COUNT

Makes COUNT sockets in FOLDER, says `ready`, and then does what it is told on standard input:

    press RATE SECONDS    RATE guests a second say that they are short, evenly spread; answers with
                          a line of JSON: messages, and the seconds from each to its command
    commands              answers with the number of commands served so far

It ends with its input. Its guests never get what they ask for in full, so that each message
calls for a command.
"""

import asyncio
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

MIB = 1 << 20
RAM = 16384 * MIB
START = 4096 * MIB
"""Size of each guest at first: there is room for hundreds of steps."""
DEVICE = "/machine/peripheral-anon/device[0]"
MESSAGE_BIT = 23
LATE = 2.0
"""Seconds for the last answers, after which they are counted as lost."""
_ERROR = {"class": "GenericError", "desc": "Property not found"}


class Guest(asyncio.Protocol):
    """One guest's QEMU: answers as one with our balloon device, and a driver that tells."""

    commands = 0
    """Served by all."""

    def __init__(self) -> None:
        self.target = self.actual = START
        self.asked: float | None = None
        """When it said that it is short, if no command has come since."""
        self.waits: list[float] = []
        self.interval, self.since = 0, 0.0
        self._transport: asyncio.Transport | None = None
        self._text = ""
        self._decoder = json.JSONDecoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say({"QMP": {"version": {}, "capabilities": []}})

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._text = ""

    def data_received(self, data: bytes) -> None:
        self._text += data.decode()
        # The library ends a request by its closing brace, not by a line's end.
        while text := self._text.lstrip():
            try:
                request, end = self._decoder.raw_decode(text)
            except ValueError:
                return
            self._text = text[end:]
            Guest.commands += 1
            reply = self._answer(request["execute"], request.get("arguments", {}))
            self._say({**reply, "id": request["id"]} if "id" in request else reply)
        self._text = ""

    def press(self) -> bool:
        """Say that it is short; whether somebody listens."""
        if self._transport is None:
            return False
        self.asked = time.monotonic()
        self._event("BALLOON_PRESSURE", level="low", actual=self.actual)
        return True

    def _event(self, name: str, **data: object) -> None:
        now = {"seconds": int(time.time()), "microseconds": 0}
        self._say({"event": name, "data": {**data, "qom-path": DEVICE}, "timestamp": now})

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps(message).encode() + b"\r\n")

    def _answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        match command:
            case "query-memory-size-summary":
                return {"return": {"base-memory": RAM, "plugged-memory": 0}}
            case "query-balloon":
                return {"return": {"actual": self.actual}}
            case "qom-list" if arguments["path"] == "/machine/peripheral-anon":
                return {"return": [{"name": "device[0]", "type": "child<virtio-balloon-pci>"}]}
            case "qom-list":
                return {"return": []}
            case "x-query-virtio-status":
                bits = {"dev-features": [], "unknown-dev-features": 1 << MESSAGE_BIT}
                return {"return": {"guest-features": bits}}
            case "qom-get":
                return self._property(arguments["property"])
            case "balloon":
                self._resize(arguments["value"])
            case "qom-set" if arguments["value"] != self.interval:
                self.interval, self.since = arguments["value"], time.time()
        return {"return": {}}

    def _property(self, name: str) -> dict[str, Any]:
        match name:
            case "target":
                return {"return": self.target}
            case "message-vq":
                return {"return": True}
            case "automatic":
                return {"return": False}
            case "guest-stats":
                available = self.actual // 4 + random.randrange(64) * MIB // 8
                told = {"stat-total-memory": self.actual, "stat-available-memory": available,
                        "stat-free-memory": available // 2, "stat-disk-caches": available // 2,
                        "stat-swap-in": 0, "stat-swap-out": 0, "stat-major-faults": 100}
                return {"return": {"last-update": int(self._polled_at()), "stats": told}}
        return {"error": _ERROR}

    def _polled_at(self) -> float:
        """When QEMU has asked the driver last: at once, and then in its interval. 0: never."""
        passed = time.time() - self.since
        return self.since + passed // self.interval * self.interval if self.interval else 0.0

    def _resize(self, target: int) -> None:
        if self.asked is not None:
            self.waits.append(time.monotonic() - self.asked)
            self.asked = None
        self.target = self.actual = target
        self._event("BALLOON_CHANGE", actual=target)


async def press(guests: list[Guest], rate: float, seconds: float) -> dict[str, Any]:
    """Have guests, by turns, say that they are short; what came of it."""
    start = time.monotonic()
    turns = random.sample(guests, len(guests))
    turn = messages = 0
    while (now := time.monotonic()) < start + seconds:
        while turn < (now - start) * rate:
            messages += turns[turn % len(turns)].press()
            turn += 1
        await asyncio.sleep(1 / rate)
    await asyncio.sleep(LATE)
    waits = [wait for guest in guests for wait in guest.waits]
    lost = sum(guest.asked is not None for guest in guests)
    for guest in guests:
        guest.waits.clear()
        guest.asked = None
    return {"messages": messages, "lost": lost, "waits": waits}


async def serve(folder: Path, count: int) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    guests = [Guest() for _ in range(count)]
    for number, guest in enumerate(guests):
        path = folder / f"guest-{number:04}.qmp"
        await loop.create_unix_server(lambda guest=guest: guest, path)  # type: ignore[misc]
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := (await reader.readline()).split():
        if line[0] == b"press":
            print(json.dumps(await press(guests, float(line[1]), float(line[2]))), flush=True)
        else:
            print(Guest.commands, flush=True)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
