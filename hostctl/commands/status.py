# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl status: the host and its guests, for a person or a program."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from hostctl.commands.table import view
from hostctl.control.client import add_socket, call
from hostctl.control.protocol import Status


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hostctl status`."""
    parser = commands.add_parser("status", help="show the host and its guests")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="as JSON: bytes and seconds")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Print the daemon's answer."""
    status = call(args.control, Status())
    if args.json:
        del status["ok"]
        print(json.dumps(status, indent=2))
    else:
        Console(highlight=False).print(view(status))
    return 0
