# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl explain: why a guest is the size it is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from hostctl.commands.show import age_text, plain, size_text
from hostctl.control.client import add_socket, call
from hostctl.control.protocol import Explain

Fields = dict[str, Any]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hostctl explain`."""
    parser = commands.add_parser("explain", help="why a guest is the size it is")
    parser.set_defaults(run=run)
    parser.add_argument("guest", metavar="GUEST")
    parser.add_argument("--json", action="store_true", help="as JSON: bytes and seconds")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Print the guest, and its last verdicts, the newest first."""
    answer = call(args.control, Explain(args.guest))
    if args.json:
        del answer["ok"]
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines(answer)))
    return 0


def lines(answer: Fields) -> Iterator[str]:
    """The answer for a person, in 80 columns where names and reasons are short."""
    guest = answer["guest"]
    yield f"{plain(guest['name'])}: {size_text(guest['target'])} of {size_text(guest['ram'])}"
    yield f"  now      {_sizes(guest)}"
    yield f"  bounds   {size_text(guest['floor'])} to {size_text(guest['ceiling'])}"
    yield f"  pressure {_pressure(guest)}"
    yield f"  memory   {_memory(guest)}"
    if guest["held"] is not None:
        yield f"  held     {plain(guest['held'])}"
    if not guest["balloon"]:
        yield "  it has no balloon device, and is left alone"
    if not guest["fresh"]:
        yield "  its QEMU does not answer: it is not inflated until it does"
    if not answer["verdicts"]:
        yield "nothing was decided on it since hostctl has known it"
    for verdict in reversed(answer["verdicts"]):
        yield from _verdict(verdict)


def _verdict(verdict: Fields) -> Iterator[str]:
    times = f", {verdict['times']} times" if verdict["times"] > 1 else ""
    yield (
        f"{age_text(verdict['age'])} ago{times}: {size_text(verdict['old'])} -> "
        f"{size_text(verdict['new'])}, {verdict['reason']}"
    )
    if verdict["why"]:
        yield f"  because  {plain(verdict['why'])}"
    if verdict["refusal"]:
        yield f"  refused  {plain(verdict['refusal'])}"
    if inputs := verdict["inputs"]:
        yield f"  guest    {_sizes(inputs)}; {_pressure(inputs)}; {_memory(inputs)}"
    if pool := verdict["pool"]:
        yield (
            f"  pool     {plain(pool['name'])}: {size_text(pool['usage'])} of "
            f"{size_text(pool['limit'])} used, {age_text(pool['age'])} before"
        )


def _sizes(guest: Fields) -> str:
    return f"target {size_text(guest['target'])}, has {size_text(guest['actual'])}"


def _pressure(guest: Fields) -> str:
    if guest["level"] is None:
        return "no message"
    return f"{guest['level']} {age_text(guest['message_age'])} before"


def _memory(guest: Fields) -> str:
    if guest["stats_age"] is None:
        return "no statistics"
    return f"{size_text(guest['available'])} available, told {age_text(guest['stats_age'])} before"
