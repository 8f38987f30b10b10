# SPDX-License-Identifier: GPL-2.0-or-later
"""Values that are made by the thousand are what dataclass(frozen=True) makes of them else."""

from dataclasses import dataclass, field, replace

from hostctl.frozen import frozen


def test_frozen_is_a_slotted_value() -> None:
    @frozen
    class One:
        size: int
        names: tuple[str, ...] = field(default=())

    @dataclass(frozen=True, slots=True)
    class Other:
        size: int
        names: tuple[str, ...] = field(default=())

    one = One(1, ("a",))
    assert one == One(1, names=("a",)) and one != replace(one, size=2)
    assert one != Other(1, ("a",))
    assert hash(one) == hash(Other(1, ("a",)))
    assert repr(one) == repr(Other(1, ("a",))).replace("Other", "One")
    assert not hasattr(one, "__dict__")
    match one:
        case One(size, names):
            assert (size, names) == (1, ("a",))
