# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator sees of the daemon's answers: top, status, explain."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hostctl.commands.explain import lines
from hostctl.commands.show import age_text, change_text, plain, size_text
from hostctl.commands.table import view
from hostctl.config import Config, GuestsConfig
from hostctl.control import answers
from hostctl.guard import Refusal
from hostctl.history import History
from hostctl.policy import Settings
from hostctl.policy.model import (
    Decision,
    Event,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Held,
    HostState,
    Level,
    PoolRead,
    Reason,
    Stats,
    StatsRead,
)
from hostctl.policy.tuning import Tuning

MIB = 1 << 20
GIB = 1 << 30
ABOUT = {"version": "1", "pid": 7, "policy": "transfer", "dry_run": False, "uptime": 7300.0,
         "pressed_for": 60.0}  # fmt: skip
NOW = 1000.0


def read(name: str, actual: int = 4 * GIB) -> GuestRead:
    return GuestRead(0.0, name, 8 * GIB, actual, actual, 2 * GIB, True, True)


def host(*events: Event) -> HostState:
    state = HostState()
    for event in events:
        state = state.after(event)
    return state


def status(state: HostState, history: History | None = None, **about: object) -> dict[str, Any]:
    pieces = answers.status(state, history or History(), NOW, {**ABOUT, **about})
    found: dict[str, Any] = json.loads("".join(pieces))
    return found


def shown(answer: dict[str, Any], rows: int | None = 24) -> list[str]:
    console = Console(width=80, height=24, record=True, highlight=False)
    with console.capture() as capture:
        console.print(view(answer, rows))
    return capture.get().splitlines()


def a_host_of_all_sorts() -> tuple[HostState, History]:
    history = History()
    state = host(
        PoolRead(990.0, "machine.slice", 64 * GIB, 61 * GIB, 100 * MIB),
        read("idle", 3 * GIB),
        read("full", 8 * GIB),
        read("low"),
        read("critical"),
        read("long-ago"),
        read("held"),
        read("silent"),
        GuestRead(0.0, "none", 8 * GIB, 8 * GIB, 8 * GIB, 2 * GIB, False, False),
        GuestMessage(995.0, "low", Level.LOW, 4 * GIB),
        GuestMessage(990.0, "critical", Level.CRITICAL, 4 * GIB),
        GuestMessage(100.0, "long-ago", Level.CRITICAL, 4 * GIB),
        Held(500.0, "held", "set by an operator"),
        GuestSilent(999.0, "silent"),
        StatsRead(998.0, "low", Stats(998.0, available=100 * MIB)),
    )
    relief = Decision("low", 4 * GIB, 4 * GIB + 256 * MIB, Reason.GUEST_PRESSURE, "it said low")
    history.add(relief, state.guests["low"], state.pools["machine.slice"], 995.0)
    probe = Decision("idle", 3 * GIB, 2 * GIB, Reason.PROBE)
    history.add(Refusal(probe, "statistics are old"), state.guests["idle"], None, 940.0)
    return state, history


def test_the_most_pressed_come_first() -> None:
    answer = status(*a_host_of_all_sorts())
    text = shown(answer)
    names = [line.split()[0] for line in text[3:]]
    assert names[:4] == ["critical", "low", "silent", "held"]
    assert names[4] == "idle"  # the largest balloon of those with nothing to tell
    assert text[0].startswith("hostctl transfer  8 guests, 2 pressed, 1 held, 1 silent  up 2h")
    assert text[1].startswith("pool machine.slice  61G of 64G (95%), 3G free, 100M swapped")
    row = next(line for line in text if line.startswith("low "))
    assert row.split()[1:6] == ["8G", "4G", "4G", "low", "5s"]
    assert "+256M guest-pressure 5s" in row
    assert "refused probe 1m: statistics" in next(t for t in text if t.startswith("idle"))
    assert "HELD set by an operator" in next(t for t in text if t.startswith("held"))
    assert "DRY RUN" in shown(status(HostState(), dry_run=True))[0]


