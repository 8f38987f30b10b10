# SPDX-License-Identifier: GPL-2.0-or-later
"""Which messages arrive at QMP, in what order, and which are held back.

The levels are injected here: test_pressure.py has what reclaim makes of a guest.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from guests import (
    INTERVAL,
    NEVER,
    READ_DISK,
    TRACING,
    debugfs,
    drop_acks,
    inject,
    pressure,
    told,
    traced,
    wait_until,
)

from pyguest import lab
from pyguest.demo.run import tracer
from pyguest.jsonl import read_lines
from pyguest.loads import background
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

LEVELS = ("low", "medium", "critical")
BUFFERS = {1: ["low"], 2: ["low", "medium"], 3: ["low", "medium", "critical"]}
"""What a buffer of each level holds."""


@pytest.mark.short
@pytest.mark.parametrize("level", BUFFERS)
def test_a_level_is_told_with_those_below(guest: Vm, level: int) -> None:
    """A message of each level arrives, after those of the lower levels."""
    inject(guest, level)
    assert told(guest, 5, enough=level) == BUFFERS[level]


def test_tracer_and_qmp_see_the_same(guest: Vm, parts: lab.Parts, tmp_path: Path) -> None:
    """The tracer in the guest (eBPF) tells of each message that QMP tells of.

    The tracer's own start takes memory enough to be told.
    """
    if parts.kernel.target.name not in parts.targets.kernels:
        pytest.skip("the image has the headers of the packaged kernel, for bcc")
    lines = tmp_path / "trace.jsonl"
    said = guest.run_dir / "tracer.err"

    def levels() -> list[str]:
        return [str(line["level"]) for line in read_lines(lines)]

    with tracer(guest, lines):
        wait_until(lambda: "tracing" in said.read_text(), "the tracer's start", 120)
        told(guest, 1)
        before = len(levels())
        inject(guest, 1, 2, 3)
        wait_until(lambda: len(levels()) >= before + 3, "three lines of the tracer")
    traced = levels()[before:]
    assert {"low", "medium", "critical"} <= set(traced)
    with_those_below = {buffer[-1]: buffer for buffer in BUFFERS.values()}
    expected = [name for level in traced for name in with_those_below[level]]
    assert told(guest, 5, enough=len(expected)) == expected


def test_a_flood_is_held_back(guest: Vm, interval: float) -> None:
    """Messages of one level keep the interval, and each waits for the ack of the one before."""
    door = debugfs(guest, "inject")
    # Nothing is started in the loop: on a debug kernel that takes a second.
    now = "read up idle < /proc/uptime"
    with traced(guest, "balloon_message_queued", "balloon_message_acked") as trace:
        guest.sh(f"{now}; end=$((${{up%.*}} + 5)); while [ ${{up%.*}} -lt $end ]; do "
                 f"echo 1 > {door}; {now}; done; sleep 0.1")
    queued = trace.of("balloon_message_queued")
    assert len(queued) >= 3
    # A tenth for jiffies, which an emulated machine may count in bursts.
    assert all(later.time - one.time >= 0.9 * interval for one, later in pairwise(queued))
    names = [event.name for event in trace.events]
    assert names == ["balloon_message_queued", "balloon_message_acked"] * len(queued)
    assert told(guest, 5, enough=len(queued)) == ["low"] * len(queued)


def test_a_higher_level_does_not_wait(guest: Vm, interval: float) -> None:
    """The interval is one of the same level or below: worse news goes at once."""
    door = debugfs(guest, "inject")
    # The first goes whatever was sent last; then a minute, for machines that are slow. QMP tells
    # of a level each 100 ms.
    guest.sh(f"echo 0 > {INTERVAL}; echo 1 > {door}; echo 60000 > {INTERVAL}; "
             f"for level in 1 2 1 2 3 3 2 1; do sleep 0.15; echo $level > {door}; done")
    assert told(guest, 0.5) == BUFFERS[1] + BUFFERS[2] + BUFFERS[3]


def test_one_in_flight_and_the_worst_next(guest: Vm) -> None:
    """A host that does not ack gets no more; of what is higher, the highest goes after the ack."""
    before = pressure(guest)
    drop_acks(guest, NEVER)
    inject(guest, 1)
    assert told(guest, 5, enough=1) == ["low"]
    inject(guest, 1, 2, 3, 2)
    assert told(guest, 1) == []
    now = pressure(guest)
    assert (now["in_flight"], now["last_level"]) == (1, 1)
    for kind, counted in (("sent", [1, 0, 0]), ("acked", [0, 0, 0]), ("suppressed", [1, 2, 0])):
        # Critical waits, in the place of a medium.
        assert [now[f"{kind}_{level}"] - before[f"{kind}_{level}"] for level in LEVELS] == counted

    drop_acks(guest, 0)
    assert told(guest, 5, enough=3) == BUFFERS[3]
    wait_until(lambda: pressure(guest)["in_flight"] == 0, "the ack of the second message")
    now = pressure(guest)
    for kind in ("sent", "acked"):
        assert [now[f"{kind}_{level}"] - before[f"{kind}_{level}"] for level in LEVELS] == [1, 0, 1]
    assert now["suppressed_critical"] == before["suppressed_critical"]


def test_the_worst_goes_first(guest: Vm) -> None:
    """What has waited for the ack goes before what reclaim has shown since.

    A round is void in which nothing waits any more when the ack comes: a critical one was in
    flight already, or the guest paused for so long that its pressure was over.
    """
    rounds, most = 5, 40
    door, drop, state = (debugfs(guest, name) for name in ("inject", "drop_acks", "pressure"))
    # Builtins of the shell: a program takes longer to start than pressure may pause.
    script = f"""
        lost() {{ while read -r name value; do
            [ $name != suppressed_critical ] || lost=$value; done < {state}; }}
        valid=0
        for i in $(seq {most}); do
            echo {NEVER} > {drop}
            until grep -q '^in_flight [123]' {state}; do :; done
            lost; before=$lost
            echo 3 > {door}
            lost
            if [ $lost = $before ]; then
                echo ack > {TRACING}/trace_marker; valid=$((valid + 1))
            fi
            echo 0 > {drop}
            [ $valid -lt {rounds} ] || break
            sleep 0.5
        done"""
    with background(guest, READ_DISK):
        assert told(guest, 60, enough=1)
        with traced(guest, "balloon_message_queued") as trace:
            guest.sh(f"{script}; sleep 0.5", timeout=180)
    names = [event.fields.get("level", event.name) for event in trace.events]
    first = [level for before, level in pairwise(names) if before == "tracing_mark_write"]
    assert first == ["critical"] * rounds
    wait_until(lambda: not told(guest, 0.5), "what was under way is over")


def test_what_waits_ends_with_the_pressure(guest: Vm) -> None:
    """An ack that comes when the guest is well again has no old level sent."""
    before = pressure(guest)

    def suppressed(*levels: str) -> int:
        now = pressure(guest)
        return sum(now[f"suppressed_{level}"] - before[f"suppressed_{level}"] for level in levels)

    drop_acks(guest, NEVER)
    inject(guest, 1, 3)
    assert told(guest, 5, enough=1) == ["low"]
    assert suppressed("critical") == 0
    with background(guest, READ_DISK):
        wait_until(lambda: suppressed("low", "medium") > 0, "reclaim is under way")
    wait_until(lambda: suppressed("critical") == 1, "critical does not wait any more")
    drop_acks(guest, 0)
    assert told(guest, 0.5) == []
    assert pressure(guest)["in_flight"] == 0


def arrived(guest: Vm) -> dict[str, int]:
    """The device's counters of messages; its events are rate-limited."""
    return dict(guest.command("qom-get", path="/machine/peripheral/balloon",
                              property="message-stats"))


