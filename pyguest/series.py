# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver as a series of mails for the kernel's lists, and the device for QEMU's.

Each is made from our folder, kmod/ or hostctl/qemu/, and nothing else. series/series.toml
in it says which mail brings what. Our own files go in as they are upstream: without what is
for older versions and for the lab. The hook patch is taken apart by paragraph or by line,
and each goes into the mail that it belongs to.
"""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import hooks, paths
from .build import patch
from .build.kernel import CC
from .build.kmod import KMOD
from .build.qemu import DEVICE
from .build.source import Source
from .errors import LabError
from .targets import QemuTarget

LAB = "the lab"
NOT_MEASURED = "not measured"
FIELD = re.compile(r"@([a-z][a-z0-9_]*)@")


@dataclass(frozen=True)
class Insert:
    """A paragraph of one of our headers that goes into a header of the kernel."""

    source: str
    paragraph: str
    into: str
    after: str = ""
    before: str = ""


@dataclass(frozen=True)
class Later:
    """A paragraph of one of our files that comes with a later mail than the file.

    Or what the pattern `cut` finds, where a paragraph is too much.
    """

    source: str
    paragraph: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Mail:
    """One patch of the series: its message and what it brings."""

    name: str
    diff: bool = False
    """There is a `name`.patch for files that are not ours."""
    files: list[str] = field(default_factory=list)
    rename: list[str] = field(default_factory=list)
    insert: list[Insert] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    hooks: str = ""
    """Paragraphs of the hook patch with this pattern in them are this mail's."""


@dataclass(frozen=True)
class Recipe:
    """series.toml."""

    path: Path
    target: str
    """The version that the series is for, as targets.toml names it."""
    files: dict[str, str]
    """Our files, by the name in our folder, and where they are upstream."""
    left_out: list[str]
    """Our files that only the lab needs."""
    replace: dict[str, str]
    """Patterns in our files, and what stands there upstream."""
    leftover: str
    """What must not be left of the lab's form."""
    mails: list[Mail]
    checks: dict[str, str]
    """What checkpatch says of the series, by type, and why it stays."""
    defined: list[str] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)
    by_line: bool = False
    """The hook patch is taken apart by line, and not by paragraph."""
    left_hooks: str = ""
    """Hooks with this pattern in them are the lab's alone."""


@dataclass(frozen=True)
class Base:
    """What a series is made from, and what it applies to."""

    own: Path
    """Our folder."""
    target: str
    """The version, as targets.toml names it."""
    variable: str
    """What chooses another one: KERNEL or QEMU."""
    what: str
    """Name and version, for a reader."""
    package: str
    """The distribution's source package and its version."""
    tree: Path
    hook: Path
    unifdef: Path | None
    """The source of unifdef; None where nothing is to be taken out with it."""
    maintainers: tuple[str, ...]
    """Options of get_maintainer.pl that only this one has."""


def of_kernel(source: Source, own: Path = KMOD) -> Base:
    """The driver's series for that kernel."""
    return Base(
        own, source.target.name, "KERNEL", f"Linux {source.version}",
        f"{source.target.source} {source.version}", source.tree,
        own.parent / source.target.patch, source.scripts / "unifdef.c", ("--no-fixes",))


def of_qemu(target: QemuTarget, version: str, tree: Path, own: Path = DEVICE) -> Base:
    """The device's series for that QEMU, of which `tree` is the distribution's source."""
    return Base(own, target.name, "QEMU", f"QEMU {version}", f"{target.source} {version}", tree,
                own.parent.parent / target.patch, None, ())


@dataclass(frozen=True)
class Series:
    """A series that was written."""

    folder: Path
    cover: Path
    mails: list[Path]
    recipients: Path
    unmeasured: list[str]
    """Numbers that the texts name and numbers.toml does not have."""


def load(own: Path = KMOD) -> Recipe:
    """Read series.toml of our folder. LabError names what is wrong with it."""
    path = own / "series/series.toml"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
        mails = [Mail(**{**table, "insert": [Insert(**one) for one in table.get("insert", [])],
                         "later": [Later(**one) for one in table.get("later", [])]})
                 for table in data.pop("mail")]
        recipe = Recipe(path=path, mails=mails, **data)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise LabError(f"{path}: {error}: mend the file, or take it from git") from error
    known = {*recipe.files, *recipe.left_out}
    ours = {str(file.relative_to(own)) for file in own.rglob("*")
            if file.suffix in (".c", ".h", ".inc", ".json", ".rst")}
    for name in sorted(ours - known):
        raise LabError(f"{path}: {own.name}/{name} is neither in [files] nor in left_out: add it")
    for name in sorted(known):
        if not (own / name).is_file():
            raise LabError(f"{path}: there is no {own.name}/{name}: take it out")
    brought = [name for mail in mails for name in mail.files]
    for name in recipe.files:
        used = brought.count(name) or sum(one.source == name for m in mails for one in m.insert)
        if not used:
            raise LabError(f"{path}: no mail brings {name}: add it to one")
    return recipe


