# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole kernels: configurations that did not take, and patched copies of a source tree."""

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest.build import linux
from pyguest.errors import LabError

FRAGMENT = """\
# A comment, and not a setting: CONFIG_NOTHING=y
CONFIG_BLOCK=y
CONFIG_BALLOON=m
CONFIG_NAME="-debug"
# CONFIG_SCAN is not set
CONFIG_OLD=y
# optional: CONFIG_OLD CONFIG_NEW
CONFIG_NEW=y
"""
TAKEN = {"BLOCK": "y", "BALLOON": "m", "NAME": '"-debug"', "OLD": "y"}
KNOWN = {"BLOCK", "BALLOON", "NAME", "SCAN", "OLD"}


def missing(config: dict[str, str], known: set[str] = KNOWN) -> list[str]:
    return linux.not_taken(linux.parse_fragments(FRAGMENT), config, known)


def test_fragments_are_read() -> None:
    wanted = linux.parse_fragments(FRAGMENT)
    assert wanted.values == {**TAKEN, "NEW": "y", "SCAN": "n"}
    assert wanted.optional == {"OLD", "NEW"}


def test_later_fragments_win() -> None:
    text = "CONFIG_A=y\n# CONFIG_B is not set\n" + "# CONFIG_A is not set\nCONFIG_B=m\n"
    assert linux.parse_config(text) == {"A": "n", "B": "m"}


def test_a_configuration_that_took_all() -> None:
    """NEW is optional and not known; SCAN is off when it is not in .config."""
    assert missing(TAKEN) == []
    assert missing({**TAKEN, "SCAN": "n"}) == []


def test_what_did_not_take_is_named() -> None:
    assert missing({**TAKEN, "BALLOON": "y"}) == ["CONFIG_BALLOON=m (y)"]
    assert missing({**TAKEN, "SCAN": "y"}) == ["CONFIG_SCAN=n (y)"]
    assert missing({**TAKEN, "NAME": '""'}) == ['CONFIG_NAME="-debug" ("")']
    without = {key: value for key, value in TAKEN.items() if key != "BLOCK"}
    assert missing(without) == ["CONFIG_BLOCK=y (n)"]


def test_only_unknown_symbols_may_be_optional() -> None:
    """An optional symbol that the kernel has must take; an unknown one must be optional."""
    without = {key: value for key, value in TAKEN.items() if key != "OLD"}
    assert missing(without) == ["CONFIG_OLD=y (n)"]
    assert missing(TAKEN, KNOWN | {"NEW"}) == ["CONFIG_NEW=y (n)"]
    without = {key: value for key, value in TAKEN.items() if key != "BLOCK"}
    assert missing(without, KNOWN - {"BLOCK"}) == ["CONFIG_BLOCK=y (no such symbol)"]


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True),
                       st.sampled_from(["y", "m", "n", "17", '"text"'])))
def test_a_configuration_takes_itself(values: dict[str, str]) -> None:
    text = "".join(f"# CONFIG_{key} is not set\n" if value == "n" else f"CONFIG_{key}={value}\n"
                   for key, value in values.items())
    assert linux.parse_config(text) == values
    assert linux.not_taken(linux.parse_fragments(text), values, set(values)) == []


def test_symbols_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "mm").mkdir()
    (tmp_path / "Kconfig").write_text('config A\n\tbool "a"\nif A\n  menuconfig B\nendif\n')
    (tmp_path / "mm/Kconfig.debug").write_text("config C\n\tdefault CONFIG_D\n")
    (tmp_path / "mm/notes").write_text("config E\n")
    assert linux.known_symbols(tmp_path) == {"A", "B", "C"}


@pytest.mark.parametrize("flavour", linux.FLAVOURS)
def test_each_flavour_names_itself(flavour: str) -> None:
    """All fragments are there, and the release says which flavour a guest runs."""
    text = "".join((linux.CONFIGS / name).read_text() for name in linux.FLAVOURS[flavour].fragments)
    wanted = linux.parse_fragments(text)
    assert wanted.values["LOCALVERSION"] == f'"-{flavour}"'
    assert wanted.values["VIRTIO_BALLOON"] == "m"
    assert wanted.optional <= wanted.values.keys()


