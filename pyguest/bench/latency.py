# SPDX-License-Identifier: GPL-2.0-or-later
"""From the first guest-wide reclaim of a burst to the device's receipt of the message.

One clock: the guest's monotonic one, which tracefs stamps all events with. A burst begins with
the first reclaim after a quiet second. That the device took the message is seen by its used
buffer, so the distance is an upper bound of the time to its receipt. Reclaim at a container's
own limit has trace events of its own, which are not looked at.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..loads import ANONLOAD, CACHELOAD, DISK
from ..progress import Step
from ..vm import Vm

WINDOW = 512
"""Pages that the driver wants to have been scanned (the window of mm/vmpressure.c)."""

QUIET = 1.0
"""Seconds without reclaim before each burst."""
PAUSE = 1.5
"""Seconds without load before each burst: the quiet second, and the end of what was before."""
AFTER = 0.3
"""Seconds after the load in which a late message is still the burst's."""

HOGS = {
    "anonymous": f"{ANONLOAD} -s 80M -H 0",
    "page cache": f"{CACHELOAD} -S 2 {DISK}",
}
"""In turn: the first takes its memory from the page cache, the second fills that again."""

MEMORY_MIB = 256
"""The guest's RAM: small, so that the page cache is soon full again."""

BURST_DEADLINE = 120.0
"""Seconds for a burst that takes 2 to 4 on an idle machine."""

_INSTANCE = "/sys/kernel/tracing/instances/bench"
_EVENTS = (
    "vmscan/mm_vmscan_kswapd_wake",
    "vmscan/mm_vmscan_direct_reclaim_begin",
    "vmscan/mm_vmscan_lru_shrink_inactive",
    "virtio_balloon/balloon_pressure",
    "virtio_balloon/balloon_message_queued",
    "virtio_balloon/balloon_message_acked",
)
_BEGINS = ("mm_vmscan_kswapd_wake", "mm_vmscan_direct_reclaim_begin")
_MARK = "lab_burst"

# Of a burst, what comes before its first message is needed, and the balloon's own events.
_FILTER = (f"/{_MARK}/ || / balloon_/ {{print; if (/balloon_message_queued/) told = 1; next}} "
           "!told && !/^#/ {print}")
_SCANNED = "awk '/^pgscan_(kswapd|direct) / {n += $2} END {print \"scanned\", n}' /proc/vmstat"


@dataclass(frozen=True)
class Event:
    """One trace event; `time` is seconds of the guest's monotonic clock."""

    time: float
    name: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Burst:
    """One burst of reclaim. Distances are milliseconds, None where there is no such event."""

    hog: str
    outcome: str
    """`told`, or why there was no message to measure."""
    scanned: int
    """Pages that guest-wide reclaim scanned in it."""
    level: str | None = None
    queued_ms: float | None = None
    """First reclaim to the message in the queue."""
    acked_ms: float | None = None
    """First reclaim to the device's use of the buffer."""
    window_ms: float | None = None
    """First reclaim to the window's last page scanned: the hog's share of the distance."""


TOLD = "told"

_LINE = re.compile(r"\s(\d+\.\d+): (\w+): ?(.*)")


def parse_trace(text: str) -> list[Event]:
    """The events of a tracefs `trace` file, in order of time; other lines are skipped."""
    found = []
    for line in text.splitlines():
        match = _LINE.search(line)
        if match and not line.startswith("#"):
            fields = dict(pair.split("=", 1) for pair in match[3].split() if "=" in pair)
            found.append(Event(float(match[1]), match[2], fields))
    return sorted(found, key=lambda event: event.time)


def parse_scanned(text: str) -> int:
    """Pages scanned between the first and the last `scanned N` line."""
    counts = [int(count) for count in re.findall(r"^scanned (\d+)$", text, re.M)]
    return counts[-1] - counts[0] if counts else 0


def judge(hog: str, events: list[Event], scanned: int) -> Burst:
    """One burst from its trace: the events of the quiet time, the mark, and those after it."""
    mark = next((n for n, event in enumerate(events) if event.name == "tracing_mark_write"), None)
    if mark is None:
        return Burst(hog, "the trace has no mark of the burst", scanned)
    since = events[mark].time - QUIET
    if any(event.name in _BEGINS and event.time > since for event in events[:mark]):
        return Burst(hog, "reclaim before the burst: the pause was not quiet", scanned)
    burst = events[mark:]
    begin = next((event.time for event in burst if event.name in _BEGINS), None)
    if begin is None:
        return Burst(hog, "no reclaim", scanned)
    queued = next((event for event in burst if event.name == "balloon_message_queued"), None)
    if queued is None:
        if scanned < WINDOW:
            why = f"reclaim of less than {WINDOW} pages"
        elif any(event.name == "balloon_pressure" for event in burst):
            why = "held back by the driver"
        else:
            why = "the driver saw no whole window"
        return Burst(hog, why, scanned)
    acked = next((event for event in burst
                  if event.name == "balloon_message_acked" and event.time >= queued.time), None)
    return Burst(
        hog, TOLD if acked else "not acknowledged", scanned, queued.fields.get("level"),
        (queued.time - begin) * 1000,
        (acked.time - begin) * 1000 if acked else None,
        _window_ms(burst, begin),
    )


def _window_ms(burst: list[Event], begin: float) -> float | None:
    """Milliseconds from the first reclaim to the scan of the window's last page."""
    left = WINDOW
    for event in burst:
        if event.name == "mm_vmscan_lru_shrink_inactive":
            left -= int(event.fields.get("nr_scanned", "0"))
            if left <= 0:
                return (event.time - begin) * 1000
    return None


@contextmanager
def tracing(vm: Vm) -> Iterator[None]:
    """A trace instance of its own in the guest, for the events of bursts."""
    vm.sh(f"mkdir {_INSTANCE} && cd {_INSTANCE} && echo mono > trace_clock && "
          "echo 2048 > buffer_size_kb && "
          f"for one in {' '.join(_EVENTS)}; do echo 1 > events/$one/enable; done")
    try:
        yield
    finally:
        if vm.alive():
            vm.sh(f"echo 0 > {_INSTANCE}/events/enable; rmdir {_INSTANCE}", check=False)


def measure(vm: Vm, count: int, step: Step) -> list[Burst]:
    """Make `count` bursts in a guest, one after the other. The page cache is filled first."""
    vm.sh(f"dd if={DISK} of=/dev/null bs=1M count={2 * vm.config.memory_mib} 2>/dev/null",
          timeout=BURST_DEADLINE)
    found = []
    names = list(HOGS)
    with tracing(vm):
        for number in range(count):
            hog = names[number % len(names)]
            found.append(_burst(vm, hog))
            told = sum(burst.outcome == TOLD for burst in found)
            step.update(f"{number + 1} of {count}, {told} with a message,")
    return found


def _burst(vm: Vm, hog: str) -> Burst:
    said = vm.sh(
        f"cd {_INSTANCE} && echo > trace && sleep {PAUSE} && {_SCANNED} && "
        f"echo {_MARK} > trace_marker && {HOGS[hog]} >/dev/null && sleep {AFTER} && "
        f"{_SCANNED} && awk '{_FILTER}' trace",
        timeout=BURST_DEADLINE,
    )
    return judge(hog, parse_trace(said), parse_scanned(said))
