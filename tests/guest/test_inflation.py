# SPDX-License-Identifier: GPL-2.0-or-later
"""The balloon's size: where it stops, that it can be called back, and that it pauses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from guests import (
    MIB,
    PAGE,
    READ_DISK,
    TRACING,
    Trace,
    Traced,
    counters,
    in_state,
    mem_total,
    ram,
    resize,
    told,
    traced,
    wait_actual,
    wait_until,
)

from pyguest.loads import ANONLOAD, background
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

PRESSED = 0.2
"""Seconds for which the driver surely pauses after a window of reclaim (it waits 0.25)."""
PORTION = 256
"""Pages that the driver inflates by in one go; the portion under way is not cut short."""

SAMPLER = f"""
import time
marker = open("{TRACING}/trace_marker", "w", buffering=1)
end = time.monotonic() + %d
while time.monotonic() < end:
    vmstat = dict(line.split() for line in open("/proc/vmstat"))
    marker.write("inflated=%%s deflated=%%s" %% (vmstat["balloon_inflate"],
                                               vmstat["balloon_deflate"]) + chr(10))
    time.sleep(0.02)
"""


@pytest.mark.short
def test_deflation_gives_back_all(guest: Vm) -> None:
    """Inflation takes memory from the guest's kernel, deflation gives back as much."""
    whole = mem_total(guest)
    resize(guest, ram(guest) - 200 * MIB)
    assert mem_total(guest) == whole - 200 * MIB
    resize(guest, ram(guest) - 50 * MIB)
    assert mem_total(guest) == whole - 50 * MIB
    resize(guest, ram(guest))
    assert mem_total(guest) == whole


def test_targets_are_whole_pages_of_the_ram(guest: Vm) -> None:
    """A target above the RAM is all of it; one within a page is the page's end."""
    guest.set_target(ram(guest) - PAGE - 1)
    wait_actual(guest, ram(guest) - PAGE)
    guest.set_target(4 * ram(guest))
    wait_actual(guest, ram(guest))


def test_an_inflation_under_way_is_cancelled(guest: Vm) -> None:
    """A target of the whole RAM, set while the guest inflates, ends that and gives all back."""
    asked = 300 * MIB
    for _ in range(3):
        with traced(guest, "balloon_target") as trace:
            guest.set_target(ram(guest) - asked)
            wait_until(lambda: guest.balloon_actual() < ram(guest), "inflation has begun")
            resize(guest, ram(guest))
        last = trace.of("balloon_target")[-1].fields
        assert last["num_pages"] == "0"
        reached = int(last["actual"]) * PAGE
        if reached < asked:
            break  # else it was there before we could cancel, on a machine that is busy
    assert 0 < reached < asked


def stretches(windows: list[Traced]) -> list[tuple[float, float]]:
    """From when to when the driver was pressed without a break."""
    found: list[tuple[float, float]] = []
    start = windows[0].time
    for one, later in pairwise(windows):
        if later.time - one.time > PRESSED:
            found.append((start, one.time))
            start = later.time
    return [*found, (start, windows[-1].time)]


@pytest.mark.short
def test_inflation_pauses_while_pressed(guest: Vm) -> None:
    """While the guest reclaims, it inflates by no more than the portion under way.

    The target is set once. That it is reached after the load shows that inflation goes on by
    itself, without another interrupt.
    """
    target = ram(guest) - 200 * MIB
    with traced(guest, "balloon_pressure", "balloon_target") as trace:
        with background(guest, READ_DISK):
            assert told(guest, 60, enough=1)
            guest.set_target(target)
            guest.sh(f"python3 -c '{SAMPLER % 6}'")
            assert guest.balloon_actual() > target, "it was to pause before it came to the target"
        wait_actual(guest, target)
    resize(guest, ram(guest))

    assert len(trace.of("balloon_target")) == 1
    asked = trace.of("balloon_target")[0].time
    pressed = [(a, b) for a, b in stretches(trace.of("balloon_pressure")) if b > asked]
    assert sum(b - max(a, asked) for a, b in pressed) > 1, "a second of pressure is the least"
    samples = [(event.time, int(event.fields["inflated"]))
               for event in trace.of("tracing_mark_write")]
    for begin, end in pressed:
        inflated = [pages for when, pages in samples if begin <= when <= end]
        if inflated:
            assert inflated[-1] - inflated[0] <= PORTION


