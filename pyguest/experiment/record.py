# SPDX-License-Identifier: GPL-2.0-or-later
"""What an experiment has found so far, in a file that outlives it."""

import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..jsonl import read_lines
from .outcome import Outcome
from .plan import Plan

OUTCOMES = "outcomes.jsonl"
"""A record's name, in the folder of a run or of a report."""
FREE = ("day", "commit", "beside")
"""Of what a run is about, it may go on although these are others: `code` tells what matters."""


class Record:
    """The file OUTCOMES: a line of what the run is about, then one for each trial.

    Where there is no such file yet, that of an `earlier` run is gone on from.
    """

    def __init__(self, path: Path, earlier: Path | None = None) -> None:
        self.path = path
        self.about: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []
        self.failures: list[dict[str, Any]] = []
        self._lines: list[dict[str, Any]] = []
        try:
            lines = list(read_lines(path if earlier is None or path.exists() else earlier))
        except ValueError:  # a disk that was full, or a machine that went down
            return
        if lines:
            self.about = lines[0]
            self._lines = lines
            with suppress(KeyError, TypeError, AttributeError):
                for line in lines[1:]:
                    self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        values = {key: value for key, value in line.items() if key != "kind"}
        if line["kind"] == "outcome":
            self.outcomes.append(Outcome.of(values))
        else:
            self.failures.append(values)

    @property
    def plan(self) -> Plan:
        """What was to be run."""
        values: dict[str, Any] = {field.name: self.about[field.name] for field in fields(Plan)}
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Plan(**{**values, **lists})

    def begin(self, about: Mapping[str, Any], *, again: bool = False) -> None:
        """Go on with a run about the same, whole or not; else, or to measure `again`, begin anew.

        What there was before is then kept beside, under another name.
        """
        about = json.loads(json.dumps(about))
        fixed = [{key: value for key, value in one.items() if key not in FREE}
                 for one in (self.about, about)]
        if again or fixed[0] != fixed[1]:
            if self.path.exists():
                self.path.rename(self._beside())
            self.about, self._lines = dict(about), [dict(about)]
            self.outcomes, self.failures = [], []
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{json.dumps(line)}\n" for line in self._lines))
        new.replace(self.path)  # without a line that was cut short

    def _beside(self) -> Path:
        numbers = itertools.count(1)
        return next(path for path in (self.path.with_suffix(f".{n}.jsonl") for n in numbers)
                    if not path.exists())

    def add(self, outcome: Outcome) -> None:
        """Note a trial's outcome."""
        self._append({"kind": "outcome", **asdict(outcome)})
        self.outcomes.append(outcome)

    def fail(self, turn: tuple[int, str, str], why: str) -> None:
        """Note that a trial failed."""
        number, load, contestant = turn
        failure = {"round": number, "load": load, "contestant": contestant, "why": why}
        self._append({"kind": "failure", **failure})
        self.failures.append(failure)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            print(json.dumps(line), file=file)

    def tries(self, turn: tuple[int, str, str]) -> int:
        """How often the trial (round, load, contestant) came to its end."""
        return sum((one.round, one.load, one.contestant) == turn for one in self.outcomes)

    def is_done(self, turn: tuple[int, str, str]) -> bool:
        """Whether the trial (round, load, contestant) need not be run again."""
        found = [one for one in self.outcomes if (one.round, one.load, one.contestant) == turn]
        return len(found) >= self.about["tries"] or any(not one.disturbed for one in found)

    def valid(self) -> list[Outcome]:
        """Of each trial one outcome: the first that nothing disturbed, else the last."""
        chosen: dict[tuple[int, str, str], Outcome] = {}
        for one in self.outcomes:
            turn = (one.round, one.load, one.contestant)
            if turn not in chosen or chosen[turn].disturbed:
                chosen[turn] = one
        return list(chosen.values())
