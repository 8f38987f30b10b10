# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to the daemon, checked. The user may be trusted, the bytes are not.

A request is an object on a line, `{"command": NAME, ...}` with the fields of that command. The
answer is an object on a line: `{"ok": true, ...}`, or `{"ok": false, "error": TEXT}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from hostctl.policy.model import SIZE_END

REQUEST_MOST = 4096
"""Bytes in a request's line."""
TEXT_MOST = 1024
"""Characters in a name or a reason."""
HELD = "held by an operator"
"""Why a guest is held, if nobody says more."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the host and all its guests are."""


@dataclass(frozen=True, slots=True)
class Explain:
    """Why a guest is the size it is."""

    guest: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Leave a guest alone from now on."""

    guest: str
    why: str = HELD


@dataclass(frozen=True, slots=True)
class Release:
    """A held guest is the policy's again."""

    guest: str


@dataclass(frozen=True, slots=True)
class SetSize:
    """Set a guest's target to `size` bytes, and hold it."""

    guest: str
    size: int


Request = Status | Explain | Hold | Release | SetSize

COMMANDS: dict[str, type[Request]] = {
    "status": Status,
    "explain": Explain,
    "hold": Hold,
    "release": Release,
    "set": SetSize,
}


def parse(line: bytes) -> Request:
    """The request on `line`. Raises ValueError with what is wrong."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from None
    if not isinstance(data, dict):
        raise ValueError("not an object")
    command = data.pop("command", None)
    kind = COMMANDS.get(command) if isinstance(command, str) else None
    if kind is None:
        raise ValueError(f"unknown command; known are {', '.join(COMMANDS)}")
    known = {field.name: field for field in fields(kind)}
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"unknown field {ascii(name)[:60]} of {command}")
        good = _is_size(value) if known[name].type == "int" else _is_text(value)
        if not good:
            raise ValueError(f"{name} of {command} is not what it must be")
    try:
        return kind(**data)
    except TypeError:
        raise ValueError(f"{command} needs {', '.join(known)}") from None


def ask(request: Request) -> bytes:
    """The line of `request`."""
    (command,) = (name for name, kind in COMMANDS.items() if kind is type(request))
    given = {field.name: getattr(request, field.name) for field in fields(request)}
    return json.dumps({"command": command, **given}).encode() + b"\n"


def _is_text(value: object) -> bool:
    # Printable: it comes back to terminals, and lone surrogates cannot be written.
    return isinstance(value, str) and 0 < len(value) <= TEXT_MOST and value.isprintable()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SIZE_END
