"""Differences between two predictions on the same unseen rows, with 95 % intervals: significant where one excludes 0."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, sem, t

LEVEL = 0.95  # of the intervals
Z = 1.96  # standard errors from a difference of shares to their ends


def t_of(rows: int) -> float:
    """Standard errors of a mean of so many rows from it to the ends of its interval: Student's t, n - 1 degrees of freedom."""
    return float(t.isf((1 - LEVEL) / 2, rows - 1))


class Difference(NamedTuple):
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """NAME, NAME_low and NAME_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def mean_difference(differences: np.ndarray) -> Difference:
    """The mean of one difference a row (n,), -+ t standard errors."""
    value, reach = float(differences.mean()), t_of(len(differences)) * float(sem(differences))
    return Difference(value, value - reach, value + reach)


def share_difference(right: np.ndarray, other: np.ndarray) -> Difference:
    """The share of rows that one prediction has right minus that of another, bool (n,) each.

    Interval of Bonett and Price 2012: as if each were right alone on one more row of n + 2, d -+ Z sqrt((p + q - d^2) / (n + 2))
    with p and q the shares on which one alone is right and d = p - q; it has a width even where no row differs.
    """
    n = len(right) + 2
    p, q = ((1 + np.sum(one & ~two)) / n for one, two in ((right, other), (other, right)))
    reach = Z * math.sqrt((p + q - (p - q) ** 2) / n)
    return Difference(float(right.mean() - other.mean()), float(p - q - reach), float(p - q + reach))


def mcnemar(right: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p of McNemar's exact test, bool (n,) each: of the rows that one alone has right, half are each one's."""
    alone, differ = int(np.sum(right & ~other)), int(np.sum(right != other))
    return float(binomtest(alone, differ).pvalue) if differ else 1.0
