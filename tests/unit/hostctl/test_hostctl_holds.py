# SPDX-License-Identifier: GPL-2.0-or-later
"""The holds that outlive the daemon: what is written can be read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fakeqemu import Said
from hypothesis import given
from hypothesis import strategies as st

from hostctl import runtime
from hostctl.runtime import Holds


@given(st.dictionaries(st.text(), st.text()))
def test_a_restart_knows_them(held: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "holds"
        first = Holds(path, Said())
        for guest, why in held.items():
            first.hold(guest, why)
        again = Holds(path, Said())
        assert {guest: again.get(guest) for guest in held} == held


def test_more_than_can_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "FILE_MOST", 100)
    path, said = tmp_path / "holds", Said()
    holds = Holds(path, said)
    for guest in range(20):
        holds.hold(f"guest {guest}", "backup")
    assert holds.get("guest 19") == "backup"
    ((about, why),) = said.problems
    assert about == str(path) and "release" in why
    again = Holds(path, Said())
    assert again.get("guest 0") == "backup" and again.get("guest 19") is None
    for guest in range(18):
        holds.release(f"guest {guest}")
    assert Holds(path, Said()).get("guest 19") == "backup"


@given(st.binary())
def test_any_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "holds"
        path.write_bytes(data)
        assert Holds(path, Said()).get("a") is None
