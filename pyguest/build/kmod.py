# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest driver: the distribution's virtio_balloon.c, our hook patch and our files."""

import shutil
import tempfile
from pathlib import Path

from .. import paths, progress
from ..errors import LabError
from . import patch
from .kernel import Kernel

KMOD = paths.TREE / "kmod"
OWN = ("Kbuild", "balloon_compat.h", "balloon_pressure.c", "balloon_pressure.h",
       "virtio_balloon_trace.h", "include/uapi/linux/virtio_balloon_message.h")


OPTIONS = ("BALLOON_PRESSURE_LAB=y",)
"""The lab's driver has the tests' door in it."""


def prepare(into: Path, driver: Path, hook: Path, what: str) -> None:
    """Lay the driver's source out in `into`, ready for Kbuild."""
    for name in OWN:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(KMOD / name, into / name)
    with tempfile.TemporaryDirectory() as scratch:
        patched = Path(scratch) / "drivers/virtio/virtio_balloon.c"
        patched.parent.mkdir(parents=True)
        shutil.copy(driver, patched)
        patch.apply(hook, Path(scratch), what)
        shutil.copy(patched, into / "virtio_balloon_main.c")


def compile(source: Path, kdir: Path, log: Path) -> Path:
    """Run Kbuild; returns the module."""
    with progress.step(f"build virtio_balloon.ko against {kdir.name}") as step:
        progress.run(["make", "-C", kdir, f"M={source}", *OPTIONS, "modules"], log, step,
                     how_far=r"(CC|LD|MODPOST|BTF).*")
    return source / "virtio_balloon.ko"


def ensure(kernel: Kernel) -> Path:
    """The lab's driver for a kernel, with the tests' door in it."""
    hook = paths.TREE / kernel.target.patch
    key = paths.content_key(
        kernel.version, repr(OPTIONS), hook, *(KMOD / name for name in OWN))

    def build(into: Path) -> None:
        prepare(into, kernel.driver, hook, f"the driver of Linux {kernel.version}")
        log = paths.state_dir("build") / "kmod.log"
        log.unlink(missing_ok=True)
        compile(into, kernel.headers, log)

    entry = paths.cached("kmod", f"{kernel.release}-{key}", build)
    return entry / "virtio_balloon.ko"


def build_for_tree(kdir: Path, hook: Path, into: Path) -> Path:
    """The driver for a person's own kernel tree (KDIR=), built into the folder `into`.

    The driver's source comes from that tree; `hook` is the hook patch to apply.
    """
    driver = kdir / "drivers/virtio/virtio_balloon.c"
    if not driver.is_file():
        raise LabError(f"KDIR={kdir} has no drivers/virtio/virtio_balloon.c: "
                       "point it at a whole kernel source tree that was built")
    into.mkdir(parents=True, exist_ok=True)
    prepare(into, driver, hook, f"the driver in {kdir}")
    return compile(into, kdir, into / "build.log")
