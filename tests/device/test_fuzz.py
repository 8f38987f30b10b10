# SPDX-License-Identifier: GPL-2.0-or-later
"""A fixed number of drivers by chance; `bin/pyguest fuzz-device` plays on for as long as told."""

from __future__ import annotations

from pathlib import Path

from pyguest import fuzz

INPUTS = 2000


def test_drivers_by_chance(qemu_binary: Path) -> None:
    assert fuzz.inputs(qemu_binary, 0, INPUTS, float("inf")) == INPUTS