PATCH = """\
From: somebody
Subject: a patch as it is mailed
---
 one | 2 +-
 1 file changed

--- a/one
+++ b/one
@@ -1 +1 @@
-first
+patched
--- /dev/null
+++ b/new/file
@@ -0,0 +1 @@
+new
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-gone
"""


def test_files_of_a_patch() -> None:
    assert linux.touched_files(PATCH) == {"one", "new/file", "gone"}


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    tree = tmp_path / "pristine"
    tree.mkdir()
    for name, text in (("one", "first\n"), ("two", "second\n"), ("gone", "gone\n")):
        (tree / name).write_text(text)
    return tree


def content(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): path.read_text()
            for path in tree.rglob("*") if path.is_file()}


def test_a_patched_copy_leaves_the_original(tmp_path: Path, pristine: Path) -> None:
    """And goes back to it, without a new time for what stays as it is."""
    patch, copy, log = tmp_path / "1.patch", tmp_path / "copy", tmp_path / "log"
    patch.write_text(PATCH)
    original = content(pristine)

    linux.synchronise(pristine, copy, [patch], "it", log)
    assert content(pristine) == original
    assert content(copy) == {"one": "patched\n", "two": "second\n", "new/file": "new\n"}
    assert (copy / "two").samefile(pristine / "two")

    patched = (copy / "one").stat().st_mtime_ns
    linux.synchronise(pristine, copy, [patch], "it", log)
    assert (copy / "one").stat().st_mtime_ns == patched

    time.sleep(0.01)
    linux.synchronise(pristine, copy, [], "it", log)
    assert content(copy) == original
    # make builds again what is newer than its object: the original's own time is not.
    assert (copy / "one").stat().st_mtime_ns > patched
    assert not (copy / "one").samefile(pristine / "one")


def test_patches_build_on_one_another(tmp_path: Path, pristine: Path) -> None:
    first, second = tmp_path / "1.patch", tmp_path / "2.patch"
    first.write_text(PATCH)
    second.write_text(PATCH.split("--- /dev")[0].replace("patched", "twice")
                      .replace("-first", "-patched"))
    linux.synchronise(pristine, tmp_path / "copy", [first, second], "it", tmp_path / "log")
    assert (tmp_path / "copy/one").read_text() == "twice\n"
    with pytest.raises(LabError, match=r"hunk 1 .* of one"):
        linux.synchronise(pristine, tmp_path / "copy", [second], "it", tmp_path / "log")


def test_a_rename(tmp_path: Path, pristine: Path) -> None:
    patch = tmp_path / "1.patch"
    patch.write_text("diff --git a/one b/other/one\nsimilarity index 100%\n"
                     "rename from one\nrename to other/one\n")
    linux.synchronise(pristine, tmp_path / "copy", [patch], "it", tmp_path / "log")
    assert content(tmp_path / "copy") == {"other/one": "first\n", "two": "second\n",
                                          "gone": "gone\n"}
    linux.synchronise(pristine, tmp_path / "copy", [], "it", tmp_path / "log")
    assert content(tmp_path / "copy") == content(pristine)


def test_a_build_folder_may_be_moved(tmp_path: Path) -> None:
    source, build = tmp_path / "source", tmp_path / "build"
    source.mkdir()
    build.mkdir()
    (source / "Makefile").write_text("all:\n\t@echo $(KBUILD_OUTPUT)\n")
    (build / "Makefile").write_text(linux.kdir_makefile("$(KBUILD_OUTPUT)/../source"))
    moved = tmp_path / "moved/build"
    moved.parent.mkdir()
    source.rename(tmp_path / "moved/source")
    build.rename(moved)
    done = subprocess.run(["make", "-s", "-C", moved], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == str(moved)