def test_deflation_does_not_wait_behind_an_inflation(guest: Vm) -> None:
    """Called back on the way to a target far off, the guest inflates by one more portion at most.

    The machine is stopped to ask for it, so that nothing can be inflated between the look at the
    balloon and the new target.
    """
    resize(guest, ram(guest) - 50 * MIB)
    before = counters(guest)["balloon_inflate"]
    with (
        traced(guest, "balloon_target") as trace,
        in_state(guest, "inflating", ram(guest) - 300 * MIB),
    ):
        guest.command("stop")
        reached = (ram(guest) - guest.balloon_actual()) // PAGE
        guest.set_target(ram(guest))
        guest.command("cont")
        wait_actual(guest, ram(guest))
    inflated = counters(guest)["balloon_inflate"] - before
    last = trace.of("balloon_target")[-1]
    assert last.fields["num_pages"] == "0"
    actual = int(last.fields["actual"])
    assert actual - reached <= PORTION
    assert inflated - (actual - 50 * MIB // PAGE) <= PORTION


def test_what_a_guest_got_when_it_was_out_of_memory_stays(boot: Callable[..., Vm]) -> None:
    """With deflate-on-oom, the end of pressure is no reason to take the memory back.

    Nothing is to be inflated meanwhile: the guest had its target before it was pressed.
    """
    vm = boot("one", balloon="virtio-balloon-pci,message-vq=on,deflate-on-oom=on")
    target, more = ram(vm) - 200 * MIB, 16 * MIB
    resize(vm, target)
    available = int(vm.sh("awk '/^MemAvailable:/ {print $2}' /proc/meminfo")) << 10
    told(vm, 0)
    vm.sh(f"{ANONLOAD} -s {available + more} -H 0", timeout=300)
    assert told(vm, 1)
    time.sleep(2)
    got = vm.balloon_actual()
    assert got >= target + more // 2
    time.sleep(2)
    assert vm.balloon_actual() == got
    resize(vm, target - MIB)


def began_while_pressed(trace: Trace) -> bool:
    """Whether the first sample of a deflation came before the driver could take pressure for over.

    That is, without a break in the windows of reclaim between the last target and the sample.
    False also where the sampler did not run in time to see it begin.
    """
    asked = trace.of("balloon_target")[-1].time
    samples = [(event.time, int(event.fields["deflated"]))
               for event in trace.of("tracing_mark_write") if event.time >= asked]
    began = next((when for when, pages in samples if pages > samples[0][1]), math.inf)
    windows = [event.time for event in trace.of("balloon_pressure") if asked < event.time < began]
    return all(later - one < PRESSED for one, later in pairwise([asked, *windows, began]))


def test_deflation_does_not_wait_for_pressure_to_be_over(guest: Vm) -> None:
    """Called back while reclaim goes on, the guest deflates at once.

    A busy machine may be late with a sample, so there are several tries; a driver that waits
    succeeds in none.
    """
    for _ in range(5):
        resize(guest, ram(guest) - 100 * MIB)
        with (
            traced(guest, "balloon_pressure", "balloon_target") as trace,
            background(guest, f"python3 -c '{SAMPLER % 600}'"),
            in_state(guest, "pressed", ram(guest) - 300 * MIB),
        ):
            resize(guest, ram(guest))
            guest.sh("sleep 0.1")
        if began_while_pressed(trace):
            return
    pytest.fail("each time, it began after a break in the pressure")