def test_counters_agree_under_a_flood(guest: Vm) -> None:
    """What the driver counts is what the trace and the device have seen."""
    door, floods, each = debugfs(guest, "inject"), 2, 300
    levels = [1, 1, 2, 1, 3, 1, 1, 2, 2, 1]
    before, device_before = pressure(guest), arrived(guest)
    told(guest, 0)
    one = (f"for i in $(seq {each // len(levels)}); do "
           f"for level in {' '.join(map(str, levels))}; do echo $level > {door}; done; done")

    def all_counted() -> bool:
        now = pressure(guest)
        done = sum(now[f"{kind}_{level}"] - before[f"{kind}_{level}"]
                   for kind in ("sent", "suppressed") for level in LEVELS)
        # One that waits for an ack is in neither.
        return done == floods * each and now["in_flight"] == 0

    with traced(guest, "balloon_message_queued", "balloon_message_acked",
                "balloon_pressure") as trace:
        guest.sh(" & ".join([f"({one})"] * floods) + " & wait")
        wait_until(all_counted, "all that was injected is sent, acked or suppressed")
    assert not trace.of("balloon_pressure"), "nothing but what is injected"
    now = pressure(guest)

    def counted(kind: str) -> dict[str, int]:
        return {level: now[f"{kind}_{level}"] - before[f"{kind}_{level}"] for level in LEVELS}

    sent, suppressed = counted("sent"), counted("suppressed")
    injected = Counter(LEVELS[level - 1] for level in levels)
    for level in LEVELS:
        assert sent[level] + suppressed[level] == floods * each // len(levels) * injected[level]
    # A medium may always have come within the interval of a critical, which is sent at once.
    assert sent["critical"] and sum(suppressed.values())
    assert counted("acked") == sent
    for name in ("balloon_message_queued", "balloon_message_acked"):
        seen = Counter(event.fields["level"] for event in trace.of(name))
        assert seen == Counter(sent)
    # A buffer holds the levels below its own as well.
    messages = {level: sum(sent[above] for above in LEVELS[rank:])
                for rank, level in enumerate(LEVELS)}
    device_now = arrived(guest)
    assert {level: device_now[level] - device_before[level] for level in LEVELS} == messages
    # QMP tells of each level at most every 100 ms.
    assert set(told(guest, 0.5)) == set(LEVELS)


