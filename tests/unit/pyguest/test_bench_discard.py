# SPDX-License-Identifier: GPL-2.0-or-later
"""The discard measurement: frames as a guest sends them, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest.bench import discard, frames
from pyguest.bench.discard import Calls, Contestant, Turn
from pyguest.bench.frames import Frames
from pyguest.errors import LabError

TRACE = """\
virtqueue_fill vq 0x55 elem 0x56 len 1 idx 0
virtio_balloon_handle_output section name: pc.ram gpa: 0x7000000
virtio_balloon_handle_output section name: pc.ram gpa: 0x6fff000
virtqueue_fill vq 0x57 elem 0x58 len 0 idx 0
virtqueue_fill vq 0x55 elem 0x56 len 1 idx 0
virtio_balloon_handle_output section name: pc.ram gpa: 0x1000
virtqueue_fill vq 0x57 elem 0x58 len 0 idx 0
"""

buffers = st.lists(
    st.lists(st.integers(0, 20), min_size=1, max_size=20).map(tuple), max_size=5
).map(tuple)


def test_buffers_are_told_apart_by_their_return() -> None:
    assert frames.from_trace(TRACE) == ((0x7000, 0x6FFF), (1,))


@given(buffers, buffers)
def test_what_is_written_is_read(inflate: tuple[frames.Buffer, ...],
                                 deflate: tuple[frames.Buffer, ...]) -> None:
    known = Frames(inflate, deflate)
    assert frames.decode("# a comment\n" + frames.encode(known), "x") == known


def test_runs_are_short_to_write() -> None:
    known = Frames(((5, 6, 7, 3, 2, 9, 9),), ())
    assert frames.encode(known) == "inflate 5+3 3-2 9+1 9+1\n"


@pytest.mark.parametrize("line", ["inflate 5", "inflate x+1", "refill 5+1", "inflate 5*2"])
def test_a_broken_file_is_named(line: str) -> None:
    with pytest.raises(LabError, match=r"x: line 2: .*--record"):
        frames.decode(f"# one\n{line}\n", "x")


def test_the_recorded_frames_fit_the_machine() -> None:
    recorded = frames.decode(discard.RECORD.read_text(), "x")
    sent = [frame for buffer in recorded.inflate for frame in buffer]
    assert recorded.mib == discard.INFLATE_MIB
    assert len(set(sent)) == len(sent) and max(sent) < discard.BASE
    assert sorted(sent) == sorted(frame for buffer in recorded.deflate for frame in buffer)


def test_shapes() -> None:
    recorded = frames.decode(discard.RECORD.read_text(), "x")
    mixed = frames.shuffled(recorded)
    assert mixed != recorded and mixed == frames.shuffled(recorded)
    assert sorted(sum(mixed.inflate, ())) == sorted(sum(recorded.inflate, ()))
    every_second = frames.fragmented(300)
    assert every_second.inflate[0][:3] == (0, 2, 4)
    assert [len(buffer) for buffer in every_second.inflate] == [256, 44]


def test_calls_are_counted_in_both_devices_traces() -> None:
    shape = Frames(((1, 2) * 128,), ((1, 2) * 128,))
    discarded = "ram_block_discard_range pc.ram@0x7f + 0x1000: madvise: 1 fallocate: 0 ret: 0\n"
    frame = "virtio_balloon_handle_output section name: pc.ram gpa: 0x1000\n"
    run = "virtio_balloon_discard_run section name: pc.ram gpa: 0x1000 size: 0x2000 inflate: "
    assert discard.counted((discarded + frame) * 256 + frame * 256, shape) == Calls(256, 256)
    assert discard.counted(f"{run}1\n{discarded}{run}0\n", shape) == Calls(1, 1)


def test_speeds_are_compared_round_by_round() -> None:
    who = [Contestant("stock", Path("a")), Contestant("ours", Path("a"))]
    turns = [Turn(shape, one.label, number, speed * (number + 1), 8)
             for shape in (discard.RECORDED, discard.SHUFFLED, discard.FRAGMENTED)
             for number in range(2) for one, speed in zip(who, (100, 500), strict=True)]
    calls = {(turn.shape, turn.contestant): Calls(256, 2) for turn in turns}
    rows = discard.table(turns, calls, who).splitlines()
    assert rows[3] == ("| recorded, ours | 256 | 750 (500 to 1,000) | 5.00 | 2.00 | 8.00 "
                       "| 1.00 |")
    assert len(rows) == 8
