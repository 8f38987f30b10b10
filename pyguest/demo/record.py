# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of a demonstration: four kinds of JSON lines, read back into one object.

journal.jsonl    hostctl's journal: see hostctl/journal.py
trace-NAME.jsonl the in-guest tracer's lines: see pyguest/guest/messages.py (guest's clock)
samples.jsonl    the host, a few times a second: `Sample`
loads.jsonl      each step of each guest's load: `Load`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jsonl import read_lines


@dataclass(frozen=True)
class Sample:
    """The host at one moment. Bytes, pages since the machine's boot, faults since QEMU's start."""

    time: float
    used: int
    limit: int
    swap_used: int
    pswpin: int
    pswpout: int
    major_faults: dict[str, int]
    minor_faults: dict[str, int]


@dataclass(frozen=True)
class Load:
    """One finished step of a load."""

    time: float
    """When it ended."""
    guest: str
    mib: int
    seconds: float
    records: int


@dataclass(frozen=True)
class Message:
    """A message as the tracer in the guest saw it; `time` is put onto the host's clock."""

    time: float
    guest: str
    level: str
    scanned: int
    reclaimed: int
    actual_pages: int
    ack_us: float


@dataclass(frozen=True)
class Recording:
    """A demonstration's whole record, each list in order of time."""

    journal: list[dict[str, Any]]
    messages: list[Message]
    samples: list[Sample]
    loads: list[Load]

    def events(self, kind: str, guest: str | None = None) -> list[dict[str, Any]]:
        """The journal's records of a kind, of one guest or of all."""
        return [record for record in self.journal
                if record["event"] == kind and guest in (None, record.get("guest"))]

    @property
    def start(self) -> float:
        return self.samples[0].time


def read(folder: Path, clock_offsets: dict[str, float]) -> Recording:
    """Read a record. `clock_offsets` are seconds to add to each guest's clock."""
    messages = [
        Message(line["time"] + offset, guest, line["level"], line["scanned"], line["reclaimed"],
                line["actual"], line["ack_us"])
        for guest, offset in clock_offsets.items()
        for line in read_lines(folder / f"trace-{guest}.jsonl")
    ]
    return Recording(
        journal=list(read_lines(folder / "journal.jsonl")),
        messages=sorted(messages, key=lambda message: message.time),
        samples=[Sample(**line) for line in read_lines(folder / "samples.jsonl")],
        loads=[Load(**line) for line in read_lines(folder / "loads.jsonl")],
    )