def numbers(own: Path = KMOD) -> dict[str, str]:
    """The measured figures, as text. LabError where the file cannot be read."""
    path = own / "series/numbers.toml"
    try:
        return {key: str(value) for key, value in tomllib.loads(path.read_text()).items()}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path}: {error}: mend the file, or take it from git") from error


def fill(text: str, values: Mapping[str, str], missing: set[str], used: set[str]) -> str:
    """Put values where @name@ stands. What there is no value for is said to be not measured."""

    def value(found: re.Match[str]) -> str:
        used.add(found[1])
        if found[1] not in values:
            missing.add(found[1])
            return NOT_MEASURED
        return values[found[1]]

    return FIELD.sub(value, text)


def in_tree(recipe: Recipe, name: str, text: str, unifdef: Path | None) -> str:
    """One of our files as it is upstream. LabError names what is left over."""
    where = f"{recipe.path.parent.parent.name}/{name}"
    if unifdef and name.endswith((".c", ".h")):
        flags = [f"-D{symbol}" for symbol in
                 sorted({*recipe.defined, *re.findall(r"\bHAVE_[A-Z_]+\b", text)})]
        flags += [f"-U{symbol}" for symbol in recipe.undefined]
        done = subprocess.run([str(unifdef), "-B", *flags], input=text, text=True,
                              capture_output=True)
        if done.returncode not in (0, 1):  # 1: something was taken out
            raise LabError(f"{where}: {done.stderr.strip()}: mend its #ifdefs")
        text = done.stdout
    for pattern, new in recipe.replace.items():
        text = re.sub(pattern, new, text, flags=re.M)
    if found := re.search(recipe.leftover, text):
        raise LabError(f"{where}: {found[0]!r} is left over in its form upstream: "
                       f"add what becomes of it to [replace] of {recipe.path}")
    return text


def choose(one: Insert | Later, paragraphs: Sequence[str]) -> str:
    """The paragraph that `one` names. LabError where it names none, or several."""
    chosen = [part for part in paragraphs if re.search(one.paragraph, part)]
    if len(chosen) != 1:
        raise LabError(f"{one.source}: {len(chosen)} paragraphs have {one.paragraph!r} in "
                       "them, and one is needed: mend the pattern in series.toml")
    return chosen[0]


def hold_back(text: str, one: Later) -> str:
    """`text` without what `one` names. LabError where it names nothing, or several."""
    if one.cut:
        left, count = re.subn(one.cut, "", text, flags=re.M | re.S)
        if count != 1:
            raise LabError(f"{one.source}: {one.cut!r} is found {count} times, and once is "
                           "needed: mend the pattern in series.toml")
        return left
    paragraphs = text.split("\n\n")
    paragraphs.remove(choose(one, paragraphs))
    return "\n\n".join(paragraphs).rstrip("\n") + "\n"


def insert(text: str, one: Insert, paragraphs: Sequence[str]) -> str:
    """Put the paragraph that `one` names into `text`. LabError where it has no one place."""
    chosen = choose(one, paragraphs)
    lines = text.splitlines(keepends=True)
    anchor = one.after or one.before
    places = [index for index, line in enumerate(lines) if line.startswith(anchor)]
    if len(places) != 1:
        raise LabError(f"{one.into}: {len(places)} lines begin with {anchor!r}, and one is "
                       "needed: mend the anchor in series.toml")
    block = chosen.strip("\n") + "\n"
    if one.after:
        lines.insert(places[0] + 1, "\n" + block)
    else:
        lines.insert(places[0], block + "\n")
    return "".join(lines)


def identity() -> str:
    """The sender, as git has him: `name <mail>`. LabError says how to tell git."""
    done = subprocess.run(["git", "-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT"],
                          cwd=paths.TREE, text=True, capture_output=True)
    if done.returncode:
        raise LabError("git does not know who sends the series: run `git config user.name` and "
                       "`git config user.email` with your name and address")
    return done.stdout.rsplit(maxsplit=2)[0]


