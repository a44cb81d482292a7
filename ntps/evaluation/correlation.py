"""Spearman correlations over a few groups of data sets: BCa intervals, two-sided permutation tests, Holm's correction.

The held-out correlation, after a choice, is in held_out.py.

What is resampled or permuted is the groups' positions, so that all that belongs to one group stays together: its scores,
accuracies and covariates, and those of several models. scipy.stats does both, for all statistics of a family at once.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, permutation_test, rankdata

Array = NDArray[np.floating]
Positions = NDArray[np.integer]  # of groups: (n,), or (b, n) for b bootstrap samples or permutations
Statistic = Callable[[Positions], Array]
Alternative = Literal["two-sided", "greater"]  # of a permutation test, as scipy.stats has it
LEAST = 6  # groups for an interval: fewer have too few distinct bootstrap samples
FEWEST = 5  # groups for a test: no order of fewer has a two-sided p up to ALPHA (2 / 4! = .083)
LEVEL = 0.9  # of every interval
ALPHA = 0.05  # of a family of tests, after Holm
# share of an interval's samples in which its statistic may be undefined: as many as lie beyond an end
RARE = (1 - LEVEL) / 2
DIGITS = 12  # correlations are rounded, so that equal ones tie
BATCH = 2500  # permutations at a time


def ranks(values: Array) -> Array:
    """Mid-ranks along the last axis, doubled and centred: whole numbers, 0 where constant."""
    return 2 * rankdata(values, axis=-1) - (values.shape[-1] + 1)


def unit(values: Array) -> Array:
    """Centred values scaled to length 1 along the last axis: dot products are correlations. NaN where all are 0."""
    size = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(size == 0, math.nan, size)


def pearson(x: Array, y: Array) -> Array:
    """Correlation of centred values along the last axis, the others broadcast; NaN where either is constant."""
    return (unit(x) * unit(y)).sum(-1).round(DIGITS)


def spearman(x: Array, y: Array) -> Array:
    """Spearman's correlation along the last axis, the others broadcast; NaN where either is constant."""
    return pearson(ranks(x), ranks(y))


def partial(x: Array, y: Array, z: Array) -> Array:
    """Spearman's correlation of x and y given z, with r of ranks; NaN where z orders the groups as x or y does:

    (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))
    """
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / np.sqrt(np.where(rest > 0, rest, math.nan))


def mean_rho(pairs: Sequence[tuple[Array, Array]]) -> Statistic:
    """Positions (..., n) -> (m, ...): correlation of m scores (m, n) with a target (n,), both there; the mean over models."""
    return lambda at: np.mean([spearman(x[:, at], y[at]) for x, y in pairs], axis=0)


def ordered(pairs: Sequence[tuple[Array, Array]]) -> Statistic:
    """The same with the target alone at the positions, (..., n) -> (..., m): of permutations."""
    units = [(unit(ranks(x)).T, unit(ranks(y))) for x, y in pairs]
    return lambda at: np.mean([y[at] @ x for x, y in units], axis=0).round(DIGITS)


def holm(p: Array) -> Array:
    """Holm's (1979) step-down p-values of a family: the i-th smallest of m is max over j <= i of (m + 1 - j) p_j.

    A test that was not made (NaN) does not count.
    """
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN comes last
    adjusted = np.full(p.shape, math.nan)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1).round(DIGITS)
    return adjusted


@dataclass(frozen=True)
class Family:
    """Permutation tests of a family of m statistics."""

    p: Array  # (m,): NaN where the statistic is undefined
    null: Array  # (permutations, m): NaN below, where others of the family have more permutations
    exact: NDArray[np.bool_]  # (m,): null has all permutations there are

    @classmethod
    def joined(cls, families: Sequence["Family"]) -> "Family":
        """One family of tests that were made on different groups."""
        length = max(len(family.null) for family in families)
        null = [
            np.pad(one.null, ((0, length - len(one.null)), (0, 0)), constant_values=math.nan)
            for one in families
        ]
        p, exact = (np.concatenate([getattr(one, name) for one in families]) for name in ("p", "exact"))
        return cls(p, np.hstack(null), exact)

    def __getitem__(self, part: slice) -> "Family":
        return Family(self.p[part], self.null[:, part], self.exact[part])

    @property
    def holm(self) -> Array:
        return holm(self.p)

    @property
    def critical(self) -> Array:
        """(m,): the smallest value that is significant at Holm's first step, p <= ALPHA / m; NaN if even the largest is not."""
        drawn = np.where(self.exact, 0, 1)  # the observed order counts as one of the draws
        level, count = ALPHA / 2 / max(np.isfinite(self.p).sum(), 1), np.isfinite(self.null).sum(0)
        reaching = np.floor(level * (count + drawn) + 1e-9) - drawn  # draws that may
        last = count - 1 - np.maximum(reaching, 0).astype(int)
        below = np.take_along_axis(np.sort(self.null, axis=0), last[None], axis=0)
        least = np.where(self.null > below, self.null, math.inf).min(0)
        return np.where(np.isfinite(least), least, math.nan)


