# SPDX-License-Identifier: GPL-2.0-or-later
"""Who takes part: what a host can do today about guests that want more than it has."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Contestant:
    """A way to run guests."""

    name: str
    policy: str | None = None
    """hostctl's; None: no hostctl."""
    reporting: bool = False
    """Free page reporting."""
    automatic: bool = False
    """QEMU's own rule."""

    @property
    def stock(self) -> bool:
        """Whether the guest's driver is the kernel's own, as it came."""
        return self.policy is None and not self.automatic

    def balloon(self, memcg: Path) -> str:
        """The balloon device's options; `memcg` is the host's group."""
        options = ["virtio-balloon-pci"]
        if not self.stock:
            options.append("message-vq=on")
        if self.reporting:
            options.append("free-page-reporting=on")
        if self.automatic:
            options += ["automatic=on", f"memcg-path={memcg}"]
        return ",".join(options)


CONTESTANTS = {
    one.name: one for one in (
        Contestant("none"),
        Contestant("reporting", reporting=True),
        Contestant("automatic", automatic=True),
        Contestant("classic", "classic"),
        Contestant("transfer", "transfer"),
        Contestant("transfer+reporting", "transfer", reporting=True),
        # Their drivers send messages as well, which they ignore: how long a guest that is short
        # waits for them can be measured.
        Contestant("mom", "mom"),
        Contestant("proxmox", "proxmox"),
    )
}  # fmt: skip
BASE = "none"
"""The contestant that others are compared with."""
