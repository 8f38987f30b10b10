# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's lines and the reporter's restraint."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostctl.errors import HostctlError
from hostctl.journal import Journal, Reporter

KEYS = st.text(min_size=1).filter(lambda key: key not in ("time", "mono", "event", "self"))
VALUES = st.one_of(st.integers(), st.text(), st.booleans(), st.none())


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_round_trip(tmp_path: Path, records: list[dict[str, object]]) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    with Journal(path, wall=lambda: 1.5, mono=lambda: 2.5) as journal:
        for record in records:
            journal.write("start", **record)
    lines = path.read_text().splitlines() if records else []
    assert [json.loads(line) for line in lines] == [
        {"time": 1.5, "mono": 2.5, "event": "start", **record} for record in records
    ]


def test_mode_and_append(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("earlier\n")
    path.chmod(0o644)
    with Journal(path) as journal:
        journal.write("stop")
        assert len(path.read_text().splitlines()) == 2  # at once, before it is closed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    fresh = tmp_path / "new"
    old = os.umask(0)
    try:
        Journal(fresh).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostctlError, match="journal"):
        Journal(link)


def test_full_disk_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    mode = full.stat().st_mode
    with Journal(full) as journal:
        journal.write("start")
        journal.write("stop")
    assert full.stat().st_mode == mode, "a device's mode is not ours to change"
    (line,) = capsys.readouterr().err.splitlines()
    assert "/dev/full" in line and "No space left" in line


def test_problem_is_said_once_until_cleared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        report = Reporter(journal)
        report.problem("a", "frozen\nfor long")
        report.problem("a", "frozen\nfor long")
        report.problem("b", "frozen " + "x" * 9999)
        report.clear("a")
        report.problem("a", "frozen for long")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["event"], r["about"]) for r in records] == [("error", n) for n in "aba"]
    assert records[0]["message"] == "frozen for long"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(len(line) < 600 for line in lines)
