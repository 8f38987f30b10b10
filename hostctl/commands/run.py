# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl run: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hostctl import config, runtime
from hostctl.config import Config
from hostctl.daemon import Daemon
from hostctl.errors import HostctlError
from hostctl.journal import Journal
from hostctl.notify import Notifier
from hostctl.policy import POLICIES
from hostctl.policy.model import Level
from hostctl.pressure.cgroups import locate, mounts_of
from hostctl.pressure.choose import SOURCES

EXAMPLES = """\
examples:
  hostctl run --sockets /run/hostctl-guests
      all guests with a socket in the folder, pressure of the whole machine
  hostctl run --sockets DIR --memcg /sys/fs/cgroup/memory/machine --journal loop.jsonl
      pressure of one memory group, events and decisions into a file
  hostctl run --config hostctl.toml --policy mom --dry-run
      a file (see hostctl.example.toml), with one setting changed, and nothing sent
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hostctl run`."""
    parser = commands.add_parser(
        "run",
        help="run the daemon",
        description="Runs until SIGTERM or SIGINT, and leaves the guests as they are then. "
        "SIGHUP reads the configuration again; a bad one changes nothing. A dry run sets no size "
        "and keeps no hold; guests are asked for their statistics all the same.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML file; flags win over it")
    add("--check", action="store_true", help="check file and flags, and exit")
    add("--dry-run", action="store_true", help="write what would be done, and do not do it")
    # Values are checked with the file's, so that an error reads the same from either.
    add("--sockets", metavar="DIR", help="folder with a NAME.qmp for each guest")
    add("--journal", metavar="FILE", help="events and decisions, - for stdout")
    add("--control", metavar="SOCKET", help=f"control socket ({config.control_socket()})")
    add("--policy", metavar="NAME", help=f"one of: {', '.join(POLICIES)} ({config.POLICY})")
    add("--step", metavar="SIZE", help="classic: change of a balloon at a time (32M)")
    add("--hysteresis", metavar="SECONDS", help="classic: no inflation after a message (60)")
    add("--floor", metavar="SIZE", help="smallest guest (RAM/4, at least 128M)")
    add("--pressure", metavar="SOURCE", help=f"one of: {', '.join(SOURCES)}")
    add("--memcg", metavar="PATH", help="cgroup to watch (the whole machine)")
    add("--level", metavar="LEVEL", help=f"one of: {', '.join(Level)}")


def run(args: argparse.Namespace) -> int:
    """Run until a signal."""
    given: dict[str, Any] = vars(args)
    flags = {name: given[name] for name in config.FLAGS if given[name] is not None}
    load = partial(_load, args.config, flags)
    settings = load()
    if args.check:
        print(f"hostctl: {args.config or 'the flags'}: nothing wrong")
        return 0
    _allow_many_files()
    asyncio.run(_run(settings, load, args.dry_run))
    return 0


async def _run(settings: Config, load: Callable[[], Config], dry_run: bool) -> None:
    runtime.prepare(settings.control.parent)
    with ExitStack() as stack:
        stack.enter_context(runtime.lock(settings.control))
        file = settings.journal
        journal = stack.enter_context(Journal(file.file, size=file.size, keep=file.keep))
        await Daemon(settings, journal, load, notifier=Notifier(), dry_run=dry_run).run()


def _load(file: Path | None, flags: dict[str, str]) -> Config:
    """The configuration, if its folders are there and its groups can be. Raises HostctlError."""
    found = config.load(file, flags)
    faults = [
        f"guests.sockets {folder}: no such folder; make it, and start each QEMU with "
        "-qmp unix:FOLDER/NAME.qmp,server=on,wait=off"
        for folder in found.guests.sockets
        if not folder.is_dir()
    ]
    for pool in found.pools:
        try:
            if pool.group is not None:
                locate(pool.group, mounts_of())
        except HostctlError as exc:
            faults.append(f"pool {pool.name}: {exc}")
    if faults:
        raise HostctlError("\n".join(faults))
    return found


def _allow_many_files() -> None:
    """Each guest is an open file: 1,024 of them, the usual soft limit, are soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
