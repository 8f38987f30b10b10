# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl top: all guests, live, the most pressed first."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hostctl import values
from hostctl.commands.table import view
from hostctl.control.client import add_socket, call
from hostctl.control.protocol import Status
from hostctl.errors import HostctlError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hostctl top`."""
    parser = commands.add_parser("top", help="show all guests, live; Ctrl-C ends it")
    parser.set_defaults(run=run)
    parser.add_argument("--once", action="store_true", help="print all guests once")
    parser.add_argument(
        "--every", default=1.0, type=_interval, metavar="SECONDS", help="between two looks (1)"
    )
    add_socket(parser)


def _interval(text: str) -> float:
    try:
        return values.interval(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def run(args: argparse.Namespace) -> int:
    """Show until Ctrl-C, or once."""
    console = Console(highlight=False)
    status = call(args.control, Status())
    if args.once:
        console.print(view(status))
        return 0
    screen = Live(console=console, screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), screen as live:
        while True:
            live.update(view(status, console.height), refresh=True)
            time.sleep(args.every)
            try:
                status = call(args.control, Status())
            except HostctlError as exc:
                # It may come back: what was seen last stays to be read.
                lost = Text(str(exc), style="bold red")
                live.update(Group(lost, view(status, console.height - 2)), refresh=True)
    return 0
