# SPDX-License-Identifier: GPL-2.0-or-later
"""The initrd: kernel modules for the root disk, and what the lab brings into the guest.

Uncompressed, because unpacking costs more than reading under TCG. Driver and load programs
travel in it, so that a new driver needs no new image.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .. import paths
from ..errors import LabError
from .kernel import Kernel

INIT = paths.TREE / "pyguest/guest/initrd-init"


def load_order(kernel: Kernel) -> list[Path]:
    """The modules that boot a guest and what they depend on, dependencies first."""
    files = {path.stem.replace("-", "_"): path for path in kernel.modules.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None:
            raise LabError(f"Linux {kernel.release} has no module {name}: "
                           "take it out of the kernel's modules in targets.toml")
        if path in order:
            return
        for dependency in _dependencies(path):
            add(dependency)
        order.append(path)

    for name in kernel.target.modules:
        add(name)
    return order


def _dependencies(module: Path) -> list[str]:
    done = subprocess.run(["modinfo", "-F", "depends", module], text=True, capture_output=True,
                          check=True)
    return [name for name in done.stdout.strip().split(",") if name]


def ensure(
    kernel: Kernel, busybox: Path, payload: Mapping[str, Path]
) -> Path:
    """The initrd that carries `payload` (name in the guest's /run/lab -> file)."""
    key = paths.content_key(
        kernel.version, repr(kernel.target.modules), INIT, Path(__file__), busybox,
        *(item for name, path in sorted(payload.items()) for item in (name, path)),
    )
    entry = paths.cached(
        "initrd", f"{kernel.release}-{key}",
        lambda into: _build(kernel, busybox, payload, into),
    )
    return entry / "initrd"


def _build(
    kernel: Kernel, busybox: Path, payload: Mapping[str, Path], into: Path
) -> None:
    tree = into / "tree"
    for name in ("bin", "dev", "root", "modules", "lab"):
        (tree / name).mkdir(parents=True)
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    shutil.copy(busybox, tree / "bin/busybox")
    order = load_order(kernel)
    for path in order:
        shutil.copy(path, tree / "modules" / path.name)
    (tree / "modules/order").write_text("".join(f"{path.name}\n" for path in order))
    for name, path in payload.items():
        (tree / "lab" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tree / "lab" / name)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with (into / "initrd").open("wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "--owner=0:0"], cwd=tree,
                       input=names.encode(), stdout=out, check=True)
    shutil.rmtree(tree)
