# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with our device, from Debian's source, with only what the lab needs in it.

The build folder of each version is kept beside the finished binaries: a changed device costs a
compile of a few files, not of all of QEMU.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .. import paths, progress
from ..debian import Archive
from ..errors import LabError
from ..targets import QemuTarget
from . import patch

DEVICE = paths.TREE / "hostctl/qemu"
HEADER = paths.TREE / "kmod/include/uapi/linux/virtio_balloon_message.h"
OWN = {
    HEADER: "include/standard-headers/linux/virtio_balloon_message.h",
    DEVICE / "lab-devices.mak": "configs/devices/x86_64-softmmu/lab.mak",
    DEVICE / "virtio-balloon.json": "qapi/virtio-balloon.json",
    **{file: f"hw/virtio/{file.name}" for file in DEVICE.glob("*.c")},
    **{file: f"include/hw/virtio/{file.name}"
       for pattern in ("*.h", "*.h.inc") for file in DEVICE.glob(pattern)},
}
ARGUMENTS = DEVICE / "configure.args"
BINARY = "qemu-system-x86_64"

NEEDS_BYTES = 3 << 30
"""Free disk space for source and build folder: measured 1.2 GiB for 10.0, and room."""


@dataclass(frozen=True)
class Qemu:
    """A built QEMU."""

    binary: Path
    version: str


def ensure(target: QemuTarget) -> Qemu:
    """The lab's QEMU: of QEMU_SRC= when that is set, else of Debian's source, from the cache."""
    hook = paths.TREE / target.patch
    own_tree = os.environ.get("QEMU_SRC")
    if own_tree:
        return _build_own_tree(Path(own_tree).resolve(), target)
    version = Archive(target.suite).source_version(target.source)
    base = _tree_key(target, version)
    key = paths.content_key(base, repr(sorted(OWN.values())), hook, *sorted(OWN))

    def build(into: Path) -> None:
        paths.require_space(paths.cache_root(), NEEDS_BYTES, "QEMU's build")
        tree = _tree(target, version)
        with paths.lock(f"qemu-tree-{base}"):
            _synchronise(tree, hook, f"QEMU {version}")
            binary = _compile(tree / "src", tree / "build", target.name, target)
            shutil.copy(binary, into / BINARY)

    entry = paths.cached("qemu", f"{target.name}-{key}", build)
    return Qemu(entry / BINARY, version)


def source_tree(target: QemuTarget) -> Path:
    """Debian's source of a target; with our device in it once `ensure` has built it."""
    return _tree(target, Archive(target.suite).source_version(target.source)) / "src"


def _tree_key(target: QemuTarget, version: str) -> str:
    """Of the source and what it is configured with; our device is not part of it."""
    key = paths.content_key(version, *configure_arguments(target), DEVICE / "lab-devices.mak")
    return f"{target.name}-{key}"


def _tree(target: QemuTarget, version: str) -> Path:
    return paths.cached("qemu-tree", _tree_key(target, version),
                        lambda at: unpack(target, version, at))


def configure_arguments(target: QemuTarget) -> list[str]:
    """configure.args without its comments, and what this QEMU alone is told."""
    lines = (line.split("#", 1)[0].strip() for line in ARGUMENTS.read_text().splitlines())
    return [line for line in lines if line] + target.configure


def build_environment() -> dict[str, str]:
    """For configure and ninja: python3, meson and ninja are those of the venv.

    QEMU asks for newer ones than Debian 12's.
    """
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def unpack(target: QemuTarget, version: str, into: Path) -> None:
    """Fetch the distribution's source, and unpack it into `into`/src."""
    tarball = Archive(target.suite).fetch_source(target.source, version, into)
    (into / "src").mkdir()
    with progress.step(f"unpack QEMU {version}") as step:
        progress.run(["tar", "-C", into / "src", "--strip-components=1", "-xf", tarball],
                     into / "unpack.log", step)
    for path in into.iterdir():
        if path.name != "src":
            path.unlink()


def _synchronise(tree: Path, hook: Path, what: str) -> None:
    """Bring our files and the patched ones into the source; what is unchanged keeps its time."""
    source, pristine, patched = tree / "src", tree / "pristine", tree / "patched"
    shutil.rmtree(patched, ignore_errors=True)
    # What an earlier patch changed goes back to the original.
    names = set(patch.files(hook)) | {
        str(path.relative_to(pristine)) for path in pristine.rglob("*") if path.is_file()
    }
    for name in sorted(names):
        original = pristine / name
        if not original.exists():
            if not (source / name).is_file():
                raise LabError(f"{hook}: {what} has no file {name}: rebase the patch or use the "
                               "version that it is for")
            original.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, original)
        (patched / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, patched / name)
    patch.apply(hook, patched, what)
    for own, name in OWN.items():
        (patched / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own, patched / name)
    for path in patched.rglob("*"):
        there = source / path.relative_to(patched)
        if path.is_file() and not (there.exists() and there.read_bytes() == path.read_bytes()):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)


def _compile(source: Path, build: Path, name: str, target: QemuTarget) -> Path:
    log = paths.state_dir("build") / f"qemu-{name}.log"
    log.unlink(missing_ok=True)
    env = build_environment()
    build.mkdir(exist_ok=True)
    if not (build / "build.ninja").exists():
        with progress.step(f"configure QEMU {name}") as step:
            progress.run([source / "configure", *configure_arguments(target)], log, step,
                         cwd=build, env=env)
    with progress.step(f"compile QEMU {name}") as step:
        progress.run(["ninja", BINARY], log, step, how_far=r"\[\d+/\d+\]", cwd=build, env=env)
    return build / BINARY


def _build_own_tree(source: Path, target: QemuTarget) -> Qemu:
    """Build a person's own tree; our device must be applied to it already, or apply cleanly."""
    if not (source / "hw/virtio/virtio-balloon.c").is_file():
        raise LabError(f"QEMU_SRC={source} is no QEMU source tree: point it at one")
    for own, name in OWN.items():
        there = source / name
        if not there.exists() or there.read_bytes() != own.read_bytes():
            shutil.copyfile(own, there)
    hook = paths.TREE / target.patch
    if "virtio_balloon_message" not in (source / "hw/virtio/virtio-balloon.c").read_text():
        patch.apply(hook, source, f"QEMU_SRC={source}")
    build = paths.cache_root() / "qemu-own" / paths.content_key(
        str(source), *configure_arguments(target))
    build.parent.mkdir(parents=True, exist_ok=True)
    binary = _compile(source, build, "own-tree", target)
    version = subprocess.run([binary, "--version"], text=True, capture_output=True, check=True)
    return Qemu(binary, version.stdout.split("\n")[0].removeprefix("QEMU emulator version "))
