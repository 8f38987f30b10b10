# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view: what the record says so far, on a terminal or as a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .record import Recording

MIB = 1 << 20
BAR = 40
LINE_SECONDS = 5.0
"""Between two lines where the output is not a terminal."""
LAST_EVENTS = 8


def bar(value: float, full: float, width: int = BAR) -> str:
    """A bar of `width` characters, filled by value/full."""
    filled = round(width * min(max(value / full, 0.0), 1.0)) if full else 0
    return "█" * filled + "·" * (width - filled)


def status_line(record: Recording) -> str:
    """The newest state in one line."""
    sample = record.samples[-1]
    parts = [f"{sample.time - record.start:5.0f} s",
             f"host {sample.used // MIB}/{sample.limit // MIB} MiB",
             f"swap {sample.swap_used // MIB} MiB"]
    for guest in _guests(record):
        size, target = _size(record, guest)
        parts.append(f"{guest}: {size // MIB} MiB (target {target // MIB}, "
                     f"{len(record.events('guest-message', guest))} messages)")
    return "  ".join(parts)


def screen(record: Recording) -> Group:
    """The newest state as a screen of 80 columns."""
    sample = record.samples[-1]
    host = Table.grid(padding=(0, 1))
    host.add_row("host", bar(sample.used, sample.limit),
                 f"{sample.used // MIB} of {sample.limit // MIB} MiB")
    host.add_row("swap", bar(sample.swap_used, sample.limit), f"{sample.swap_used // MIB} MiB")
    guests = Table(box=None, padding=(0, 2))
    for column in ("guest", "size", "target", "balloon", "messages", "last"):
        guests.add_column(column, justify="left" if column in ("guest", "last") else "right")
    for guest in _guests(record):
        ram = record.events("guest-added", guest)[-1]["ram"]
        size, target = _size(record, guest)
        messages = record.events("guest-message", guest)
        last = ""
        if messages:
            last = f"{messages[-1]['level']}, {sample.time - messages[-1]['time']:.0f} s ago"
        guests.add_row(guest, f"{size // MIB} MiB", f"{target // MIB} MiB",
                       f"{(ram - size) // MIB} MiB", str(len(messages)), last)
    return Group(Text(f"{sample.time - record.start:.0f} s", style="bold"), host, Text(), guests,
                 Text(), *(Text(line) for line in story(record)[-LAST_EVENTS:]))


def story(record: Recording) -> list[str]:
    """What happened, a line each; what happens again at once is counted and not repeated."""
    lines: list[tuple[float, str, int]] = []
    for event in record.journal:
        words = describe(event)
        if words is None:
            continue
        if lines and lines[-1][1] == words:
            lines[-1] = (lines[-1][0], words, lines[-1][2] + 1)
        else:
            lines.append((event["time"] - record.start, words, 1))
    return [f"{when:7.1f} s  {words}" + (f", {count} times" if count > 1 else "")
            for when, words, count in lines]


def describe(event: dict[str, Any]) -> str | None:
    """An event or decision of the journal in words; None for what is not part of the story."""
    match event["event"]:
        case "host-pressure":
            return f"host pressure ({event['level']})"
        case "guest-message":
            return f"guest {event['guest']}: message {event['level']}"
        case "decision":
            old, new = event["old"] // MIB, event["new"] // MIB
            return f"guest {event['guest']}: {old} -> {new} MiB for {event['reason']}"
    return None


class View:
    """Shows a recording again and again."""

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._said = 0.0

    def show(self, record: Recording) -> None:
        if not record.samples:
            return
        if self._live is not None:
            self._live.update(screen(record))
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            print(status_line(record), flush=True)


@contextmanager
def open_view() -> Iterator[View]:
    """A live screen on a terminal, lines elsewhere."""
    if not sys.stdout.isatty():
        yield View(None)
        return
    with Live(console=Console(), refresh_per_second=4) as live:
        yield View(live)


def _guests(record: Recording) -> list[str]:
    return sorted({event["guest"] for event in record.events("guest-added")})


def _size(record: Recording, guest: str) -> tuple[int, int]:
    """(actual, target) as the journal has them last."""
    added = record.events("guest-added", guest)[-1]
    actual = [event["actual"] for event in record.events("actual", guest)]
    target = [event["new"] for event in record.events("decision", guest)]
    return (actual or [added["actual"]])[-1], (target or [added["target"]])[-1]