@dataclass(frozen=True)
class Draws:
    """How many permutations and bootstrap samples of the groups to draw."""

    permutations: int = 10_000
    resamples: int = 10_000
    seed: int = 42

    def interval(self, statistic: Statistic, n: int, held: int = 0) -> tuple[Array, Array]:
        """BCa interval (scipy.stats.bootstrap) over n groups; held: variables held constant, each of which costs a group.

        statistic: positions (n,) -> (...), (b, n) -> (..., b). In a sample where it is undefined it is 0: one side is constant,
        in n^(1-n) of the samples without ties. NaN with fewer than LEAST groups, where more than RARE of the samples are
        undefined, and for a perfect order: no sample differs from it, so that nothing is known of its error.
        """
        observed = statistic(np.arange(n))
        low = high = np.full(np.shape(observed), math.nan)
        unknown = np.isnan(observed)
        if n - held >= LEAST:
            undefined = np.zeros(np.shape(observed))

            def defined(at: Positions, axis: int) -> Array:
                values = statistic(at)
                if at.shape[1:] == (n,):  # of samples, not of the jackknife
                    undefined[...] += np.isnan(values).sum(-1)
                return np.nan_to_num(values)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a perfect order
                low, high = bootstrap(
                    (np.arange(n),), defined, vectorized=True, method="BCa",
                    confidence_level=LEVEL, n_resamples=self.resamples, rng=self.seed,
                ).confidence_interval  # fmt: skip
            unknown = unknown | (undefined > RARE * self.resamples)
        return np.where(unknown, math.nan, low), np.where(unknown, math.nan, high)

    def permuted(self, statistic: Statistic, n: int, alternative: Alternative = "two-sided") -> Family:
        """Of statistics of n groups under all orders of the groups: positions (n,) -> (m,), (b, n) -> (b, m)."""
        own = [np.arange(n)], lambda at, axis: statistic(at), "pairings", math.factorial(n)
        return self.tests(*own, alternative)

    def swapped(self, pairs: Sequence[tuple[Array, Array]]) -> Family:
        """Of `mean_rho` of the first score minus that of each other, their ranks exchanged in any of the groups."""
        x, y = (np.stack([ranks(pair[i]) for pair in pairs]) for i in (0, 1))
        own, others = np.broadcast_to(x[:, :1], x[:, 1:].shape), x[:, 1:]  # (models, m, n)

        def difference(own: Array, others: Array, axis: int) -> Array:
            centred = (part - part.mean(-1, keepdims=True) for part in (own, others))
            of_own, of_others = (pearson(part, y[:, None]) for part in centred)
            return (of_own - of_others).mean(-2)

        return self.tests([own, others], difference, "samples", 2 ** x.shape[-1])

    def tests(
        self, data: Sequence[NDArray[Any]], statistic: Any, kind: Any, orders: int,
        alternative: Alternative = "two-sided",
    ) -> Family:  # fmt: skip
        """scipy.stats.permutation_test; exact where there are no more orders than permutations to draw.

        An undefined permutation counts as reaching the observed value on either side.
        """
        observed = statistic(*data, axis=-1)
        if data[0].shape[-1] < 2:
            return Family(np.full(observed.shape, math.nan), observed[None], np.full(observed.shape, True))

        def defined(*data: Array, axis: int) -> Array:
            values = statistic(*data, axis=axis)
            return np.where(np.isnan(values), observed, values)

        found = permutation_test(
            data, defined, permutation_type=kind, vectorized=True, n_resamples=self.permutations, batch=BATCH, axis=-1,
            alternative=alternative, rng=self.seed,
        )  # fmt: skip
        p = np.where(np.isnan(observed), math.nan, found.pvalue)
        return Family(p, found.null_distribution, np.full(p.shape, orders <= self.permutations))


def verdict(
    n: int, value: float, p: float, critical: float, low: float, high: float, reliability: float
) -> str:
    """What a test over n groups shows, p after Holm and NaN for what is not known.

    Not measurable: even the most extreme order would not be significant, or not even a score whose true values order the
    groups perfectly is expected to be: its own errors leave it a correlation of sqrt(reliability) (Spearman 1904).
    """
    if p <= ALPHA and not low <= 0 <= high:
        return "holds" if value > 0 else "reversed"
    if math.isnan(critical):
        return f"not measurable: {'undefined' if math.isnan(value) and n >= LEAST else f'{n} groups'}"
    if math.sqrt(max(reliability, 0)) < critical:
        return f"not measurable: reliability {reliability:.2f}"
    return "not significant"


def verdicts(n: int | Array, values: Array, tests: Family, *known: Array) -> list[str]:
    """Of a family of tests, each over n groups; known: ends of the intervals and reliabilities, where there are any."""
    n, known = np.broadcast_to(n, len(values)), (*known, *[np.full(len(values), math.nan)] * (3 - len(known)))
    return [verdict(*each) for each in zip(n, values, tests.holm, tests.critical, *known)]
