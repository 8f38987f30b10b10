# SPDX-License-Identifier: GPL-2.0-or-later
"""targets.toml: what it says, and what is said of a bad one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import hostctl
from pyguest import targets
from pyguest.errors import LabError


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (targets.TREE / "targets.toml").read_text()
    assert old in text
    path = tmp_path / "targets.toml"
    path.write_text(text.replace(old, new))
    return path


def test_every_target_has_its_patch() -> None:
    wanted = targets.load()
    for target in [*wanted.kernels.values(), *wanted.qemus.values()]:
        assert (targets.TREE / target.patch).is_file()
    assert wanted.kernel().name == wanted.default_kernel


@pytest.mark.parametrize("what", ["kernel", "qemu"])
def test_unknown_name_lists_the_known(what: str) -> None:
    wanted = targets.load()
    with pytest.raises(LabError, match=r"'9\.9': there are .*; take one"):
        getattr(wanted, what)("9.9")


def test_a_qemu_with_the_address_sanitizer() -> None:
    """It is the same source with one option more, and has a name, so a build folder, of its own."""
    wanted = targets.load()
    for name, plain in wanted.qemus.items():
        found = wanted.qemu(f"{name}-asan")
        assert found == replace(plain, name=f"{name}-asan",
                                configure=[*plain.configure, "--enable-asan"])
        assert found.configure != plain.configure == wanted.qemu(name).configure
    with pytest.raises(LabError, match=r"no QEMU '9\.9': there are"):
        wanted.qemu("9.9-asan")


@pytest.mark.parametrize(("old", "new", "said"), [
    ("memory_mib = 512", "memory_mib = -1", "memory_mib = -1"),
    ("memory_mib = 512", 'memory_mib = "x"', "memory_mib = 'x'"),
    ("memory_mib = 512", "memory_mib = 512\nmemori = 1", "unknown key 'memori'"),
    ("cpus = 2", "", "lacks the key 'cpus'"),
    ("[guest]", "[gast]", "'guest' is missing"),
    ("[guest]", "[guest", "mend the file"),
])
def test_bad_file_is_named_with_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(LabError) as error:
        targets.load(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_versions_agree() -> None:
    """The driver's MODULE_VERSION is the project's."""
    header = (targets.TREE / "kmod/balloon_pressure.h").read_text()
    driver = re.search(r'BALLOON_PRESSURE_VERSION "(.+)"', header)
    assert driver and driver[1] == hostctl.__version__
