# SPDX-License-Identifier: GPL-2.0-or-later
"""Which QEMU is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyguest import lab, targets
from pyguest.build import qemu


@pytest.fixture(scope="session")
def qemu_binary() -> Path:
    """The QEMU with our device, built when it is not in the cache; QEMU= chooses the target."""
    return qemu.ensure(targets.load().qemu(lab.chosen("QEMU"))).binary
