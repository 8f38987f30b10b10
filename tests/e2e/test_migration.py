# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves to another QEMU, live, while its balloon is at work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import MIB, complaints, inject, leaks, ram, resize, told, wait_until, works

from pyguest.lab import Lab, Parts
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(420, func_only=True)

BALLOON = "/machine/peripheral/balloon"


@pytest.fixture
def disk(parts: Parts, run_folder: Path) -> Iterator[Path]:
    """A copy of the root disk, for two QEMUs to use in turn."""
    copy = run_folder / "root.ext4"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", parts.image.disk, copy], check=True)
    yield copy
    copy.unlink()


def property_of(vm: Vm, name: str) -> dict[str, Any]:
    found = vm.command("qom-get", path=BALLOON, property=name)
    assert isinstance(found, dict)
    return found


def test_a_guest_that_inflates_migrates(lab: Lab, disk: Path) -> None:
    """It goes on inflating there, what it says is heard there, and nothing is counted twice."""
    with lab:
        source = lab.vm("a", disk=disk, keeps_disk=True)
        source.boot()
        inject(source, 3)
        assert told(source, 30, enough=3) == ["low", "medium", "critical"]
        twin = lab.twin(source)
        twin.start()
        target = ram(source) - 288 * MIB
        with source.migrating(twin):
            inject(source, 1)
            source.set_target(target)
            wait_until(lambda: source.balloon_actual() < ram(source), "inflation has begun")

        # The source stands still, in the middle of it.
        left = source.balloon_actual()
        counts, age = property_of(source, "message-stats"), state_age(source)
        assert target < left < ram(source), "inflation was over before the guest moved"
        assert counts["low"] >= 2
        assert property_of(source, "automatic-state")["target"] == target
        assert property_of(twin, "automatic-state")["target"] == target
        assert twin.balloon_actual() <= left
        there = property_of(twin, "message-stats")
        assert all(there[name] >= counts[name] for name in counts)
        # The guest may have said something new there.
        assert state_age(twin) >= age or there["low"] > counts["low"]
        source.stop()

        works(twin, target)
        resize(twin, ram(twin))
        assert not complaints(twin)
        assert not leaks(twin)


def state_age(vm: Vm) -> int:
    return int(property_of(vm, "automatic-state")["guest-pressure-age-ms"])
