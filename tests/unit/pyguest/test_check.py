# SPDX-License-Identifier: GPL-2.0-or-later
"""What the compilers said, told apart: ours, the stock driver's, the kernel's."""

from pathlib import Path

import pytest

from pyguest import check

GCC = """\
  CC [M]  /tmp/x/balloon_pressure.o
/tmp/x/balloon_pressure.c: In function 'f':
/tmp/x/balloon_pressure.c:12:7: warning: unused variable 'x' [-Wunused-variable]
   12 |  int x;
/tmp/x/balloon_pressure.c:12:7: note: what follows
virtio_balloon_main.c:400: warning: Excess function parameter 'y'
"""
SPARSE = """\
  CHECK   balloon_pressure.c
balloon_pressure.c:90:47: warning: incorrect type in initializer (different base types)
balloon_pressure.c:90:47:    expected restricted __le32 [usertype] a
/src/include/linux/mm.h:9:1: error: bad constant expression
"""
MODPOST = "WARNING: modpost: missing MODULE_DESCRIPTION() in /tmp/x/virtio_balloon.o\n"


def test_complaints_are_found() -> None:
    assert check.parse(GCC) == [
        check.Complaint("balloon_pressure.c", 12, "unused variable 'x' [-Wunused-variable]"),
        check.Complaint("virtio_balloon.c", 400, "Excess function parameter 'y'"),
    ]
    assert [each.file for each in check.parse(SPARSE)] == ["balloon_pressure.c", "mm.h"]
    assert check.parse(MODPOST) == [
        check.Complaint("modpost", 0, "missing MODULE_DESCRIPTION() in virtio_balloon.o")]
    assert check.parse("  CC [M]  a.o\nmake: Leaving directory '/x'\n") == []


def test_the_stock_drivers_own_are_not_ours() -> None:
    """Wherever they moved to; a second one of the same text is."""
    stock = [check.Complaint("virtio_balloon.c", 380, "old")]
    moved = check.Complaint("virtio_balloon.c", 400, "old")
    second = check.Complaint("virtio_balloon.c", 500, "old")
    assert check.ours([moved], stock) == []
    assert check.ours([moved, second], stock) == [second]
    assert check.ours([check.Complaint("virtio_balloon.c", 1, "new")], stock) != []


def test_our_files_are_never_excused_and_the_kernels_always() -> None:
    ours = check.Complaint("balloon_pressure.c", 1, "x")
    headers = check.Complaint("mm.h", 1, "x")
    assert check.ours([ours, headers], [ours, headers]) == [ours]
    assert check.ours([headers], []) == []


def result(kernel: str, name: str, ours: tuple[str, ...] = (), elsewhere: int = 0) -> check.Result:
    return check.Result(kernel, name, ours, elsewhere, Path("/log"))


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    results = [result("6.1", "W=1"), result("6.1", "sparse", ("a.c:1: bad",), 2),
               result("7.3", "W=1", elsewhere=3)]
    assert check.table(results).splitlines() == [
        "| kernel | W=1 | sparse |",
        "|---|---|---|",
        "| 6.1 | clean | **1 of ours** (2 elsewhere) |",
        "| 7.3 | clean (3 elsewhere) |  |",
    ]
    assert check.report(results) == 1
    assert "    a.c:1: bad" in capsys.readouterr().out
    assert check.report([results[0], results[2]]) == 0
