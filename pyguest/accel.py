# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM where it really works, TCG elsewhere, and the user is told which and why."""

import sys
from dataclasses import dataclass

from . import kvm

TB_SIZE_MIB = 32
"""TCG's usual translation cache. QEMU's default of 1 GiB would count as the guest's memory."""


@dataclass(frozen=True)
class Accel:
    """How QEMU runs guest code."""

    kind: str
    reason: str

    def arguments(self, tb_size_mib: int = TB_SIZE_MIB) -> list[str]:
        """For QEMU's command line; with TCG's translation cache of that size."""
        if self.kind == "kvm":
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", f"tcg,thread=multi,tb-size={tb_size_mib}", "-cpu", "max"]


def choose(wanted: str = "auto") -> Accel:
    """`kvm`, `tcg`, or `auto`: KVM when the probe ran 64-bit code in it."""
    if wanted == "tcg":
        return Accel("tcg", "as told")
    probe = kvm.probe()
    if probe.usable or wanted == "kvm":
        return Accel("kvm", probe.reason)
    return Accel("tcg", f"no KVM: {probe.reason}")


def fall_back(why: str) -> Accel:
    """TCG after all, said loudly: a boot under KVM did not come to a kernel line."""
    print(f"\n*** WARNING: KVM started but {why}. Going on under TCG, many times slower. ***\n",
          file=sys.stderr)
    return Accel("tcg", f"KVM failed: {why}")
