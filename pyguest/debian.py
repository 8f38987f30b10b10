# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages of any suite, fetched by apt with a state folder of its own.

The machine's own sources stay as they are; only its mirror is taken from them.
"""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import paths, progress
from .errors import LabError

LISTS_MAX_AGE = 24 * 3600.0
"""Seconds after which package lists are fetched anew; an old list names packages that left."""

DEBIAN_SUITE = re.compile(r"(bookworm|trixie|forky|sid|stable|testing|unstable)\b")


@dataclass(frozen=True)
class Mirrors:
    """Base addresses of the main and of the security archive."""

    main: str
    security: str


def parse_mirrors(text: str) -> Mirrors | None:
    """The Debian mirrors in apt sources, of both forms; None where there is no main archive."""
    entries: list[tuple[str, list[str], list[str]]] = []  # address, suites, components
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.M)
        }
        if fields.get("uris") and fields.get("enabled") != ["no"]:
            entries.append((fields["uris"][0], fields.get("suites", []),
                            fields.get("components", [])))
        for line in re.findall(r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s+(.*)$", stanza, re.M):
            entries.append((line[0], [line[1]], line[2].split()))
    found: dict[bool, str] = {}
    for address, suites, components in entries:
        for suite in suites:
            if "main" in components and DEBIAN_SUITE.match(suite):
                found.setdefault("-security" in suite, address.rstrip("/"))
    if False not in found:
        return None
    main = found[False]
    return Mirrors(main, found.get(True, re.sub(r"/debian$", "/debian-security", main)))


def machine_mirrors() -> Mirrors:
    """The mirrors that this machine itself uses. LabError when it has none of Debian's."""
    etc = Path("/etc/apt")
    files = [etc / "sources.list"]
    for suffix in ("list", "sources"):
        files += sorted((etc / "sources.list.d").glob(f"*.{suffix}"))
    mirrors = parse_mirrors("\n".join(file.read_text() for file in files if file.is_file()))
    if not mirrors:
        raise LabError("no Debian mirror in /etc/apt/sources.list(.d): add one, on a Debian 12 "
                       "or 13 machine")
    return mirrors


class Archive:
    """One suite's packages and sources."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self._dir = paths.cache_root() / "apt" / suite
        self._log = self._dir / "apt.log"
        self._config = self._dir / "apt.conf"

    def sources(self, kind: str = "deb") -> list[str]:
        """The suite's lines for a sources.list; `kind` is deb or deb-src."""
        mirrors = machine_mirrors()
        if self.suite.endswith("-backports"):
            # Alone: beside the stable suite, apt would prefer that one's versions.
            return [f"{kind} {mirrors.main} {self.suite} main"]
        return [
            f"{kind} {mirrors.main} {self.suite} main",
            f"{kind} {mirrors.main} {self.suite}-updates main",
            f"{kind} {mirrors.security} {self.suite}-security main",
        ]

    def show(self, package: str) -> dict[str, str]:
        """The fields of the newest version of a package. LabError when there is none."""
        text = self._apt("apt-cache", "show", "--no-all-versions", package)
        fields = dict(
            line.split(": ", 1) for line in text.splitlines() if re.match(r"[\w-]+: ", line)
        )
        if "Version" not in fields:
            raise LabError(f"package {package} is not in Debian {self.suite}: "
                           "change the package or the suite in targets.toml")
        return fields

    def source_version(self, package: str) -> str:
        """The newest version of a source package. LabError when there is none."""
        text = self._apt("apt-cache", "showsrc", "--only-source", package)
        versions = re.findall(r"^Version: (.+)$", text, re.M)
        if not versions:
            raise LabError(f"source package {package} is not in Debian {self.suite}: "
                           "change the source or the suite in targets.toml")
        newest: str = versions[0]
        for version in versions[1:]:
            newer = subprocess.run(["dpkg", "--compare-versions", version, "gt", newest])
            if newer.returncode == 0:
                newest = version
        return newest

    def unpack(self, packages: list[str], into: Path) -> None:
        """Fetch binary packages and unpack them below `into`."""
        debs = into / ".debs"
        debs.mkdir()
        with progress.step(f"fetch {', '.join(packages)}") as step:
            progress.run(["apt-get", "download", "-q", *packages], self._log, step,
                         cwd=debs, env=self._env())
        with progress.step(f"unpack {', '.join(packages)}") as step:
            for deb in sorted(debs.iterdir()):
                progress.run(["dpkg-deb", "-x", deb, into], self._log, step)
                deb.unlink()
        debs.rmdir()

    def fetch_source(self, package: str, version: str, into: Path) -> Path:
        """Fetch a source package into `into`; returns its upstream tarball."""
        with progress.step(f"fetch the source of {package} {version}") as step:
            progress.run(
                ["apt-get", "source", "-q", "--download-only", f"{package}={version}"],
                self._log, step, cwd=into, env=self._env(),
            )
        return next(path for path in into.glob("*.orig.tar.*") if path.suffix != ".asc")

    def _env(self) -> dict[str, str]:
        with paths.lock(f"apt-{self.suite}"):
            self._refresh()
        return {**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C.UTF-8"}

    def _apt(self, *command: str) -> str:
        done = subprocess.run(command, env=self._env(), text=True, capture_output=True)
        # What is not there is said by the caller; anything else by apt.
        if done.returncode and "No packages found" not in done.stderr:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}: "
                           f"mend apt's sources, or remove {self._dir}")
        return done.stdout

    def _refresh(self) -> None:
        """Write apt's configuration, and fetch the package lists when they are old."""
        sources = "\n".join(self.sources() + self.sources("deb-src")) + "\n"
        listed = self._dir / "sources.list"
        stamp = self._dir / "updated"
        fresh = (
            stamp.exists()
            and time.time() - stamp.stat().st_mtime < LISTS_MAX_AGE
            and listed.read_text() == sources
        )
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._dir / name).mkdir(parents=True, exist_ok=True)
        (self._dir / "status").touch()
        listed.write_text(sources)
        self._config.write_text(
            f'Dir::Etc::sourcelist "{listed}";\n'
            'Dir::Etc::sourceparts "-";\n'
            f'Dir::State "{self._dir}/state";\n'
            f'Dir::State::status "{self._dir}/status";\n'
            f'Dir::Cache "{self._dir}/cache";\n'
            'APT::Sandbox::User "";\n'
            'APT::Architecture "amd64";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "3";\n'
        )
        if fresh:
            return
        with progress.step(f"fetch the package lists of Debian {self.suite}") as step:
            try:
                progress.run(["apt-get", "update", "-q", "--error-on=any"], self._log, step,
                             env={**os.environ, "APT_CONFIG": str(self._config)})
            except LabError:
                if not stamp.exists():
                    raise
                # Offline: what is cached may still do.
                step.update("not reached, the lists of last time are used")
        stamp.touch()
