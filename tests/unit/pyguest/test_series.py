# SPDX-License-Identifier: GPL-2.0-or-later
"""The series of mails: texts, hooks taken apart, our files in tree, and a small one as a whole."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest import hooks, paths, series, series_check
from pyguest.build.kmod import KMOD
from pyguest.build.qemu import DEVICE
from pyguest.build.source import Source
from pyguest.errors import LabError
from pyguest.targets import KernelTarget

STOCK = """\
#include <linux/mm.h>

static int probe(void)
{
	return find();
}

static int remove(void)
{
	return 0;
}
"""
HOOK = """\
--- a/drivers/virtio/virtio_balloon.c
+++ b/drivers/virtio/virtio_balloon.c
@@ -1,11 +1,19 @@
 #include <linux/mm.h>
+#include "own.h"

 static int probe(void)
 {
-\treturn find();
+\tif (own_paused())
+\t\treturn 0;
+
+\town_start();
+
+\treturn find(1);
 }

 static int remove(void)
 {
+\town_stop();
+
 \treturn 0;
 }
""".replace("\n\n static", "\n \n static")
RECIPE = r"""
target = "9.9"
left_out = ["compat.h"]
defined = []
undefined = ["LAB"]
leftover = '\bcompat_'

[files]
"own.c" = "drivers/virtio/virtio_own.c"
"own.h" = "drivers/virtio/virtio_own.h"
"api.h" = "include/api.h"

[replace]
'"own\.h"' = '"virtio_own.h"'
'\bcompat_call\(' = 'call('

[checks]
MISSING_SIGN_OFF = "the sender's"

[[mail]]
name = "rename"
rename = ["drivers/virtio/virtio_balloon.c", "drivers/virtio/virtio_balloon_main.c"]
diff = true

[[mail]]
name = "own"
files = ["own.c", "own.h"]
hooks = 'own|find'

[[mail.insert]]
source = "api.h"
paragraph = '_F_'
into = "include/api.h"
after = "#define VIRTIO_F_OLD"

[[mail]]
name = "pause"
hooks = 'own_paused'

[[mail.later]]
source = "own.h"
paragraph = 'own_paused'
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A kernel of four files, and programs that stand in for the kernel's scripts."""
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ann Sender")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "sender@example.org")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    tree = tmp_path / "linux"
    _write(tree, {
        "drivers/virtio/virtio_balloon.c": STOCK,
        "drivers/virtio/Makefile": "obj-m += virtio_balloon.o\n",
        "include/api.h": "#define VIRTIO_F_OLD 1\n\n#endif\n",
        # Takes nothing out.
        "scripts/unifdef.c": "#include <stdio.h>\nint main(void) { int c; "
                             "while ((c = getchar()) != EOF) putchar(c); return 0; }\n",
        "scripts/get_maintainer.pl":
            'print $ARGV[4] eq "--m" ? "M. Aintainer <m\\@x.example>\\n" '
            ': "m\\@x.example\\nlist\\@x.example\\n";\n',
    })
    return Source(KernelTarget("9.9", "s", "i", "linux-source-9.9", "kmod/patches/9.9.patch", []),
                  "9.9.1-1", tree)


@pytest.fixture
def kmod(tmp_path: Path) -> Path:
    """Our files for that kernel."""
    folder = tmp_path / "kmod"
    _write(folder, {
        "own.c": '#include "own.h"\nvoid own_start(void) { compat_call(1); }\n',
        "own.h": "void own_start(void);\n\nint own_paused(void);\n",
        "api.h": "/* first */\n\n/* new */\n#define VIRTIO_F_NEW 2\n\n#endif\n",
        "compat.h": "#define compat_call call\n",
        "patches/9.9.patch": HOOK,
        "series/series.toml": RECIPE,
        "series/numbers.toml": 'speed = "7 MB/s"\n',
        "series/cover.txt": "Do it well\n\nOn @kernel@: @speed@, @unknown@.\n",
        "series/rename.txt": "virtio: rename\n\nMake room.\n",
        "series/rename.patch": "--- a/drivers/virtio/Makefile\n+++ b/drivers/virtio/Makefile\n"
                               "@@ -1 +1,2 @@\n obj-m += virtio_balloon.o\n"
                               "+virtio_balloon-y := virtio_balloon_main.o\n",
        "series/own.txt": "virtio: own\n\nFast: @speed@.\n",
        "series/pause.txt": "virtio: pause\n\nWait.\n",
    })
    return folder


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_series_applies_and_is_whole(kernel: Source, kmod: Path, tmp_path: Path) -> None:
    """git am of the mails on the kernel's source gives the driver with all hooks in it."""
    written = series.write(series.of_kernel(kernel, kmod), tmp_path / "out")
    assert [mail.name[:4] for mail in written.mails] == ["0001", "0002", "0003"]
    tree = tmp_path / "tree"
    series_check.copy_tree(kernel, series_check.touched(written.mails, kernel.tree), tree)

    main = tree / "drivers/virtio/virtio_balloon_main.c"
    series_check.apply(written.mails[:2], tree)
    assert "own_start();" in main.read_text() and "own_paused" not in main.read_text()
    assert "\treturn find(1);\n" in main.read_text()
    header = tree / "drivers/virtio/virtio_own.h"
    assert header.read_text() == "void own_start(void);\n"
    series_check.apply(written.mails[2:], tree)
    assert header.read_text() == "void own_start(void);\n\nint own_paused(void);\n"
    assert "\tif (own_paused())\n\t\treturn 0;\n\n\town_start();\n\n\treturn find(1);\n" in (
        main.read_text())
    assert main.read_text().startswith('#include <linux/mm.h>\n#include "virtio_own.h"\n')
    assert (tree / "drivers/virtio/virtio_own.c").read_text() == (
        '#include "virtio_own.h"\nvoid own_start(void) { call(1); }\n')
    assert (tree / "include/api.h").read_text() == (
        "#define VIRTIO_F_OLD 1\n\n/* new */\n#define VIRTIO_F_NEW 2\n\n#endif\n")
    # The kernel's source was linked to, and must be as it was.
    assert kernel.driver.read_text() == STOCK
    assert "main" not in (kernel.tree / "drivers/virtio/Makefile").read_text()


