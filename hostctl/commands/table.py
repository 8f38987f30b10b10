# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of guests that `hostctl top` and `hostctl status` show."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hostctl.commands.show import age_text, change_text, plain, size_text

_RANKS = {"low": 0, "medium": 1, "critical": 2}
_COLOURS = {"low": "yellow", "medium": "dark_orange", "critical": "bold red"}

Fields = dict[str, Any]


def view(status: Fields, rows: int | None = None) -> RenderableType:
    """All of `status` (the daemon's answer) in at most `rows` lines; None: as many as it takes."""
    guests = sorted(status["guests"], key=lambda guest: _order(guest, status["pressed_for"]))
    head = [_headline(status), *(_pool_line(pool) for pool in status["pools"])]
    # The table's own head is a line, and so is the last of all.
    left = len(guests) if rows is None else max(rows - len(head) - 2, 1)
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="bold")
    # 80 columns: what is fixed takes 46 with its gaps, the rest is for the last.
    table.add_column("GUEST", no_wrap=True, overflow="ellipsis", width=14)
    for name, width in (("RAM", 5), ("SIZE", 5), ("BALLN", 5)):
        table.add_column(name, justify="right", no_wrap=True, width=width)
    table.add_column("PRESSURE", no_wrap=True, width=13)
    table.add_column("LAST DECISION", no_wrap=True, overflow="ellipsis", ratio=1)
    for guest in guests[:left]:
        table.add_row(
            Text(plain(guest["name"])),
            size_text(guest["ram"]),
            size_text(guest["target"]),
            size_text(guest["ram"] - guest["actual"]) if guest["balloon"] else "none",
            _pressure(guest, status["pressed_for"]),
            _last(guest),
        )
    more = len(guests) - left
    tail = [Text(f"and {more:,} more, none of them as pressed", style="dim")] if more > 0 else []
    return Group(*head, table, *tail)


def pressed(guest: Fields, lately: float) -> bool:
    """Whether the guest has said within so many seconds that it is short."""
    return guest["level"] is not None and guest["message_age"] <= lately


def _order(guest: Fields, lately: float) -> tuple[object, ...]:
    """The most pressed first; then those to look at; then by the balloon's size."""
    short = pressed(guest, lately)
    return (
        not short,
        -_RANKS[guest["level"]] if short else 0,
        guest["message_age"] if short else 0.0,
        guest["fresh"],
        guest["held"] is None,
        guest["actual"] - guest["ram"],
        guest["name"],
    )


def _headline(status: Fields) -> Text:
    guests = status["guests"]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"hostctl {status['policy']}", style="bold")
    if status["dry_run"]:
        text.append(" DRY RUN", style="bold red")
    text.append(f"  {len(guests):,} guest{'' if len(guests) == 1 else 's'}")
    for count, word, style in (
        (sum(pressed(one, status["pressed_for"]) for one in guests), "pressed", "yellow"),
        (sum(guest["held"] is not None for guest in guests), "held", "cyan"),
        (sum(not guest["fresh"] for guest in guests), "silent", "red"),
    ):
        if count:
            text.append(f", {count:,} {word}", style=style)
    text.append(f"  up {age_text(status['uptime'])}")
    return text


def _pool_line(pool: Fields) -> Text:
    limit, usage = pool["limit"], pool["usage"]
    share = usage / limit if limit else 1.0
    style = "red" if share >= 0.95 else "yellow" if share >= 0.9 else ""
    text = Text(f"pool {plain(pool['name'])}  ", no_wrap=True, overflow="ellipsis")
    text.append(f"{size_text(usage)} of {size_text(limit)} ({share:.0%})", style=style)
    text.append(f", {size_text(max(limit - usage, 0))} free")
    if pool["swapped"]:
        text.append(f", {size_text(pool['swapped'])} swapped", style="red")
    return text


def _pressure(guest: Fields, lately: float) -> Text:
    if not guest["fresh"]:
        return Text("silent", style="red")
    if guest["level"] is None:
        return Text("-" if guest["tells"] else "tells none", style="dim")
    text = f"{guest['level']} {age_text(guest['message_age'])}"
    return Text(text, style=_COLOURS[guest["level"]] if pressed(guest, lately) else "dim")


def _last(guest: Fields) -> Text:
    last = guest["last"]
    text = Text()
    if guest["held"] is not None:
        text.append(f"HELD {plain(guest['held'])} ", style="cyan")
    if last is not None:
        refused = last["refusal"] is not None
        style = "dim" if refused else ""
        change = "refused" if refused else change_text(last["old"], last["new"])
        why = last["refusal"] or last["why"]
        text.append(f"{change} {last['reason']} {age_text(last['age'])}", style=style)
        if why:
            text.append(f": {plain(why)}", style="dim")
    return text
