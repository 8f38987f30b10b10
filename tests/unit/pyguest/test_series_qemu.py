# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's series: hooks taken apart by line in several files, and QEMU's tests compared."""

import subprocess
from pathlib import Path

import pytest

from pyguest import hooks, series, series_check, series_qemu
from pyguest.errors import LabError
from pyguest.series_qemu import Ran

STOCK = {
    "hw/device.c": "int realize(void)\n{\n    return 0;\n}\n",
    "hw/meson.build": "ss.add('device.c')\n",
    "meson.build": "firmware = true\n",
    "include/api.h": "#define F_OLD 1\n\n#endif\n",
    "docs/index.rst": "old\n",
    "scripts/get_maintainer.pl": "print \"m\\@x.example\\n\";\n",
}
PATCHED = {
    "hw/device.c": "int realize(void)\n{\n    message();\n    /* Not always. */\n"
                   "    automatic();\n    if (1) {\n    }\n    return 0;\n}\n",
    "hw/meson.build": "ss.add('device.c')\nss.add('message.c')\nss.add('automatic.c')\n",
    "meson.build": "firmware = false # lab\n",
}
RECIPE = r"""
target = "9.9"
left_out = ["compat.h"]
by_line = true
left_hooks = 'lab'
leftover = 'compat'

[files]
"message.c" = "hw/message.c"
"automatic.c" = "hw/automatic.c"

[replace]
'^#include "compat.h"\n' = ''

[checks]

[[mail]]
name = "message"
files = ["message.c"]
hooks = 'message'

[[mail]]
name = "automatic"
files = ["automatic.c"]
hooks = 'automatic'

[[mail.later]]
source = "message.c"
cut = '^#ifdef AUTOMATIC\n.*?^#endif\n'
"""
OURS = {
    "message.c": '#include "compat.h"\nint m;\n#ifdef AUTOMATIC\nint a;\n#endif\nint n;\n',
    "automatic.c": "int automatic(void);\n",
    "compat.h": "\n",
    "series/series.toml": RECIPE,
    "series/numbers.toml": "",
    "series/cover.txt": "Do it\n\nOn @qemu@.\n",
    "series/message.txt": "hw: message\n\nSay it.\n",
    "series/automatic.txt": "hw: automatic\n\nDo it.\n",
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> series.Base:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ann Sender")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "sender@example.org")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for folder, files in (("tree/src", STOCK), ("a", STOCK), ("b", PATCHED), ("own", OURS)):
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
    hook = "".join(
        subprocess.run(["diff", "-u", f"a/{name}", f"b/{name}"], cwd=tmp_path, text=True,
                       capture_output=True).stdout for name in PATCHED)
    (tmp_path / "hook.patch").write_text(hook)
    return series.Base(tmp_path / "own", "9.9", "QEMU", "QEMU 9.9.1", "qemu 9.9.1-1",
                       tmp_path / "tree/src", tmp_path / "hook.patch", None, ())


def test_each_mail_has_its_lines(base: series.Base, tmp_path: Path) -> None:
    """In all files; a line without a pattern goes with its neighbour; the lab's in none."""
    written = series.write(base, tmp_path / "out")
    assert "On 9.9 (qemu 9.9.1-1)." in written.cover.read_text()
    series_check.adopt(base.tree, series_check.touched(written.mails, base.tree), "9.9")

    series_check.apply(written.mails[:1], base.tree)
    assert (base.tree / "hw/device.c").read_text() == (
        "int realize(void)\n{\n    message();\n    /* Not always. */\n    return 0;\n}\n")
    assert (base.tree / "hw/meson.build").read_text() == (
        "ss.add('device.c')\nss.add('message.c')\n")
    assert (base.tree / "hw/message.c").read_text() == "int m;\nint n;\n"
    series_check.apply(written.mails[1:], base.tree)
    for name in ("hw/device.c", "hw/meson.build"):
        assert (base.tree / name).read_text() == PATCHED[name]
    assert "#ifdef AUTOMATIC\nint a;\n#endif\n" in (base.tree / "hw/message.c").read_text()
    assert (base.tree / "meson.build").read_text() == STOCK["meson.build"]


def test_the_labs_hooks_come_and_go(base: series.Base, tmp_path: Path) -> None:
    """The source is built with them, and is afterwards as it was, its times included."""
    file = base.tree / "meson.build"
    time = file.stat().st_mtime_ns
    series_qemu._lab_hooks(base, series.load(base.own), tmp_path / "tree")
    assert file.read_text() == PATCHED["meson.build"]
    assert (base.tree / "hw/device.c").read_text() == STOCK["hw/device.c"]
    assert file.stat().st_mtime_ns == time
    series_qemu._put_back(tmp_path / "tree")
    assert file.read_text() == STOCK["meson.build"]
    assert file.stat().st_mtime_ns == time


def test_a_cut_is_found_once() -> None:
    one = series.Later("f.c", cut="^x.*?y$\n")
    assert series.hold_back("a\nx\ny\nb\n", one) == "a\nb\n"
    for text in ("a\n", "x\ny\nx\ny\n"):
        with pytest.raises(LabError, match="f.c: .* is found [02] times"):
            series.hold_back(text, one)


def test_a_line_alone_without_a_pattern_is_named() -> None:
    """Its neighbours are those in its place, and not in the next one."""
    change = [hooks.Change(3, 0, ("message\n",)), hooks.Change(9, 0, ("x\n",))]
    with pytest.raises(LabError, match=r"hook at line 10, \['x'\]"):
        hooks.assign(change, {"m": "message"}, by_line=True)


def test_results_of_a_test_program() -> None:
    output = "1..4\nok 1 /a\nok 2 /b # SKIP no such device\nnot ok 3 /c - why\n# x\nok 4 /d\n"
    assert series_qemu._tap(output, 1) == Ran(2, 1, ("/c",))
    assert series_qemu._tap("ok 1 /a\n", 134).failed == ("ended with status 134",)


@pytest.mark.parametrize(("after", "said"), [
    (Ran(2, 0, ()), ""),
    (Ran(1, 1, ()), "one: 1 passed, fewer than before"),
    (Ran(2, 0, ("/x",)), "one: /x"),
])
def test_tests_must_pass_as_before(after: Ran, said: str,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    if said:
        with pytest.raises(LabError, match=said):
            series_qemu._compare({"one": Ran(2, 0, ())}, {"one": after})
    else:
        series_qemu._compare({"one": Ran(2, 0, ())}, {"one": after, "own": Ran(5, 0, ())})
    assert "one: 2 passed, 0 skipped before" in capsys.readouterr().out
