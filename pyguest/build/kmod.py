# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest driver: the distribution's virtio_balloon.c, our hook patch and our files."""

import shutil
import tempfile
from pathlib import Path

from .. import paths, progress
from ..errors import LabError
from . import patch
from .kernel import CC, Kernel

KMOD = paths.TREE / "kmod"
OWN = ("Kbuild", *sorted(str(path.relative_to(KMOD)) for path in KMOD.rglob("*.[ch]")))
"""The driver's files that are ours, below kmod/."""

LAB = "BALLOON_PRESSURE_LAB=y"
"""With the tests' door in it."""


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


def compile(source: Path, kdir: Path, log: Path, *options: str) -> Path:
    """Run Kbuild; returns the module."""
    with progress.step(f"build virtio_balloon.ko against {kdir}") as step:
        progress.run(["make", "-C", kdir, f"M={source}", *options, "modules"], log, step,
                     how_far=r"(CC|LD|MODPOST|BTF).*")
    return source / "virtio_balloon.ko"


def ensure(kernel: Kernel) -> Path:
    """The lab's driver for a kernel, with the tests' door in it."""
    hook = paths.TREE / kernel.target.patch
    key = paths.content_key(
        kernel.version, LAB, hook, *(KMOD / name for name in OWN))

    def build(into: Path) -> None:
        prepare(into, kernel.source.driver, hook, f"the driver of Linux {kernel.version}")
        log = paths.state_dir("build") / "kmod.log"
        log.unlink(missing_ok=True)
        compile(into, kernel.build, log, f"CC={CC}", LAB)

    entry = paths.cached("kmod", f"{kernel.release}-{key}", build)
    return entry / "virtio_balloon.ko"


def build_for_tree(kdir: Path, hooks: list[Path], into: Path) -> Path:
    """The driver for a person's own kernel tree (KDIR=), built into the folder `into`.

    It is the driver as the series has it, without the tests' door. The driver's source comes from
    that tree, or from the one that KDIR was built from; the first of the hook patches that fits is
    applied.
    """
    for tree in (kdir, kdir / "source"):
        driver = tree / "drivers/virtio/virtio_balloon.c"
        if driver.is_file():
            break
    else:
        raise LabError(f"KDIR={kdir} has no drivers/virtio/virtio_balloon.c: "
                       "point it at a whole kernel source tree that was built")
    if not (kdir / "Module.symvers").is_file():
        raise LabError(f"KDIR={kdir} has no Module.symvers: build that kernel first (make in it)")
    into.mkdir(parents=True, exist_ok=True)
    # What stays after a failure must not pass for what was built.
    (into / "virtio_balloon.ko").unlink(missing_ok=True)
    # Where none fits, the last one says which hunks do not.
    hook = next((hook for hook in hooks if patch.fits(hook, tree)), hooks[-1])
    prepare(into, driver, hook, f"the driver in {kdir}")
    return compile(into, kdir, into / "build.log")
