# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of hostctl."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from hostctl import __version__, config
from hostctl.daemon import Daemon
from hostctl.errors import HostctlError
from hostctl.journal import Journal
from hostctl.policy import POLICIES
from hostctl.policy.model import Level
from hostctl.pressure.choose import SOURCES, choose

EXAMPLES = """\
examples:
  hostctl run --sockets /run/hostctl
      all guests with a socket in the folder, pressure of the whole machine
  hostctl run --sockets /run/hostctl --memcg /sys/fs/cgroup/memory/machine --journal loop.jsonl
      pressure of one memory group, events and decisions into a file
  hostctl run --config hostctl.toml --step 64M
      a file (see hostctl.example.toml), with one setting changed
"""


def main(argv: list[str] | None = None) -> int:
    """Run `hostctl` with `argv`; the exit status."""
    args = vars(_parser().parse_args(argv))
    args.pop("command")
    file = args.pop("config")
    try:
        settings = config.load(file, {k: v for k, v in args.items() if v is not None})
        asyncio.run(_run(settings))
    except HostctlError as exc:
        for line in str(exc).splitlines():
            print(f"hostctl: {line}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: config.Config) -> None:
    # Before anything is made: what fails here leaves nothing behind.
    if not settings.sockets.is_dir():
        raise HostctlError(
            f"guests.sockets {settings.sockets}: no such folder; make it, and start each QEMU "
            "with -qmp unix:FOLDER/NAME.qmp,server=on,wait=off"
        )
    with ExitStack() as stack:
        source = choose(settings.source, settings.memcg, settings.level)
        if source is not None:
            stack.callback(source.close)
        journal = stack.enter_context(Journal(settings.journal))
        await Daemon(settings, journal, source).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostctl",
        description="Sizes the balloons of a host's guests by the pressure in host and guests.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hostctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the daemon",
        description="Runs until SIGTERM or SIGINT, and leaves the guests as they are then.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML file; flags win over it")
    # Values are checked with the file's, so that an error reads the same from either.
    run.add_argument("--sockets", metavar="DIR", help="folder with a NAME.qmp for each guest")
    run.add_argument("--journal", metavar="FILE", help="events and decisions, - for stdout")
    run.add_argument("--policy", metavar="NAME", help=f"one of: {', '.join(POLICIES)}")
    run.add_argument("--step", metavar="SIZE", help="change of a balloon at a time (32M)")
    run.add_argument("--hysteresis", metavar="SECONDS", help="no inflation after a message (60)")
    run.add_argument("--floor", metavar="SIZE", help="smallest guest (RAM/4, at least 128M)")
    run.add_argument("--pressure", metavar="SOURCE", help=f"one of: {', '.join(SOURCES)}")
    run.add_argument("--memcg", metavar="PATH", help="cgroup to watch (the whole machine)")
    run.add_argument("--level", metavar="LEVEL", help=f"one of: {', '.join(Level)}")
    return parser

