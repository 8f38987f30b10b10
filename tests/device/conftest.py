# SPDX-License-Identifier: GPL-2.0-or-later
"""Which QEMU is tested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def qemu_binary() -> Path:
    """The QEMU with our device, from the environment variable QEMU."""
    value = os.environ.get("QEMU")
    if not value:
        pytest.fail("QEMU is not set: set it to the path of the lab's qemu-system-x86_64")
    binary = Path(value)
    if not os.access(binary, os.X_OK):
        pytest.fail(f"QEMU={value}: not a program; set it to the lab's qemu-system-x86_64")
    return binary
