# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab put together: what is built becomes guests on a network, stopped when one is done."""

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from . import accel, inject, network, paths, series, targets
from .build import image, initrd, kernel, kmod, linux, qemu, source
from .errors import LabError
from .vm import Vm, VmConfig


@dataclass(frozen=True)
class Parts:
    """Everything that a guest is made of, built."""

    targets: targets.Targets
    kernel: kernel.Kernel
    """The one that guests boot."""
    image: image.Image
    qemu: qemu.Qemu
    driver: Path
    """Our driver for the kernel."""
    programs: dict[str, Path]
    """The load programs, by name."""

    def initrd(self, driver: Path | None) -> Path:
        """The initrd that brings `driver` and the load programs along."""
        payload = {f"bin/{name}": path for name, path in self.programs.items()}
        payload |= {"messages.py": paths.TREE / "pyguest/guest/messages.py"}
        if driver:
            payload["virtio_balloon.ko"] = driver
        return initrd.ensure(self.kernel, self.image.busybox, payload)

    @property
    def stock_driver(self) -> Path:
        """The kernel's own driver, as it came."""
        return _own_driver(self.kernel)


def _own_driver(booted: kernel.Kernel) -> Path:
    return booted.modules / "drivers/virtio/virtio_balloon.ko"


def stock_qemu() -> Path:
    """The distribution's own QEMU. LabError when it is not installed."""
    found = shutil.which(qemu.BINARY)
    if not found:
        raise LabError(f"{qemu.BINARY} is not installed: run `make setup`")
    return Path(found)


def chosen(variable: str) -> str | None:
    """What the user chose by KERNEL=, QEMU= or KDIR= in the environment; None for nothing."""
    return os.environ.get(variable) or None


def packaged_kernel(wanted: targets.Targets, name: str | None) -> kernel.Kernel:
    """Debian's own kernel of that name, whatever the flavour."""
    return kernel.ensure(wanted.kernel(name and name.partition("-")[0]))


def booted_kernel(wanted: targets.Targets, name: str | None) -> kernel.Kernel:
    """The kernel of that name: "6.1" is Debian's own, "6.1-debug" one built from its source.

    "7.3-series" is one with the series in its tree, and has its driver from there.
    """
    base, _, flavour = (name or wanted.default_kernel).partition("-")
    if not flavour:
        return packaged_kernel(wanted, name)
    tree = source.ensure(wanted.kernel(base))
    mails = []
    if flavour == linux.SERIES:
        mails = series.write(series.of_kernel(tree), paths.state_dir("series") / base).mails
    return linux.ensure(tree, flavour, mails)


def prepare() -> Parts:
    """Build what is not in the cache. KERNEL= and QEMU= in the environment choose."""
    if chosen("KDIR"):
        raise LabError(f"KDIR={chosen('KDIR')}: a kernel tree of your own is for `make kmod` "
                       "alone; leave it out here")
    wanted = targets.load()
    qemu_target = wanted.qemu(chosen("QEMU"))
    booted = booted_kernel(wanted, chosen("KERNEL"))
    key = paths.content_key(repr(inject.CFLAGS), *inject.SOURCES)
    programs = paths.cached("inject", key, _build_programs)
    return Parts(
        targets=wanted,
        kernel=booted,
        image=image.ensure(wanted.image, packaged_kernel(wanted, chosen("KERNEL"))),
        qemu=qemu.ensure(qemu_target),
        driver=_own_driver(booted) if linux.has_series(booted) else kmod.ensure(booted),
        programs={name: programs / name for name in inject.PROGRAMS},
    )


def _build_programs(into: Path) -> None:
    inject.build(into)


class Lab:
    """Guests on a network of their own. A context manager: it stops all that it started."""

    MOST_GUESTS = 8
    """Guests that one lab can have had; each has its own tap."""

    def __init__(self, parts: Parts, name: str, acceleration: str = "auto") -> None:
        self.parts = parts
        self.accel = accel.choose(acceleration)
        self.run_dir = paths.state_dir(name)
        self.network: network.Network
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> "Lab":
        self.network = self._stack.enter_context(network.open_network("auto", self.MOST_GUESTS))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def vm(self, name: str, driver: Path | None = None, **changes: Any) -> Vm:  # noqa: ANN401
        """A guest with our driver (or `driver`); `changes` are fields of VmConfig. Not started."""
        guest = self.parts.targets.guest
        flavour = linux.flavour_of(self.parts.kernel.target.name)
        config = VmConfig(
            name=name,
            qemu=self.parts.qemu.binary,
            accel=self.accel,
            vmlinux=self.parts.kernel.vmlinux,
            initrd=self.parts.initrd(driver or self.parts.driver),
            disk=self.parts.image.disk,
            ssh_key=self.parts.image.ssh_key,
            memory_mib=guest.memory_mib + flavour.memory_mib,
            cpus=guest.cpus,
            index=self._count % self.MOST_GUESTS,
            tb_size_mib=flavour.tb_size_mib,
            patience=flavour.patience,
        )
        self._count += 1
        vm = Vm(replace(config, **changes), self.run_dir / name, self.network)
        return self._stack.enter_context(vm)

    def twin(self, vm: Vm) -> Vm:
        """Another QEMU for this guest, to which it can be migrated (`Vm.migrating`). Not started.

        The guest must have a disk of its own (`keeps_disk`), which both of them use.
        """
        config = replace(vm.config, name=f"{vm.name}-twin", link=self._count % self.MOST_GUESTS,
                         extra=(*vm.config.extra, "-incoming", "defer"))
        self._count += 1
        return self._stack.enter_context(Vm(config, self.run_dir / config.name, self.network))
