# SPDX-License-Identifier: GPL-2.0-or-later
"""A small QMP server that stands for a QEMU and its guest; each fault is a switch."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

from hostctl.journal import Reporter

MIB = 1 << 20
RAM = 512 * MIB
DEVICE = "/machine/peripheral-anon/device[0]"
PATH = f"{DEVICE}/virtio-backend"

QEMUS: list[FakeQemu] = []
"""All that a test has started."""


class Said(Reporter):
    """A Reporter that keeps its problems."""

    def __init__(self) -> None:
        super().__init__(self)  # type: ignore[arg-type]  # it writes here
        self.problems: list[tuple[str, str]] = []

    def write(self, event: str, *, about: str, message: str) -> None:
        """As the journal's."""
        self.problems.append((about, message))


class FakeQemu:
    """Answers QMP as a QEMU with our balloon device does; each fault is a switch."""

    def __init__(
        self, path: Path, *, actual: int = RAM, target: int | None = None, stock: bool = False
    ) -> None:
        self.path = path
        self.actual = actual
        self.target = actual if target is None else target
        self.stock = stock
        self.balloon = True
        self.frozen = False
        self.refuse = False
        self.hold: asyncio.Event | None = None
        """Set: replies to qom-get wait for it, with what was true before."""
        self.held = False
        self.greeting: bytes | None = None
        self.override: dict[str, object] = {}
        """Replies by command, or by property."""
        self.broken: set[str] = set()
        """Commands that are refused."""
        self.asked: Counter[str] = Counter()
        """How often each command came."""
        self.ends_at: str | None = None
        """A command at which the connection ends, once."""
        self.automatic = False
        self.driver = True
        """It answers each poll for statistics, and at once."""
        self.messages = not stock
        """The driver has accepted the message queue."""
        self.stats: dict[str, object] = {
            "stat-total-memory": RAM,
            "stat-available-memory": RAM // 2,
            "stat-swap-in": (1 << 64) - 1,
        }
        self.interval = 0
        self.date = 0
        """Seconds of the wall clock when the driver answered last."""
        self.sent: list[int] = []
        self.flooded = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        QEMUS.append(self)
        self._server = await asyncio.start_unix_server(self._client, self.path)

    def die(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self.path.unlink(missing_ok=True)

    def hang_up(self) -> None:
        """Close the connection, and go on listening."""
        for writer in self._writers:
            writer.transport.abort()

    async def flood(self, data: bytes) -> None:
        """Send it for ever, as fast as it is taken; counted in `flooded`."""
        while True:
            for writer in self._writers:
                writer.write(data)
                self.flooded += len(data)
                await writer.drain()
            await asyncio.sleep(0)

    def event(self, name: str, **data: object) -> None:
        self.raw(json.dumps({"event": name, "data": data, "timestamp": {}}).encode() + b"\r\n")

    def raw(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)

    def press(self, *levels: str) -> None:
        for level in levels or ("low",):
            path = {"qom-path": PATH}
            self.event("BALLOON_PRESSURE", level=level, actual=self.actual, **path)

    @property
    def connected(self) -> bool:
        return bool(self._writers)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.frozen:
                await asyncio.sleep(3600)
            hello = json.dumps({"QMP": {"version": {}, "capabilities": []}}).encode() + b"\r\n"
            writer.write(self.greeting or hello)
            while True:
                # The library ends its requests by their closing brace, not by a line's end.
                text = await reader.readuntil(b"}")
                while text.count(b"{") > text.count(b"}"):
                    text += await reader.readuntil(b"}")
                request = json.loads(text)
                if self.frozen:
                    continue
                if request["execute"] == self.ends_at:
                    self.ends_at = None
                    break
                answer = self._answer(request["execute"], request.get("arguments", {}))
                if self.hold is not None and request["execute"] == "qom-get":
                    self.held = True
                    await self.hold.wait()
                if "id" in request:
                    answer["id"] = request["id"]
                writer.write(json.dumps(answer).encode() + b"\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        def error(kind: str, text: str) -> dict[str, object]:
            return {"error": {"class": kind, "desc": text}}

        self.asked[command] += 1
        if command in self.broken:
            return error("GenericError", f"number {self.asked[command]} is refused")
        if command in self.override:
            return {"return": self.override[command]}
        match command:
            case "query-memory-size-summary":
                return {"return": {"base-memory": RAM - 64 * MIB, "plugged-memory": 64 * MIB}}
            case "query-balloon" if not self.balloon:
                return error("DeviceNotActive", "No balloon device has been activated")
            case "query-balloon":
                return {"return": {"actual": self.actual}}
            case "qom-list":
                here = arguments["path"] == "/machine/peripheral-anon"
                item = {"name": "device[0]", "type": "child<virtio-balloon-pci>"}
                return {"return": [item] if here else []}
            case "qom-get" | "qom-set" if arguments["path"] != PATH:
                return error("GenericError", "no such device")
            case "qom-get":
                name = str(arguments["property"])
                found = self.override.get(name, self._property(name))
                return (
                    error("GenericError", "no such property")
                    if found is None
                    else {"return": found}
                )
            case "qom-set":
                assert arguments["property"] == "guest-stats-polling-interval"
                value = arguments["value"]
                assert isinstance(value, int)
                self.interval = value
            case "x-query-virtio-status":
                features = {"dev-features": [], "unknown-dev-features": self.messages << 23}
                return {"return": {"guest-features": features}}
            case "balloon" if self.refuse:
                return error("GenericError", "automatic is on")
            case "balloon":
                value = arguments["value"]
                assert isinstance(value, int)
                self.target = value
                self.sent.append(value)
        return {"return": {}}

    def _property(self, name: str) -> object:
        if name == "guest-stats":
            if self.driver and self.interval:
                self.date = int(time.time())
            return {"last-update": self.date, "stats": self.stats}
        ours = {"target": self.target, "message-vq": True, "automatic": self.automatic}
        return None if self.stock else ours.get(name)
