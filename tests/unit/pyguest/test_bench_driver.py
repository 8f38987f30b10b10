# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's measurements: what is made of a guest's traces and counters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyguest.bench import inflation, latency, report, share, stats
from pyguest.bench.driver import Plan
from pyguest.bench.inflation import Inflation
from pyguest.errors import LabError

TRACE = """\
scanned 1000
# tracer: nop
#
         kswapd0-45      [001] .....  97.500000: mm_vmscan_kswapd_wake: nid=0 order=0
              sh-700     [000] .....  99.000000: tracing_mark_write: lab_burst
         kswapd0-45      [001] .....  99.100000: mm_vmscan_kswapd_wake: nid=0 order=0
         kswapd0-45      [001] .....  99.102000: mm_vmscan_lru_shrink_inactive: nid=0 \
nr_scanned=500 nr_reclaimed=500 priority=12 flags=RECLAIM_WB_FILE
        anonload-701     [000] .....  99.104000: mm_vmscan_lru_shrink_inactive: nid=0 \
nr_scanned=32 nr_reclaimed=32 priority=12 flags=RECLAIM_WB_FILE
 kworker/u5:0-60         [000] .....  99.110000: balloon_pressure: level=low scanned=600 \
reclaimed=599
 kworker/u5:0-60         [000] ...1.  99.110100: balloon_message_queued: level=low scanned=600 \
reclaimed=599 actual=0 num_pages=0
          <idle>-0       [000] d.h2.  99.110500: balloon_message_acked: level=low
scanned 21000
"""


def burst(text: str = TRACE) -> latency.Burst:
    return latency.judge("anonymous", latency.parse_trace(text), latency.parse_scanned(text))


def without(*words: str) -> str:
    """The trace less the lines that have one of the words."""
    return "".join(line for line in TRACE.splitlines(keepends=True)
                   if not any(word in line for word in words))


def test_a_burst_is_measured_from_its_first_reclaim() -> None:
    """Reclaim before the quiet second does not count; the distances are milliseconds."""
    found = burst()
    assert (found.outcome, found.level, found.scanned) == (latency.TOLD, "low", 20000)
    assert found.queued_ms == pytest.approx(10.1)
    assert found.acked_ms == pytest.approx(10.5)
    assert found.window_ms == pytest.approx(4.0)


def test_direct_reclaim_begins_a_burst_as_well() -> None:
    text = TRACE.replace("99.100000: mm_vmscan_kswapd_wake: nid=0",
                         "99.090000: mm_vmscan_direct_reclaim_begin:")
    assert burst(text).queued_ms == pytest.approx(20.1)


@pytest.mark.parametrize(("text", "outcome"), [
    (TRACE.replace("97.500000", "98.500000"), "not quiet"),
    (without("lab_burst"), "no mark"),
    (without("99.1"), "no reclaim"),
    (without("balloon_"), "no whole window"),
    (without("balloon_message"), "held back"),
    (without("balloon_").replace("scanned 21000", "scanned 1400"), "less than 512"),
    (without("acked"), "not acknowledged"),
])  # fmt: skip
def test_why_a_burst_has_no_message(text: str, outcome: str) -> None:
    found = burst(text)
    assert outcome in found.outcome
    assert found.acked_ms is None


def test_latency_table() -> None:
    """Percentiles are of what was told; the others are counted with their reason."""
    told = burst()
    slow = replace(told, hog="page cache", acked_ms=20.0)
    text = report.latency_table([told, slow, burst(without("99.1"))])
    assert "| first reclaim to device's use | all | 2 | 10.5 | 20.0 | 20.0 |" in text
    assert "| first reclaim to device's use | page cache | 1 | 20.0 | 20.0 | 20.0 |" in text
    assert "3 bursts, 2 told (2 low)" in text
    assert "- 1 not measured: no reclaim" in text
    assert "3 bursts, 0 told" in report.latency_table([burst(without("99.1"))] * 3)


GRAPH = """\
# tracer: function_graph
#
# CPU  DURATION                  FUNCTION CALLS
# |     |   |                     |   |   |   |
 0)   2.000 us    |  balloon_pressure_count [virtio_balloon]();
 1) # 1500.000 us |  balloon_pressure_count [virtio_balloon]();
 ------------------------------------------
 0)  kworker-60   =>  anonload-701
 ------------------------------------------

 0)               |  balloon_pressure_sample [virtio_balloon]() {
 0)   ==========> |
 0)   <========== |
 0)   98.000 us   |  } /* balloon_pressure_sample [virtio_balloon] */
 1)               |  message_ack [virtio_balloon]() {
"""
BEFORE = """\
100.00 150.00
cpu  100 0 200 1000 50 10 20 0 0 0
cpu0 50 0 100 500 25 5 10 0 0 0
pgscan_kswapd 1000
pgscan_direct 50
pgscan_direct_throttle 7
pswpin 5
pswpout 6
"""
AFTER = """\
110.00 160.00
cpu  500 0 600 1100 90 15 25 0 0 0
pgscan_kswapd 90000
pgscan_direct 1050
pswpin 105
pswpout 206
"""


def window(traced: bool = True, lost: int = 0) -> share.Window:
    return share.between(share.parse_snapshot(BEFORE), share.parse_snapshot(AFTER), 2,
                         share.parse_graph(GRAPH) if traced else {}, traced, lost)


