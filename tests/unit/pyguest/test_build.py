# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the builds that need no build: mirrors, patches, images, cache, progress."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest import debian, paths, progress
from pyguest.build import image, patch, qemu
from pyguest.errors import LabError

A = "http://a.example/" + "debian"
SECURITY = "debian-security"
ONE_LINE = """
# deb cdrom:[x] bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://a.example/NAME bookworm main contrib
deb-src http://a.example/NAME bookworm main
deb http://sec.example/NAME-security bookworm-security main
deb http://other.example/packages cloud-sdk main
""".replace("NAME", "debian")
DEB822 = """
Types: deb
URIs: http://b.example/NAME/
Suites: trixie trixie-updates
Components: main

Types: deb
URIs: http://b.example/NAME-security
Suites: trixie-security
Components: main

Types: deb
URIs: https://x.example/node
Suites: nodistro
""".replace("NAME", "debian")


def test_mirrors_in_both_forms() -> None:
    assert debian.parse_mirrors(ONE_LINE) == debian.Mirrors(
        A, "http://sec.example/" + SECURITY)
    assert debian.parse_mirrors(DEB822) == debian.Mirrors(
        "http://b.example/" + "debian", "http://b.example/" + SECURITY)


def test_stanzas_are_read_whole() -> None:
    """Whatever the order of fields, and without those that are off or of other components."""
    text = f"""
Types: deb
URIs: http://third.example/x
Suites: bookworm
Components: contrib

Enabled: no
URIs: http://off.example/x
Suites: bookworm
Components: main

Suites: bookworm
Components: main
URIs: {A}
"""
    assert debian.parse_mirrors(text) == debian.Mirrors(A, "http://a.example/" + SECURITY)


def test_no_mirror_and_no_security_mirror() -> None:
    assert debian.parse_mirrors("deb https://x.example/node nodistro main") is None
    only_main = debian.parse_mirrors(f"deb {A} bookworm main")
    assert only_main == debian.Mirrors(A, "http://a.example/" + SECURITY)


@given(st.text())
def test_mirrors_of_any_text(text: str) -> None:
    debian.parse_mirrors(text)


def tree_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tree/drivers").mkdir(parents=True)
    (tmp_path / "tree/drivers/x.c").write_text(text)
    return tmp_path / "tree"


PATCH = """\
--- a/drivers/x.c
+++ b/drivers/x.c
@@ -1,3 +1,4 @@
 one
+and a half
 two
 three
"""


def test_patch_applies(tmp_path: Path) -> None:
    tree = tree_with(tmp_path, "one\ntwo\nthree\n")
    hook = tmp_path / "hook.patch"
    hook.write_text(PATCH)
    patch.apply(hook, tree, "X 1")
    assert (tree / "drivers/x.c").read_text() == "one\nand a half\ntwo\nthree\n"
    assert patch.files(hook) == ["drivers/x.c"]


def test_patch_that_does_not_apply_names_hunk_and_file(tmp_path: Path) -> None:
    tree = tree_with(tmp_path, "uno\ndos\ntres\n")
    hook = tmp_path / "hook.patch"
    hook.write_text(PATCH)
    with pytest.raises(LabError, match=r"hunk 1 \(line 1\) of drivers/x.c.*apply to X 1; rebase"):
        patch.apply(hook, tree, "X 1")
    assert sorted(path.name for path in tree.rglob("*")) == ["drivers", "x.c"]


def test_cache_builds_once_and_keeps_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built: list[Path] = []

    def build(into: Path) -> None:
        built.append(into)
        (into / "file").write_text("x")

    def fail(into: Path) -> None:
        (into / "half").write_text("x")
        raise LabError("no")

    with pytest.raises(LabError):
        paths.cached("kind", "key", fail)
    assert [path.name for path in (tmp_path / "autoballoon/kind").iterdir()] == []
    first = paths.cached("kind", "key", build)
    assert paths.cached("kind", "key", build) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "x"


def test_content_key_keeps_parts_apart(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("b")
    assert paths.content_key("a", file) == paths.content_key("a", "b")
    assert paths.content_key("ab", "") != paths.content_key("a", "b")


def test_no_space_says_need_and_have(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"QEMU needs \d+ MiB in .*XDG_CACHE_HOME"):
        paths.require_space(tmp_path, 1 << 60, "QEMU")


def test_failing_command_shows_its_last_lines(tmp_path: Path) -> None:
    with (
        pytest.raises(LabError, match="status 3.*the whole log is .*\n.*the reason"),
        progress.step("try") as step,
    ):
        progress.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
                     tmp_path / "log", step)


def test_missing_command_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-command is not installed"), \
            progress.step("try") as step:
        progress.run(["no-such-command"], tmp_path / "log", step)


def test_own_trees_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyguest import targets
    from pyguest.build import kmod

    monkeypatch.setenv("QEMU_SRC", str(tmp_path))
    with pytest.raises(LabError, match="is no QEMU source tree"):
        qemu.ensure(targets.load().qemu())
    with pytest.raises(LabError, match="has no drivers/virtio/virtio_balloon.c"):
        kmod.build_for_tree(tmp_path, [tmp_path / "hook.patch"], tmp_path / "out")
    driver = tmp_path / "drivers/virtio/virtio_balloon.c"
    driver.parent.mkdir(parents=True)
    driver.touch()
    with pytest.raises(LabError, match=r"has no Module\.symvers"):
        kmod.build_for_tree(tmp_path, [tmp_path / "hook.patch"], tmp_path / "out")


def test_configure_arguments_are_the_common_and_its_own() -> None:
    """Without comments; 7.2 stops at an option that it does not know."""
    from pyguest import targets

    new, old = (qemu.configure_arguments(targets.load().qemu(name)) for name in ("10.0", "7.2"))
    for arguments in (new, old):
        assert "--enable-tcg" in arguments
        assert all(argument.startswith("--") for argument in arguments)
    assert "--disable-download" in new and "--disable-download" not in old


def test_headers_in_the_image_are_pruned() -> None:
    assert image._unused("/x/arch", ["x86", "arm64", "um", "Kconfig"]) == {"arm64"}
    assert image._unused("/x/linux-headers-6.1-common", ["include", "drivers"]) == {"drivers"}
    assert image._unused("/x/include", ["drivers"]) == set()
