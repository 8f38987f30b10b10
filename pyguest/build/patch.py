# SPDX-License-Identifier: GPL-2.0-or-later
"""Hook patches: applied with patch(1), and a clear word where a hunk does not fit."""

import re
import subprocess
from pathlib import Path

from ..errors import LabError


def files(patch: Path) -> list[str]:
    """The files that a patch in a/ b/ form changes, relative to the tree."""
    return re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.M)


def _patch(patch: Path, tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # Fuzz is not allowed: a hook in the wrong place is worse than none.
    return subprocess.run(
        ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch",
         "--reject-file=-", "-i", str(patch), *options],
        cwd=tree, text=True, capture_output=True,
    )


def fits(patch: Path, tree: Path) -> bool:
    """Would `patch` apply to `tree` as a whole?"""
    return _patch(patch, tree, "--dry-run").returncode == 0


def apply(patch: Path, tree: Path, what: str) -> None:
    """Apply `patch` to `tree`. LabError names each hunk that does not apply to `what`."""
    # First without a change: a tree half patched would be worse than none.
    done = _patch(patch, tree, "--dry-run")
    if done.returncode == 0:
        done = _patch(patch, tree)
    if done.returncode:
        raise LabError(
            f"{patch}: {'; '.join(failures(done.stdout)) or done.stdout.strip()}: it does not "
            f"apply to {what}; rebase the patch or use the version that it is for"
        )


def failures(output: str) -> list[str]:
    """What failed, from patch's own output: `hunk 2 (line 120) of drivers/x.c`."""
    failed: list[str] = []
    current = "?"
    for line in output.splitlines():
        if found := re.match(r"(?:checking|patching) file '?([^']+?)'?$", line):
            current = found[1]
        elif found := re.match(r"Hunk #(\d+) FAILED at (\d+)", line):
            failed.append(f"hunk {found[1]} (line {found[2]}) of {current}")
        elif found := re.match(r"can't find file to patch at input line (\d+)", line):
            failed.append(f"the file named at line {found[1]} of the patch is missing")
    return failed
