# SPDX-License-Identifier: GPL-2.0-or-later
"""targets.toml as dataclasses: which kernels, QEMUs, guests and image there are."""

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from .errors import LabError
from .paths import TREE

T = TypeVar("T")

ASAN = "-asan"
"""Ends the name of a QEMU that is built with the address sanitizer."""


@dataclass(frozen=True)
class KernelTarget:
    """A Debian kernel: its suite, its packages, our hook patch, and what boots a guest."""

    name: str
    suite: str
    image: str
    source: str
    patch: str
    modules: list[str]

    @property
    def release_suite(self) -> str:
        """The stable release that the kernel belongs to."""
        return self.suite.removesuffix("-backports")


@dataclass(frozen=True)
class QemuTarget:
    """A Debian QEMU source package, our hook patch for it, and its own configure options."""

    name: str
    suite: str
    source: str
    patch: str
    configure: list[str]


@dataclass(frozen=True)
class GuestTarget:
    """A guest's usual size."""

    memory_mib: int
    cpus: int


@dataclass(frozen=True)
class ImageTarget:
    """The guest's root file system; its Debian release is the kernel's."""

    size_mib: int
    packages: list[str]


@dataclass(frozen=True)
class Targets:
    """All of targets.toml."""

    path: Path
    default_kernel: str
    default_qemu: str
    kernels: dict[str, KernelTarget]
    qemus: dict[str, QemuTarget]
    guest: GuestTarget
    image: ImageTarget

    def kernel(self, name: str | None = None) -> KernelTarget:
        """The kernel of that name, or the default one. LabError when there is none."""
        return _named(self.path, "kernel", self.kernels, name or self.default_kernel)

    def qemu(self, name: str | None = None) -> QemuTarget:
        """The QEMU of that name, or the default one. LabError when there is none.

        "10.0-asan" is 10.0 with the address sanitizer.
        """
        plain = (name or self.default_qemu).removesuffix(ASAN)
        target = _named(self.path, "QEMU", self.qemus, plain)
        if name and name.endswith(ASAN):
            return replace(target, name=name, configure=[*target.configure, "--enable-asan"])
        return target


def load(path: Path = TREE / "targets.toml") -> Targets:
    """Read the targets. LabError names the file, the key and what is wrong with it."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path}: {error}: mend the file, or take it from git") from error
    try:
        return Targets(
            path=path,
            default_kernel=str(data["default"]["kernel"]),
            default_qemu=str(data["default"]["qemu"]),
            kernels={
                name: _table(path, KernelTarget, f'kernels."{name}"', table, name=name)
                for name, table in data["kernels"].items()
            },
            qemus={
                name: _table(path, QemuTarget, f'qemus."{name}"', table, name=name)
                for name, table in data["qemus"].items()
            },
            guest=_table(path, GuestTarget, "guest", data["guest"]),
            image=_table(path, ImageTarget, "image", data["image"]),
        )
    except KeyError as error:
        raise LabError(f"{path}: {error} is missing: add it, or take the file from git") from error


def _named(path: Path, what: str, table: dict[str, T], name: str) -> T:
    try:
        return table[name]
    except KeyError:
        known = ", ".join(sorted(table))
        raise LabError(
            f"{path}: no {what} {name!r}: there are {known}; take one of these or add it"
        ) from None


def _table(path: Path, kind: type[T], where: str, table: dict[str, Any], **given: str) -> T:
    expected: dict[str, Any] = {
        field.name: field.type for field in fields(kind)  # type: ignore[arg-type]
    }
    values: dict[str, Any] = {**table, **given}
    for key in values.keys() - expected.keys():
        raise LabError(f"{path}: [{where}] has an unknown key {key!r}: take it out")
    for key in expected.keys() - values.keys():
        raise LabError(f"{path}: [{where}] lacks the key {key!r}: add it")
    for key, value in values.items():
        wanted = expected[key]
        origin = getattr(wanted, "__origin__", wanted)
        if not isinstance(value, origin) or (origin is int and value <= 0):
            raise LabError(f"{path}: [{where}] {key} = {value!r} is no {wanted}: change it")
    return kind(**values)
