# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics: what is told of whom, the dashboard's queries, and odd clients."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import hostctl
from hostctl.errors import HostctlError
from hostctl.guard import Refusal
from hostctl.metrics import REQUESTS_MOST, Metrics, serving
from hostctl.policy.model import (
    Decision,
    Event,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestSilent,
    Held,
    HostPressure,
    HostState,
    Level,
    PoolRead,
    Reason,
    Stats,
    StatsRead,
    TargetTaken,
)

MIB = 1 << 20
READ = GuestRead(0.0, "a", 512 * MIB, 400 * MIB, 300 * MIB, 128 * MIB, True, True)
DASHBOARD = Path(hostctl.__file__).with_name("grafana.json")


class Host:
    """A host's state and its metrics."""

    def __init__(self, *events: Event) -> None:
        self.state = HostState()
        self.metrics = Metrics(lambda: self.state, lambda: 9.0)
        for event in events:
            self.event(event)

    def event(self, event: Event) -> None:
        self.state = self.state.after(event)
        self.metrics.event(event)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"hostctl_{name}", labels)


def test_a_guest_has_series_for_as_long_as_it_is_there() -> None:
    host = Host(READ)
    a = {"guest": "a", "pool": "host"}
    assert host.value("guest_ram_bytes", **a) == 512 * MIB
    assert host.value("guest_target_bytes", **a) == 300 * MIB
    assert host.value("guest_actual_bytes", **a) == 400 * MIB
    assert host.value("guest_level", **a) == -1
    assert host.value("guest_available_bytes", **a) is None
    assert host.value("guest_stats_age_seconds", **a) is None
    host.event(StatsRead(1.0, "a", Stats(1.0, available=9)))
    host.event(GuestMessage(1.0, "a", Level.CRITICAL, 400 * MIB))
    host.event(Held(1.0, "a", "why"))
    host.event(GuestSilent(1.0, "a"))
    assert host.value("guest_available_bytes", **a) == 9
    assert host.value("guest_stats_age_seconds", **a) == 8.0
    assert host.value("guest_level", **a) == 2
    assert host.value("guest_held", **a) == host.value("guest_stale", **a) == 1
    assert host.value("messages_total", level="critical") == 1
    host.event(GuestLost(2.0, "a", "gone"))
    assert host.value("guest_ram_bytes", **a) is None
    assert host.value("messages_total", level="critical") == 1


def test_pools_and_verdicts() -> None:
    host = Host(PoolRead(0.0, "p", 100, 90), HostPressure(0.0, Level.LOW, "psi", "p"))
    assert host.value("pool_limit_bytes", pool="p") == 100
    assert host.value("pool_usage_bytes", pool="p") == 90
    assert host.value("pool_swapped_bytes", pool="p") is None
    host.event(PoolRead(1.0, "p", 100, 90, 7))
    assert host.value("pool_swapped_bytes", pool="p") == 7
    assert host.value("host_pressure_total", pool="p", level="low") == 1
    decision = Decision("a", 1, 2, Reason.TRANSFER)
    host.metrics.verdict(decision, None)
    host.metrics.verdict(Refusal(decision, "no"), None)
    host.metrics.error()
    assert host.value("decisions_total", reason="transfer") == 1
    assert host.value("refusals_total", reason="transfer") == 1
    assert host.value("refusals_total", reason="probe") == 0
    assert host.value("errors_total") == 1


def test_the_time_from_message_to_command_is_the_first_unanswered_messages() -> None:
    host = Host(READ)
    decision = Decision("a", 1, 2, Reason.GUEST_PRESSURE)
    for time in (1.0, 1.5):
        message = GuestMessage(time, "a", Level.LOW, 400 * MIB)
        host.event(message)
        host.metrics.verdict(decision, message)
    host.event(TargetTaken(1.75, "a", 2))
    host.event(TargetTaken(9.0, "a", 2))  # an answer to nothing
    assert host.value("message_to_command_seconds_sum") == 0.75
    assert host.value("message_to_command_seconds_count") == 1
    # Memory that another guest gives up answers nobody's own message.
    other = Decision("b", 2, 1, Reason.TRANSFER)
    host.metrics.verdict(other, GuestMessage(2.0, "a", Level.LOW, 400 * MIB))
    host.event(TargetTaken(3.0, "b", 1))
    assert host.value("message_to_command_seconds_count") == 1


def test_the_dashboard_asks_for_what_there_is() -> None:
    host = Host(
        READ,
        StatsRead(1.0, "a", Stats(1.0, available=9)),
        PoolRead(0.0, "p", 100, 90, 0),
        HostPressure(0.0, Level.LOW, "psi", "p"),
        GuestMessage(1.0, "a", Level.LOW, 1),
    )
    families = list(host.metrics.registry.collect())
    samples = {sample.name: sample.labels for one in families for sample in one.samples}
    document = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    queries += [
        one["query"]["query"] for one in document["templating"]["list"] if one["type"] == "query"
    ]
    assert len(queries) > 15
    asked = set()
    for query in queries:
        names = re.findall(r"hostctl_\w+", query)
        assert names and samples.keys() >= set(names), query
        asked |= set(names)
        # What is grouped by is a label of what is asked for.
        for labels in re.findall(r"by \(([^)]*)\)", query):
            assert set(labels.split(", ")) <= samples[names[0]].keys(), query
    left = {name for name in samples if not name.endswith(("_created", "_sum", "_count"))} - asked
    assert not left, "nobody looks at these"


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text: str = reply.read().decode()
    return text


def test_served_and_silent_clients_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(READ, PoolRead(0.0, 'odd "pool"\n', 100, 90))
    monkeypatch.setattr("hostctl.metrics._Handler.timeout", 0.5)
    with serving(host.metrics, ("127.0.0.1", 0)) as port:
        assert port is not None
        found = {one.name: one for one in text_string_to_metric_families(fetch(port))}
        assert found["hostctl_guest_ram_bytes"].samples[0].value == 512 * MIB
        assert found["hostctl_pool_limit_bytes"].samples[0].labels["pool"] == 'odd "pool"\n'
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(REQUESTS_MOST + 2)]
        for one in silent:
            one.settimeout(10)
            assert one.recv(1) == b""  # at once for those too many, the others in time
            one.close()
        assert "hostctl_guest_ram_bytes" in fetch(port)


def test_an_address_that_is_taken_is_named() -> None:
    host = Host()
    with serving(host.metrics, None) as port:
        assert port is None
    with serving(host.metrics, ("127.0.0.1", 0)) as port:
        assert port is not None
        with (
            pytest.raises(HostctlError, match=f"metrics.listen 127.0.0.1:{port}: .* in use"),
            serving(host.metrics, ("127.0.0.1", port)),
        ):
            pass
