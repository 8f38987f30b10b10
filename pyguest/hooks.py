# SPDX-License-Identifier: GPL-2.0-or-later
"""A hook patch taken apart into paragraphs, so that each can go into a mail of its own."""

import difflib
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import patch
from .errors import LabError


@dataclass(frozen=True)
class Change:
    """Lines that one paragraph of the hook patch takes out of a file and puts in."""

    line: int
    """The first of the lines that go, counted from 0; or where the new ones come before."""
    removed: int
    added: tuple[str, ...]


def read(tree: Path, hook: Path, scratch: Path, by_line: bool = False) -> dict[str, list[Change]]:
    """The paragraphs of the patch `hook` by the file of `tree` that they are for, in order.

    With `by_line`, each line that is added is a paragraph.
    """
    names = patch.files(hook)
    for name in names:
        if not (tree / name).is_file():
            raise LabError(f"{hook}: {tree} has no {name}: use the version that it is for")
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, scratch / name)
    patch.apply(hook, scratch, str(tree))
    return {name: _changes(tree / name, scratch / name, by_line) for name in names}


def _changes(stock: Path, patched: Path, by_line: bool) -> list[Change]:
    done = subprocess.run(["diff", "-U0", str(stock), str(patched)], text=True,
                          capture_output=True)
    changes: list[Change] = []
    for part in re.split(r"^(?=@@ )", done.stdout, flags=re.M)[1:]:
        found = re.match(r"@@ -(\d+)(?:,(\d+))? ", part)
        assert found
        count = int(found[2] or 1)
        # An addition alone is after the line that is named.
        line = int(found[1]) - (1 if count else 0)
        lines = part.splitlines(keepends=True)[1:]
        old = [text[1:] for text in lines if text.startswith("-")]
        new = [text[1:] for text in lines if text.startswith("+")]
        changes += _paragraphs(line, old, new, by_line)
    return changes


def _paragraphs(line: int, old: Sequence[str], new: Sequence[str],
                by_line: bool) -> list[Change]:
    """Split what is added at blank lines; what is removed goes with what is most like it."""
    parts: list[list[str]] = [[]]
    for text in new:
        if parts[-1] and (by_line or parts[-1][-1] == "\n" and text != "\n" and any(
                one != "\n" for one in parts[-1])):
            parts.append([])
        parts[-1].append(text)
    if not old:
        return [Change(line, 0, tuple(part)) for part in parts]

    def likeness(part: Sequence[str]) -> float:
        return max((difflib.SequenceMatcher(None, a, b).ratio() for a in old for b in part),
                   default=0.0)

    heir = max(range(len(parts)), key=lambda index: likeness(parts[index]))
    return [Change(line + (len(old) if index > heir else 0), len(old) if index == heir else 0,
                   tuple(part)) for index, part in enumerate(parts)]


def assign(changes: Sequence[Change], patterns: Mapping[str, str],
           by_line: bool = False) -> list[str]:
    """Which mail each paragraph is for: the last whose pattern stands in it. LabError for none.

    With `by_line`, a line without a pattern is for the mail of the one before it in its
    place, or, where there is none, of the one after it.
    """
    owners: list[str] = []
    for change in changes:
        text = "".join(change.added)
        mails = [name for name, pattern in patterns.items() if re.search(pattern, text)]
        owners.append(mails[-1] if mails else "")
    if by_line:
        ends = [change.line + change.removed for change in changes]
        order = range(len(changes))
        for index in order:
            if not owners[index] and index and ends[index - 1] == changes[index].line:
                owners[index] = owners[index - 1]
        for index in reversed(order[:-1]):
            if not owners[index] and ends[index] == changes[index + 1].line:
                owners[index] = owners[index + 1]
    for change, owner in zip(changes, owners, strict=True):
        if not owner:
            text = "".join(change.added)
            raise LabError(f"no mail of the series takes the hook at line {change.line + 1}, "
                           f"{text.strip().splitlines()[:1]}: add a pattern to series.toml")
    return owners


def merge(stock: str, changes: Sequence[Change], owners: Sequence[str],
          mails: Collection[str]) -> str:
    """The file with the paragraphs of these mails in it, and no others."""
    lines = stock.splitlines(keepends=True)
    result: list[str] = []
    at = 0
    for change, owner in zip(changes, owners, strict=True):
        if owner in mails:
            result += lines[at:change.line]
            result += change.added
            at = change.line + change.removed
    return "".join(result + lines[at:])
