# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast the device takes page frames, ours against the stock one. No guest: qtest is the CPU.

The contestants' machines run side by side and take turns. Before each turn all memory is
touched, so that there is something to discard. The time is QEMU's CPU time in the kicks alone, in
which the device works through the queue: other loads of the host disturb it less than the clock.
A queue is filled with up to 128 buffers before a kick.

madvise() calls are counted in a run of its own, by QEMU's trace events, as these are in any
QEMU and cost the measured run nothing; a test of the device holds them against strace.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import lab, paths, targets
from ..build import qemu
from ..errors import LabError
from ..progress import step
from ..qtest import Machine, without_ioeventfd
from ..virtio import ModernDevice, Part
from . import frames
from .frames import Buffer, Frames
from .stats import figure, markdown, spread

RECORD = Path(__file__).with_name("frames.txt")
MIB = 1 << 20
SLOT = 4

GUEST_MIB = 512
INFLATE_MIB = 256
"""Of a recorded guest of GUEST_MIB."""
DEADLINE = 60.0

BASE = GUEST_MIB * MIB // frames.PAGE
"""Added to each frame, so that rings and buffers lie below."""
FILL_BYTES = 16 * MIB
"""QEMU makes a copy of what one command fills."""

RECORDED, SHUFFLED, FRAGMENTED = "recorded", "shuffled", "fragmented"
TRACE = ("ram_block_discard_range", "virtio_balloon_handle_output", "virtio_balloon_discard_run")


@dataclass(frozen=True)
class Contestant:
    """A QEMU, and options of its balloon."""

    label: str
    binary: Path
    options: str = ""


@dataclass(frozen=True)
class Turn:
    """One inflation and deflation of all frames of a shape. Speeds are in MiB a CPU second."""

    shape: str
    contestant: str
    round: int
    inflate: float
    deflate: float


@dataclass(frozen=True)
class Calls:
    """madvise() calls a MiB."""

    inflate: float
    deflate: float


def contestants(ours: Path, other: Path | None) -> list[Contestant]:
    """The stock loop comes first: it is what the others are compared with."""
    found = [Contestant("stock", ours, ",x-merge-discards=off"), Contestant("ours", ours)]
    if other:
        found.append(Contestant("the other", other))
    return found


