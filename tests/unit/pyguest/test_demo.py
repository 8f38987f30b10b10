# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration's record: reading it, judging it, showing it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyguest.demo import picture, table, view
from pyguest.demo.record import Load, Message, Recording, Sample, read
from pyguest.demo.verdict import judge

MIB = 1 << 20


def sample(time: float) -> Sample:
    return Sample(time, 900 * MIB, 1024 * MIB, 10 * MIB, 5, 7, {"a": 3}, {"a": 30})


def event(time: float, kind: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"time": time, "mono": time, "event": kind, **more}


def closed_loop() -> list[dict[str, Any]]:
    mib = MIB
    return [
        event(100, "guest-added", guest="a", ram=512 * mib, actual=512 * mib, target=512 * mib),
        event(101, "host-pressure", level="low", source="x"),
        event(101, "decision", guest="a", old=512 * mib, new=480 * mib, reason="host-pressure"),
        event(102, "actual", guest="a", actual=480 * mib),
        event(110, "guest-message", guest="a", level="low", actual=480 * mib),
        event(110, "decision", guest="a", old=480 * mib, new=512 * mib, reason="guest-pressure"),
        event(111, "actual", guest="a", actual=512 * mib),
    ]


MESSAGE = Message(110.01, "a", "low", 600, 600, 8192, 200.0)


def recording(journal: list[dict[str, Any]], messages: list[Message]) -> Recording:
    return Recording(journal, messages, [sample(100), sample(120)],
                     [Load(115, "a", 64, 10.0, 1000)])


def test_a_closed_loop_is_a_success() -> None:
    verdict = judge(recording(closed_loop(), [MESSAGE]))
    assert verdict.success
    assert "guest a" in str(verdict.inflated)
    assert "guest a" in str(verdict.deflated)


@pytest.mark.parametrize("left_out", range(1, 7))
def test_each_link_of_the_loop_is_needed(left_out: int) -> None:
    journal = closed_loop()
    del journal[left_out]
    assert not judge(recording(journal, [MESSAGE])).success


def test_the_tracer_must_have_seen_the_message() -> None:
    assert not judge(recording(closed_loop(), [])).success
    late = Message(120.0, "a", "low", 600, 600, 8192, 200.0)
    assert not judge(recording(closed_loop(), [late])).success
    other = Message(110.0, "b", "low", 600, 600, 8192, 200.0)
    assert not judge(recording(closed_loop(), [other])).success


def test_a_cancel_is_no_deflation() -> None:
    journal = closed_loop()
    journal[5]["reason"] = "cancel"
    assert judge(recording(journal, [MESSAGE])).deflated is None


def test_the_table_counts_the_record() -> None:
    rows = {(group, what): value for group, what, value in
            table.rows(recording(closed_loop(), [MESSAGE]))}
    assert rows["host", "pressure events"] == "1"
    assert rows["guest a", "inflations decided"] == "1"
    assert rows["guest a", "deflations decided"] == "1"
    assert rows["guest a", "cancels decided"] == "0"
    assert rows["guest a", "smallest size"] == "480 MiB"
    assert rows["guest a", "messages (device)"] == "1 low, 0 medium, 0 critical"
    assert rows["guest a", "records/s"] == "100"


def test_the_screen_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view.screen(recording(closed_loop(), [MESSAGE])))
    text = console.export_text()
    assert "900 of 1024 MiB" in text
    assert "480 -> 512 MiB for guest-pressure" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    picture.draw(recording(closed_loop(), [MESSAGE]), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_reading_leaves_out_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(json.dumps(event(1, "start")) + '\n{"time": 2, "ev')
    line = {"time": 10.0, "level": "low", "scanned": 1, "reclaimed": 1, "actual": 0,
            "num_pages": 0, "ack_us": 1.0}
    (tmp_path / "trace-a.jsonl").write_text("TIME\n" + json.dumps(line) + "\n")
    record = read(tmp_path, {"a": 5.0, "b": 0.0})
    assert [one["event"] for one in record.journal] == ["start"]
    assert [message.time for message in record.messages] == [15.0]


@pytest.mark.parametrize(("value", "filled"), [(0, 0), (50, 5), (100, 10), (250, 10), (-3, 0)])
def test_bar(value: float, filled: int) -> None:
    assert view.bar(value, 100, 10) == "█" * filled + "·" * (10 - filled)