def test_pressed_is_whom_the_policy_takes_for_it() -> None:
    state, history = a_host_of_all_sorts()
    assert "8 guests, 1 pressed" in shown(status(state, history, pressed_for=7.0))[0]
    assert "8 guests, 3 pressed" in shown(status(state, history, pressed_for=1000.0))[0]
    settings = Settings(hysteresis=5.0, tuning=Tuning(back_off=9.0))
    config = Config(GuestsConfig(), settings=settings)
    assert replace(config, policy="classic").pressed_for == 5.0
    assert replace(config, policy="transfer").pressed_for == 9.0


def test_a_thousand_guests_fit_into_a_terminal() -> None:
    state = host(*(read(f"guest-with-a-long-name-{n}") for n in range(1000)))
    state = state.after(GuestMessage(999.0, "guest-with-a-long-name-777", Level.LOW, 4 * GIB))
    text = shown(status(state))
    assert len(text) <= 24 and all(len(line) <= 80 for line in text)
    assert "low 1s" in text[2]
    assert text[-1].startswith("and 979 more")
    assert len(shown(status(state), None)) == 1002


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(NAMES, unique=True, max_size=5), NAMES)
def test_names_and_reasons_cannot_act_on_the_terminal(names: list[str], why: str) -> None:
    events: list[Event] = [read(name) for name in names]
    history = History()
    state = host(*events, *(Held(1.0, name, why) for name in names))
    for name in names:
        history.add(Decision(name, 1, 2, Reason.PROBE, why), state.guests[name], None, 5.0)
    text = shown(status(state, history))
    told = [
        line
        for name in names
        for line in lines(
            json.loads("".join(answers.explain(state.guests[name], history.of(name), NOW)))
        )
    ]
    for line in [*text, *told]:
        assert all(one.isprintable() for one in line), line


def test_explain_tells_decisions_with_their_inputs() -> None:
    state, history = a_host_of_all_sorts()

    def explained(name: str) -> str:
        answer = "".join(answers.explain(state.guests[name], history.of(name), NOW))
        return "\n".join(lines(json.loads(answer)))

    low = explained("low")
    assert "5s ago: 4G -> 4.2G, guest-pressure" in low
    assert "because  it said low" in low
    assert "100M available, told 2s before" in low
    assert "machine.slice: 61G of 64G used, 5s before" in low
    assert "refused  statistics are old" in explained("idle")
    assert "nothing was decided" in explained("silent") and "does not answer" in explained("silent")
    assert "no balloon device" in explained("none")


@given(st.lists(st.integers(0, 60), max_size=60))
def test_an_answer_in_pieces_is_one_object(ages: list[int]) -> None:
    state = host(*(read(f"{n}-{age}") for n, age in enumerate(ages)))
    found = status(state)
    assert [guest["name"] for guest in found["guests"]] == list(state.guests)


def widths(texts: Iterable[str]) -> set[int]:
    return {len(text) for text in texts}


@given(st.integers(0, (1 << 63) - 1), st.floats(0, 1e9))
def test_sizes_and_ages_are_short(size: int, age: float) -> None:
    assert max(widths([size_text(size)])) <= 5
    assert max(widths([age_text(age)])) <= 6
    assert change_text(size, 0)[0] in "+-"


def test_sizes_and_ages() -> None:
    assert [size_text(n) for n in (0, 999, 1536 * MIB, 512 * MIB, 4 * GIB)] == [
        "0B", "999B", "1.5G", "512M", "4G",
    ]  # fmt: skip
    assert size_text(1000 * GIB) == "1T"
    assert size_text(None) == age_text(None) == "-"
    assert [age_text(n) for n in (0.4, 59.9, 60, 7200, 86400 * 3)] == [
        "0s",
        "59s",
        "1m",
        "2h",
        "3d",
    ]
    assert change_text(64 * MIB, 32 * MIB) == "-32M"
    assert plain("a\x1b[2J\n") == "a?[2J?"
