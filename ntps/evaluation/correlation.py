"""Spearman correlations over a few data sets: resampled, permuted and partial, many at a time.

A resample is a row of counts w, how often each of n units was drawn, so that a bootstrap never copies data and a unit
is left out by w = 0. Ranks within a resample are sums over pairs: rank_i = sum_j w_j ([x_j < x_i] + [x_j = x_i] / 2),
the midrank but for a constant, so the weighted correlation of ranks is Spearman's on the resampled units.
"""

import math
from itertools import permutations

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.stats import norm, rankdata

Array = NDArray[np.floating]
LEAST = 6  # units for an interval: with fewer, resamples are too alike and intervals too short (simulated)
LEAST_CHOSEN = 7  # the same where layer, k or score were chosen by these units
LEVEL = 0.9  # of every interval
ROUNDING = 1e-5  # correlations closer than this are the same (sums in float32)


def below(values: Array, dtype: DTypeLike = np.float64) -> Array:
    """(..., n, n) of values (..., n): 1 where x_j < x_i, 1/2 where equal."""
    x, other = values[..., :, None], values[..., None, :]
    return (other < x).astype(dtype) + (other == x).astype(dtype) / 2


def ranks(lower: Array, weights: Array) -> Array:
    """Ranks (b, m, n) of m variables, lower (m, n, n), within each of b resamples, weights (b, n)."""
    m, n, _ = lower.shape
    return (weights.astype(lower.dtype) @ lower.reshape(m * n, n).T).reshape(len(weights), m, n)


def standard(values: Array, weights: Array) -> Array:
    """values (..., n) centred and scaled so that the dot product of two of them is their weighted correlation.

    0 where a variable is constant: `correlate` tells NaN there.
    """
    total = weights.sum(-1, keepdims=True)
    centred = values - (values * weights).sum(-1, keepdims=True) / np.maximum(total, 1)
    centred *= np.sqrt(weights)
    size = np.sqrt((centred * centred).sum(-1, keepdims=True))
    constant = size < ROUNDING
    return np.where(constant, 0, centred / np.where(constant, 1, size))


def correlate(x: Array, y: Array) -> Array:
    """Dot product over the last axis of what `standard` made; NaN where either is constant."""
    found = np.clip((x * y).sum(-1), -1, 1)
    return np.where((x != 0).any(-1) & (y != 0).any(-1), found, math.nan)


def spearman(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Spearman correlations (b, m) of the variables x (m, n) with y (n,) or with each of y (b, n).

    weights (b, n): resamples, by default the units as they are. NaN where a variable is constant.
    """
    y = np.atleast_2d(y)
    w = np.ones((1, y.shape[-1])) if weights is None else weights
    of_y = np.matmul(below(y), w[..., None])[..., 0]
    return correlate(standard(ranks(below(x), w), w[:, None]), standard(of_y, w)[:, None])


def partial(x: Array, y: Array, z: Array, weights: Array | None = None) -> Array:
    """Spearman correlation (b,) of x and y given z, each (n,):

        (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)),   r of ranks.

    NaN where one is constant, or z orders the units as x or y does.
    """
    xy, zy = spearman(np.stack([x, z]), y, weights).T
    xz = spearman(x[None], z, weights)[:, 0]
    left = (1 - xz**2) * (1 - zy**2)
    return np.where(left > ROUNDING, (xy - xz * zy) / np.sqrt(np.where(left > ROUNDING, left, 1)), math.nan)


def resamples(n: int, count: int, seed: int) -> Array:
    """Bootstrap counts (count, n): how often each unit was drawn."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), count).astype(float)


def orders(n: int, count: int, seed: int) -> NDArray[np.integer]:
    """Permutations of n units, the given order first: all of them if that is at most `count`, else as many drawn."""
    if math.factorial(n) <= count:
        return np.array(list(permutations(range(n))))
    drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    return np.concatenate([np.arange(n)[None], drawn])


def p_value(observed: float, null: Array) -> float:
    """Share of permutations that reach the observed value, which is one of them; undefined ones count as reaching it.

    So the test is one of "greater", exact where all permutations were taken, and never 0.
    """
    if math.isnan(observed):
        return math.nan
    return float((~(null < observed - ROUNDING)).mean())


