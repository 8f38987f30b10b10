# SPDX-License-Identifier: GPL-2.0-or-later
"""The series' selftest, in a guest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guests import CGROUPS

from pyguest import paths
from pyguest.lab import Parts
from pyguest.vm import Vm

pytestmark = pytest.mark.timeout(240, func_only=True)

SCRIPT = paths.TREE / "kmod/series/selftest/pressure.sh"
HELPERS = "kselftest/ktap_helpers.sh"
TRIES = 3
"""It leaves out what it cannot judge because the guest itself reclaimed meanwhile."""


def install(vm: Vm, file: Path, path: str) -> None:
    vm.sh(f"mkdir -p $(dirname {path}); cat > {path} <<'END'\n{file.read_text()}END\n"
          f"chmod +x {path}")


@pytest.mark.short
def test_the_selftest_passes(guest: Vm, parts: Parts) -> None:
    """Run as kselftest lays it out: four tests pass, and nothing is left behind."""
    helpers = parts.kernel.source.tree / "tools/testing/selftests" / HELPERS
    if not helpers.is_file():
        pytest.skip(f"the selftests of Linux {parts.kernel.release} have no {HELPERS}")
    install(guest, helpers, f"/tmp/selftests/{HELPERS}")
    install(guest, SCRIPT, "/tmp/selftests/balloon/pressure.sh")
    guest.sh(f"mount -t cgroup2 none {CGROUPS}")
    try:
        for _ in range(TRIES):
            said = guest.sh("/tmp/selftests/balloon/pressure.sh", timeout=180)
            if "# SKIP" not in said:
                break
        assert len(re.findall(r"^ok \d+ (?!# SKIP)", said, re.MULTILINE)) == 4, said
        assert not guest.sh(f"ls -d {CGROUPS}/pressure.* /var/tmp/pressure.* 2>/dev/null",
                            check=False)
    finally:
        guest.sh(f"umount {CGROUPS}; rm -r /tmp/selftests")
