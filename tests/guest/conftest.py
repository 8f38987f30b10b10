# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tests of the driver want of the guest. Each puts back what it changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guests import INTERVAL

from pyguest.loads import swap_space
from pyguest.vm import Vm

LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
"""Documentation/admin-guide/mm/multigen_lru.rst"""


@pytest.fixture
def swap(guest: Vm) -> Iterator[None]:
    """128 MiB of swap space in the guest."""
    with swap_space(guest, 128):
        guest.sh("echo 3 > /proc/sys/vm/drop_caches")
        yield


@pytest.fixture(params=["classic", "mglru"])
def lru(guest: Vm, request: pytest.FixtureRequest) -> Iterator[str]:
    """Reclaim by the classic LRU lists, and by the multi-generational ones."""
    if not guest.sh(f"cat {LRU_GEN} 2>/dev/null", check=False):
        if request.param == "mglru":
            pytest.skip(f"this kernel has no {LRU_GEN} (CONFIG_LRU_GEN)")
        yield request.param
        return
    usual = int(guest.sh(f"cat {LRU_GEN}"), 16)
    guest.sh(f"echo {'y' if request.param == 'mglru' else 'n'} > {LRU_GEN}")
    yield request.param
    guest.sh(f"echo {usual} > {LRU_GEN}")


@pytest.fixture
def interval(guest: Vm) -> Iterator[float]:
    """The driver's message interval made long; in seconds."""
    usual = guest.sh(f"cat {INTERVAL}").strip()
    guest.sh(f"echo 1000 > {INTERVAL}")
    yield 1.0
    # The next level is not to come too soon after the last.
    guest.sh(f"echo {usual} > {INTERVAL}; sleep 0.2")
