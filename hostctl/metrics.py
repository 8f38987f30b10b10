# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics for Prometheus: what is now, read from the state when asked, and what has happened.

As the state is never changed in place but replaced, the server's threads may read it; and a
guest that is gone has no series any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socket import AF_INET6, socket
from socketserver import BaseRequestHandler
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from hostctl.engine import Verdict
from hostctl.errors import HostctlError
from hostctl.guard import Refusal
from hostctl.policy.model import (
    Event,
    GuestLost,
    GuestMessage,
    GuestState,
    HostPressure,
    HostState,
    PoolState,
    Reason,
    TargetTaken,
)

REQUESTS_MOST = 4
"""Requests served at a time."""
PATIENCE = 5.0
"""Seconds without a byte from a client after which it is dropped."""
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds; 0.02 is what we want to stay below."""
NEVER = -1
"""The level of a guest that has sent no message; 0, 1 and 2 are low, medium and critical."""

_GUEST: tuple[tuple[str, str, Callable[[GuestState], float | None]], ...] = (
    ("ram_bytes", "RAM of the guest", lambda g: g.ram),
    ("target_bytes", "Size that the guest is asked to have", lambda g: g.target),
    ("actual_bytes", "Size that the guest has", lambda g: g.actual),
    ("floor_bytes", "Smallest target", lambda g: g.floor),
    (
        "available_bytes",
        "What the guest says it could use without swapping",
        lambda g: g.stats.available if g.stats else None,
    ),
    (
        "level",
        "Level of the last message: 0 low, 1 medium, 2 critical; -1 there was none",
        lambda g: g.level.rank if g.level else NEVER,
    ),
    ("held", "1: left alone until released", lambda g: g.held is not None),
    ("stale", "1: its QEMU does not answer", lambda g: not g.fresh),
)


_POOL: tuple[tuple[str, str, Callable[[PoolState], int | None]], ...] = (
    ("limit_bytes", "Limit of the pool", lambda p: p.limit),
    ("usage_bytes", "Used of it", lambda p: p.usage),
    ("swapped_bytes", "In the host's swap space; none where the kernel does not tell",
     lambda p: p.swapped),
)  # fmt: skip


class _State(Collector):
    """The gauges."""

    def __init__(self, state: Callable[[], HostState], now: Callable[[], float]) -> None:
        self._state = state
        self._now = now

    def collect(self) -> Iterable[GaugeMetricFamily]:
        state = self._state()
        for name, text, value in _GUEST:
            gauge = GaugeMetricFamily(f"hostctl_guest_{name}", text, labels=["guest", "pool"])
            for guest in state.guests.values():
                found = value(guest)
                if found is not None:
                    gauge.add_metric([guest.name, guest.pool], float(found))
            yield gauge
        now = self._now()
        age = GaugeMetricFamily(
            "hostctl_guest_stats_age_seconds", "Age of its statistics", labels=["guest", "pool"]
        )
        for guest in state.guests.values():
            if guest.stats is not None:
                age.add_metric([guest.name, guest.pool], max(now - guest.stats.time, 0.0))
        yield age
        for name, text, of_pool in _POOL:
            gauge = GaugeMetricFamily(f"hostctl_pool_{name}", text, labels=["pool"])
            for pool in state.pools.values():
                found = of_pool(pool)
                if found is not None:
                    gauge.add_metric([pool.name], float(found))
            yield gauge


class Metrics:
    """All metrics of a daemon whose state `state` gives."""

    def __init__(
        self, state: Callable[[], HostState], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_State(state, now))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"hostctl_{name}", text, labels, registry=self.registry)

        self._messages = counter("messages", "Messages of guests", "level")
        self._decisions = counter("decisions", "Decisions that were carried out", "reason")
        self._refusals = counter("refusals", "Decisions that the guard refused", "reason")
        self._pressure = counter("host_pressure", "Pressure events of pools", "pool", "level")
        self._errors = counter("errors", "Problems that were reported")
        self._answer = Histogram(
            "hostctl_message_to_command_seconds",
            "From a guest's message to its QEMU having taken the new target",
            buckets=BUCKETS,
            registry=self.registry,
        )
        for reason in Reason:
            self._decisions.labels(reason)
            self._refusals.labels(reason)
        self._asked: dict[str, float] = {}
        """When the message came that each target still on its way answers."""

    def event(self, event: Event) -> None:
        """An event was taken in."""
        match event:
            case GuestMessage():
                self._messages.labels(event.level).inc()
            case HostPressure():
                self._pressure.labels(event.pool, event.level).inc()
            case GuestLost():
                self._asked.pop(event.guest, None)
            case TargetTaken() if event.guest in self._asked:
                self._answer.observe(event.time - self._asked.pop(event.guest))

    def verdict(self, verdict: Verdict, event: Event | None) -> None:
        """A verdict on what `event` (None: an operator) called for."""
        if isinstance(verdict, Refusal):
            self._refusals.labels(verdict.decision.reason).inc()
            return
        self._decisions.labels(verdict.reason).inc()
        if isinstance(event, GuestMessage) and event.guest == verdict.guest:
            self._asked.setdefault(event.guest, event.time)

    def error(self) -> None:
        """A problem was reported."""
        self._errors.inc()


_Request = socket | tuple[bytes, socket]


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said of requests."""


class _Server(ThreadingWSGIServer):
    """A thread a request, few at a time: those beyond are closed."""

    def __init__(
        self, address: tuple[str, int], handler: Callable[..., BaseRequestHandler]
    ) -> None:
        self._places = threading.BoundedSemaphore(REQUESTS_MOST)
        super().__init__(address, handler)

    def process_request(self, request: _Request, client_address: str) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: str) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: _Request, client_address: str) -> None:
        """A client that goes or is slow is nothing to tell."""


class _Server6(_Server):
    address_family = AF_INET6


@contextmanager
def serving(metrics: Metrics, address: tuple[str, int] | None) -> Iterator[int | None]:
    """Serve `metrics` at `address` (None: not at all); gives the port. Raises HostctlError."""
    if address is None:
        yield None
        return
    host, port = address
    kind = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, make_wsgi_app(metrics.registry), kind, _Handler)
    except OSError as exc:
        raise HostctlError(
            f"metrics.listen {host}:{port}: {exc.strerror or exc}; give another address and port, "
            'or "off"'
        ) from exc
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
