# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guests do, at any scale of memory and pace. Sizes are MiB, times seconds.

The scale is a share of the seed's memory, the pace one of its times.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import inject
from ..errors import LabError
from ..loads import ANONLOAD, CACHELOAD
from . import postgres

CHUNKLOAD = "/run/lab/bin/chunkload"
FILE = "/data"
"""What is read: by chance, as a host swaps pages of zeros for nothing."""
CHUNK = 1 << 20
"""Bytes; the seed's."""
MIB = 1 << 20
READ_RATE = 32
"""MiB a second at which files are read again: a guest under TCG reads some hundred."""

KNOWN = 30.0
"""Seconds that a guest with idle memory is known at least before that is wanted: policies read
statistics every 20 s whatever the pace, and one that has seen none cannot be told from another."""

GUEST_OWN = 96
"""What a guest's kernel and programs have, whatever the scale of its load."""
QEMU_OWN = 64
"""QEMU beside the guest's memory, TCG's translation cache above all."""


@dataclass(frozen=True)
class Work:
    """What a step has done, in the unit of its kind (UNITS), and the seconds of doing it."""

    done: float = 0.0
    seconds: float = 0.0


UNITS = {"chunks": "records", "again": "MiB read", "pgbench": "transactions"}
"""What the kinds of steps that count anything count."""


@dataclass(frozen=True)
class Step:
    """One step of a guest's load."""

    kind: str
    """chunks: records out of so much anonymous memory; anon: so much of it, taken at once; read:
    so much of a file, once, which stays in the page cache; again: so much of that file again and
    again; pgbench: transactions on a database of so much; wait: nothing."""
    mib: int
    seconds: float
    """Of chunks without the filling of them; a read takes what it takes, and then waits."""

    def command(self) -> str:
        """The command in the guest."""
        seconds = max(1, round(self.seconds))
        match self.kind:
            case "chunks":
                return " ".join(inject.chunkload(CHUNKLOAD, CHUNK, self.mib, 2, seconds))
            case "anon":
                return " ".join(inject.anonload(ANONLOAD, self.mib * MIB, hold=seconds))
            case "read":
                return (f"dd if={FILE} of=/dev/null bs=1M count={self.mib} 2>/dev/null; "
                        f"sleep {self.seconds}")
            case "again":
                return " ".join(inject.cacheload(CACHELOAD, FILE, READ_RATE * MIB, seconds,
                                                 self.mib * MIB))
            case "pgbench":
                return postgres.run(seconds)
            case _:
                return f"sleep {self.seconds}"

    def work(self, said: str) -> Work:
        """What it has done, by what its command said. Raises LabError."""
        match self.kind:
            case "chunks":
                result = inject.parse_chunkload(said)
                return Work(result.records, result.elapsed)
            case "again":
                last = inject.parse_progress(said.strip().rpartition("\n")[2])
                if last is None:
                    raise LabError(f"output of cacheload not understood: {said[-200:]!r}")
                return Work(last.size / MIB, self.seconds)
            case "pgbench":
                return Work(postgres.transactions(said), self.seconds)
            case _:
                return Work()


@dataclass(frozen=True)
class Load:
    """A load for guests that share a host."""

    name: str
    guests: dict[str, tuple[Step, ...]]
    guest_mib: int
    limit_mib: int
    """The host's."""
    why: str
    """What it is to show."""
    prepare: Mapping[str, list[str]] = field(default_factory=dict)
    """More commands in guests before it is measured."""

    def preparation(self, guest: str) -> str | None:
        """The command in the guest before anything is measured; None: there is none."""
        mib = max((step.mib for step in self.guests[guest] if step.kind in ("read", "again")),
                  default=0)
        # Past the page cache: it is to be read as from a disk.
        file = f"dd if=/dev/urandom of={FILE} bs=1M count={mib} oflag=direct 2>/dev/null"
        wanted = ([file] if mib else []) + self.prepare.get(guest, [])
        return " && ".join(wanted) or None

    @property
    def seconds(self) -> float:
        return max(sum(step.seconds for step in steps) for steps in self.guests.values())

    def unit(self, guest: str) -> str | None:
        """What the guest's load counts."""
        return next((UNITS[step.kind] for step in self.guests[guest] if step.kind in UNITS), None)


