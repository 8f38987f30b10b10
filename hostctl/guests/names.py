# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of guests: each belongs to one Finder, whichever comes first."""

from __future__ import annotations


class Names:
    """Who has which name."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def claim(self, name: str, owner: str) -> str | None:
        """Take `name` for `owner`; if another has it, its name."""
        found = self._owners.setdefault(name, owner)
        return None if found == owner else found

    def release(self, name: str, owner: str) -> None:
        """The guest is gone."""
        if self._owners.get(name) == owner:
            del self._owners[name]
