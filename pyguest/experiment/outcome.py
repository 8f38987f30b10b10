# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured of a trial: differences of counters between its begin and its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Counters:
    """What one guest and its QEMU have counted so far. Pages of 4 KiB, seconds of CPU."""

    major_faults: int = 0
    """QEMU's, as its user and sys."""
    minor_faults: int = 0
    user: float = 0.0
    sys: float = 0.0
    swap_in: int = 0
    """The guest's own, as its swap_out."""
    swap_out: int = 0
    refaults: int = 0
    """Pages of files that the guest had in its page cache, lost, and read again."""
    oom_kills: int = 0

    def since(self, before: "Counters") -> "Counters":
        """What was counted after `before`."""
        return Counters(*(getattr(self, name) - getattr(before, name)
                          for name in self.__dataclass_fields__))


def folder_of(load: str, contestant: str, number: int, attempt: int) -> str:
    """The name of a trial's folder."""
    return f"{load}-{contestant}-{number}" + (f".{attempt}" if attempt else "")


@dataclass(frozen=True)
class GuestOutcome:
    """One guest's trial."""

    counters: Counters
    elapsed: float
    """Seconds from the trial's begin to the end of its load."""
    done: float
    """What its load counts: see loads.UNITS. Less, where a step was killed."""
    loading: float
    """Seconds in which it did that."""
    broken: str | None = None
    """Why a step of its load ended early."""

    @property
    def speed(self) -> float:
        """Of what its load counts, in a second."""
        return self.done / self.loading if self.loading else 0.0


@dataclass(frozen=True)
class Outcome:
    """One contestant's trial on one load."""

    load: str
    contestant: str
    round: int
    swapped_in: int
    """Pages that the whole machine swapped in, as swapped_out: nothing else ran that swaps."""
    swapped_out: int
    faulted_in: int
    """Anonymous pages that the host's group alone faulted back in."""
    most_swap: int
    """Bytes of the group in swap at most."""
    stalled: float
    """Seconds in which some task of the machine waited for memory (PSI); 0 where it has no PSI."""
    guests: dict[str, GuestOutcome]
    zeros_in: int = 0
    """Pages of zeros besides, which newer kernels swap without writing them; as zeros_out."""
    zeros_out: int = 0
    attempt: int = 0
    """How often it was run before, and was disturbed."""
    disturbed: list[str] = field(default_factory=list)
    """What spoiled the trial from outside; such a one is run again."""
    unsampled: int = 0
    """Samples that could not be taken, as a QEMU did not answer."""
    decisions: int | None = None
    """Changes of a target, by hostctl or by QEMU's own rule (of each guest one in 100 ms is
    counted); None: there is neither."""
    messages: int | None = None
    """Of all guests, as hostctl's journal has them, or their devices."""
    waits: list[float] = field(default_factory=list)
    """Seconds from a guest's message to QEMU having a larger target; see reaction.py."""
    unheard: int = 0
    """Messages after which that had not come by the end."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Outcome":
        """From what `dataclasses.asdict` made of one. Raises KeyError and TypeError."""
        guests = {
            name: GuestOutcome(**{**guest, "counters": Counters(**guest["counters"])})
            for name, guest in record["guests"].items()
        }
        return cls(**{**record, "guests": guests})

    @property
    def folder(self) -> str:
        """Where its samples and hostctl's journal are, in the run's folder."""
        return folder_of(self.load, self.contestant, self.round, self.attempt)

    def total(self, name: str) -> float:
        """A counter summed over the guests."""
        return float(sum(getattr(guest.counters, name) for guest in self.guests.values()))

    @property
    def lost(self) -> float:
        """Pages that had to be moved for want of memory: swapped by the host, by guests, either
        way, and read again by guests from files that they had in memory."""
        guests = sum(map(self.total, ("swap_in", "swap_out", "refaults")))
        return self.swapped_in + self.swapped_out + guests
