# SPDX-License-Identifier: GPL-2.0-or-later
"""The subcommands' side of the control socket."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path
from typing import Any

from hostctl.config import control_socket
from hostctl.control.protocol import Request, ask
from hostctl.errors import HostctlError

PATIENCE = 10.0
"""Seconds without a byte of the answer after which we give up."""
ANSWER_MOST = 64 << 20
"""Bytes of an answer: a thousand guests are half a megabyte."""

Reply = dict[str, Any]


def add_socket(parser: argparse.ArgumentParser) -> None:
    """The flag that says which daemon is asked."""
    parser.add_argument(
        "--control", type=Path, default=control_socket(), metavar="SOCKET",
        help="the daemon's control socket (%(default)s)",
    )  # fmt: skip


def call(path: Path, request: Request) -> Reply:
    """The daemon's answer. Raises HostctlError, also with the daemon's own error."""
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            sock.sendall(ask(request))
            while more := sock.recv(1 << 16):
                data += more
                if len(data) > ANSWER_MOST:
                    raise HostctlError(f"{path}: answers without end; is it hostctl's socket?")
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise HostctlError(
            f"{path}: no hostctl listens; start one with hostctl run, or give its --control"
        ) from exc
    except TimeoutError as exc:
        raise HostctlError(f"{path}: no answer within {PATIENCE:g} s; is hostctl stuck?") from exc
    except OSError as exc:
        raise HostctlError(
            f"{path}: {exc.strerror or exc}; run this as root or as the daemon's user"
        ) from exc
    try:
        reply = json.loads(data)
        good = reply["ok"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise HostctlError(
            f"{path}: the connection was closed without an answer; hostctl answers root and its "
            "own user, and few at a time"
        ) from exc
    if not good:
        raise HostctlError(str(reply.get("error")))
    found: Reply = reply
    return found
