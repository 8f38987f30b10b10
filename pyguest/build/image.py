# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's root file system: Debian by mmdebstrap, as an ext4 image, without a loop mount."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .. import paths, progress
from ..debian import Archive
from ..errors import LabError
from ..targets import ImageTarget
from .kernel import Kernel

GUEST = paths.TREE / "pyguest/guest"

# Folders of the kernel's headers that no eBPF program includes.
UNUSED_HEADERS = ("Documentation", "drivers", "sound", "samples", "tools")
KEPT_ARCH = "x86"

NEEDS_BYTES = 2 << 30
"""Free disk space for a build: two unpacked trees of 0.5 GiB and the image, and room."""


@dataclass(frozen=True)
class Image:
    """A guest image and the key that opens it."""

    root: Path

    @property
    def disk(self) -> Path:
        """A raw ext4 image; guests use it with snapshot=on and never change it."""
        return self.root / "root.ext4"

    @property
    def ssh_key(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def busybox(self) -> Path:
        """A static busybox, for the initrd."""
        return self.root / "busybox"


def ensure(target: ImageTarget, kernel: Kernel) -> Image:
    """Build the image for a kernel (its headers are inside, for bcc), unless the cache has it."""
    key = paths.content_key(
        repr((target.size_mib, target.packages)), kernel.version, Path(__file__),
        GUEST / "inittab", GUEST / "lab-boot",
    )
    root = paths.cached(
        "image", f"{kernel.target.release_suite}-{kernel.release}-{key}",
        lambda into: _build(target, kernel, into),
    )
    return Image(root)


def _build(target: ImageTarget, kernel: Kernel, into: Path) -> None:
    if os.geteuid() != 0:
        raise LabError(f"user id {os.geteuid()}: the guest image is made as root: run `sudo make "
                       "image`, with XDG_CACHE_HOME set to share the cache")
    paths.require_space(into, NEEDS_BYTES, "the guest image")
    suite = kernel.target.release_suite
    log = paths.state_dir("build") / "image.log"
    log.unlink(missing_ok=True)
    overlay = into / "overlay"
    _lay_out(overlay, kernel)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", into / "id_ed25519"],
        check=True,
    )
    authorized = overlay / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, parents=True)
    shutil.copy(into / "id_ed25519.pub", authorized)

    finish = into / "finish.sh"
    finish.write_text(
        "#!/bin/sh -e\n"
        f'cp -r {overlay}/. "$1"\n'
        'chown -R 0:0 "$1/root"\n'
        'chmod 700 "$1/root" "$1/root/.ssh"\n'
        'chroot "$1" depmod ' + kernel.release + "\n"
        f'cp "$1/bin/busybox" {into}/busybox\n'
        'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*\n'
        # A copy without what is mounted below it: mke2fs cannot read /proc.
        f'cp -ax "$1" {into}/rootfs\n'
        f"truncate -s {target.size_mib}M {into}/root.ext4\n"
        f"mke2fs -q -t ext4 -F -O ^has_journal -E lazy_itable_init=0"
        f" -d {into}/rootfs {into}/root.ext4\n"
        f"rm -rf {into}/rootfs\n"
    )
    finish.chmod(0o755)
    with progress.step(f"build the guest image (Debian {suite}, mmdebstrap)") as step:
        progress.run(
            ["mmdebstrap", "--variant=minbase", "--format=null",
             f"--include={','.join(target.packages)}",
             "--aptopt=Acquire::Languages \"none\"",
             *(f"--dpkgopt=path-exclude=/usr/share/{name}/*"
               for name in ("doc", "man", "locale", "info")),
             f"--customize-hook={finish}", suite, "-", *Archive(suite).sources()],
            log, step, how_far=r"(I: [a-z ]+|Setting up \S+)",
            # /tmp may be small, and in memory.
            env={**os.environ, "TMPDIR": str(into)},
        )
    shutil.rmtree(overlay)
    finish.unlink()


def _lay_out(overlay: Path, kernel: Kernel) -> None:
    """Our files of the root file system, below `overlay`."""
    for source, name in (("inittab", "etc/inittab"), ("lab-boot", "usr/local/sbin/lab-boot")):
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GUEST / source, path)
    (overlay / "usr/local/sbin/lab-boot").chmod(0o755)
    (overlay / "usr/sbin").mkdir(parents=True)
    (overlay / "usr/sbin/init").symlink_to("/bin/busybox")
    (overlay / "etc/fstab").write_text("")
    (overlay / "etc/ssh/sshd_config.d").mkdir(parents=True)
    # Each look-up and each key exchange costs under TCG.
    (overlay / "etc/ssh/sshd_config.d/lab.conf").write_text(
        "UseDNS no\nPermitRootLogin prohibit-password\nUsePAM no\nMaxSessions 100\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\n"
        "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org\n"
        "Ciphers aes128-ctr,aes256-ctr\n"
    )
    modules = overlay / "usr/lib/modules" / kernel.release
    modules.mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(kernel.modules.parent / name, modules / name)
    (modules / "build").symlink_to(f"/usr/src/{kernel.headers.name}")
    (modules / "source").symlink_to(f"/usr/src/{kernel.common_headers.name}")
    for folder in (kernel.headers, kernel.common_headers):
        shutil.copytree(folder, overlay / "usr/src" / folder.name, symlinks=True, ignore=_unused)
    (overlay / "usr/src" / kernel.headers.name / "Module.symvers").unlink()


def _unused(folder: str, names: list[str]) -> set[str]:
    if Path(folder).name == "arch":
        return {name for name in names if name not in (KEPT_ARCH, "Kconfig", "um")}
    return set(names) & set(UNUSED_HEADERS) if Path(folder).name.startswith("linux-h") else set()
