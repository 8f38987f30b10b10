# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon does with an event, and with an operator's request.

State, policy and guard are the engine's; here its verdicts are carried out and all of it is
written down. Nothing here waits.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce

from hostctl import __version__, records, snapshot
from hostctl.config import Config
from hostctl.control import answers
from hostctl.control.protocol import Explain, Hold, Release, Request, SetSize, Status
from hostctl.control.server import Answer
from hostctl.engine import Engine, Verdict
from hostctl.errors import HostctlError
from hostctl.guard import Refusal, floor_of
from hostctl.guests.channel import Channel
from hostctl.history import History
from hostctl.journal import Journal, Reporter
from hostctl.metrics import Metrics
from hostctl.policy import POLICIES, Policy
from hostctl.policy.model import (
    Decision,
    Event,
    GuestLost,
    GuestRead,
    GuestState,
    Held,
    HostState,
    Reason,
    Released,
    TargetSent,
    Tick,
)
from hostctl.recorder import Record, Recorder
from hostctl.runtime import Holds

SET = "set by an operator"
"""Why a guest is held that an operator has sized."""


class Core:
    """One host under one configuration."""

    def __init__(self, config: Config, journal: Journal, *, dry_run: bool) -> None:
        self.channel: Callable[[str], Channel | None] = lambda _: None
        """The way to a guest. To be set: who knows it has this one's `emit`."""
        self._config = config
        self._dry_run = dry_run
        self._started = time.monotonic()
        self._engine = Engine(_policy(config), config.guard, dry_run=dry_run)
        self.metrics = Metrics(lambda: self._engine.state)
        self.report = Reporter(journal, self.metrics.error)
        self._recorder = Recorder(journal.put)
        self._history = History()
        self._attended: frozenset[str] = frozenset()
        """Guests whose statistics are read often."""
        self._base = self.state
        self._since: list[Event] = []
        """What the journal tells until now: of that state, these events."""
        path = config.control.with_name(f"{config.control.name}.holds")
        self._holds = Holds(path, self.report, kept=not dry_run)

    @property
    def state(self) -> HostState:
        """The host as it is known now."""
        return self._engine.state

    def change(self, config: Config) -> None:
        """Go on under another configuration; bounds count from a guest's next reading on."""
        old, self._config = self._config, config
        same = (old.policy, old.settings) == (config.policy, config.settings)
        # A policy that need not change keeps what it has learnt.
        self._engine.change(self._engine.policy if same else _policy(config), config.guard)

    def emit(self, event: Event) -> None:
        """Take an event in: state, policy, guard, guests, journal. Never raises."""
        if isinstance(event, GuestRead):
            event = self._bounded(event)
        before = self.state
        self._base, self._since = before, []
        verdicts: list[Verdict] = []
        about = f"policy {self._config.policy}"
        try:
            verdicts = self._engine.take(event)
            if isinstance(event, Tick):
                self._attend(frozenset(self._engine.closely(event.time)))
        except Exception as exc:  # a policy's fault must not look like a guest's
            where = traceback.extract_tb(exc.__traceback__)[-1]
            self.report.problem(
                about,
                f"{type(exc).__name__}: {exc} ({where.name}, line {where.lineno}); its decisions "
                "on that are lost, please report it",
            )
        self._recorder.event(event, before, self.state, verdicts)
        self._since.append(event)
        self.metrics.event(event)
        self._note(event, before)
        for verdict in verdicts:
            self._carry_out(verdict, event, event.time)
        self._base, self._since = self.state, []

    def known(self) -> Iterator[Record]:
        """The records of all that is known, for a journal that begins anew."""
        state = reduce(HostState.after, self._since, self._base)
        for event in snapshot.events(state, time.monotonic()):
            if found := records.of(event):
                kind, fields = found
                yield {"mono": event.time, "event": "known", "of": kind, **fields}

    def answer(self, request: Request) -> Answer:
        """Do what an operator asks for. Raises HostctlError."""
        now = time.monotonic()
        match request:
            case Status():
                about = {
                    "version": __version__,
                    "pid": os.getpid(),
                    "policy": self._config.policy,
                    "dry_run": self._dry_run,
                    "pressed_for": self._config.pressed_for,
                    "uptime": round(now - self._started, 3),
                }
                return answers.status(self.state, self._history, now, about)
            case Explain():
                guest = self._guest(request.guest)
                return answers.explain(guest, self._history.of(guest.name), now)
            case Hold():
                self._guest(request.guest)
                self.emit(Held(now, request.guest, request.why))
                return answers.one()
            case Release():
                # A guest that is gone may be held as well: one of its name would be.
                if self._holds.get(request.guest) is None:
                    name = self._guest(request.guest).name
                    raise HostctlError(f"{name} is not held; there is nothing to release")
                self.emit(Released(now, request.guest))
                return answers.one()
            case SetSize():
                return answers.one(**self._set(self._guest(request.guest), request.size, now))

    def _guest(self, name: str) -> GuestState:
        guest = self.state.guests.get(name)
        if guest is None:
            raise HostctlError(f"{name}: no such guest; hostctl status lists those there are")
        return guest

    def _set(self, guest: GuestState, size: int, now: float) -> dict[str, object]:
        """Set a guest's target as an operator asks for, as far as the guard lets it."""
        if size != guest.target:
            asked = Decision(guest.name, guest.target, size, Reason.OPERATOR, SET)
            verdict = self._engine.judge(asked, now)
            self._carry_out(verdict, None, now)
            if isinstance(verdict, Refusal):
                raise HostctlError(f"{guest.name} stays at {guest.target} bytes: {verdict.why}")
            size = verdict.new_target
        self.emit(Held(now, guest.name, SET))
        return {"target": size, "dry_run": self._dry_run}

    def _bounded(self, event: GuestRead) -> GuestRead:
        """The reading, with the bounds that are configured for that guest."""
        bounds = self._config.bounds_of(event.guest)
        most = event.most if bounds.ceiling is None else bounds.ceiling
        return replace(event, floor=floor_of(event.ram, bounds.floor), most=most)

    def _attend(self, wanted: frozenset[str]) -> None:
        """Have these guests' statistics read often, and no others'."""
        for guest in wanted ^ self._attended:
            if (channel := self.channel(guest)) is not None:
                channel.attend(closely=guest in wanted)
        self._attended = wanted

    def _note(self, event: Event, before: HostState) -> None:
        """Remember what outlives the event."""
        match event:
            case GuestRead() if event.guest not in before.guests:
                if why := self._holds.get(event.guest):
                    self.emit(Held(event.time, event.guest, why))
            case GuestLost():
                self._history.forget(event.guest)
                self._attended -= {event.guest}
            case Held() if event.guest in before.guests:
                self._holds.hold(event.guest, event.why)
            case Released():
                self._holds.release(event.guest)

    def _carry_out(self, verdict: Verdict, event: Event | None, now: float) -> None:
        """Have a verdict done, then written down; `event` called for it (None: an operator)."""
        done = not isinstance(verdict, Refusal)
        decision = verdict if not isinstance(verdict, Refusal) else verdict.decision
        channel = self.channel(decision.guest)
        if done and not self._dry_run and channel is not None:
            channel.set_target(decision.new_target)
        self._recorder.verdict(verdict, self._config.policy, now)
        if done and not self._dry_run:
            self._since.append(TargetSent(now, decision.guest, decision.new_target))
        self.metrics.verdict(verdict, event)
        guest = self.state.guests.get(decision.guest)
        if guest is not None:
            pool = self.state.pools.get(guest.pool)
            # The engine has its new target already.
            self._history.add(verdict, replace(guest, target=decision.old_target), pool, now)


def _policy(config: Config) -> Policy:
    return POLICIES[config.policy](config.settings)
