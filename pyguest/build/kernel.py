# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel: Debian's packages, unpacked, with the ELF image for a quick boot."""

import lzma
import re
import shutil
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .. import paths, progress
from ..debian import Archive
from ..errors import LabError
from ..targets import KernelTarget


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel."""

    target: KernelTarget
    release: str
    """As uname -r has it."""
    version: str
    """The Debian package's version."""
    root: Path

    @property
    def vmlinux(self) -> Path:
        """The uncompressed ELF image: QEMU enters it directly (PVH), without unpacking."""
        return self.root / "vmlinux"

    @property
    def modules(self) -> Path:
        return self.root / "lib/modules" / self.release / "kernel"

    @property
    def headers(self) -> Path:
        """What `make -C` builds modules against."""
        return self.root / "usr/src" / f"linux-headers-{self.release}"

    @property
    def common_headers(self) -> Path:
        """The part of the headers that all flavours share."""
        return Path(str(self.headers).removesuffix("-amd64") + "-common")

    @property
    def scripts(self) -> Path:
        """checkpatch.pl and its word lists, from the kernel's source package."""
        return self.root / "scripts"

    @property
    def driver(self) -> Path:
        """The distribution's own virtio_balloon.c."""
        return self.root / "virtio_balloon.c"


def extract_vmlinux(bzimage: bytes) -> bytes:
    """The ELF image inside of an xz-compressed bzImage.

    Offsets: Documentation/arch/x86/boot.rst, setup_sects (0x1f1), payload_offset (0x248)
    and payload_length (0x24c). LabError where the image is of another form.
    """
    if len(bzimage) < 0x250 or bzimage[0x1FE:0x200] != b"\x55\xaa":
        raise LabError("the kernel image is no bzImage: change the kernel in targets.toml")
    setup_sects = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if not payload.startswith(b"\xfd7zXZ"):
        raise LabError(
            f"the kernel image is compressed with something else than xz ({payload[:6].hex()}): "
            "add it to pyguest/build/kernel.py"
        )
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)


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
    key = f"{release}-{paths.content_key(version, target.source, Path(__file__))}"
    root = paths.cached("kernel", key, lambda into: _unpack(archive, target, release, into))
    return Kernel(target, release, version, root)


def _unpack(archive: Archive, target: KernelTarget, release: str, root: Path) -> None:
    paths.require_space(root, NEEDS_BYTES, f"Linux {release}")
    headers = f"linux-headers-{release}"
    depends = archive.show(headers)["Depends"]
    others = re.findall(r"(linux-headers-[\w.+-]*-common|linux-kbuild-[\w.]+)", depends)
    archive.unpack([f"linux-image-{release}", headers, *others, target.source], root)

    # The headers include one another by absolute path.
    makefile = root / "usr/src" / headers / "Makefile"
    makefile.write_text(
        "include $(dir $(lastword $(MAKEFILE_LIST)))../"
        f"{headers.removesuffix('-amd64')}-common/Makefile\n"
    )

    with progress.step("extract vmlinux"):
        (root / "vmlinux").write_bytes(extract_vmlinux(
            (root / "boot" / f"vmlinuz-{release}").read_bytes()))
    tarball = root / "usr/src" / f"{target.source}.tar.xz"
    with progress.step(f"extract the driver from {target.source}"), tarfile.open(tarball) as tar:
        _extract(tar, root)
    tarball.unlink()
    shutil.rmtree(root / "usr/share", ignore_errors=True)


NEEDS_BYTES = 2 << 30
"""Free disk space for the unpacked packages: measured 0.8 GiB for 6.1, and room."""

SCRIPTS = ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")


def _extract(tar: tarfile.TarFile, root: Path) -> None:
    wanted = {"drivers/virtio/virtio_balloon.c": root / "virtio_balloon.c"}
    wanted |= {f"scripts/{name}": root / "scripts" / name for name in SCRIPTS}
    (root / "scripts").mkdir()
    for member in tar:
        path = wanted.pop(member.name.split("/", 1)[-1], None)
        if path:
            file = tar.extractfile(member)
            assert file
            path.write_bytes(file.read())
            path.chmod(member.mode)
            if not wanted:
                return
    raise LabError(f"the kernel's source has no {', '.join(wanted)}: "
                   "change the source in targets.toml")
