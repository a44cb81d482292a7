"""Spearman correlations over a few groups of data sets, with bootstrap intervals and permutation p-values.

The held-out one, after a choice, is in held_out.py.

What is resampled or permuted is a statistic of the groups' positions, so that all that belongs to one group stays
together: its scores, accuracies and covariates, and those of several models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, permutation_test, rankdata

Array = NDArray[np.floating]
Positions = NDArray[np.integer]  # of groups: (n,), or (b, n) for b bootstrap samples or permutations
Statistic = Callable[[Positions], Array]
LEAST = 6  # groups for an interval or a reading: fewer have too few distinct bootstrap samples
LEVEL = 0.9  # of every interval
DIGITS = 12  # correlations are rounded, so that equal ones tie


def standard(values: Array) -> Array:
    """Ranks along the last axis, centred and scaled to length 1: dot products are correlations. 0 where constant."""
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    size = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return ranks / np.where(size == 0, 1, size)


def spearman(x: Array, y: Array) -> Array:
    """Spearman's correlation along the last axis, the others broadcast; NaN where either is constant."""
    x, y = standard(x), standard(y)
    return np.where(x.any(-1) & y.any(-1), (x * y).sum(-1).round(DIGITS), math.nan)


def partial(x: Array, y: Array, z: Array) -> Array:
    """Spearman's correlation of x and y given z, with r of ranks; NaN where z orders the groups as x or y does:

    (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))
    """
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / np.sqrt(np.where(rest > 0, rest, math.nan))


def resamples(n: int, count: int, seed: int) -> Positions:
    """Bootstrap samples of n groups, as positions (count, n)."""
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), count)
    return np.repeat(np.tile(np.arange(n), count), times.ravel()).reshape(count, n)


def percentile_interval(observed: float, drawn: Array, n: int) -> tuple[float, float]:
    """Percentile interval of a correlation, or of a difference of two, from its values in bootstrap samples.

    A perfect order is perfect in every sample: there Bonett and Wright's (2000) interval of the correlation one swap
    of neighbours from perfect. NaN with fewer than LEAST groups.
    """
    drawn = drawn[np.isfinite(drawn)]
    if n < LEAST or not len(drawn) or math.isnan(observed):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low == high and abs(observed) == 1:
        nearly = 1 - 12 / (n * (n * n - 1))
        reach = norm.ppf((1 + LEVEL) / 2) * math.sqrt((1 + nearly**2 / 2) / (n - 3))
        low, high = sorted((observed, observed * math.tanh(math.atanh(nearly) - reach)))
    return float(low), float(high)


@dataclass(frozen=True)
class Draws:
    """How many permutations and bootstrap samples of the groups to draw."""

    permutations: int
    resamples: int = 200
    seed: int = 42

    def interval(self, statistic: Statistic, n: int, held: int = 0) -> tuple[float, float]:
        """Percentile interval over n groups; held: variables held constant, each of which costs a group."""
        drawn = statistic(resamples(n, self.resamples, self.seed))
        return percentile_interval(float(statistic(np.arange(n))), drawn, n - held)

    def p_value(self, statistic: Statistic, n: int) -> Array:
        """One-sided p of "greater" (scipy.stats.permutation_test): exact where there are fewer permutations than to draw.

        Undefined permutations count as reaching the observed value (3 is above any correlation); NaN if that is undefined.
        """
        observed = statistic(np.arange(n))
        if n < 2:
            return np.full_like(observed, math.nan)
        p = permutation_test(
            [np.arange(n)], lambda at, axis: np.nan_to_num(statistic(at), nan=3.0), permutation_type="pairings",
            vectorized=True, n_resamples=self.permutations, batch=500, alternative="greater", rng=self.seed,
        ).pvalue  # fmt: skip
        return np.where(np.isnan(observed), math.nan, p)