def main(rounds: int, other: Path | None = None) -> int:
    """Measure `rounds` rounds and print the table; 0 when all came to their end.

    `other` is one more QEMU, which must have been built with the qtest accelerator.
    """
    recorded = frames.decode(RECORD.read_text(), str(RECORD))
    shapes = {
        RECORDED: recorded,
        SHUFFLED: frames.shuffled(recorded),
        FRAGMENTED: frames.fragmented(INFLATE_MIB * MIB // frames.PAGE),
    }
    who = contestants(qemu.ensure(targets.load().qemu(lab.chosen("QEMU"))).binary, other)
    calls: dict[tuple[str, str], Calls] = {}
    with step("count madvise()"):
        for contestant in who:
            with _machine(contestant, TRACE) as machine:
                seen = ""
                for name, shape in shapes.items():
                    _take_turn(machine, shape)
                    log = machine.log()
                    calls[name, contestant.label] = counted(log[len(seen):], shape)
                    seen = log
    turns = _measure(who, shapes, rounds)
    record = paths.state_dir("bench-discard") / "results.jsonl"
    record.write_text("".join(json.dumps(asdict(turn)) + "\n" for turn in turns))
    print(f"\n{table(turns, calls, who)}\n\nrecord: {record}")
    return 0


def _measure(who: Sequence[Contestant], shapes: dict[str, Frames], rounds: int) -> list[Turn]:
    turns: list[Turn] = []
    with ExitStack() as stack, step(f"{rounds} rounds") as progress:
        machines = [stack.enter_context(_machine(contestant)) for contestant in who]
        # A first turn of each is not counted: page tables, caches.
        for number in range(-1, rounds):
            for name, shape in shapes.items():
                for place in range(len(who)):
                    one = (number + place) % len(who)
                    progress.update(f"round {number + 1}, {name},")
                    inflate, deflate = _take_turn(machines[one], shape)
                    if number >= 0:
                        turns.append(Turn(name, who[one].label, number, shape.mib / inflate,
                                          shape.mib / deflate))
    return turns


@contextmanager
def _machine(contestant: Contestant, trace: Sequence[str] = ()) -> Iterator[Machine]:
    traced = [word for event in trace for word in ("-trace", f"enable={event}")]
    device = f"virtio-balloon-pci,id=balloon,addr={SLOT}{contestant.options}"
    device += without_ioeventfd(contestant.binary)
    with Machine(contestant.binary, ["-device", device, *traced],
                 ram=2 * GUEST_MIB * MIB) as machine:
        yield machine


def _take_turn(machine: Machine, shape: Frames) -> tuple[float, float]:
    """Seconds to inflate and to deflate."""
    for start in range(BASE * frames.PAGE, 2 * GUEST_MIB * MIB, FILL_BYTES):
        machine.qtest.fill(start, FILL_BYTES, 0xA5)
    device = ModernDevice(machine.qtest, SLOT)
    device.negotiate(())
    queues = [device.queue(index) for index in (0, 1)]
    device.start()
    seconds = []
    for index, sent in enumerate((shape.inflate, shape.deflate)):
        queue, took = queues[index], 0.0
        for first in range(0, len(sent), queue.size):
            for buffer in sent[first:first + queue.size]:
                queue.add(Part(_listed(buffer)))
            begin = _cpu_seconds(machine)
            device.kick(index)
            took += _cpu_seconds(machine) - begin
            queue.wait()
        seconds.append(took)
    return seconds[0], seconds[1]


def _cpu_seconds(machine: Machine) -> float:
    """CPU time of the main thread, which serves kicks (proc(5), schedstat: nanoseconds).

    Once it sleeps: of a thread that runs the kernel knows but the time until the last tick.
    """
    process, end = Path(f"/proc/{machine.process.pid}"), time.monotonic() + DEADLINE
    while (process / "stat").read_text().rpartition(")")[2].split()[0] != "S":
        if time.monotonic() > end:
            raise LabError(f"QEMU does not come to rest in {DEADLINE:g} s: {machine.log()[-500:]}")
        time.sleep(0)
    return int((process / "schedstat").read_text().split()[0]) / 1e9


def _listed(buffer: Buffer) -> bytes:
    return b"".join((BASE + frame).to_bytes(4, "little") for frame in buffer)


def counted(log: str, shape: Frames) -> Calls:
    """The calls in a trace of one turn of `shape`.

    Deflation has no event of the call itself: it is one for each frame, or for each run.
    """
    inflate = deflate = frames_seen = 0
    for line in log.splitlines():
        inflate += line.startswith("ram_block_discard_range") and "madvise: 1" in line
        frames_seen += line.startswith("virtio_balloon_handle_output ")
        deflate += line.startswith("virtio_balloon_discard_run") and line.endswith("inflate: 0")
    if frames_seen:
        deflate = frames_seen - sum(map(len, shape.inflate))
    return Calls(inflate / shape.mib, deflate / shape.mib)


def table(turns: Sequence[Turn], calls: dict[tuple[str, str], Calls],
          who: Sequence[Contestant]) -> str:
    """A row for each shape and contestant; `times` is against the first one, round by round."""
    rows = []
    for shape in (RECORDED, SHUFFLED, FRAGMENTED):
        base = {turn.round: turn for turn in turns
                if (turn.shape, turn.contestant) == (shape, who[0].label)}
        for contestant in who:
            own = [turn for turn in turns
                   if (turn.shape, turn.contestant) == (shape, contestant.label)]
            made = calls[shape, contestant.label]
            rows.append((
                f"{shape}, {contestant.label}",
                figure(made.inflate), spread(turn.inflate for turn in own),
                spread(turn.inflate / base[turn.round].inflate for turn in own),
                figure(made.deflate), spread(turn.deflate for turn in own),
                spread(turn.deflate / base[turn.round].deflate for turn in own),
            ))
    return markdown(("frames, device", "inflate: madvise/MiB", "MiB/CPU s", "times stock",
                     "deflate: madvise/MiB", "MiB/CPU s", "times stock"), rows)


def record() -> int:
    """Boot a guest, inflate and deflate it, and write down what it sends. Replaces RECORD."""
    parts = lab.prepare()
    with lab.Lab(parts, "bench-discard") as one, step("record a guest's frames") as progress:
        # Without merging, the device traces each frame.
        trace = one.run_dir / "trace.log"
        vm = one.vm("frames", memory_mib=GUEST_MIB, extra=("-D", str(trace)),
                    balloon="virtio-balloon-pci,message-vq=on,x-merge-discards=off")
        vm.boot()
        for event in ("virtio_balloon_handle_output", "virtqueue_fill"):
            vm.qmp.cmd("trace-event-set-state", name=event, enable=True)
        sent = []
        for size in (GUEST_MIB - INFLATE_MIB, GUEST_MIB):
            before = len(trace.read_text())
            vm.set_target(size * MIB)
            end = time.monotonic() + DEADLINE
            while vm.balloon_actual() != size * MIB:
                progress.update(f"{vm.balloon_actual() // MIB} MiB")
                if time.monotonic() > end:
                    raise LabError(f"guest {vm.name} did not get to {size} MiB: see "
                                   f"{vm.serial_log}")
                time.sleep(0.05)
            sent.append(frames.from_trace(trace.read_text()[before:]))
        found = Frames(sent[0], sent[1])
    RECORD.write_text(
        "# SPDX-License-Identifier: GPL-2.0-or-later\n"
        f"# Frames of a guest of {GUEST_MIB} MiB, Linux {parts.kernel.release}, freshly booted: "
        f"inflated by\n# {INFLATE_MIB} MiB and deflated. Written by "
        "`bin/pyguest bench-discard --record`.\n" + frames.encode(found))
    print(f"{RECORD}: {found.mib:.0f} MiB in {len(found.inflate)} buffers")
    return 0
