# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP parsers against what QEMU says, and against anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.errors import QmpDataError
from hostctl.guests import parse
from hostctl.policy.model import Level, Stats

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=8)
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("actual", "level", "base-memory", "plugged-memory", "name", "type", "x"),
                    *("last-update", "stats", *parse.SIZES, "stat-swap-in", "stat-async-scans"),
                    *("guest-features", "unknown-dev-features", "dev-features"),
                ]
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
    assert parse.balloons(members) == ["b0/virtio-backend", "device[1]"]


def test_statistics() -> None:
    untold = (1 << 64) - 1
    stats = {
        "stat-total-memory": 8192,
        "stat-available-memory": 4096,
        "stat-free-memory": untold,
        "stat-disk-caches": -1,
        "stat-swap-in": 7,
        "stat-oom-kills": 1,
        "stat-alloc-stalls": 2,
        "stat-async-scans": 8192,
        "stat-direct-scans": 4096,
        "stat-async-reclaims": untold,
        "stat-direct-reclaims": 4096,
        "stat-of-the-future": {"x": []},
    }
    found = parse.stats({"last-update": 77, "stats": stats}, 8192)
    assert found.date == 77
    assert found.at(5.0) == Stats(
        5.0,
        total=8192,
        available=4096,
        swap_in=7,
        oom_kills=1,
        stalls=2,
        scanned=3,
        reclaimed=1,
    )
    assert parse.stats({"last-update": 0, "stats": {}}, 0).at(1.0) == Stats(1.0)


def test_the_message_queue_is_found_among_the_features() -> None:
    header = Path(__file__).parents[3] / "kmod/include/uapi/linux/virtio_balloon_message.h"
    bit = re.search(r"VIRTIO_BALLOON_F_MESSAGE_VQ\s+(\d+)", header.read_text())
    assert bit is not None and int(bit[1]) == parse.MESSAGE_BIT
    status: dict[str, object] = {"guest-features": {"dev-features": [], "transports": []}}
    assert not parse.tells(status)
    status["guest-features"] = {"dev-features": [], "unknown-dev-features": 1 << 23 | 1}
    assert parse.tells(status)
    status["guest-features"] = {"dev-features": [], "unknown-dev-features": 1 << 22 | 1 << 24}
    assert not parse.tells(status)
    status["guest-features"] = {"dev-features": ["VIRTIO_BALLOON_F_MESSAGE_VQ: Messages"]}
    assert parse.tells(status)


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
        (lambda: parse.flag("automatic", 1), ["automatic", "1"]),
        (lambda: parse.stats({"stats": {}}, 1), ["guest-stats", "last-update"]),
        (
            lambda: parse.stats({"last-update": 1, "stats": {"stat-free-memory": 2}}, 1),
            ["stat-free-memory", "2"],
        ),
        (
            lambda: parse.stats({"last-update": 1, "stats": {"stat-swap-in": 1 << 63}}, 1),
            ["stat-swap-in"],
        ),
        (lambda: parse.tells({"guest-features": {"unknown-dev-features": "x"}}), ["unknown"]),
        (lambda: parse.target("4096", 4096), ["target", "'4096'"]),
        (lambda: parse.balloons({"a" * 999: 1}), ["qom-list", "..."]),
        (lambda: parse.balloons([{"name": 1, "type": "string"}]), ["qom-list", "name"]),
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
        lambda: parse.balloons(reply),
        lambda: parse.tells(reply),
        lambda: parse.flag("automatic", reply),
    ]
    for reader in readers:
        try:
            value = reader()
        except QmpDataError:
            continue
        assert isinstance(value, int | list)


NAMES = [*parse.SIZES, *parse.COUNTS, *(key for keys in parse.SUMS.values() for key in keys), "x"]


@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.integers(0, 99) | st.integers(-(1 << 65), 1 << 65) | JSON
    ),
    st.integers(0, 1 << 64) | JSON,
    st.integers(0, 99),
)
def test_any_statistics(values: dict[str, object], date: object, ram: int) -> None:
    try:
        found = parse.stats({"last-update": date, "stats": values}, ram).at(0.0)
    except QmpDataError as exc:
        assert len(str(exc)) < 250
        return
    for size in (found.total, found.free, found.available, found.caches):
        assert size is None or 0 <= size <= ram
    for count in (found.swap_in, found.stalls, found.scanned, found.reclaimed):
        assert count is None or 0 <= count < 1 << 63


@given(JSON, JSON)
def test_any_statistics_reply(reply: object, inner: object) -> None:
    for one in (reply, {"last-update": 1, "stats": inner}):
        with suppress(QmpDataError):
            parse.stats(one, 1 << 30)
