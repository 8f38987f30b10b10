# SPDX-License-Identifier: GPL-2.0-or-later
"""A fixed number of drivers by chance; `bin/pyguest fuzz-device` plays on for as long as told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyguest import fuzz
from pyguest.qtest import has_property

INPUTS = 2000


def test_drivers_by_chance(qemu_binary: Path) -> None:
    assert fuzz.inputs(qemu_binary, 0, INPUTS, float("inf")) == INPUTS


def test_queues_get_other_sizes(qemu_binary: Path) -> None:
    """Only from an old QEMU is anything kept."""
    if not fuzz.may_resize(qemu_binary):
        assert not has_property(qemu_binary, "ioeventfd")
        pytest.skip("this QEMU's core ends with an assertion when a queue in use gets larger: "
                    "drivers by chance leave the sizes as they are")
