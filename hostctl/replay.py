# SPDX-License-Identifier: GPL-2.0-or-later
"""`hostctl replay`: what another policy would have decided in each situation of a journal.

The recorded run is not changed: after each event the state is what it was then, with the targets
that the recorded decisions set. So each decision is answered for the same situation; docs/policy.md
says how near a policy comes to what it decided itself. What would have come of other decisions, no
journal can tell; `hostctl simulate` can.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hostctl import config, records
from hostctl.engine import TICK, Engine
from hostctl.errors import HostctlError
from hostctl.guard import Limits, Refusal
from hostctl.policy import POLICIES, Settings
from hostctl.policy.model import Decision, Event, TargetSent, Tick

TICKS_MOST = 3600
"""In a gap: what lasts longer, the daemon was stopped for."""
EPILOG = """\
example:
  hostctl replay /var/log/hostctl/journal --policy transfer
      lines marked = were decided by both, < in the journal alone, > by the policy alone
"""


Given = tuple[Settings, Limits]


@dataclass(frozen=True, slots=True)
class Moment:
    """An event, and what both have decided on it: targets in bytes with the reason."""

    event: Event
    recorded: dict[str, tuple[int, str]]
    replayed: dict[str, tuple[int, str]]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `replay` to the command line."""
    parser = commands.add_parser(
        "replay",
        help="what another policy would have decided",
        description="Feeds a journal's events to a policy; prints its decisions and the recorded.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", type=Path, metavar="JOURNAL")
    parser.add_argument("--policy", choices=tuple(POLICIES), required=True)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="decide by this file's policy settings and guard (those the journal has)",
    )
    parser.add_argument("--guest", help="print this guest's decisions alone")


def run(args: argparse.Namespace) -> int:
    """Replay and print; 0."""
    console = Console(soft_wrap=True, highlight=False)
    counts: Counter[str] = Counter()
    given = None
    if args.config is not None:
        loaded = config.load(args.config, {})
        given = loaded.settings, loaded.guard
    try:
        with args.file.open(encoding="utf-8", errors="replace") as lines:
            for moment in replay(read(lines, str(args.file)), args.policy, given):
                _show(console, moment, args.guest, counts)
    except OSError as exc:
        raise HostctlError(
            f"journal {args.file}: {exc.strerror}; give a file written by hostctl run --journal"
        ) from exc
    both, old, new = counts["="], counts["<"], counts[">"]
    console.print(f"decided by both {both}, recorded alone {old}, {args.policy} alone {new}")
    return 0


def read(lines: Iterable[str], name: str) -> Iterator[dict[str, object]]:
    """A journal's records. Raises HostctlError naming the line; a last line cut short is left."""
    broken: str | None = None
    for number, line in enumerate(lines, 1):
        if broken is not None:
            raise HostctlError(broken)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield {"line": number, **record}
        else:
            broken = f"{name}:{number}: no JSON object; remove the line"


def replay(
    found: Iterable[dict[str, object]], policy: str, given: Given | None = None
) -> Iterator[Moment]:
    """The moments of a journal at which either has decided something.

    `given`: settings and limits to decide by; None: those that the journal was written under.
    Raises HostctlError naming the line for a record that does not fit.
    """
    host = _Host(policy, given)
    moment: Moment | None = None
    for record in found:
        try:
            event = host.event(record)
        except HostctlError as exc:
            raise HostctlError(f"line {record.get('line')}: {exc}; remove the line") from None
        if event is None:
            continue
        if isinstance(event, TargetSent):
            if moment is not None:
                moment.recorded[event.guest] = (event.target, str(record.get("reason")))
            continue
        between = () if host.own else _ticks(moment, event.time)
        for one in (*between, event):
            if moment is not None and (moment.recorded or moment.replayed):
                yield moment
            moment = Moment(one, {}, {})
            for verdict in host.engine.take(one):
                if not isinstance(verdict, Refusal):
                    moment.replayed[verdict.guest] = _of(verdict)
    if moment is not None and (moment.recorded or moment.replayed):
        yield moment


class _Host:
    """The recorded host under the policy that is replayed."""

    def __init__(self, policy: str, given: Given | None) -> None:
        self._make = POLICIES[policy]
        self._name = policy
        self._given = given
        self._settings, limits = given or (Settings(), Limits())
        self.engine = Engine(self._make(self._settings), limits, dry_run=True)
        self.own = False
        """The journal is this policy's: it has each event on which that has decided."""
        self._dry_run = False
        """What was decided was not done."""

    def event(self, record: Mapping[str, object]) -> Event | None:
        """What the policy is to see of a record; a decision is known, and not to be seen.

        Raises HostctlError.
        """
        kind = record.get("event")
        if kind in ("start", "continued", "reload"):
            self._configure(record)
            return None
        if kind == "known":
            record = {**record, "event": record.get("of")}
        event = records.event(record)
        if event is None or (kind == "decision" and self._dry_run):
            return event
        if kind == "known" or isinstance(event, TargetSent):
            self.engine.state = self.engine.state.after(event)
        return None if kind == "known" else event

    def _configure(self, record: Mapping[str, object]) -> None:
        recorded: Given | None = None
        try:
            recorded = config.of_record(record)
        except HostctlError:
            if self._given is None:
                raise  # else they may be of another version, and are not needed
        settings, limits = self._given or recorded or (Settings(), Limits())
        same = record.get("policy") == self._name and recorded == (settings, limits)
        self.own = same and "settings" in record
        if record.get("event") == "start":
            # Another run of the daemon: it remembers nothing of the one before.
            self.engine = Engine(self._make(settings), limits, dry_run=True)
        else:
            kept = self.engine.policy if settings == self._settings else self._make(settings)
            self.engine.change(kept, limits)
        self._settings = settings
        self._dry_run = record.get("dry_run", self._dry_run) is True


def _ticks(last: Moment | None, now: float) -> Iterator[Tick]:
    """Time passes for another policy: the journal has only those ticks that led to something."""
    if last is not None:
        for i in range(1, min(int((now - last.event.time) / TICK), TICKS_MOST) + 1):
            yield Tick(last.event.time + i * TICK)


def _of(decision: Decision) -> tuple[int, str]:
    return decision.new_target, str(decision.reason)


def _show(console: Console, moment: Moment, only: str | None, counts: Counter[str]) -> None:
    for guest in sorted(moment.recorded.keys() | moment.replayed.keys()):
        if only not in (None, guest):
            continue
        old, new = moment.recorded.get(guest), moment.replayed.get(guest)
        rows = [("=", old)] if old == new else [("<", old), (">", new)]
        for mark, one in rows:
            if one is not None:
                counts[mark] += 1
                console.print(
                    f"{moment.event.time:12.3f} {mark} {guest:20} {one[0] >> 20:8} MiB  {one[1]}",
                    markup=False,
                )
