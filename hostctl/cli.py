# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of hostctl."""

from __future__ import annotations

import argparse
import sys

from hostctl import __version__, replay
from hostctl.commands import explain, run, status, steer, top
from hostctl.errors import HostctlError
from hostctl.sim import command as simulate

COMMANDS = (run, top, status, explain, steer, simulate, replay)


def main(argv: list[str] | None = None) -> int:
    """Run `hostctl` with `argv`; the exit status."""
    args = _parser().parse_args(argv)
    try:
        found: int = args.run(args)
    except HostctlError as exc:
        for line in str(exc).splitlines():
            print(f"hostctl: {line}", file=sys.stderr)
        return 1
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostctl",
        description="Sizes the balloons of a host's guests by the pressure in host and guests.",
        epilog=run.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hostctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
