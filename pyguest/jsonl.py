# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON lines, as hostctl, the tracer and the lab write them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete JSON lines of a file; a missing file has none, a torn last line is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n") and line.startswith("{"):
            yield json.loads(line)
