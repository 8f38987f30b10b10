# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole guest kernels of our own: the distribution's source, a small configuration, patches.

The build folder of each flavour is kept beside the finished kernels: a changed patch or symbol
costs a compile of what it touches, not of all of Linux, and a build cut short goes on.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import paths, progress
from ..accel import TB_SIZE_MIB
from ..errors import LabError
from . import patch
from .kernel import CC, Kernel, kdir_makefile
from .source import Source

CONFIGS = paths.TREE / "kmod/configs"

SERIES = "series"
"""The flavour with our driver in its tree."""


@dataclass(frozen=True)
class Flavour:
    """A kind of kernel, and what its guests need more than others."""

    fragments: tuple[str, ...]
    """Of its configuration; later ones win."""
    patience: float = 1.0
    """How many times as long as usual a guest may take."""
    memory_mib: int = 0
    """What the kernel takes for itself, above what the distribution's does."""
    tb_size_mib: int = TB_SIZE_MIB
    """TCG's translation cache."""


FLAVOURS: Mapping[str, Flavour] = {
    # KASAN's shadow is an eighth; 124 MiB more are gone of 512 in 6.1.
    # Its code does not fit TCG's usual cache and would be translated again and again.
    "debug": Flavour(("lab.config", "debug.config"), patience=8.0, memory_mib=160,
                     tb_size_mib=512),
    SERIES: Flavour(("lab.config", "series.config")),
}

NEEDS_BYTES = 2 << 30
"""Free disk space for a build: measured 0.3 GiB for a debug kernel of 6.1, and room."""

# What building a module reads of a build folder, apart from its Makefile.
KDIR = (".config", "Module.symvers", "arch/x86/include", "include", "scripts",
        "tools/objtool/objtool")

_ENVIRONMENT = {"KBUILD_BUILD_USER": "lab", "KBUILD_BUILD_HOST": "lab"}


@dataclass(frozen=True)
class Wanted:
    """What a configuration must have; symbols are without CONFIG_."""

    values: Mapping[str, str]
    """y, m, a string or a number as .config has it; n for what must be off."""
    optional: frozenset[str]
    """Symbols that a kernel may not know."""


_SETTING = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.M)


def parse_config(text: str) -> dict[str, str]:
    """The symbols of a .config or a fragment, with n for what is not set; the last one wins."""
    return {match[1] or match[3]: match[2] if match[1] else "n"
            for match in _SETTING.finditer(text)}


def parse_fragments(text: str) -> Wanted:
    """What fragments ask for. A comment `# optional: CONFIG_A CONFIG_B` names optional symbols."""
    optional = re.findall(r"^# optional:(.*)$", text, re.M)
    return Wanted(parse_config(text),
                  frozenset(re.findall(r"CONFIG_(\w+)", " ".join(optional))))


def not_taken(wanted: Wanted, config: Mapping[str, str], known: set[str]) -> list[str]:
    """A line for each symbol that a kernel's configuration did not take as it was wanted.

    `known` are the symbols that the kernel has. A kernel that does not know an optional symbol
    is as good as one that took it; one that knows it must take it.
    """
    lines = []
    for symbol, value in sorted(wanted.values.items()):
        if config.get(symbol, "n") == value or (symbol in wanted.optional and symbol not in known):
            continue
        got = config.get(symbol, "n") if symbol in known else "no such symbol"
        lines.append(f"CONFIG_{symbol}={value} ({got})")
    return lines


def known_symbols(tree: Path) -> set[str]:
    """All symbols that the Kconfig files of a kernel tree define."""
    found: set[str] = set()
    for folder, _, files in os.walk(tree):
        for name in files:
            if name.startswith("Kconfig"):
                text = Path(folder, name).read_text(errors="replace")
                found.update(re.findall(r"^\s*(?:menu)?config\s+(\w+)\s*$", text, re.M))
    return found


