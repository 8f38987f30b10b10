# SPDX-License-Identifier: GPL-2.0-or-later
"""How sure a difference is, with few rounds. Pure."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from ..bench.stats import figure

SURE = 0.95
"""Of an interval."""
RESAMPLES = 9999
"""scipy's own default."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap interval of the median, by percentiles. Of one value: that.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979. With three rounds it is
    their range, which has the median in it in three of four cases: 1 - 2 / 2^3.
    """
    if len(set(values)) == 1:
        return values[0], values[0]
    found = stats.bootstrap((np.asarray(values, float),), np.median, confidence_level=SURE,
                            n_resamples=RESAMPLES, method="percentile", rng=2014)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def chance(less: Sequence[float], more: Sequence[float]) -> float:
    """How probable ranks as low as those of `less` are, if there is no difference to `more`.

    Wilcoxon's rank sum, "Individual Comparisons by Ranking Methods", 1945, by all permutations,
    so that it holds with ties as well. Three rounds of each reach 0.05 at best.
    """
    ranks = stats.rankdata([*less, *more])
    sums = [sum(part) for part in combinations(ranks, len(less))]
    return float(np.mean(np.array(sums) <= sum(ranks[:len(less)])))


def median(values: Sequence[float]) -> str:
    """`median [low, high]`, the median with its interval; a dash when there are no values."""
    if not values:
        return "-"
    low, high = interval(values)
    middle = figure(float(np.median(values)))
    return middle if low == high else f"{middle} [{figure(low)}, {figure(high)}]"