def test_no_interval_no_limit(guest: Vm) -> None:
    """With the interval switched off, all that find nothing in flight are sent."""
    usual, rounds = guest.sh(f"cat {INTERVAL}").strip(), 50
    door, state = debugfs(guest, "inject"), debugfs(guest, "pressure")
    before, device_before = pressure(guest), arrived(guest)
    try:
        guest.sh(f"echo 0 > {INTERVAL}; for i in $(seq {rounds}); do echo 1 > {door}; "
                 f"until grep -q '^in_flight 0' {state}; do :; done; done")
    finally:
        guest.sh(f"echo {usual} > {INTERVAL}")
    now = pressure(guest)
    assert now["sent_low"] - before["sent_low"] == rounds
    assert now["suppressed_low"] == before["suppressed_low"]
    assert arrived(guest)["low"] - device_before["low"] == rounds
    assert set(told(guest, 0.5)) == {"low"}


@pytest.mark.parametrize("value", ["-1", "60001", "x", "''"])
def test_no_interval_out_of_range(guest: Vm, value: str) -> None:
    """An interval that makes no sense is refused, and the one before stays."""
    usual = guest.sh(f"cat {INTERVAL}")
    assert guest.sh(f"echo {value} > {INTERVAL} || echo refused 2>/dev/null").strip() == "refused"
    assert guest.sh(f"cat {INTERVAL}") == usual


def test_messages_that_nobody_knows(guest: Vm) -> None:
    """The host ignores what it does not know, and acks it: a level after it arrives."""
    before = pressure(guest)
    inject(guest, 0, 4, 0xFFFFFFFF)
    assert told(guest, 0.5) == []
    assert pressure(guest)["acked_low"] - before["acked_low"] == 3
    inject(guest, 1)
    assert told(guest, 5, enough=1) == ["low"]