def test_mails_are_the_senders(kernel: Source, kmod: Path, tmp_path: Path) -> None:
    """His name, no sign-off by anybody, the cover filled in, and who is to get them."""
    written = series.write(series.of_kernel(kernel, kmod), tmp_path / "out")
    cover = written.cover.read_text()
    assert "Subject: [RFC PATCH 0/3] Do it well" in cover
    assert "On 9.9 (linux-source-9.9 9.9.1-1): 7 MB/s, not measured." in cover
    assert written.unmeasured == ["unknown"]
    for mail in written.mails:
        text = mail.read_text()
        assert "From: Ann Sender <sender@example.org>" in text
        assert "Date: Sun, 9 Sep 2001" in text
        assert "Signed-off-by" not in text
    assert written.recipients.read_text() == "--to=m@x.example\n--cc=list@x.example\n"


def test_same_input_same_mails(kernel: Source, kmod: Path, tmp_path: Path) -> None:
    """Also over an earlier series that had more mails."""
    first = series.write(series.of_kernel(kernel, kmod), tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/0009-old.patch").write_text("old\n")
    second = series.write(series.of_kernel(kernel, kmod), tmp_path / "two")
    files = [first.cover, *first.mails]
    assert sorted(path.name for path in second.folder.glob("*.patch")) == [
        path.name for path in files]
    for one, two in zip(files, [second.cover, *second.mails], strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("file", "old", "new", "said"), [
    ("own.c", "compat_call", "compat_other", "kmod/own.c: 'compat_' is left over"),
    ("api.h", "#endif", "#define VIRTIO_MSG 3\n", "no mail brings VIRTIO_MSG"),
    ("api.h", "_F_NEW", "_G_NEW", "0 paragraphs have '_F_'"),
    ("series/series.toml", "VIRTIO_F_OLD", "NOWHERE", "0 lines begin with"),
    ("series/series.toml", "hooks = 'own|find'", "hooks = 'own'", "no mail of the series takes"),
    ("series/series.toml", "hooks = 'own_paused'", "hooks = 'nothing'", "take the mail pause out"),
    ("series/series.toml", '"compat.h"', "", "kmod/compat.h is neither in"),
    ("series/series.toml", '"own.c", ', "", "no mail brings own.c"),
    ("series/series.toml", "diff = true", "dif = true", "unexpected keyword argument 'dif'"),
    ("series/numbers.toml", "speed", "sped", "sped: no text names it"),
    ("patches/9.9.patch", "static int probe", "static int prob", "hunk 1"),
    ("series/rename.patch", "obj-m", "obj-y", "hunk 1"),
])
def test_what_does_not_fit_is_named(kernel: Source, kmod: Path, tmp_path: Path, file: str,
                                    old: str, new: str, said: str) -> None:
    """And an earlier series stays as it was."""
    written = series.write(series.of_kernel(kernel, kmod), tmp_path / "out")
    before = written.mails[1].read_bytes()
    _change(kmod / file, old, new)
    with pytest.raises(LabError, match=re.escape(said)):
        series.write(series.of_kernel(kernel, kmod), tmp_path / "out")
    assert written.mails[1].read_bytes() == before


def test_other_kernels_and_unknown_senders(kernel: Source, kmod: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, with the remedy."""
    _change(kmod / "series/series.toml", 'target = "9.9"', 'target = "9.8"')
    with pytest.raises(LabError, match=re.escape("make series KERNEL=9.8")):
        series.write(series.of_kernel(kernel, kmod), tmp_path / "out")
    monkeypatch.delenv("GIT_AUTHOR_NAME")
    monkeypatch.delenv("GIT_AUTHOR_EMAIL")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setattr(paths, "TREE", tmp_path)
    with pytest.raises(LabError, match=re.escape("git config user.name")):
        series.identity()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(LabError, match="SOURCE_DATE_EPOCH=today"):
        series.date()


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n"]), max_size=8)


@given(stock=LINES, patched=LINES, by_line=st.booleans())
def test_hooks_taken_apart_make_the_whole(
        tmp_path_factory: pytest.TempPathFactory, stock: list[str], patched: list[str],
        by_line: bool) -> None:
    """All paragraphs give the patched file, none the stock one; a paragraph has one text."""
    folder = tmp_path_factory.mktemp("hook")
    _write(folder, {"a/f": "".join(stock), "b/f": "".join(patched)})
    diff = subprocess.run(["diff", "-u", "--label=a/f", "--label=b/f", "a/f", "b/f"], cwd=folder,
                          text=True, capture_output=True).stdout
    if not diff:
        return
    (folder / "hook.patch").write_text(diff)
    changes = hooks.read(folder / "a", folder / "hook.patch", folder / "scratch", by_line)["f"]
    owner = hooks.assign(changes, {"all": "", "b": "b"}, by_line)
    assert hooks.merge("".join(stock), changes, owner, {"all", "b"}) == "".join(patched)
    assert hooks.merge("".join(stock), changes, owner, set()) == "".join(stock)
    for change in changes:
        assert not by_line or len(change.added) <= 1
        assert len([part for part in "".join(change.added).split("\n\n") if part.strip()]) <= 1


@given(st.text(), st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.text()))
def test_fill_any_text(text: str, values: dict[str, str]) -> None:
    """What has no value is said to have none; what is not @name@ stays."""
    missing: set[str] = set()
    used: set[str] = set()
    result = series.fill(text, values, missing, used)
    assert missing == used - values.keys()
    if not used:
        assert result == text


def _messages() -> Sequence[Path]:
    return [own / "series" / f"{mail.name}.txt"
            for own in (KMOD, DEVICE) for mail in series.load(own).mails]


@pytest.mark.parametrize("path", _messages(), ids=lambda path: path.stem)
def test_messages_are_in_the_kernels_form(path: Path) -> None:
    """Subject: text in lines of 75 columns, an empty line between, no sign-off."""
    subject, empty, *body = path.read_text().splitlines()
    assert re.fullmatch(r"[a-z][\w/-]*: [a-z].{5,60}[^.]", subject)
    assert len(subject) <= 72
    assert not empty and body
    assert max(map(len, body)) <= 75
    assert "-by:" not in path.read_text()


def test_warnings_of_two_builds_are_compared_without_lines(tmp_path: Path) -> None:
    """Line numbers, the folder and the driver's old name make no new warning."""
    build = series_check._Build(tmp_path / "linux", tmp_path / "build", tmp_path / "log", [])
    old = "../linux/drivers/virtio/virtio_balloon.c:10:3: warning: unused x"
    new = f"{tmp_path}/linux/drivers/virtio/virtio_balloon_main.c:99:7: warning: unused x"
    assert build._plain(old) == build._plain(new)
    assert build._plain(old) != build._plain(new.replace("unused", "unset"))


def test_remarks_of_checkpatch_must_be_explained(kernel: Source, kmod: Path,
                                                 tmp_path: Path) -> None:
    """By type; an output of another form is no silence."""
    mail = tmp_path / "0001-x.patch"
    mail.write_text("x\n")
    recipe = series.load(kmod)
    script = kernel.tree / "scripts/checkpatch.pl"
    script.write_text('print "$ARGV[4]:7: ERROR:MISSING_SIGN_OFF: Missing\\n"; exit 1;\n')
    assert series_check._checkpatch(mail, recipe, kernel) == {"MISSING_SIGN_OFF": 1}
    script.write_text('print "$ARGV[4]:7: CHECK:SPACING: space\\n"; exit 1;\n')
    with pytest.raises(LabError, match=r"7: CHECK:SPACING: space.*explain SPACING"):
        series_check._checkpatch(mail, recipe, kernel)
    script.write_text('die "no such thing\\n";\n')
    with pytest.raises(LabError, match="no such thing"):
        series_check._checkpatch(mail, recipe, kernel)