def compiler_version() -> str:
    """The compiler's own word on what it is. LabError when it is not installed."""
    try:
        done = subprocess.run([CC, "--version"], text=True, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise LabError(f"{CC} is not installed: run `make setup`") from error
    return done.stdout.splitlines()[0]


def ensure(source: Source, flavour: str, patches: Sequence[Path] = ()) -> Kernel:
    """A kernel of that flavour with `patches` applied in order, unless the cache has it.

    LabError names each configuration symbol that the kernel did not take, and each hunk of a
    patch that does not apply.
    """
    if flavour not in FLAVOURS:
        raise LabError(f"no kernel flavour {flavour!r}: there are {', '.join(sorted(FLAVOURS))}")
    fragments = [CONFIGS / name for name in FLAVOURS[flavour].fragments]
    # Not this file: a build is long, and few changes here make another kernel of it.
    key = paths.content_key(source.version, compiler_version(), repr(before_kasan(source.tree)),
                            *fragments,
                            # Without the mail's head, which has a date.
                            *(each.read_text().partition("\ndiff ")[2] for each in patches))

    def build(into: Path) -> None:
        paths.require_space(paths.cache_root(), NEEDS_BYTES, f"a {flavour} kernel's build")
        name = f"{source.tree.name}-{flavour}{'-patched' if patches else ''}"
        work = paths.cache_root() / "linux-tree" / name
        with paths.lock(f"linux-tree-{name}"):
            _build(source, flavour, fragments, patches, work, into)

    root = paths.cached("linux", f"{source.target.name}-{flavour}-{key}", build)
    release = (root / "build/include/config/kernel.release").read_text().strip()
    # All that boots a guest is built in.
    target = replace(source.target, name=f"{source.target.name}-{flavour}", modules=[])
    return Kernel(target, release, f"{source.version}-{flavour}-{key}", source, root)


def flavour_of(kernel: str) -> Flavour:
    """Of a kernel by its name, as "6.1-debug"; the distribution's own needs nothing more."""
    return FLAVOURS.get(kernel.partition("-")[2], Flavour(()))


def has_series(kernel: Kernel) -> bool:
    """Is our driver in the kernel's own tree?"""
    return kernel.target.name.endswith(f"-{SERIES}")


def _build(source: Source, flavour: str, fragments: Sequence[Path], patches: Sequence[Path],
           work: Path, into: Path) -> None:
    what = f"Linux {source.version}"
    log = paths.state_dir("build") / f"linux-{source.target.name}-{flavour}.log"
    log.unlink(missing_ok=True)
    tree, build = source.tree, work / "build"
    build.mkdir(parents=True, exist_ok=True)
    if patches:
        tree = work / "source"
        synchronise(source.tree, tree, patches, what, log)

    asked = build / "asked.config"
    asked.write_text("".join(path.read_text() for path in fragments))
    # LOCALVERSION: empty and not unset, or a git checkout around the cache would add a "+".
    make: list[str | Path] = ["make", f"-j{os.cpu_count() or 1}", "-C", tree, f"O={build}",
                              f"CC={CC}", "LOCALVERSION=", *before_kasan(tree)]
    env = {**os.environ, **_ENVIRONMENT}
    with progress.step(f"configure {what}, {flavour}") as step:
        progress.run([*make, f"KCONFIG_ALLCONFIG={asked}", "allnoconfig"], log, step, env=env)
        missing = not_taken(parse_fragments(asked.read_text()),
                            parse_config((build / ".config").read_text()), known_symbols(tree))
    if missing:
        raise LabError(f"{what} does not take {', '.join(missing)}: change "
                       f"{' or '.join(str(path) for path in fragments)}")
    with progress.step(f"compile {what}, {flavour}") as step:
        progress.run([*make, "vmlinux", "modules"], log, step, env=env,
                     how_far=r"\b(?:CC|AS|LD|AR|MODPOST|KSYMS?)\b.*")
        progress.run([*make, f"INSTALL_MOD_PATH={into}", "INSTALL_MOD_STRIP=1", "DEPMOD=true",
                      "modules_install"], log, step, env=env)
    _install(build, tree, into, keep_source=bool(patches))


def before_kasan(tree: Path) -> tuple[str, ...]:
    """What make must be told so that a kernel with KASAN starts by PVH.

    Its C code runs before there is a shadow. The kernel's own Makefile does not know that in 6.1,
    where it calls memcmp() besides; it does in 6.12, whose code calls nothing of lib/string.c.
    """
    if "KASAN_SANITIZE" in (tree / "arch/x86/platform/pvh/Makefile").read_text():
        return ()
    return ("KASAN_SANITIZE_enlighten.o=n", "KASAN_SANITIZE_string.o=n")


def synchronise(pristine: Path, tree: Path, patches: Sequence[Path], what: str, log: Path) -> None:
    """Make `tree` a copy of `pristine` with `patches` applied.

    The copy is made of hard links, but for files that patches touch. What is in `tree` already
    and right keeps its time, so that make builds no more than it must.
    """
    if not tree.exists():
        with progress.step(f"copy the source of {what}") as step:
            unfinished = tree.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            progress.run(["cp", "-al", pristine, unfinished], log, step)
            unfinished.rename(tree)
    # Those of an earlier run, which may have been cut short, and those of this one.
    record = tree.with_suffix(".touched")
    before = set(record.read_text().splitlines()) if record.exists() else set()
    touched = {name for each in patches for name in touched_files(each.read_text())}
    record.write_text("".join(f"{name}\n" for name in sorted(before | touched)))
    with tempfile.TemporaryDirectory() as scratch:
        patched = Path(scratch)
        for name in touched:
            if (pristine / name).exists():
                _copy(pristine / name, patched / name)
        for each in patches:
            patch.apply(each, patched, what)
        for name in sorted(before | touched):
            _replace((patched if name in touched else pristine) / name, tree / name)
    record.write_text("".join(f"{name}\n" for name in sorted(touched)))


def touched_files(text: str) -> set[str]:
    """The files that a patch in a/ b/ form changes, adds, removes or renames."""
    return set(re.findall(r"^(?:(?:---|\+\+\+) [ab]/|rename (?:from|to) )(\S+)", text, re.M))


def _copy(original: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(original, copy)
    copy.chmod(original.stat().st_mode)


def _replace(wanted: Path, there: Path) -> None:
    """Give `there` the content of `wanted`, and a new time if it had another one."""
    if not wanted.exists():
        there.unlink(missing_ok=True)
    elif not (there.exists() and there.read_bytes() == wanted.read_bytes()):
        there.unlink(missing_ok=True)  # it may be a link to the pristine file
        _copy(wanted, there)


def _install(build: Path, tree: Path, root: Path, *, keep_source: bool) -> None:
    """Take a finished kernel out of its build folder; `modules_install` went to `root` already."""
    with progress.step("install the kernel and what modules are built against"):
        for link in ("build", "source"):
            for path in root.glob(f"lib/modules/*/{link}"):
                path.unlink()
        shutil.copy(build / "vmlinux", root / "vmlinux")
        for name in KDIR:
            (root / "build" / name).parent.mkdir(parents=True, exist_ok=True)
            if (build / name).is_dir():
                shutil.copytree(build / name, root / "build" / name, symlinks=True,
                                ignore=shutil.ignore_patterns("*.o", "*.cmd"))
            else:
                shutil.copy(build / name, root / "build" / name)
        source = str(tree)
        if keep_source:
            # The work folder's changes with the next patches.
            subprocess.run(["cp", "-al", tree, root / "source"], check=True)
            source = "$(KBUILD_OUTPUT)/../source"
        (root / "build/Makefile").write_text(kdir_makefile(source))
