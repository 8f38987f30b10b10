# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's mails tried as QEMU's maintainers would: git am, build, checkpatch, qtest.

A source of its own is kept in the cache with its build folder: the first check compiles all
of QEMU, a later one what the mails touch. QEMU's own tests run before the first mail and
after the last.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import hooks, paths, progress, series, series_check
from .build import qemu
from .debian import Archive
from .errors import LabError
from .targets import QemuTarget
from .vm import FIRMWARE

# The machine that qos-test starts, beside the lab's devices.
FOR_TESTS = "CONFIG_I440FX=y\n"
DEVICES = "configs/devices/x86_64-softmmu/lab.mak"

QTESTS = ("virtio-balloon-test", "qos-test", "qmp-test", "qmp-cmd-test", "device-introspect-test",
          "device-plug-test", "virtio-net-failover", "test-hmp", "qom-test")
"""What of `make check` touches the balloon, virtio, or a list of all devices and commands."""
OWN_QTEST = "virtio-balloon-message-test"
QTEST_SECONDS = 600.0
OPTION_ROMS = (*FIRMWARE, Path("/usr/lib/ipxe/qemu"))


@dataclass(frozen=True)
class Ran:
    """One of QEMU's test programs."""

    passed: int
    skipped: int
    failed: tuple[str, ...]


def ensure_tree(target: QemuTarget) -> Path:
    """Folder with `src`, the distribution's source with a device list, and maybe `build`.

    What an earlier check left in the source is taken out of it.
    """
    version = Archive(target.suite).source_version(target.source)
    lab = qemu.DEVICE / "lab-devices.mak"
    key = paths.content_key(version, *qemu.configure_arguments(target), lab, FOR_TESTS)

    def make(into: Path) -> None:
        paths.require_space(into, qemu.NEEDS_BYTES, "the check of the series")
        qemu.unpack(target, version, into)
        shutil.copyfile(lab, into / "src" / DEVICES)
        with (into / "src" / DEVICES).open("a") as file:
            file.write(FOR_TESTS)

    tree = paths.cached("qemu-series", f"{target.name}-{key}", make)
    source = tree / "src"
    if (source / ".git").exists():
        series_check.git(source, "am", "--abort", check=False)
        series_check.git(source, "checkout", "-q", "-f", "base")
        shutil.rmtree(source / ".git")
    _put_back(tree)
    return tree


def base(target: QemuTarget, tree: Path) -> series.Base:
    """What the series is made from, with the tree of `ensure_tree`."""
    version = Archive(target.suite).source_version(target.source)
    return series.of_qemu(target, version, tree / "src")


def check(written: series.Series, recipe: series.Recipe, target: QemuTarget,
          tree: Path) -> list[series_check.Checked]:
    """Try each mail. LabError for one that does not apply or build, brings a warning or a word
    of checkpatch that series.toml does not explain, and for a test of QEMU that fails.
    """
    log = paths.state_dir("series") / "check-qemu.log"
    log.unlink(missing_ok=True)
    source = tree / "src"
    names = series_check.touched(written.mails, source)
    result: list[series_check.Checked] = []
    _lab_hooks(base(target, tree), recipe, tree)
    try:
        series_check.adopt(source, names, written.folder.name)
        build = _Build(tree, target, log)
        tests = [f"tests/qtest/{name}" for name in QTESTS]
        build.make("as it is", *tests)
        before = {name: build.run(name) for name in QTESTS}
        for number, mail in enumerate(written.mails, 1):
            series_check.apply([mail], source)
            objects = build.make(f"mail {number} of {len(written.mails)}")
            result.append(series_check.Checked(mail, objects, _checkpatch(mail, recipe, source)))
        build.make("the tests", *tests, f"tests/qtest/{OWN_QTEST}")
        _compare(before, {name: build.run(name) for name in (*QTESTS, OWN_QTEST)})
        return result
    finally:
        ensure_tree(target)


def _compare(before: Mapping[str, Ran], after: Mapping[str, Ran]) -> None:
    """Print the tests' table. LabError where one fails after the mails, or runs less."""
    bad: list[str] = []
    for name, now in after.items():
        was = before.get(name)
        then = f"{was.passed} passed, {was.skipped} skipped before, " if was else ""
        print(f"{name}: {then}{now.passed} passed, {now.skipped} skipped with the series")
        if now.failed:
            bad.append(f"{name}: {', '.join(now.failed[:3])}")
        elif now.passed < (was.passed if was else 1):
            bad.append(f"{name}: {now.passed} passed, fewer than before")
    if bad:
        raise LabError(f"QEMU's tests: {'; '.join(bad)}: mend hostctl/qemu/")


