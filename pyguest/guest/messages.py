#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trace the balloon driver's messages to the host (eBPF, bcc). Runs in the guest.

A line for each message that the driver gives to the device: time of day, level, pages scanned
and reclaimed in the window of reclaim that caused it, the balloon's size and the size that the
host asks for (4 KiB pages), and how long the device took to acknowledge it (microseconds; the
line is printed at the acknowledgement). Needs root, the driver's trace events and the kernel's
headers.

Overhead: two events a message, and a message at most each 100 ms.
"""

import argparse
import json
import sys
import time

from bcc import BPF

PROGRAM = r"""
struct message {
    u64 scanned;
    u64 reclaimed;
    u64 queued_ns;
    u64 acked_ns;
    u32 level;
    u32 actual;
    u32 num_pages;
};

BPF_ARRAY(in_flight, struct message, 1);
BPF_PERF_OUTPUT(messages);

TRACEPOINT_PROBE(virtio_balloon, balloon_message_queued)
{
    int zero = 0;
    struct message *message = in_flight.lookup(&zero);

    if (!message)
        return 0;
    message->queued_ns = bpf_ktime_get_ns();
    message->level = args->level;
    message->scanned = args->scanned;
    message->reclaimed = args->reclaimed;
    message->actual = args->actual;
    message->num_pages = args->num_pages;
    return 0;
}

TRACEPOINT_PROBE(virtio_balloon, balloon_message_acked)
{
    int zero = 0;
    struct message *message = in_flight.lookup(&zero);

    if (!message || !message->queued_ns)
        return 0;
    message->acked_ns = bpf_ktime_get_ns();
    messages.perf_submit(args, message, sizeof(*message));
    message->queued_ns = 0;
    return 0;
}
"""

LEVELS = {1: "low", 2: "medium", 3: "critical"}
COLUMNS = "%-15s %-8s %8s %9s %9s %9s %7s"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Trace the balloon driver's messages to the host.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  messages.py          a line a message, until Ctrl-C\n"
        "  messages.py 10       the next ten messages\n"
        "  messages.py --json   a JSON object a message, for programs",
    )
    parser.add_argument("count", type=int, nargs="?", default=0, help="stop after so many")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    args = parser.parse_args()

    bpf = BPF(text=PROGRAM)
    # Monotonic time of the events to time of day.
    offset = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    seen = 0

    def show(_cpu: int, data: int, _size: int) -> None:
        nonlocal seen
        event = bpf["messages"].event(data)
        seen += 1
        when = event.queued_ns / 1e9 + offset
        level = LEVELS.get(event.level, str(event.level))
        ack_us = (event.acked_ns - event.queued_ns) / 1000
        if args.json:
            line = json.dumps({
                "time": when, "level": level, "scanned": event.scanned,
                "reclaimed": event.reclaimed, "actual": event.actual,
                "num_pages": event.num_pages, "ack_us": round(ack_us, 1),
            })
        else:
            stamp = time.strftime("%H:%M:%S", time.localtime(when)) + f"{when % 1:.3f}"[1:]
            line = COLUMNS % (stamp, level, event.scanned, event.reclaimed, event.actual,
                              event.num_pages, round(ack_us))
        print(line, flush=True)

    bpf["messages"].open_perf_buffer(show)
    if not args.json:
        print(COLUMNS % ("TIME", "LEVEL", "SCANNED", "RECLAIMED", "ACTUAL", "TARGET", "ACK(us)"))
    print("tracing", file=sys.stderr, flush=True)
    while not args.count or seen < args.count:
        try:
            bpf.perf_buffer_poll(timeout=500)
        except KeyboardInterrupt:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
