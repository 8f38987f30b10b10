# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the checkout is, and the cache of what was built from it.

The cache lies outside of the checkout, so that a clean clone finds it. Each entry is a
directory named by the content that went into it, made whole or not at all.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError

TREE = Path(__file__).resolve().parent.parent
"""The checkout."""


def cache_root() -> Path:
    """The cache folder: $XDG_CACHE_HOME/autoballoon, or ~/.cache/autoballoon."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "autoballoon"


def state_dir(name: str) -> Path:
    """A folder for what runs leave to be looked at: logs, journals, results."""
    path = cache_root() / "runs" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def content_key(*parts: str | bytes | Path) -> str:
    """A short key for the given strings and files' contents (SHA-256, 12 hex digits)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        elif isinstance(part, str):
            part = part.encode()
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:12]


def require_space(path: Path, need: int, what: str) -> None:
    """LabError when the disk that holds `path` has less than `need` bytes free."""
    path.mkdir(parents=True, exist_ok=True)
    have = shutil.disk_usage(path).free
    if have < need:
        raise LabError(f"{what} needs {need >> 20} MiB in {path}, and {have >> 20} MiB are free: "
                       "free some, or point XDG_CACHE_HOME at another disk")


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; waits for another process that has it."""
    path = cache_root() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The cache entry `kind`/`key`, built into an empty folder when it is not there yet.

    A build that fails or is interrupted leaves no entry.
    """
    entry = cache_root() / kind / key
    if entry.is_dir():
        return entry
    with lock(f"{kind}-{key}"):
        if entry.is_dir():
            return entry
        entry.parent.mkdir(parents=True, exist_ok=True)
        for killed in entry.parent.glob(f".{key}-*"):
            shutil.rmtree(killed, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=entry.parent))
        try:
            unfinished.chmod(0o755)
            build(unfinished)
            unfinished.rename(entry)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return entry