def percentile_interval(observed: float, drawn: Array, n: int) -> tuple[float, float]:
    """Bootstrap percentile interval of a correlation, or of a difference of two, that no choice went into.

    Where all resamples agree (a perfect order) it would have no width: Bonett and Wright's (2000) interval of a
    correlation one swap of neighbours from perfect instead. NaN with fewer than LEAST units.
    """
    drawn = drawn[np.isfinite(drawn)]
    if n < LEAST or not len(drawn) or math.isnan(observed):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if high - low < ROUNDING and abs(observed) > 1 - ROUNDING:
        nearly = 1 - 12 / (n * (n * n - 1))
        reach = norm.ppf((1 + LEVEL) / 2) * math.sqrt((1 + nearly**2 / 2) / (n - 3))
        inner = math.copysign(math.tanh(math.atanh(nearly) - reach), observed)
        low, high = min(inner, observed), max(inner, observed)
    return float(low), float(high)


def z_interval(observed: float, drawn: Array, n: int, null: Array) -> tuple[float, float]:
    """tanh(atanh(observed) -+ 1.645 s): for a correlation after a choice, which every draw repeats.

    s is two thirds of the deviation of atanh over resamples (drawn), which is too wide alone, above all on noise, where
    resamples differ most in what they choose, and one third of that over permutations of the target (null), which is too
    narrow where there is something to find. For 7 to 16 units, 20 or 200 candidates and strengths from none to .9 it covers
    0.85 to 0.96, the resamples alone 0.87 to 0.98, the permutations 0.77 to 0.96 (benchmarks/interval_coverage.py). atanh
    is taken at most 0.97 from 0. NaN with fewer than LEAST_CHOSEN units.
    """
    drawn, null = drawn[np.isfinite(drawn)], null[np.isfinite(null)]
    if n < LEAST_CHOSEN or min(len(drawn), len(null)) < 2 or math.isnan(observed):
        return math.nan, math.nan
    resampled, permuted = (np.arctanh(np.clip(values, -0.97, 0.97)).std() for values in (drawn, null))
    reach = norm.ppf((1 + LEVEL) / 2) * (2 * resampled + permuted) / 3
    centre = math.atanh(min(max(observed, -0.97), 0.97))
    return min(observed, math.tanh(centre - reach)), max(observed, math.tanh(centre + reach))


def difference_interval(
    observed: float, drawn: Array, n: int, null: Array, left: Array, strength: float
) -> tuple[float, float]:
    """observed -+ 1.645 s, for a difference of correlations after a choice, which every draw repeats.

    s is the smaller of two deviations. Over permutations of the target (null) it is too wide where one of the two
    correlations is strong. Over resamples (drawn) it is too wide where most draws choose alike, which the jackknife's, from
    leaving out one unit at a time (left), is not; but that is too narrow where they do not. So the latter, if it is smaller,
    takes a part in the former by the factor

        (jackknife / resampled)^w,   w = strength^4 min(1, 3 - 21 / n),

    where strength is the held-out correlation, of two the higher. In the settings of `z_interval` it covers 0.84 to 0.96
    (benchmarks/interval_coverage.py). NaN with fewer than LEAST_CHOSEN units.
    """
    drawn, null, left = (values[np.isfinite(values)] for values in (drawn, null, left))
    if n < LEAST_CHOSEN or min(map(len, (drawn, null, left))) < 2 or math.isnan(observed):
        return math.nan, math.nan
    resampled, jackknife = drawn.std(), math.sqrt(n - 1) * left.std()
    if jackknife < resampled:
        weight = min(1, 3 * (1 - LEAST_CHOSEN / n)) * max(strength, 0) ** 4
        resampled = resampled ** (1 - weight) * jackknife**weight
    reach = norm.ppf((1 + LEVEL) / 2) * float(min(resampled, null.std()))
    return max(-2.0, observed - reach), min(2.0, observed + reach)


def swap_p_value(x: Array, other: Array, y: Array) -> float:
    """Two-sided p of "x and other order y equally well": their ranks swapped in every subset of the n units.

    x, other, y (n,). Exact up to 12 units (2^n swaps), 4096 drawn swaps with more. NaN if one is constant.
    """
    n = len(y)
    if n <= 12:
        swap = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        swap = np.random.default_rng(0).integers(2, size=(4096, n))
        swap[0] = 0
    first, second = rankdata(x), rankdata(other)
    pair = [np.where(swap, second, first), np.where(swap, first, second)]  # to be ranked again
    target, w = standard(rankdata(y)[None], np.ones((1, n))), np.ones((1, n))
    rho = [correlate(standard(rankdata(values, axis=1), w), target) for values in pair]
    difference = abs(rho[0] - rho[1])
    return p_value(float(difference[0]), difference)