def _limit(mib: float, guests: int = 2) -> int:
    """A host of `mib`, what guests and their QEMUs take by themselves aside."""
    return round(mib) + guests * (GUEST_OWN + QEMU_OWN)


def _up(scale: float, seconds: float) -> tuple[Step, ...]:
    """The seed's steps."""
    return tuple(Step("chunks", round(mib * scale), seconds) for mib in (224, 424, 624, 824, 1024))


def _guest(scale: float) -> int:
    """The seed's guest: 1.3 GiB at full scale."""
    return round(1235 * scale) + GUEST_OWN


def seed(scale: float, pace: float) -> Load:
    seconds = 60.0 * pace
    up = _up(scale, seconds)
    return Load(
        "seed", {"down": up[::-1], "up": (Step("wait", 0, seconds), *up)},
        guest_mib=_guest(scale), limit_mib=_limit(1728 * scale),
        why="The experiment of 2014: one guest's load goes down while the other's goes up, a step "
            "later. Both fit at all times, if the first gives back what it has freed.",
    )


def both(scale: float, pace: float) -> Load:
    up = _up(scale, 60.0 * pace)
    return Load(
        "both", {"one": up, "other": up}, guest_mib=_guest(scale),
        limit_mib=_limit(1728 * scale),
        why="Both guests' loads go up at once, to more than there is: nobody has anything to give, "
            "and what matters is who degrades, and how.",
    )


def spike(scale: float, pace: float) -> Load:
    rest = max(45.0 * pace, KNOWN)
    jump = (Step("wait", 0, rest), Step("anon", _guest(scale) // 2, rest))
    return Load(
        "spike", {"calm": (Step("read", round(1000 * scale), 7 * rest),),
                  "jumps": 3 * jump + (Step("wait", 0, rest),)},
        guest_mib=_guest(scale), limit_mib=_limit(1300 * scale),
        why="A guest takes half of its memory within a second, three times, while the other keeps "
            "page cache that it has read once: how soon is a guest helped that says nothing "
            "before?",
    )


def cache(scale: float, pace: float) -> Load:
    wait, hold = max(60.0 * pace, KNOWN), 180.0 * pace
    again = Step("again", round(200 * scale), wait + hold)
    return Load(
        "cache", {"keeps": (Step("read", round(1000 * scale), 0), again),
                  "wants": (Step("wait", 0, wait), Step("chunks", round(1000 * scale), hold))},
        guest_mib=_guest(scale), limit_mib=_limit(1500 * scale),
        why="A guest has read a large file once and reads a part of it again and again; then the "
            "other wants memory. Nothing is freed, so that there is nothing to report. The host "
            "has room for what both need: the useless cache has to go, and the working one to "
            "stay.",
    )


def fleet(scale: float, pace: float) -> Load:
    wait = hold = 60.0 * pace
    idle = (Step("read", round(600 * scale), 4 * wait),)
    busy = (Step("wait", 0, wait), *(Step("chunks", round(mib * scale), hold)
                                     for mib in (400, 750, 200)))
    return Load(
        "fleet", {**{f"idle{number}": idle for number in range(1, 8)}, "busy": busy},
        guest_mib=round(800 * scale) + GUEST_OWN, limit_mib=_limit(4450 * scale, guests=8),
        why="Eight small guests of which one is busy: each of the others keeps a little page "
            "cache, which together is what the busy one lacks.",
    )


def database(scale: float, pace: float) -> Load:
    seconds = 60.0 * pace
    up = _up(scale, seconds)
    return Load(
        "database", {"db": (Step("pgbench", round(500 * scale), 6 * seconds),),
                     "up": (Step("wait", 0, seconds), *up)},
        guest_mib=_guest(scale), limit_mib=_limit(1300 * scale),
        why="A real program: pgbench's transactions on a PostgreSQL whose tables fit into its "
            "guest's page cache, while the other's load goes up to a little more than is left.",
        prepare={"db": [postgres.prepare(round(500 * scale))]},
    )


LOADS: dict[str, Callable[[float, float], Load]] = {
    "seed": seed, "both": both, "spike": spike, "cache": cache, "fleet": fleet,
    "database": database,
}
