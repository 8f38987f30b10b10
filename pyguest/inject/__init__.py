# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure injectors: small static C programs, how to build and call them, and their output."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyguest.errors import LabError

_HERE = Path(__file__).resolve().parent
CFLAGS = ("-O2", "-static", "-Wall", "-Wextra", "-Werror", "-pthread")

PROGRAMS = ("anonload", "cacheload", "chunkload")
# Every file that a build depends on, for cache keys.
SOURCES = (*(_HERE / f"{name}.c" for name in PROGRAMS), _HERE / "inject.h")


@dataclass(frozen=True)
class ChunkResult:
    """What ``chunkload`` printed; times in seconds, ``elapsed`` without the filling of chunks."""

    records_per_s: float
    records: int
    elapsed: float
    real: float
    user: float
    sys: float


@dataclass(frozen=True)
class Progress:
    """One line of ``anonload`` or ``cacheload``: ``touched``, ``freed`` or ``read``, in bytes."""

    what: str
    size: int


def build(out_dir: Path, cc: str = "gcc") -> dict[str, Path]:
    """Compile all injectors statically into ``out_dir``; return the paths by name.

    Raises LabError if the compiler is missing or refuses.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    built = {}
    for name in PROGRAMS:
        target = out_dir / name
        command = [cc, *CFLAGS, "-o", str(target), str(_HERE / f"{name}.c")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise LabError(f"compiler {cc} not found: install gcc and libc6-dev") from error
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise LabError(
                f"{name}.c does not compile with {cc} ({first or done.stderr.strip()}): "
                "install gcc and libc6-dev (static libc)"
            )
        built[name] = target
    return built


def chunkload(program: str, chunk_bytes: int, chunks: int, threads: int, seconds: int) -> list[str]:
    """Command line of the ebizzy-like load: ``chunks`` of ``chunk_bytes`` for ``seconds``."""
    return [
        program, "-s", str(chunk_bytes), "-n", str(chunks), "-t", str(threads), "-S", str(seconds)
    ]  # fmt: skip


def anonload(
    program: str, size: int, rate: int = 0, hold: int = 10, keep_touching: bool = False
) -> list[str]:
    """Command line that takes ``size`` bytes at ``rate`` bytes/s (0: at once), holds, frees."""
    command = [program, "-s", str(size), "-r", str(rate), "-H", str(hold)]
    return [*command, "-k"] if keep_touching else command


def cacheload(
    program: str, path: str, rate: int = 0, seconds: int = 10, size: int = 0
) -> list[str]:
    """Command line that reads ``size`` bytes of ``path`` (0: all) again and again at ``rate``
    bytes/s (0: full speed)."""
    return [program, "-r", str(rate), "-S", str(seconds), "-s", str(size), path]


def parse_chunkload(text: str) -> ChunkResult:
    """Parse the output of ``chunkload``; LabError if a line is missing or is no number."""
    values = dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split()) == 2)
    try:
        return ChunkResult(
            float(values["records/s"]),
            int(values["records"]),
            *(float(values[key]) for key in ("elapsed", "real", "user", "sys")),
        )
    except (KeyError, ValueError) as error:
        raise LabError(f"output of chunkload not understood ({error}): {text[-200:]!r}") from error


def parse_progress(line: str) -> Progress | None:
    """Parse one line of ``anonload`` or ``cacheload``; None if it is something else."""
    what, _, size = line.strip().partition(" ")
    if what in ("touched", "freed", "read") and size.isascii() and size.isdigit():
        return Progress(what, int(size))
    return None
