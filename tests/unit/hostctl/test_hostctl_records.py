# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as records and back, what of them is written, and what explain keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from hostctl import records, snapshot
from hostctl.errors import HostctlError
from hostctl.guard import Refusal
from hostctl.history import KEPT, History
from hostctl.policy import model
from hostctl.policy.model import (
    Decision,
    Event,
    GuestActual,
    GuestLost,
    GuestRead,
    HostState,
    Occupancy,
    PoolRead,
    Reason,
    Stats,
    StatsRead,
    TargetSent,
    Tick,
)
from hostctl.recorder import AGAIN, REFUSED_AGAIN, STATS_AGAIN, Record, Recorder

MIB = 1 << 20
EVENTS: tuple[type, ...] = get_args(model.Event)
SILENT = (TargetSent,)
"""That without a record: a decision's is the one of its TargetSent."""
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(0, (1 << 63) - 1))
ANY_EVENT = st.one_of([st.from_type(kind) for kind in EVENTS if kind not in SILENT])


def written_as(event: Event, known: bool = True) -> dict[str, object]:
    """The event's record, as it is read from a journal."""
    found = records.of(event, known=known)
    assert found is not None, f"{event} has no record"
    kind, fields = found
    text = json.dumps({"mono": event.time, "event": kind, **fields})
    record: dict[str, object] = json.loads(text)
    return record


@given(ANY_EVENT, st.booleans())
def test_an_event_comes_back_from_the_journal(event: Event, known: bool) -> None:
    assert records.event(written_as(event, known)) == event


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())


@given(ANY_EVENT, st.data())
def test_a_damaged_record_is_an_event_or_an_error(event: Event, data: st.DataObject) -> None:
    record = written_as(event)
    name = data.draw(st.sampled_from(sorted(record)))
    if data.draw(st.booleans()):
        record[name] = data.draw(JSON)
    else:
        del record[name]
    try:
        found = records.event(record)
    except HostctlError as exc:
        assert str(exc)
    else:
        assert found is None or isinstance(found, EVENTS)


READ = GuestRead(0.0, "a", 512 * MIB, 512 * MIB, 512 * MIB, 128 * MIB, True, True)


