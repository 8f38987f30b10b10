# SPDX-License-Identifier: GPL-2.0-or-later
"""What presses a guest: load while it lasts, and swap space for it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from .vm import Vm

ANONLOAD = "/run/lab/bin/anonload"
CACHELOAD = "/run/lab/bin/cacheload"
DISK = "/dev/vda"
"""The root disk; larger than a guest's memory."""


@contextmanager
def background(vm: Vm, command: str) -> Iterator[str]:
    """Run a command in the guest meanwhile, yielding its pid there; killed at the end."""
    quoted = shlex.quote(command)
    pid = vm.sh(f"setsid sh -c {quoted} >/dev/null 2>&1 </dev/null & echo $!").strip()
    try:
        yield pid
    finally:
        if vm.alive():
            # What is being swapped in takes its time to die.
            vm.sh(f"kill -9 -- -{pid}; n=0; while kill -0 -- -{pid} 2>/dev/null && "
                  "[ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done", check=False)


@contextmanager
def swap_space(vm: Vm, mib: int) -> Iterator[None]:
    """Swap space in the guest, in a file on its root disk."""
    # Not written: that would fill the guest's page cache, and its host's memory.
    vm.sh(f"fallocate -l {mib}M /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap",
          timeout=120)
    try:
        yield
    finally:
        if vm.alive():
            vm.sh("swapoff /swap && rm /swap", timeout=180)
