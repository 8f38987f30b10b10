# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver does where there is nothing to do: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from guests import MIB, TRACING, inject, ram, resize, told

from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

IDLE_SECONDS = 60
QUEUED = ("workqueue/workqueue_queue_work", "timer/timer_start")
"""Trace events of a work that is queued and of a timer that is set."""


def functions(vm: Vm) -> tuple[str, str]:
    """The first and the last address of the driver's functions."""
    found = vm.sh("awk '$2 ~ /^[tT]$/ && $4 == \"[virtio_balloon]\" {print $1}' /proc/kallsyms "
                  "| sort | sed -n '1p;$p'").split()
    return f"0x{found[0]}", f"0x{found[-1]}"


@dataclass
class Watch:
    """What the driver ran and queued; filled at the end of `watched`."""

    lines: list[str]


@contextmanager
def watched(vm: Vm) -> Iterator[Watch]:
    """Trace each function of the driver, and each work and timer that calls one of it."""
    first, last = functions(vm)
    events = " ".join(f"{TRACING}/events/{name}" for name in QUEUED)
    vm.sh(f"cd {TRACING}; echo ':mod:virtio_balloon' > set_ftrace_filter; echo > trace; "
          f"for one in {events}; do "
          f"echo 'function >= {first} && function <= {last}' > $one/filter && "
          "echo 1 > $one/enable || exit 1; done; "
          "echo function > current_tracer")
    watch = Watch([])
    try:
        yield watch
    finally:
        # Another tracer starts with an empty buffer: read it first.
        text = vm.sh(f"cd {TRACING}; cat trace; for one in {events}; do echo 0 > $one/enable; "
                     "echo 0 > $one/filter; done; "
                     "echo nop > current_tracer; echo > set_ftrace_filter; echo > trace")
        watch.lines += [line for line in text.splitlines() if line and not line.startswith("#")]


def test_an_idle_minute_costs_nothing(guest: Vm) -> None:
    """Without load no function of the driver runs, no work or timer is queued, nothing is sent.

    That the tracer sees them is shown by a message and a new size, right after.
    """
    if "function" not in guest.sh(f"cat {TRACING}/available_tracers").split():
        pytest.skip("this kernel has no function tracer")
    with watched(guest) as idle:
        assert told(guest, IDLE_SECONDS) == []
    assert idle.lines == []

    with watched(guest) as busy:
        inject(guest, 1)
        resize(guest, ram(guest) - MIB)
    resize(guest, ram(guest))
    assert told(guest, 5, enough=1) == ["low"]
    for what in ("balloon_pressure_inject", "balloon_pressure_acked", "update_balloon_size_func",
                 "workqueue_queue_work:"):
        assert any(what in line for line in busy.lines), f"{what} was to be seen"