class Written:
    """A recorder, the host it sees, and what it has written."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._recorder = Recorder(self.records.append)
        self._state = HostState()

    def event(self, event: Event, *verdicts: Decision | Refusal) -> list[object]:
        """The kinds written for an event on which `verdicts` were made."""
        before, self._state = self._state, self._state.after(event)
        count = len(self.records)
        self._recorder.event(event, before, self._state, verdicts)
        return [record["event"] for record in self.records[count:]]

    def verdict(self, verdict: Decision | Refusal, now: float) -> list[object]:
        count = len(self.records)
        self._recorder.verdict(verdict, "classic", now)
        return [record["event"] for record in self.records[count:]]


def test_readings_are_written_when_they_differ() -> None:
    written = Written()
    assert written.event(READ) == ["guest-added"]
    assert written.event(replace(READ, time=1.0)) == []
    assert written.event(replace(READ, time=2.0, actual=5 * MIB)) == ["guest-read"]
    assert written.event(Tick(2.0)) == []
    assert written.event(GuestActual(2.0, "a", 6 * MIB)) == ["actual"]
    assert written.event(GuestLost(3.0, "a", "gone")) == ["guest-lost"]
    assert written.event(replace(READ, time=4.0)) == ["guest-added"]


def test_of_a_pool_the_guests_are_written_of_which_the_host_has_something_else() -> None:
    written = Written()
    for name in "ab":
        written.event(replace(READ, guest=name))

    def occupied(time: float, a: int, b: int) -> object:
        """What is written of a reading at which the host has so many MiB of two guests."""
        held = {"a": Occupancy(a * MIB, 0), "b": Occupancy(b * MIB, 0)}
        found = written.event(PoolRead(time, "p", 1024 * MIB, 500 * MIB, 0, held))
        return written.records[-1]["occupied"] if found else None

    assert occupied(0.0, 100, 100) == {"a": [100 * MIB, 0], "b": [100 * MIB, 0]}
    assert occupied(2.0, 107, 93) is None  # 8 MiB are a 64th of their RAM
    assert occupied(4.0, 107, 110) == {"b": [110 * MIB, 0]}
    assert occupied(6.0, 109, 111) == {"a": [109 * MIB, 0]}
    assert occupied(7.0, 109, 111) is None
    assert occupied(4.0 + AGAIN, 109, 111) == {"b": [111 * MIB, 0]}  # each in its time
    assert occupied(6.0 + AGAIN, 109, 111) == {"a": [109 * MIB, 0]}
    written.event(GuestLost(27.0, "a", "gone"))
    written.event(replace(READ, time=27.0))
    assert occupied(27.5, 109, 111) == {"a": [109 * MIB, 0]}  # of another QEMU


def test_what_something_was_decided_on_is_written() -> None:
    """A replay decides on it as well; what led to nothing, or to the same refusal, is left out."""
    written = Written()
    written.event(READ)
    read = PoolRead(0.0, "p", 1024 * MIB, 500 * MIB)
    stats = StatsRead(0.0, "a", Stats(0.0, total=512 * MIB, available=256 * MIB))
    for event in (read, stats):
        written.event(event)
        assert written.event(replace(event, time=1.0)) == []
    decision = Decision("a", 2, 1, Reason.RESERVE)
    refused = Refusal(decision, "held")
    assert written.event(Tick(2.0), decision) == ["tick"]
    assert written.event(replace(read, time=3.0), decision) == ["pool"]
    assert written.event(replace(stats, time=4.0), decision) == ["stats"]
    assert written.event(Tick(5.0), refused) == ["tick"]
    written.verdict(refused, 5.0)
    assert written.event(Tick(6.0), refused) == []


def test_statistics_are_written_when_they_have_changed_and_now_and_then() -> None:
    written = Written()
    stats = Stats(1.0, total=512 * MIB, available=256 * MIB, swap_in=0)

    def told(time: float, **changes: int) -> list[object]:
        return written.event(StatsRead(time, "a", replace(stats, time=time, **changes)))

    assert told(0.5) == []  # of a guest that is not known
    written.event(READ)
    assert told(1.0) == ["stats"]
    assert told(2.0, available=255 * MIB) == []
    assert told(3.0, available=240 * MIB) == ["stats"]
    assert told(4.0, available=240 * MIB, swap_in=4096) == ["stats"]
    assert told(5.0, available=240 * MIB, swap_in=4096, major_faults=90) == ["stats"]
    assert told(6.0, available=240 * MIB, swap_in=4096, major_faults=99) == []
    assert told(5.0 + STATS_AGAIN, available=240 * MIB, swap_in=4096, major_faults=99) == ["stats"]
    assert "free" not in written.records[-1]


def test_pools_are_written_when_they_have_changed_and_now_and_then() -> None:
    written = Written()
    read = PoolRead(0.0, "p", 1024 * MIB, 500 * MIB)
    assert written.event(read) == ["pool"]
    assert written.event(replace(read, time=1.0, usage=501 * MIB)) == []
    assert written.event(replace(read, time=2.0, usage=600 * MIB)) == ["pool"]
    assert written.event(replace(read, time=3.0, usage=600 * MIB, limit=9)) == ["pool"]
    assert written.event(replace(read, time=3.0 + AGAIN, usage=600 * MIB, limit=9)) == ["pool"]


def test_a_limit_that_moves_by_pages_is_no_change() -> None:
    """As that of a pool that the machine bounds."""
    written = Written()
    read = PoolRead(0.0, "p", 1024 * MIB, 500 * MIB)
    assert written.event(read) == ["pool"]
    assert written.event(replace(read, time=1.0, limit=1024 * MIB - 4096)) == []
    assert written.event(replace(read, time=2.0, limit=900 * MIB)) == ["pool"]


def refusal(why: str, new: int = 0) -> Refusal:
    return Refusal(Decision("a", 100 * MIB, new, Reason.HOST_PRESSURE), why)


def test_a_refusal_that_goes_on_is_written_now_and_then() -> None:
    written = Written()
    assert written.verdict(refusal("statistics are 31 s old"), 0.0) == ["refused"]
    assert written.verdict(refusal("statistics are 32 s old"), 1.0) == []
    assert written.verdict(refusal("held"), 2.0) == ["refused"]
    assert written.verdict(refusal("held"), 3.0 + REFUSED_AGAIN) == ["refused"]
    done = Decision("a", 100 * MIB, 90 * MIB, Reason.HOST_PRESSURE)
    assert written.verdict(done, 70.0) == written.verdict(done, 70.0) == ["decision"]


@given(st.lists(ANY_EVENT.filter(lambda event: not isinstance(event, GuestLost)), max_size=20))
def test_a_state_comes_back_from_what_a_new_journal_begins_with(events: list[Event]) -> None:
    names = {}  # of few guests, so that events meet
    state = HostState()
    for event in events:
        if hasattr(event, "guest"):
            names.setdefault(event.guest, f"g{len(names) % 2}")
            event = replace(event, guest=names[event.guest])
        if isinstance(event, GuestRead):
            event = replace(event, actual=min(event.actual, event.ram))
        state = state.after(event)
    again = HostState()
    for event in snapshot.events(state, 1.0):
        again = again.after(event)
    assert again == state


def test_history_keeps_the_last_and_counts_what_goes_on() -> None:
    history = History()
    for number in range(3 * KEPT):
        history.add(Decision("a", number, number + 1, Reason.RULE), None, None, float(number))
    for number in range(1000):
        history.add(refusal(f"statistics are {number} s old"), None, None, 100.0 + number)
    entries = history.of("a")
    assert len(entries) == KEPT
    assert entries[-1].times == 1000 and entries[-1].time == 1099.0
    assert entries[-2].decision.new_target == 3 * KEPT
    history.forget("a")
    assert history.of("a") == [] and history.last("a") is None