class _Build:
    """The build folder beside the source."""

    def __init__(self, tree: Path, target: QemuTarget, log: Path) -> None:
        self.folder = tree / "build"
        self.log = log
        self.env = qemu.build_environment()
        if not (self.folder / "build.ninja").exists():
            self.folder.mkdir(exist_ok=True)
            with progress.step(f"configure QEMU {target.name}") as step:
                progress.run([tree / "src/configure", *qemu.configure_arguments(target)], log,
                             step, cwd=self.folder, env=self.env)
        # A source without firmware installs none: the tests take the distribution's.
        data = self.folder / "qemu-bundle/usr/local/share/qemu"
        data.mkdir(parents=True, exist_ok=True)
        for one in (file for folder in OPTION_ROMS for file in folder.glob("*")):
            # Links that configure made may be to what is not built yet.
            if not (data / one.name).is_symlink() and not (data / one.name).exists():
                (data / one.name).symlink_to(one)

    def make(self, what: str, *goals: str) -> int:
        """Build QEMU and `goals`. LabError for a warning; returns how many were compiled."""
        start = self.log.stat().st_size if self.log.exists() else 0
        with progress.step(f"build {what}") as step:
            progress.run(["ninja", qemu.BINARY, *goals], self.log, step,
                         how_far=r"\[\d+/\d+\]", cwd=self.folder, env=self.env)
        with self.log.open() as file:
            file.seek(start)
            output = file.read()
        if found := re.search(r"^.*balloon.*\bwarning:.*$", output, re.M):
            raise LabError(f"{what}: {found[0].strip()}: mend hostctl/qemu/; "
                           f"the whole log is {self.log}")
        return len(re.findall(r"^\[\d+/\d+\] Compiling C object", output, re.M))

    def run(self, name: str) -> Ran:
        """Run one of QEMU's test programs."""
        with progress.step(f"run {name}"):
            done = subprocess.run(
                [f"tests/qtest/{name}", "--tap", "-k"], cwd=self.folder, text=True,
                capture_output=True, timeout=QTEST_SECONDS,
                env={**self.env, "QTEST_QEMU_BINARY": f"./{qemu.BINARY}"})
        with self.log.open("a") as file:
            file.write(f"== {name}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return _tap(done.stdout, done.returncode)


def _tap(output: str, status: int) -> Ran:
    """What a test program said, in TAP; a program that ended early has failed."""
    results = re.findall(r"^(ok|not ok) \d+ (\S+)(.*)$", output, re.M)
    failed = [name for word, name, _ in results if word == "not ok"]
    skipped = sum("SKIP" in rest for _, _, rest in results)
    if status and not failed:
        failed = [f"ended with status {status}"]
    return Ran(len(results) - skipped - len(failed), skipped, tuple(failed))


def _lab_hooks(origin: series.Base, recipe: series.Recipe, tree: Path) -> None:
    """Put the hooks that are the lab's alone into the source, which cannot be built without.

    Their files keep their time, so that nothing is configured anew.
    """
    with tempfile.TemporaryDirectory() as scratch:
        changes = hooks.read(origin.tree, origin.hook, Path(scratch), recipe.by_line)
    for name, owners in series.owners(recipe, changes).items():
        if series.LAB in owners:
            file, kept = tree / "src" / name, tree / "stock" / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, kept)
            file.write_text(hooks.merge(kept.read_text(), changes[name], owners, {series.LAB}))
            shutil.copystat(kept, file)


def _put_back(tree: Path) -> None:
    stock = tree / "stock"
    for file in [file for file in stock.rglob("*") if file.is_file()]:
        shutil.copy2(file, tree / "src" / file.relative_to(stock))
    shutil.rmtree(stock, ignore_errors=True)


def _checkpatch(mail: Path, recipe: series.Recipe, source: Path) -> Counter[str]:
    done = subprocess.run(
        ["perl", "scripts/checkpatch.pl", "--terse", "--no-summary", str(mail.resolve())],
        cwd=source, text=True, capture_output=True)
    said: Counter[str] = Counter()
    for line in (done.stdout + done.stderr).splitlines():
        kind = next((kind for kind in recipe.checks if re.search(kind, line)), None)
        if not kind:
            raise LabError(f"{mail.name}: checkpatch.pl: {line}: mend it, or explain it in "
                           f"[checks] of {recipe.path}")
        said[kind] += 1
    return said
