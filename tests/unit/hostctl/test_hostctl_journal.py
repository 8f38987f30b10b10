# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's lines and the reporter's restraint."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostctl.errors import HostctlError
from hostctl.journal import SAID_MOST, Journal, Reporter, say

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


def test_full_disk_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    mode = full.stat().st_mode
    with Journal(full) as journal:
        journal.write("start")
        journal.write("stop")
    assert full.stat().st_mode == mode, "a device's mode is not ours to change"
    (line,) = capfd.readouterr().err.splitlines()
    assert "/dev/full" in line and "No space left" in line


def test_problem_is_said_once_until_cleared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        now = 0.0
        report = Reporter(journal, clock=lambda: now)
        report.problem("a", "frozen\nfor long")
        report.problem("a", "frozen\nfor long")
        report.problem("b", "frozen " + "x" * 9999)
        now = 1000.0
        report.problem("a", "frozen for long")
        report.clear("a")
        report.problem("a", "frozen for long")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["event"], r["about"]) for r in records] == [("error", n) for n in "aba"]
    assert records[0]["message"] == "frozen for long"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and all(len(line) < 600 for line in lines)


def test_changing_problems_and_short_recoveries_are_said_once_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    now = 0.0
    with Journal(path) as journal:
        report = Reporter(journal, clock=lambda: now)
        for step in range(90):
            now = 2.0 * step
            report.problem("a (balloon)", f"no {step}")
            report.problem("a", "frozen")
            report.clear("a")
        report.problem("ab", "x")
        report.forget("a")
        assert report._said.keys() == {"ab"}
        report.problem("a", "frozen")  # another of that name
    found = [json.loads(line) for line in path.read_text().splitlines()]
    said = [record["message"] for record in found if record["about"] == "a (balloon)"]
    assert said == ["no 0", "no 30", "no 60"]
    assert [record["about"] for record in found].count("a") == 4


def test_rotation_keeps_so_many_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, size=1000, keep=2) as journal:
        for number in range(100):
            journal.write("actual", number=number)
    files = [path.with_name("journal.2"), path.with_name("journal.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    numbers = []
    for file in files:
        assert file.stat().st_size <= 1000
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        numbers += [json.loads(line)["number"] for line in file.read_text().splitlines()]
    assert numbers == list(range(100 - len(numbers), 100)) and len(numbers) > 20


def test_rotation_goes_on_in_a_file_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"event":"old"}\n' * 60)
    with Journal(path, size=1000, keep=0) as journal:
        for _ in range(3):
            journal.write("stop")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["stop"] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_rotation_that_fails_is_said_once_and_loses_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal"
    (tmp_path / "journal.1" / "x").mkdir(parents=True)  # a file cannot take a folder's place
    with Journal(path, size=1000, keep=1) as journal:
        for number in range(50):
            journal.write("actual", number=number)
    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
    assert numbers == list(range(50))
    (line,) = capfd.readouterr().err.splitlines()
    assert "not rotated" in line


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.write("start")
        path.rename(tmp_path / "away")
        journal.write("reload")
        journal.reopen()
        journal.write("stop")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["stop"]
    assert len((tmp_path / "away").read_text().splitlines()) == 2


def test_no_half_line_stays_when_the_disk_is_full(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit of the file's size is a disk that is full after a part of a record."""
    path = tmp_path / "journal"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        journal.write("start", text="x" * 50)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, old[1]))
        try:
            journal.write("lost", text="y" * 50)
            journal.write("lost", text="y" * 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert len(path.read_text().splitlines()) == 1
        journal.write("stop")
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["start", "stop"]
    (line,) = capfd.readouterr().err.splitlines()
    assert "records are lost" in line


def test_a_half_line_that_was_left_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"event":"whole"}\n{"event":"ha')
    with Journal(path) as journal:
        journal.write("start")
        journal.write("stop")
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"event":"whole"}', '{"event":"ha']
    assert [json.loads(line)["event"] for line in lines[2:]] == ["start", "stop"]


@contextmanager
def stalled() -> Iterator[tuple[int, int]]:
    """A full pipe, whose reader does not read: both ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def in_time(act: Callable[[], None]) -> None:
    """Fail, and do not hang, where `act` waits for ever."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for a reader that does not read"


def test_a_stalled_reader_costs_records_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        journal.write("start")
        journal.write("stop")

    with stalled() as (reader, writer):
        with open(writer, "w", closefd=False) as stdout, monkeypatch.context() as patch:  # noqa: PTH123
            patch.setattr("sys.stdout", stdout)
            journal = Journal(None)
        in_time(write)
        (line,) = capfd.readouterr().err.splitlines()
        assert "standard output: its reader has stalled; records are lost" in line
        os.read(reader, 4096)
        journal.write("reload", text="y" * 3000)
        assert json.loads(os.read(reader, 9999))["event"] == "reload"
        # What is longer than the room that is left comes in part: its line is ended then.
        in_time(lambda: journal.write("error", text="z" * 9000))
        assert os.read(reader, 4096)[:1] == b"{"
        journal.write("stop")
        half, line, end = os.read(reader, 4096).split(b"\n")
        assert half == b"" and json.loads(line)["event"] == "stop" and end == b""


def test_a_line_for_an_operator_who_does_not_read_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stalled() as (reader, writer), open(writer, "w", closefd=False) as stderr:  # noqa: PTH123
        monkeypatch.setattr("sys.stderr", stderr)
        in_time(lambda: say("a line"))
        assert os.read(reader, 9999) == b"x" * 4096
        in_time(lambda: say("é" * 9999))
        assert len(os.read(reader, 9999).decode()) == SAID_MOST + 1
        monkeypatch.undo()


def test_only_the_wall_time_follows_the_wall_clock(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    wall = iter([1000.0, 10.0])
    mono = iter([1.0, 2.0])
    with Journal(path, wall=lambda: next(wall), mono=lambda: next(mono)) as journal:
        journal.write("start")
        journal.write("stop")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["time"], r["mono"]) for r in found] == [(1000.0, 1.0), (10.0, 2.0)]
