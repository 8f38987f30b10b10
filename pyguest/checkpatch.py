# SPDX-License-Identifier: GPL-2.0-or-later
"""checkpatch.pl of the kernel on our driver, and of QEMU on our device."""

import difflib
import subprocess
import tempfile
from pathlib import Path

from . import paths
from .build import kmod, qemu, source
from .errors import LabError
from .targets import Targets

# What checkpatch asks of a mailed patch and not of code; the series door makes mails.
KERNEL_IGNORES = "FILE_PATH_CHANGES,COMMIT_MESSAGE,MISSING_SIGN_OFF"

# The form that TRACE_EVENT() has everywhere in the kernel.
TRACE_IGNORES = "OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT"


def new_file(name: str, text: str) -> str:
    """A patch that adds a file."""
    lines = difflib.unified_diff([], text.splitlines(keepends=True), "/dev/null", f"b/{name}")
    return "".join(lines)


def check_kernel(targets: Targets) -> None:
    """Run the kernel's checkpatch on each hook patch and on our driver files."""
    scripts = source.ensure(targets.kernel()).scripts
    for target in targets.kernels.values():
        _run([scripts / "checkpatch.pl", "--no-tree", "--strict", "--no-signoff", "--quiet",
              f"--ignore={KERNEL_IGNORES}", paths.TREE / target.patch])
    for name in kmod.OWN:
        if name.endswith((".c", ".h")):
            ignores = KERNEL_IGNORES + ("," + TRACE_IGNORES if "trace" in name else "")
            _run([scripts / "checkpatch.pl", "--no-tree", "--strict", "--quiet",
                  f"--ignore={ignores}", "--file", kmod.KMOD / name])


def check_qemu(targets: Targets) -> None:
    """Run QEMU's checkpatch on each hook patch together with our device files."""
    for target in targets.qemus.values():
        script = qemu.source_tree(target) / "scripts/checkpatch.pl"
        text = (paths.TREE / target.patch).read_text()
        for own, name in qemu.OWN.items():
            # The UAPI header is the kernel's, in the kernel's style.
            if own != qemu.HEADER:
                text += new_file(name, own.read_text())
        with tempfile.NamedTemporaryFile("w", suffix=".patch") as file:
            file.write(text)
            file.flush()
            _run(["perl", script, "--no-tree", "--strict", "--no-signoff", "--quiet", file.name],
                 cwd=script.parent.parent)


def _run(command: list[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, cwd=cwd)
    said = done.stdout.strip()
    if done.returncode or "WARNING" in said or "ERROR" in said:
        raise LabError(f"{command[-1]}: checkpatch is not content:\n{said}")
