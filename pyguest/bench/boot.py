# SPDX-License-Identifier: GPL-2.0-or-later
"""The time from QEMU's start to a completed SSH login."""

import statistics

from .. import lab


def main(count: int) -> int:
    """Boot `count` times, one after the other, and print each time and the median (seconds)."""
    seconds: list[float] = []
    with lab.Lab(lab.prepare(), "bench-boot") as one:
        print(f"accelerator: {one.accel.kind} ({one.accel.reason})")
        for number in range(count):
            with one.vm(f"boot{number}") as vm:
                vm.boot()
                seconds.append(vm.boot_seconds)
                print(f"boot {number + 1} of {count}: {vm.boot_seconds:.2f} s", flush=True)
    print(f"median {statistics.median(seconds):.2f} s, "
          f"from {min(seconds):.2f} to {max(seconds):.2f} s, {count} boots")
    return 0
