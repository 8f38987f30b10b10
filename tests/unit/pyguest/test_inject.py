# SPDX-License-Identifier: GPL-2.0-or-later
"""The injectors compile, do what they say, refuse bad options; their output is understood."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyguest import inject
from pyguest.errors import LabError

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return inject.build(tmp_path_factory.mktemp("inject"))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@needs_gcc
def test_chunkload_runs_for_its_seconds(programs: dict[str, Path]) -> None:
    done = _run(inject.chunkload(str(programs["chunkload"]), 65536, 16, 2, 1))
    assert done.returncode == 0, done.stderr
    result = inject.parse_chunkload(done.stdout)
    assert result.records > 0
    assert result.elapsed >= 1.0
    assert result.records_per_s == pytest.approx(result.records / result.elapsed, rel=0.01)
    assert result.real >= result.elapsed


@needs_gcc
def test_anonload_keeps_the_rate_then_frees(programs: dict[str, Path]) -> None:
    size = 8 << 20
    begin = time.monotonic()
    done = _run(inject.anonload(str(programs["anonload"]), size, rate=size, hold=0))
    took = time.monotonic() - begin
    steps = [inject.parse_progress(line) for line in done.stdout.splitlines()]
    assert steps[-2:] == [inject.Progress("touched", size), inject.Progress("freed", size)]
    # At its rate it cannot have been quicker.
    assert took >= 0.9


@needs_gcc
def test_anonload_holds_what_it_took(programs: dict[str, Path]) -> None:
    size = 24 << 20
    child = subprocess.Popen(
        inject.anonload(str(programs["anonload"]), size, hold=5, keep_touching=True),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        while inject.parse_progress(child.stdout.readline()) != inject.Progress("touched", size):
            pass
        pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
        assert pages * 4096 >= size
    finally:
        child.kill()
        child.communicate()


@needs_gcc
def test_cacheload_reads_again_and_again(programs: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(1 << 20))
    done = _run(inject.cacheload(str(programs["cacheload"]), str(data), 4 << 20, 1))
    last = inject.parse_progress(done.stdout.splitlines()[-1])
    assert last is not None
    assert 3 << 20 <= last.size <= 5 << 20


@needs_gcc
def test_cacheload_reads_a_part(programs: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(1 << 20))
    command = inject.cacheload(str(programs["cacheload"]), str(data), 40 << 20, 1, 300 << 10)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        seen = set()
        while child.poll() is None:
            with suppress(OSError):  # it is not there yet, or no more
                path = Path(f"/proc/{child.pid}/fd/3").readlink()
                pos = Path(f"/proc/{child.pid}/fdinfo/3").read_text().split()[1]
                if path == data:
                    seen.add(int(pos))
    assert seen - {0}
    assert max(seen) <= 300 << 10


@needs_gcc
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["chunkload", "-s", "12X"], "-s 12X"),
        (["chunkload", "-s", "-1"], "-s -1"),
        (["chunkload", "-n", "0"], "-n 0"),
        (["chunkload", "-S", "99999999999999999999"], "-S 999"),
        (["chunkload", "surplus"], "surplus"),
        (["anonload"], "-s SIZE is missing"),
        (["anonload", "-s", "17000000000000M"], "must be from"),
        (["cacheload"], "FILE"),
        (["cacheload", "-z", "x"], "usage"),
    ],
)
def test_bad_options_end_with_2(
    programs: dict[str, Path], command: list[str], expected: str
) -> None:
    done = _run([str(programs[command[0]]), *command[1:]])
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


@needs_gcc
@pytest.mark.parametrize("name", inject.PROGRAMS)
def test_help(programs: dict[str, Path], name: str) -> None:
    done = _run([str(programs[name]), "--help"])
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name}")


@needs_gcc
def test_missing_file_is_named(programs: dict[str, Path]) -> None:
    done = _run([str(programs["cacheload"]), "/nonexistent/file"])
    assert done.returncode == 1
    assert "/nonexistent/file: No such file" in done.stderr


def test_missing_compiler_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="install gcc"):
        inject.build(tmp_path, cc="no-such-compiler")


def test_cut_output_is_refused() -> None:
    with pytest.raises(LabError, match="not understood"):
        inject.parse_chunkload("records/s 12.5\nrecords 25\n")


@given(st.text())
def test_progress_parser_takes_any_text(text: str) -> None:
    progress = inject.parse_progress(text)
    assert progress is None or progress.size >= 0