def test_calls_of_the_graph_tracer() -> None:
    """Whole calls are counted with their times, with the tracer's marks or without."""
    calls = share.parse_graph(GRAPH)
    assert calls.keys() == {"balloon_pressure_count", "balloon_pressure_sample"}
    assert calls["balloon_pressure_count"].count == 2
    assert calls["balloon_pressure_count"].seconds == pytest.approx(1502e-6)
    assert calls["balloon_pressure_sample"].seconds == pytest.approx(98e-6)


def test_shares_of_a_window() -> None:
    """Neither idle time nor the wait for I/O is use of a CPU."""
    found = window()
    assert (found.seconds, found.scanned, found.swapped) == (10.0, 90000, 300)
    assert found.busy == pytest.approx(8.1)
    assert found.busy_share == pytest.approx(8.1 / 20)
    assert found.of_all == pytest.approx(0.0016 / 20)
    assert found.of_busy == pytest.approx(0.0016 / 8.1)


def test_counters_that_are_none() -> None:
    with pytest.raises(LabError, match="counters"):
        share.parse_snapshot("cat: /proc/stat: No such file or directory")


def test_share_table() -> None:
    text = report.share_table([window(False), window()])
    assert "| pages scanned a second | 9,000 | 9,000 |" in text
    assert "| calls of the shrinker's count a second | - | 0.200 |" in text
    assert "| the driver, % of elapsed x CPUs | - | 0.00800 |" in text
    assert "lost" not in text
    assert "3 trace records were lost" in report.share_table([window(lost=3)])


def inflate(label: str, number: int, seconds: float,
            state: str = inflation.FREE) -> Inflation:
    return Inflation(label, "1", state, number, 256, seconds, 300 << 20, 256, 512, 9, 256)


def test_contestants() -> None:
    """Stock and ours with and without zeroing; a series joins in tree and out of it."""
    plain = inflation.contestants("6.1", [])
    assert [(one.driver, one.init_on_alloc) for one in plain] == [
        ("stock", "1"), ("ours", "1"), ("stock", "0"), ("ours", "0")]
    assert {one.kernel for one in plain} == {"6.1"}
    joined = [one for one in inflation.contestants("7.3", ["7.3-series"])
              if one.kernel == "7.3-series"]
    assert [(one.driver, one.init_on_alloc) for one in joined] == [
        ("stock", "1"), ("ours", "1"), ("stock", "0"), ("ours", "0")]


def test_turns_are_interleaved() -> None:
    """Each contestant has one turn a round, and no contestant always comes first."""
    found = inflation.turns(3, 2)
    assert found == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def test_ratios_are_of_the_same_round() -> None:
    """A round that lacks one of the two, and the other state of the host, are left out."""
    stock, ours = inflation.contestants("6.1", [])[:2]
    found = [inflate(stock.label, 0, 1.0), inflate(ours.label, 0, 2.0),
             inflate(stock.label, 1, 1.0), inflate(ours.label, 1, 0.5),
             inflate(ours.label, 2, 0.1), inflate(stock.label, 2, 9.0, state=inflation.SWAPPED)]
    assert inflation.ratios(found, ours, stock, inflation.FREE) == [0.5, 2.0]
    assert inflation.ratios(found, ours, stock, inflation.SWAPPED) == []


def test_inflation_table() -> None:
    who = inflation.contestants("6.1", [])[:2]
    found = [inflate(who[0].label, 0, 1.0), inflate(who[0].label, 1, 2.0),
             inflate(who[1].label, 0, 0.5)]
    text = report.inflation_table(found, who)
    assert ("| stock on 6.1 | 1 | free | 192 (128 to 256) | 1.00 | 300 | 1.00 | 2.00 | 9.00 |"
            in text)
    assert "| ours on 6.1 | 1 | free | 512 | 2.00 |" in text
    assert "| ours on 6.1 | 1 | partly in swap | - | - |" in text


def test_the_stock_driver_of_the_same_kernel_command_line_is_the_measure() -> None:
    who = inflation.contestants("6.1", [])
    found = [inflate(who[0].label, 0, 4.0), replace(inflate(who[2].label, 0, 1.0),
                                                    init_on_alloc="0")]
    assert "| stock on 6.1 | 0 | free | 256 | 1.00 |" in report.inflation_table(found, who)


@pytest.mark.parametrize(("percent", "value"), [(50, 3.0), (99, 5.0), (20, 1.0), (0, 1.0)])
def test_percentiles_are_values_that_were_measured(percent: float, value: float) -> None:
    assert stats.percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent) == value


def test_a_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 50)


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (0.00123456, "0.00123"), (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"),
    (123456, "123,000"), (-1.5, "-1.50"), (float("inf"), "-"),
])  # fmt: skip
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert stats.figure(value) == text


def test_spreads() -> None:
    assert stats.spread([]) == "-"
    assert stats.spread([2.0]) == "2.00"
    assert stats.spread([3.0, 1.0, 2.0], 10) == "20.0 (10.0 to 30.0)"


def test_markdown() -> None:
    assert stats.markdown(("a", "b"), [("x", "1")]) == "| a | b |\n|---|---:|\n| x | 1 |"


def test_each_part_names_its_command() -> None:
    plan = Plan(bursts=5, rounds=2, seconds=7, series=("7.3-series",))
    assert plan.command("7.3", "latency").endswith("KERNEL=7.3 bin/pyguest bench-driver "
                                                   "--only latency --bursts 5")
    assert "--rounds 2 --seconds 7" in plan.command("7.3", "cpu")
    assert "--rounds 2 --series 7.3-series" in plan.command("7.3", "inflation")
