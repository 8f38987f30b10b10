# SPDX-License-Identifier: GPL-2.0-or-later
"""Page frames as a guest's balloon driver lists them: recorded once, and made up. Pure.

The file has a line for each buffer: the direction, then runs of frames in the order in which the
driver listed them. `1a0+3` stands for 1a0 1a1 1a2, and `1a0-3` for 1a0 19f 19e.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import LabError

PAGE = 4096
PER_BUFFER = 256
"""VIRTIO_BALLOON_ARRAY_PFNS_MAX of Linux's driver."""

INFLATE, DEFLATE = "inflate", "deflate"

Buffer = tuple[int, ...]


@dataclass(frozen=True)
class Frames:
    """What is inflated and then deflated, a tuple of frame numbers for each buffer."""

    inflate: tuple[Buffer, ...]
    deflate: tuple[Buffer, ...]

    @property
    def mib(self) -> float:
        """MiB that are inflated."""
        return sum(map(len, self.inflate)) * PAGE / (1 << 20)


def from_trace(text: str) -> tuple[Buffer, ...]:
    """The buffers in QEMU's trace of virtio_balloon_handle_output and virtqueue_fill.

    The device traces the frames of a buffer one after the other, then that it gives it back.
    """
    found: list[Buffer] = []
    current: list[int] = []
    for line in text.splitlines():
        if frame := re.match(r"virtio_balloon_handle_output .*gpa: (\w+)", line):
            current.append(int(frame[1], 16) // PAGE)
        elif current and line.startswith("virtqueue_fill"):
            found.append(tuple(current))
            current = []
    return tuple(found)


def _runs(frames: Sequence[int]) -> Iterator[str]:
    start = 0
    while start < len(frames):
        end = start + 1
        step = frames[end] - frames[start] if end < len(frames) else 1
        if step not in (1, -1):
            step = 1
        while end < len(frames) and frames[end] == frames[end - 1] + step:
            end += 1
        yield f"{frames[start]:x}{'+' if step == 1 else '-'}{end - start}"
        start = end


def encode(frames: Frames) -> str:
    """The file's lines."""
    directions = ((INFLATE, frames.inflate), (DEFLATE, frames.deflate))
    return "".join(f"{name} {' '.join(_runs(buffer))}\n"
                   for name, buffers in directions for buffer in buffers)


def decode(text: str, name: str) -> Frames:
    """The file's content; comments begin with #. LabError names the line that is none of these."""
    found: dict[str, list[Buffer]] = {INFLATE: [], DEFLATE: []}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or not line:
            continue
        direction, *runs = line.split()
        buffer: list[int] = []
        for run in runs:
            part = re.fullmatch(r"([0-9a-f]+)([+-])(\d+)", run)
            if not part or direction not in found:
                raise LabError(f"{name}: line {number}: {line[:40]!r} is no buffer: record it "
                               "again with `bin/pyguest bench-discard --record`")
            step = 1 if part[2] == "+" else -1
            first = int(part[1], 16)
            buffer += range(first, first + step * int(part[3]), step)
        found[direction].append(tuple(buffer))
    return Frames(tuple(found[INFLATE]), tuple(found[DEFLATE]))


def buffers(frames: Sequence[int]) -> tuple[Buffer, ...]:
    """Frames in buffers of the size that Linux's driver sends."""
    return tuple(tuple(frames[at:at + PER_BUFFER]) for at in range(0, len(frames), PER_BUFFER))


def shuffled(frames: Frames) -> Frames:
    """The same frames in an order of chance, which is the same at each call."""
    chance = random.Random(0)

    def mixed(given: Iterable[Buffer]) -> tuple[Buffer, ...]:
        flat = [frame for buffer in given for frame in buffer]
        chance.shuffle(flat)
        return buffers(flat)

    return Frames(mixed(frames.inflate), mixed(frames.deflate))


def fragmented(count: int) -> Frames:
    """`count` frames of which no two are neighbours: every second one, upwards."""
    every_second = buffers(range(0, 2 * count, 2))
    return Frames(every_second, every_second)
