# SPDX-License-Identifier: GPL-2.0-or-later
"""The mails of a series tried as a maintainer would: git am, build with W=1, checkpatch.

Each mail is applied to a copy of the kernel's source and built before the next one is.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import paths, progress
from .build import patch
from .build.kernel import CC
from .build.linux import touched_files
from .build.source import Source
from .errors import LabError
from .series import Recipe, Series

DRIVER = "drivers/virtio/virtio_balloon.c"
OPTION = "VIRTIO_BALLOON_PRESSURE"
BUILT_IN = "VIRTIO_BALLOON"
"""The driver, a module in the distribution's configuration."""
KCONFIG = "drivers/virtio/Kconfig"
MODULE = str(Path(DRIVER).with_suffix(".o"))
NEEDS_BYTES = 1 << 30
"""Free disk space for the objects: measured 0.3 GiB, and room."""


@dataclass(frozen=True)
class Checked:
    """What came out for one mail."""

    mail: Path
    objects: int
    """Compiled anew with W=1, without a warning that was not there before."""
    remarks: Counter[str]
    """What checkpatch.pl --strict said, by type; all of it is explained in series.toml."""


def copy_tree(source: Source, touched: Sequence[str], into: Path) -> None:
    """A copy of the kernel's source for `git am`: hard links, but for the files touched.

    The folder becomes a git repository: see `adopt`.
    """
    subprocess.run(["cp", "-al", str(source.tree), str(into)], check=True)
    for name in touched:
        (into / name).unlink()
        shutil.copy2(source.tree / name, into / name)
    adopt(into, touched, source.version)


def adopt(tree: Path, touched: Sequence[str], message: str) -> None:
    """Make the tree a git repository that knows the touched files alone, on branch base."""
    git(tree, "init", "-q", "-b", "base")
    git(tree, "config", "status.showUntrackedFiles", "no")
    git(tree, "add", "-f", "--", *touched)
    git(tree, "commit", "-q", "-m", message)
    # What is applied goes onto a branch of its own.
    git(tree, "checkout", "-q", "-b", "series")


def apply(mails: Sequence[Path], tree: Path) -> None:
    """git am of the mails, in order. LabError names the mail that does not apply."""
    for mail in mails:
        done = git(tree, "am", "-q", "--whitespace=error-all", str(mail.resolve()), check=False)
        if done.returncode:
            raise LabError(f"{mail.name}: git am: {done.stderr.strip() or done.stdout.strip()}: "
                           "mend our files or their series/")


def touched(mails: Sequence[Path], tree: Path) -> list[str]:
    """The files of the tree that the mails change, rename or remove."""
    names = {name for mail in mails for name in touched_files(mail.read_text())}
    return sorted(name for name in names if (tree / name).is_file())


def check(series: Series, recipe: Recipe, source: Source, config: Path,
          symvers: Path) -> list[Checked]:
    """Try each mail. `config` and `symvers` are of the distribution's build of that kernel.

    LabError for a mail that does not apply, does not build, or brings a warning or a word
    of checkpatch that series.toml does not explain.
    """
    log = paths.state_dir("series") / "check.log"
    log.unlink(missing_ok=True)
    names = touched(series.mails, source.tree)
    result: list[Checked] = []
    with tempfile.TemporaryDirectory(dir=paths.state_dir("series")) as scratch:
        paths.require_space(Path(scratch), NEEDS_BYTES, "the check of the series")
        tree = Path(scratch) / "linux"
        with progress.step(f"copy the source of Linux {source.version}"):
            copy_tree(source, names, tree)
        build = _Build(tree, Path(scratch) / "build", log, _goals(series.mails))
        build.prepare(config)
        build.make("as it is")
        for number, mail in enumerate(series.mails, 1):
            apply([mail], tree)
            if f"config {OPTION}\n" in (tree / KCONFIG).read_text():
                build.configure("-e", OPTION)
            what = f"mail {number} of {len(series.mails)}"
            objects = build.make(what)
            result.append(Checked(mail, objects, _checkpatch(mail, recipe, source)))
        build.link(symvers)
        build.configure("-e", BUILT_IN)
        build.make(f"with CONFIG_{BUILT_IN}=y")
        build.configure("-d", OPTION)
        build.make(f"without CONFIG_{OPTION}")
    return result


def table(checked: Sequence[Checked], recipe: Recipe) -> str:
    """What came out, a line for each mail, and why checkpatch's remarks stay."""
    lines = []
    for one in checked:
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(one.remarks.items()))
        lines.append(f"{one.mail.name}: applies, {one.objects} objects with no new warning, "
                     f"checkpatch: {said or 'nothing'}")
    kinds = {kind for one in checked for kind in one.remarks}
    lines += [f"{kind}: {recipe.checks[kind]}" for kind in sorted(kinds)]
    return "\n".join(lines)


def _goals(mails: Sequence[Path]) -> list[str]:
    """What to build: the driver's folder, and the other objects that are touched."""
    goals = {str(Path(DRIVER).parent) + "/"}
    for name in {name for mail in mails for name in patch.files(mail)}:
        if name.endswith(".c") and not name.startswith(tuple(goals)):
            goals.add(name.removesuffix(".c") + ".o")
    return sorted(goals)


