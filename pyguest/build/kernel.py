# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel: Debian's packages, unpacked, with the ELF image for a quick boot."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .. import paths, progress
from ..debian import Archive
from ..errors import LabError
from ..targets import KernelTarget
from . import source
from .source import Source

CC = "gcc-12"
"""The compiler of all kernels and modules: Debian 12 and 13 both have it, 6.1 was built with it."""


@dataclass(frozen=True)
class Kernel:
    """One kernel that guests boot."""

    target: KernelTarget
    release: str
    """As uname -r has it."""
    version: str
    """The Debian package's version."""
    source: Source
    root: Path

    @property
    def vmlinux(self) -> Path:
        """The uncompressed ELF image: QEMU enters it directly (PVH), without unpacking."""
        return self.root / "vmlinux"

    @property
    def modules(self) -> Path:
        """The kernel's own modules, uncompressed."""
        return self.root / "lib/modules" / self.release / "kernel"

    @property
    def build(self) -> Path:
        """What `make -C` builds modules against: configured as the kernel was, and prepared."""
        return self.root / "build"

    @property
    def headers(self) -> Path:
        """The headers as packaged: eBPF programs are compiled against them in the guest."""
        return self.root / "usr/src" / f"linux-headers-{self.release}"

    @property
    def common_headers(self) -> Path:
        """The part of the headers that all flavours share."""
        return Path(str(self.headers).removesuffix("-amd64") + "-common")


def ensure(target: KernelTarget) -> Kernel:
    """Fetch and unpack a kernel, unless the cache has it."""
    archive = Archive(target.suite)
    depends = archive.show(target.image)["Depends"]
    found = re.search(r"linux-image-([\w.+-]+)", depends)
    if not found:
        raise LabError(f"{target.image} depends on {depends!r} and no kernel image: "
                       "change it in targets.toml")
    release = found[1]
    version = archive.show(f"linux-image-{release}")["Version"]
    tree = source.ensure(target)
    key = f"{release}-{paths.content_key(version, tree.version, Path(__file__))}"
    root = paths.cached("kernel", key, lambda into: _unpack(archive, release, tree, into))
    return Kernel(target, release, version, tree, root)


NEEDS_BYTES = 2 << 30
"""Free disk space for the unpacked packages: measured 0.7 GiB, and room."""


def _unpack(archive: Archive, release: str, tree: Source, root: Path) -> None:
    paths.require_space(root, NEEDS_BYTES, f"Linux {release}")
    image = f"linux-image-{release}"
    # From 7.x on, the image's parts are packages of their own.
    parts = re.findall(r"linux-(?:base|binary|modules)-" + re.escape(release),
                       archive.show(image)["Depends"])
    headers = f"linux-headers-{release}"
    common = headers.removesuffix("-amd64") + "-common"
    archive.unpack([image, *parts, headers, common], root)
    # /lib is /usr/lib on a merged system, and later packages say so.
    if (root / "usr/lib/modules").is_dir():
        (root / "lib").mkdir(exist_ok=True)
        (root / "usr/lib/modules").rename(root / "lib/modules")
    shutil.rmtree(root / "usr/share", ignore_errors=True)

    log = paths.state_dir("build") / "kernel.log"
    modules = root / "lib/modules" / release
    if any(modules.rglob("*.ko.xz")):
        with progress.step("decompress the modules") as step:
            progress.run(["sh", "-c", 'find "$1" -name "*.ko.xz" -print0 | xargs -0 -P2 -n64 xz -d',
                          "sh", modules / "kernel"], log, step)
    with progress.step("extract vmlinux"), (root / "vmlinux").open("wb") as out:
        compressed = _first(root / f"boot/vmlinuz-{release}", modules / "vmlinuz")
        subprocess.run([tree.scripts / "extract-vmlinux", compressed], stdout=out, check=True)

    config = _first(root / f"boot/config-{release}", modules / "config")
    build = root / "build"
    build.mkdir()
    shutil.copy(config, build / ".config")
    with progress.step(f"prepare Linux {release} for building modules") as step:
        # The configuration as Debian's compiler had it, as far as ours can.
        for goal in ("olddefconfig", "modules_prepare"):
            progress.run(["make", "-j2", "-C", tree.tree, f"O={build}", f"CC={CC}",
                          f"KERNELRELEASE={release}", goal], log, step, how_far=r"(CC|LD|HOSTCC).*")
    # Without pahole it goes, and with it fields of struct module.
    if "\nCONFIG_DEBUG_INFO_BTF=y" not in (build / ".config").read_text():
        raise LabError(f"Linux {release} cannot be configured as Debian has it: is pahole "
                       "(package dwarves) installed? Run `make setup`")
    shutil.copy(root / "usr/src" / headers / "Module.symvers", build / "Module.symvers")
    (build / "Makefile").write_text(kdir_makefile(str(tree.tree)))


def kdir_makefile(source: str) -> str:
    """The Makefile of a build folder that may be moved: kbuild's own has its path in it."""
    return ("export KBUILD_OUTPUT := "
            "$(patsubst %/,%,$(dir $(realpath $(lastword $(MAKEFILE_LIST)))))\n"
            f"include {source}/Makefile\n")


def _first(*files: Path) -> Path:
    for file in files:
        if file.is_file():
            return file
    raise LabError(f"the kernel's packages have no {files[0].name}: "
                   "its place has changed, see pyguest/build/kernel.py")
