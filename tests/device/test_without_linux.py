# SPDX-License-Identifier: GPL-2.0-or-later
"""The device as it is compiled for a host that is not Linux: nothing automatic is in it.

The compiler and the headers are this machine's; what QEMU's own build says about the host
(CONFIG_LINUX) and what the compiler says (__linux__) is taken away.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from pyguest import lab, targets
from pyguest.build import qemu

AWARE = ("virtio-balloon.c", "virtio-balloon-message.c", "virtio-balloon-migration.c")
"""What has the automatic part in it on Linux."""
FILES = (*AWARE, "virtio-balloon-discard.c", "virtio-balloon-pci.c")
LINUX_ONLY = ("virtio-balloon-automatic.c", "virtio-balloon-pressure.c")
SIGNS = (b"virtio_balloon_automatic", b"virtio_balloon_pressure", b"automatic", b"memcg-path")


@pytest.fixture(scope="module")
def commands(qemu_binary: Path) -> dict[str, tuple[Path, list[str]]]:
    """How the build compiled a file of hw/virtio: where, and the command."""
    source = qemu.source_tree(targets.load().qemu(lab.chosen("QEMU")))
    database = source.parent / "build" / "compile_commands.json"
    if not database.exists():
        pytest.skip(f"{database}: QEMU was built elsewhere, and its build folder is not here")
    return {
        Path(entry["file"]).name: (Path(entry["directory"]), shlex.split(entry["command"]))
        for entry in json.loads(database.read_text())
        if Path(entry["file"]).parent.name == "virtio"
    }


def compiled(where: Path, command: list[str], into: Path, *options: str) -> bytes:
    """The object file, with these options before all others."""
    output = into / "object.o"
    at = command.index("-o")
    subprocess.run(
        [command[0], *options, *command[1:at], "-o", str(output), *command[at + 2:],
         "-MF", str(into / "dependencies")],
        cwd=where, check=True,
    )
    return output.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_nothing_automatic_is_left(
    commands: dict[str, tuple[Path, list[str]]], tmp_path: Path, name: str
) -> None:
    where, command = commands[name]
    (tmp_path / "config-host.h").write_text(
        '#include_next "config-host.h"\n#undef CONFIG_LINUX\n'
    )
    elsewhere = compiled(where, command, tmp_path, "-iquote", str(tmp_path), "-Werror",
                         "-U__linux__", "-U__linux", "-Ulinux")
    assert not [sign for sign in SIGNS if sign in elsewhere]
    if name in AWARE:
        here = compiled(where, command, tmp_path)
        assert b"virtio_balloon_automatic" in here


def test_the_linux_files_are_built_here(commands: dict[str, tuple[Path, list[str]]]) -> None:
    assert set(LINUX_ONLY) <= set(commands)