class _Build:
    """A build folder of its own for the tree."""

    def __init__(self, tree: Path, folder: Path, log: Path, goals: Sequence[str]) -> None:
        self.tree = tree
        self.folder = folder
        self.log = log
        self.goals = goals
        self.known: set[str] = set()

    def prepare(self, config: Path) -> None:
        """Configure as the distribution does, and build the kernel's own tools."""
        self.folder.mkdir()
        shutil.copyfile(config, self.folder / ".config")
        with progress.step("prepare the build") as step:
            for goal in ("olddefconfig", "modules_prepare"):
                progress.run(self._command(goal), self.log, step, how_far=r"(CC|LD|HOSTCC).*")

    def configure(self, switch: str, option: str) -> None:
        """Enable (-e) or disable (-d) an option, as scripts/config does."""
        before = (self.folder / ".config").read_text()
        subprocess.run([str(self.tree / "scripts/config"), "--file",
                        str(self.folder / ".config"), switch, option], check=True)
        if (self.folder / ".config").read_text() == before:
            return
        with progress.step(f"configure {switch} {option}") as step:
            progress.run(self._command("olddefconfig"), self.log, step)
        enabled = f"CONFIG_{option}=y\n" in (self.folder / ".config").read_text()
        if enabled != (switch == "-e"):
            raise LabError(f"CONFIG_{option}: {switch} has no effect: see what it depends on")

    def make(self, what: str) -> int:
        """Build with W=1. LabError for warnings that the first build did not have.

        Returns how many objects were compiled.
        """
        start = self.log.stat().st_size
        with progress.step(f"build {what} with W=1") as step:
            progress.run(self._command("W=1", *self.goals), self.log, step,
                         how_far=r"(CC|LD|MODPOST).*")
        with self.log.open() as file:
            file.seek(start)
            output = file.read()
        warnings = {self._plain(line) for line in output.splitlines()
                    if re.search(r"\bwarning:|^WARNING:", line, re.I)}
        first = not self.known
        if first:
            self.known = warnings | {""}
        elif new := sorted(warnings - self.known):
            raise LabError(f"{what}: {len(new)} new warnings, the first: {new[0]}: mend kmod/; "
                           f"the whole log is {self.log}")
        return len(re.findall(r"^\s+CC(?: \[M\])?\s", output, re.M))

    def link(self, symvers: Path) -> None:
        """LabError when the module needs what the distribution's kernel does not export."""
        order = self.folder / "module.order"
        order.write_text(f"{MODULE}\n")
        with progress.step("look at the module's symbols") as step:
            # kbuild runs it in a tree alone where vmlinux was built.
            progress.run([self.folder / "scripts/mod/modpost", "-M", "-e", "-i", symvers,
                          "-T", order, "-o", self.folder / "module.symvers"], self.log, step,
                         cwd=self.folder)

    def _plain(self, line: str) -> str:
        """A warning without what changes from build to build."""
        line = line.replace(f"{self.tree}/", "").replace("../linux/", "")
        line = line.replace("virtio_balloon_main.c", "virtio_balloon.c")
        return re.sub(r":\d+(:\d+)?:", ":", line)

    def _command(self, *goals: str) -> list[str | Path]:
        return ["make", f"-j{min(2, os.cpu_count() or 1)}", "-C", self.tree, f"O={self.folder}",
                f"CC={CC}", *goals]


def _checkpatch(mail: Path, recipe: Recipe, source: Source) -> Counter[str]:
    done = subprocess.run(
        ["perl", "scripts/checkpatch.pl", "--strict", "--show-types", "--terse", "--no-summary",
         str(mail.resolve())], cwd=source.tree, text=True, capture_output=True)
    said = Counter(re.findall(r"^\S+:\d+: \w+:([A-Z_]+):", done.stdout, re.M))
    if (done.returncode and not said) or len(done.stdout.splitlines()) != said.total():
        raise LabError(f"{mail.name}: checkpatch.pl: {(done.stdout + done.stderr).strip()}")
    for kind in said.keys() - recipe.checks.keys():
        line = re.search(rf"^\S+:(\d+: \w+:{kind}:.*)", done.stdout, re.M)
        assert line
        raise LabError(f"{mail}:{line[1]}: mend it, or explain {kind} in [checks] of {recipe.path}")
    return said


def git(tree: Path, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run git in `tree`, as nobody and without anybody's configuration."""
    # Its own configuration: what the user has set must not change what is checked.
    nobody = {"GIT_COMMITTER_NAME": "check", "GIT_COMMITTER_EMAIL": "check@localhost",
              "GIT_AUTHOR_NAME": "check", "GIT_AUTHOR_EMAIL": "check@localhost"}
    return subprocess.run(["git", *arguments], cwd=tree, text=True, capture_output=True,
                          check=check, env={"PATH": os.environ["PATH"], "HOME": str(tree),
                                            "GIT_CONFIG_NOSYSTEM": "1", **nobody})
