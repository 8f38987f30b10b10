# SPDX-License-Identifier: GPL-2.0-or-later
"""hostctl hold, release and set: what an operator wants for one guest."""

from __future__ import annotations

import argparse

from hostctl import values
from hostctl.commands.show import plain, size_text
from hostctl.control.client import add_socket, call
from hostctl.control.protocol import HELD, Hold, Release, SetSize
from hostctl.errors import HostctlError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hostctl hold`, `hostctl release` and `hostctl set`."""
    hold = commands.add_parser(
        "hold",
        help="leave a guest alone until it is released",
        description="Nothing is decided on a held guest: it is not made smaller, and gets no "
        "relief when it is short. What it was asked for before goes on: an inflation under way "
        "ends at its target.",
    )
    hold.set_defaults(run=run_hold)
    hold.add_argument("guest", metavar="GUEST")
    hold.add_argument("why", metavar="WHY", nargs="?", default=HELD, help="a note for later")
    add_socket(hold)
    release = commands.add_parser("release", help="let the policy have a guest again")
    release.set_defaults(run=run_release)
    release.add_argument("guest", metavar="GUEST")
    add_socket(release)
    size = commands.add_parser(
        "set",
        help="set a guest's size, and hold it",
        description="The guard holds for an operator as well: floor, ceiling, largest step. The "
        "guest's QEMU is asked; hostctl top shows what comes of it.",
    )
    size.set_defaults(run=run_set)
    size.add_argument("guest", metavar="GUEST")
    size.add_argument("size", metavar="SIZE", help='bytes, or a text such as "512M"')
    add_socket(size)


def run_hold(args: argparse.Namespace) -> int:
    """Hold the guest."""
    call(args.control, Hold(args.guest, args.why))
    print(f"{plain(args.guest)} is held until hostctl release")
    return 0


def run_release(args: argparse.Namespace) -> int:
    """Release the guest."""
    call(args.control, Release(args.guest))
    print(f"{plain(args.guest)} is released")
    return 0


def run_set(args: argparse.Namespace) -> int:
    """Set the guest's target."""
    try:
        size = values.size(args.size)
    except ValueError as exc:
        raise HostctlError(f"SIZE = {values.shown(args.size)}: {exc}") from None
    reply = call(args.control, SetSize(args.guest, size))
    target = int(reply["target"])
    asked = "would be asked to be" if reply["dry_run"] else "is asked to be"
    print(f"{plain(args.guest)} {asked} {size_text(target)}, and held until hostctl release")
    if target != size:
        print(
            f"that is not {size_text(size)}: the guard keeps to floor, ceiling and largest step; "
            "hostctl explain shows them, and a moment later another step is allowed"
        )
    return 0
