# SPDX-License-Identifier: GPL-2.0-or-later
"""What is run: contestants, loads, rounds and sizes. Those with a name are the project's own."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .contestants import BASE, CONTESTANTS
from .loads import LOADS


@dataclass(frozen=True)
class Plan:
    """What to run."""

    contestants: tuple[str, ...] = (BASE, "classic", "transfer", "mom")
    loads: tuple[str, ...] = ("seed", "cache")
    rounds: int = 3
    scale: float = 0.25
    """Of the seed's memory."""
    pace: float = 0.25
    """Of the seed's times. The policies' own times are as they are."""
    name: str = "own"
    """Of its folder."""
    tries: int = 3
    """So often a trial that is disturbed is run, in all."""

    @property
    def command(self) -> str:
        """The command that runs it again."""
        words = ["bin/pyguest experiment"]
        usual = PLANS.get(self.name)
        if usual is None:
            words += [*self.loads, "--contestants", ",".join(self.contestants)]
        else:
            words.append(f"--plan {self.name}")
            if self.loads != usual.loads:
                words += self.loads
            if self.contestants != usual.contestants:
                words += ["--contestants", ",".join(self.contestants)]
        for what in ("rounds", "scale", "pace"):
            if usual is None or getattr(self, what) != getattr(usual, what):
                words.append(f"--{what} {getattr(self, what):g}")
        return " ".join(words)

    def turns(self) -> Iterator[tuple[int, str, str]]:
        """(round, load, contestant), interleaved: a round has each once, in an order by chance.

        The chance is the same each time.
        """
        chance = random.Random(2014)
        for number in range(self.rounds):
            for load in self.loads:
                for name in chance.sample(self.contestants, len(self.contestants)):
                    yield number, load, name


PLANS = {
    plan.name: plan for plan in (
        # The seed's own experiment, in its own sizes and times.
        Plan((BASE, "reporting", "automatic", "transfer", "transfer+reporting"), ("seed",),
             scale=1.0, pace=1.0, name="full"),
        Plan(tuple(CONTESTANTS), tuple(LOADS), name="quarter"),
        # That all of it runs through, also on a machine that others disturb for good: its figures
        # say nothing.
        Plan((BASE, "transfer+reporting"), ("seed", "fleet", "database"), rounds=1, scale=0.15,
             pace=0.05, name="quick", tries=1),
    )
}  # fmt: skip
