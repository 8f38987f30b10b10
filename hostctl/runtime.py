# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's folder at run time: for its control socket, its locks, and the holds.

A process that was killed leaves all of them behind; none hinders the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from hostctl.config import GuestsConfig
from hostctl.errors import HostctlError
from hostctl.journal import Reporter

FILE_MOST = 1 << 20
"""Bytes of a file that we are ready to read back."""
CONTROL = "give a socket in a folder of its own, with --control or control.socket"
RUNTIME = "have a folder of your own in XDG_RUNTIME_DIR, or run it as root"


def prepare(folder: Path, key: str = "control.socket", remedy: str = CONTROL) -> None:
    """Make `folder` for the daemon alone. Raises HostctlError, also when others may write in it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as exc:
        raise HostctlError(f"{key}: {folder}: {exc.strerror}; {remedy}") from exc
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise HostctlError(f"{key}: others may write in {folder}; {remedy}")


@contextmanager
def lock(control: Path) -> Iterator[None]:
    """Be the one daemon with this control socket. Raises HostctlError, naming the other."""
    fd = _lock_file(
        control.with_name(f"{control.name}.lock"),
        "stop that one, or give another --control for guests that are not its",
    )
    try:
        yield
    finally:
        os.close(fd)


class Locks:
    """Locks on the places where guests are found: no guest is to have two controllers.

    A folder of sockets is locked itself; a libvirt by a file in `run`, the same for all daemons
    of a user. Only places are locked, so that hostctls with places of their own go side by side.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._held: dict[Path, int] = {}

    def take(self, guests: GuestsConfig) -> None:
        """Lock these places as well. Raises HostctlError with nothing changed."""
        new: dict[Path, int] = {}
        try:
            for path, take in self._wanted(guests).items():
                if path not in self._held:
                    new[path] = take(path)
        except HostctlError:
            for fd in new.values():
                os.close(fd)
            raise
        self._held.update(new)

    def keep(self, guests: GuestsConfig) -> None:
        """Let go of all places but these."""
        wanted = self._wanted(guests)
        for path in [one for one in self._held if one not in wanted]:
            os.close(self._held.pop(path))

    def close(self) -> None:
        """Let go of all."""
        self.keep(GuestsConfig())

    def _wanted(self, guests: GuestsConfig) -> dict[Path, Callable[[Path], int]]:
        found: dict[Path, Callable[[Path], int]] = {
            folder.resolve(): _lock_folder for folder in guests.sockets
        }
        for uri in guests.libvirt:
            found[self._run / f"{quote(uri, safe='')}.lock"] = _lock_libvirt
        return found


def _lock_folder(folder: Path) -> int:
    """The open and locked folder. Raises HostctlError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise HostctlError(
            f"guests.sockets {folder}: {exc.strerror}; give a folder that can be read"
        ) from exc
    if not _locked(fd):
        os.close(fd)
        raise HostctlError(
            f"guests.sockets {folder}: another hostctl has its guests, and a guest has one: stop "
            "that one, or give another folder"
        )
    return fd


def _lock_libvirt(path: Path) -> int:
    prepare(path.parent, "guests.libvirt", RUNTIME)
    return _lock_file(path, "stop that one, or leave this libvirt out")


def _lock_file(path: Path, remedy: str) -> int:
    """The open and locked file, with our PID in it. Raises HostctlError, naming the other.

    The file stays: to remove it would let two others lock two files of that name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as exc:
        raise HostctlError(f"{path}: {exc.strerror}; remove it, or give another --control") from exc
    if not _locked(fd):
        pid = os.read(fd, 20).decode("ascii", "replace").strip()
        os.close(fd)
        raise HostctlError(
            f"{path}: hostctl runs already, as process {pid or 'unknown'}; a host has one: {remedy}"
        )
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _locked(fd: int) -> bool:
    """Lock the open file; False: another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Holds:
    """Which guests are held and why, kept so that a restart of the daemon releases none."""

    def __init__(self, path: Path, report: Reporter, *, kept: bool = True) -> None:
        """`kept`: changes are written; a dry run changes nothing that another run would find."""
        self._path = path
        self._report = report
        self._kept = kept
        self._held: dict[str, str] = self._read()

    def get(self, guest: str) -> str | None:
        """Why the guest is held; None: it is not."""
        return self._held.get(guest)

    def hold(self, guest: str, why: str) -> None:
        """The guest is held from now on."""
        if self._held.get(guest) != why:
            self._held[guest] = why
            self._write()

    def release(self, guest: str) -> None:
        """The guest is held no more."""
        if self._held.pop(guest, None) is not None:
            self._write()

    def _read(self) -> dict[str, str]:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(FILE_MOST))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            self._report.problem(str(self._path), f"the holds of an earlier run are lost: {exc}")
            return {}
        pairs = found.items() if isinstance(found, dict) else ()
        return {name: why for name, why in pairs if isinstance(why, str)}

    def _write(self) -> None:
        if not self._kept:
            return
        new = self._path.with_name(f"{self._path.name}.new")
        data = json.dumps(self._held).encode()
        if len(data) > FILE_MOST:
            self._report.problem(
                str(self._path),
                f"{len(self._held)} holds take {len(data)} bytes and not {FILE_MOST} at most; a "
                "restart would forget the last: release those of guests that are gone",
            )
            return
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:  # noqa: PTH123
                file.write(data)
            new.replace(self._path)
        except OSError as exc:
            self._report.problem(
                str(self._path), f"{exc.strerror}; a restart would forget which guests are held"
            )
        else:
            self._report.clear(str(self._path))