def date() -> int:
    """Seconds since 1970 of the checkout's last commit, or of SOURCE_DATE_EPOCH."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        if not epoch.isdigit():
            raise LabError(f"SOURCE_DATE_EPOCH={epoch}: give seconds since 1970")
        return int(epoch)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=paths.TREE, text=True,
                          capture_output=True)
    if done.returncode or not done.stdout.strip():
        raise LabError(f"{paths.TREE} is no git checkout to take a date from: "
                       "set SOURCE_DATE_EPOCH")
    return int(done.stdout)


def write(base: Base, output: Path) -> Series:
    """Write the series for `base` into the folder `output`.

    Mails of an earlier run in that folder are replaced. The same input gives the same
    bytes. LabError names the file that does not fit.
    """
    recipe = load(base.own)
    if base.target != recipe.target:
        raise LabError(f"the series is for {recipe.target}, and not for {base.target}: "
                       f"run `make series {base.variable}={recipe.target}`")
    figures = numbers(base.own)
    texts = base.own / "series"
    missing: set[str] = set()
    used: set[str] = set()
    values = {**figures, base.variable.lower(): f"{recipe.target} ({base.package})"}
    with tempfile.TemporaryDirectory() as scratch:
        builder = _Builder(recipe, base, Path(scratch))
        builder.base()
        for mail in recipe.mails:
            text = (texts / f"{mail.name}.txt").read_text()
            builder.commit(mail, fill(text, values, missing, used))
        builder.finish()
        cover = fill((texts / "cover.txt").read_text(), values, missing, used)
        if unused := sorted(figures.keys() - used):
            raise LabError(f"{texts}/numbers.toml: {', '.join(unused)}: no text names it; "
                           "take it out or mend its name")
        output.mkdir(parents=True, exist_ok=True)
        for old in output.glob("*.patch"):
            old.unlink()
        builder.format(cover, output)
    first, *mails = sorted(output.glob("*.patch"))
    to = output / "recipients"
    to.write_text(recipients(base, mails))
    return Series(output, first, mails, to, sorted(missing))


def owners(recipe: Recipe, changes: Mapping[str, Sequence[hooks.Change]]) -> dict[str, list[str]]:
    """By file, which mail each part of the hook patch is for; LAB for none."""
    patterns = {mail.name: mail.hooks for mail in recipe.mails if mail.hooks}
    if recipe.left_hooks:
        patterns[LAB] = recipe.left_hooks
    return {name: hooks.assign(parts, patterns, recipe.by_line)
            for name, parts in changes.items()}


class _Builder:
    """The touched files in a git repository of their own, mail by mail."""

    def __init__(self, recipe: Recipe, source: Base, scratch: Path) -> None:
        self.recipe = recipe
        self.source = source
        self.own = source.own
        self.work = scratch / "work"
        self.unifdef: Path | None = None
        if source.unifdef:
            # The kernel's own, which is one file and needs no package.
            self.unifdef = scratch / "unifdef"
            subprocess.run([CC, "-o", str(self.unifdef), str(source.unifdef)], check=True)
        self.changes = hooks.read(source.tree, source.hook, scratch / "hook", recipe.by_line)
        self.owners = owners(recipe, self.changes)
        self.applied: set[str] = set()
        # Where a file that has hooks is by now.
        self.now = {name: name for name in self.changes}
        self.when = date()
        name, mail = identity().rsplit(" ", 1)
        self.git_env = {
            "PATH": os.environ["PATH"], "HOME": str(scratch),
            "GIT_CONFIG_NOSYSTEM": "1", "TZ": "UTC",
            "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail.strip("<>"),
            "GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail.strip("<>"),
        }

    def git(self, *arguments: str, text: str | None = None) -> None:
        when = f"{self.when} +0000"
        subprocess.run(["git", *arguments], cwd=self.work, input=text, text=True, check=True,
                       stdout=subprocess.DEVNULL,
                       env={**self.git_env, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when})

    def base(self) -> None:
        """Commit the project's own files that the series touches."""
        touched = set(self.changes)
        for mail in self.recipe.mails:
            touched |= {one.into for one in mail.insert}
            if mail.diff:
                touched |= set(patch.files(self._diff(mail)))
        self.work.mkdir()
        for name in sorted(touched):
            if not (self.source.tree / name).is_file():
                raise LabError(f"{self.source.tree} has no {name}: mend {self.recipe.path}")
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source.tree / name, self.work / name)
        self.git("init", "-q", "-b", "base")
        self._commit("base\n")

    def commit(self, mail: Mail, message: str) -> None:
        """Make one mail's changes and commit them."""
        if mail.rename:
            old, new = mail.rename
            (self.work / old).rename(self.work / new)
            if old in self.now:
                self.now[old] = new
        if mail.diff:
            patch.apply(self._diff(mail), self.work, self.source.what)
        for name in (*mail.files, *(one.source for one in mail.later)):
            target = self.work / self.recipe.files[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self._so_far(name, mail))
            target.chmod(0o755 if os.access(self.own / name, os.X_OK) else 0o644)
        for one in mail.insert:
            paragraphs = re.split(r"\n{2,}", self._own(one.source))
            into = self.work / one.into
            into.write_text(insert(into.read_text(), one, paragraphs))
        if mail.hooks:
            self.applied.add(mail.name)
            hooked = [name for name, owners in self.owners.items() if mail.name in owners]
            if not hooked:
                raise LabError(f"{self.recipe.path}: no paragraph of the hook patch has "
                               f"{mail.hooks!r} in it: take the mail {mail.name} out")
            for name in hooked:
                text = hooks.merge((self.source.tree / name).read_text(), self.changes[name],
                                   self.owners[name], self.applied)
                for pattern, new in self.recipe.replace.items():
                    text = re.sub(pattern, new, text, flags=re.M)
                (self.work / self.now[name]).write_text(text)
        self._commit(message)

    def finish(self) -> None:
        """LabError when a definition of the UAPI header went nowhere."""
        done = "".join((self.work / one.into).read_text()
                       for mail in self.recipe.mails for one in mail.insert)
        for source in {one.source for mail in self.recipe.mails for one in mail.insert}:
            for name in re.findall(r"^#define (VIRTIO_\w+)", self._own(source), re.M):
                if f"#define {name}" not in done:
                    raise LabError(f"{source}: no mail brings {name}: "
                                   f"add its paragraph to {self.recipe.path}")

    def format(self, cover: str, output: Path) -> None:
        """Write the mails, the cover letter with them.

        For comment: upstream takes no feature bit that the virtio TC has not allocated.
        """
        self.git("format-patch", "-q", "--rfc", "-M", "--abbrev=12", "--no-signature",
                 "--zero-commit", "--cover-letter", f"--output-directory={output.resolve()}",
                 f"base~{len(self.recipe.mails)}..base")
        first = min(output.glob("*.patch"))
        subject, _, body = cover.partition("\n")
        text = first.read_text().replace("*** SUBJECT HERE ***", subject)
        first.write_text(text.replace("*** BLURB HERE ***", body.strip("\n")))

    def _diff(self, mail: Mail) -> Path:
        return self.own / "series" / f"{mail.name}.patch"

    def _own(self, name: str) -> str:
        return in_tree(self.recipe, name, (self.own / name).read_text(), self.unifdef)

    def _so_far(self, name: str, mail: Mail) -> str:
        """One of our files without what mails after this one bring of it."""
        text = self._own(name)
        for other in self.recipe.mails[self.recipe.mails.index(mail) + 1:]:
            for one in other.later:
                if one.source == name:
                    text = hold_back(text, one)
        return text

    def _commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--cleanup=whitespace", "-F", "-", text=message)
        self.when += 1


def recipients(base: Base, mails: Sequence[Path]) -> str:
    """Options for git send-email, from the MAINTAINERS file: maintainers To, lists Cc."""
    options: list[str] = []
    inputs = [str(mail.resolve()) for mail in mails]
    kinds_of = {"--to": ("--m", "--no-r", "--no-l"), "--cc": ("--no-m", "--r", "--l")}
    for option, kinds in kinds_of.items():
        done = subprocess.run(
            ["perl", "scripts/get_maintainer.pl", "--no-git", "--no-git-fallback",
             "--no-rolestats", *base.maintainers, *kinds, *inputs],
            cwd=base.tree, text=True, capture_output=True)
        if done.returncode:
            raise LabError(f"get_maintainer.pl: {done.stderr.strip()}: "
                           f"see {base.tree}/MAINTAINERS")
        # Names have spaces in them, which options from a file do not survive.
        addresses = [line.split("<")[-1].rstrip(">") for line in done.stdout.splitlines()]
        options += [f"{option}={one}" for one in addresses if f"--to={one}" not in options]
    return "".join(f"{option}\n" for option in options)
