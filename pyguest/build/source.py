# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's source as Debian packages it: the driver to patch, and what builds it.

The tree stays pristine: all builds are out of tree, and share it.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import paths, progress
from ..debian import Archive
from ..targets import KernelTarget

NEEDS_BYTES = 3 << 30
"""Free disk space for one tree and its archive: measured 2.2 GiB for 7.3, and room."""


@dataclass(frozen=True)
class Source:
    """One kernel source tree."""

    target: KernelTarget
    version: str
    """The Debian package's version."""
    tree: Path

    @property
    def driver(self) -> Path:
        """The distribution's own virtio_balloon.c."""
        return self.tree / "drivers/virtio/virtio_balloon.c"

    @property
    def scripts(self) -> Path:
        """checkpatch.pl and the like."""
        return self.tree / "scripts"


def ensure(target: KernelTarget) -> Source:
    """Fetch and unpack a kernel's source, unless the cache has it."""
    archive = Archive(target.suite)
    version = archive.show(target.source)["Version"]
    key = f"{target.source}-{paths.content_key(version)}"
    return Source(target, version, paths.cached(
        "source", key, lambda into: _unpack(archive, target.source, into)))


def _unpack(archive: Archive, package: str, into: Path) -> None:
    paths.require_space(into, NEEDS_BYTES, package)
    archive.unpack([package], into)
    tarball = into / f"usr/src/{package}.tar.xz"
    with progress.step(f"extract {package}") as step:
        progress.run(["tar", "-xJf", tarball, "-C", into, "--strip-components=1"],
                     paths.state_dir("build") / "source.log", step)
    tarball.unlink()
