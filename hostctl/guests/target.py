# SPDX-License-Identifier: GPL-2.0-or-later
"""Is a guest's target still ours? Somebody else may set it as well.

Pure. Two ways to know, for a QEMU that tells its target and for one that does not. What QEMU
is found to have at first is taken as it is, and so is what somebody else has set, once told.
"""

from __future__ import annotations

from typing import Protocol

BY_HAND = "its balloon was set by hand to {} bytes; release it when that is over"
"""Why a guest is held whose target is not ours."""


class Target(Protocol):
    """What we know of a guest's target."""

    def sending(self, target: int) -> None:
        """A command with it is on its way, and may be carried out, now or later."""
        ...

    def sent(self, target: int) -> None:
        """QEMU has taken it."""
        ...

    def foreign(self, ram: int, actual: int, target: int | None) -> bool:
        """Does a reading show the doing of somebody else? `target` None: QEMU did not tell it."""
        ...

    def suspect(self, actual: int) -> bool:
        """Does an event with that size call for a reading?"""
        ...

    def take(self, ram: int, actual: int, target: int | None) -> int:
        """The reading is taken for the truth; the target."""
        ...


class Told:
    """QEMU tells its target: only what we have asked for may be found there.

    It keeps the balloon's size (RAM less the target), as QEMU does: the target moves with
    memory that is plugged in.
    """

    def __init__(self) -> None:
        self._ram = 0
        self._actual = 0
        self._balloon: int | None = None
        self._under_way: set[int] = set()

    def sending(self, target: int) -> None:
        self._under_way.add(self._ram - target)

    def sent(self, target: int) -> None:
        self._balloon = self._ram - target
        self._under_way.clear()

    def foreign(self, ram: int, actual: int, target: int | None) -> bool:
        assert target is not None
        balloon = ram - target
        return self._balloon not in (None, balloon) and balloon not in self._under_way

    def suspect(self, actual: int) -> bool:
        if self._balloon is None:
            return False
        target = self._ram - self._balloon
        away = abs(actual - target) > abs(self._actual - target)
        self._actual = actual
        return away

    def take(self, ram: int, actual: int, target: int | None) -> int:
        assert target is not None
        # QMP answers in order: what was sent before this reading has been carried out.
        self._ram, self._actual, self._balloon = ram, actual, ram - target
        self._under_way.clear()
        return target


class Guessed:
    """QEMU does not tell: a guest that gets smaller than we ever asked is the sure sign.

    A target above ours is not seen: a guest may always take memory back by itself, as with
    deflate-on-oom, or when its driver is unloaded.
    """

    def __init__(self) -> None:
        self._target: int | None = None
        self._least: int | None = None
        """By our doing the guest gets no smaller; None: an unknown target may be on its way."""
        self._last: int | None = None
        """Its size at the last reading, if nothing was sent since."""

    def sending(self, target: int) -> None:
        self._target, self._last = target, None
        if self._least is not None:
            self._least = min(self._least, target)

    def sent(self, target: int) -> None:
        pass

    def foreign(self, ram: int, actual: int, target: int | None) -> bool:
        return self.suspect(actual)

    def suspect(self, actual: int) -> bool:
        return self._least is not None and actual < self._least

    def take(self, ram: int, actual: int, target: int | None) -> int:
        if self.suspect(actual):
            self._target = self._least = self._last = None
        last, self._last = self._last, actual
        # Only a size that stays says that the guest has arrived: it may still be on its way to
        # an earlier target, and overshoot ours.
        if last is not None and last == actual:
            if self._target is None:
                self._target = actual
            if actual >= self._target:
                self._least = self._target
        return actual if self._target is None else min(self._target, ram)
