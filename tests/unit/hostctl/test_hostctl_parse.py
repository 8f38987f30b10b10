# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP parsers against what QEMU says, and against anything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.errors import QmpDataError
from hostctl.guests import parse
from hostctl.policy.model import Level

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=8)
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["actual", "level", "base-memory", "plugged-memory", "name", "type", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def test_events() -> None:
    data = {"qom-path": "/machine/peripheral/b", "level": "medium", "actual": 4096}
    assert parse.event({"event": "BALLOON_PRESSURE", "data": data}) == parse.PressureEvent(
        Level.MEDIUM, 4096
    )
    assert parse.event({"event": "BALLOON_CHANGE", "data": {"actual": 1}}) == parse.ActualEvent(1)
    assert parse.event({"event": "RTC_CHANGE", "data": {"offset": 1}}) is None
    assert parse.event({}) is None


def test_replies() -> None:
    assert parse.balloon({"actual": 4096}, 8192) == 4096
    assert parse.memory({"base-memory": 4096, "plugged-memory": 8192}) == 12288
    assert parse.memory({"base-memory": 4096}) == 4096
    assert parse.target(4096, 4096) == 4096
    members = [
        {"name": "type", "type": "string"},
        {"name": "b0", "type": "child<virtio-balloon-pci>"},
        {"name": "n0", "type": "child<virtio-net-pci>"},
        {"name": "device[1]", "type": "child<virtio-balloon-device>"},
    ]
    assert parse.balloon_names(members) == ["b0", "device[1]"]


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: parse.event({"event": "BALLOON_CHANGE"}), ["BALLOON_CHANGE", "data", "None"]),
        (
            lambda: parse.event({"event": "BALLOON_CHANGE", "data": {"actual": -1}}),
            ["actual", "-1"],
        ),
        (
            lambda: parse.event(
                {"event": "BALLOON_PRESSURE", "data": {"level": "loud", "actual": 0}}
            ),
            ["BALLOON_PRESSURE", "level", "'loud'"],
        ),
        (lambda: parse.balloon({"actual": 8192}, 4096), ["query-balloon", "8192", "4096"]),
        (lambda: parse.balloon({"actual": True}, 4096), ["query-balloon", "True"]),
        (lambda: parse.balloon({"actual": 1 << 63}, 1 << 70), ["query-balloon", "size"]),
        (lambda: parse.memory({"base-memory": 0}), ["query-memory-size-summary", "pages"]),
        (lambda: parse.memory({"base-memory": 4097}), ["4097"]),
        (lambda: parse.target("4096", 4096), ["target", "'4096'"]),
        (lambda: parse.balloon_names({"a" * 999: 1}), ["qom-list", "..."]),
        (lambda: parse.balloon_names([{"name": 1, "type": "string"}]), ["qom-list", "name"]),
    ],
)
def test_nonsense_is_named(call: Callable[[], object], parts: list[str]) -> None:
    with pytest.raises(QmpDataError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.sampled_from(["BALLOON_PRESSURE", "BALLOON_CHANGE", "STOP", "", 3, None]), JSON)
def test_any_event(name: object, data: object) -> None:
    try:
        found = parse.event({"event": name, "data": data})
    except QmpDataError:
        return
    if found is not None:
        assert 0 <= found.actual < 1 << 63


@given(JSON, st.integers(0, 1 << 50))
def test_any_reply(reply: object, ram: int) -> None:
    readers: list[Callable[[], object]] = [
        lambda: parse.balloon(reply, ram),
        lambda: parse.target(reply, ram),
        lambda: parse.memory(reply),
        lambda: parse.balloon_names(reply),
    ]
    for reader in readers:
        try:
            value = reader()
        except QmpDataError:
            continue
        assert isinstance(value, int | list)
