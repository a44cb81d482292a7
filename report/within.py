"""How well scores order candidate models within data sets, and what is lost by choosing by them.

Axes: D data sets, C candidates, M scores, G groups of data sets. NaN: a candidate that is not ranked on a data set, of accuracies and
scores, or a score that is refused. Data sets of a group are averaged before the groups are.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ntps.evaluation.correlation import DIGITS, Array, Draws, Family, Positions, pearson

LEAST = 3  # candidates that have an order
Z = 1.96  # standard errors of a difference that chance in test rows hardly explains
SIMULATED = 2000  # test sets


def mean(values: Array, axis: int) -> Array:
    """Over what is known; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def rank_correlation(x: Array, y: Array) -> Array:
    """Spearman's correlation along the last axis over what is known of both; NaN with fewer than LEAST or a constant."""
    known = ~np.isnan(x) & ~np.isnan(y)
    both = (
        rankdata(np.where(known, part, np.nan), axis=-1, nan_policy="omit")
        for part in np.broadcast_arrays(x, y)
    )
    rho = pearson(*(np.nan_to_num(part - mean(part, -1)[..., None]) for part in both))
    return np.where(known.sum(-1) < LEAST, np.nan, rho)


def regret(x: Array, y: Array) -> Array:
    """Highest accuracy less that of the candidate with the highest score (the mean of equal ones), along the last axis."""
    return _chosen(x, y, np.nanmax(y, -1, keepdims=True) - y)


def hit(x: Array, y: Array) -> Array:
    """Whether the candidate with the highest score has the highest accuracy (the share of equal ones)."""
    return _chosen(x, y, np.where(np.isnan(y), np.nan, y == np.nanmax(y, -1, keepdims=True)))


def _chosen(x: Array, y: Array, value: Array) -> Array:
    """Mean value of the candidates with the highest score; NaN with fewer than LEAST."""
    known = ~np.isnan(x) & ~np.isnan(y)
    scores = np.where(known, x, -np.inf)
    top = (scores == scores.max(-1, keepdims=True)) & known
    found = mean(np.where(top, value, np.nan), -1)
    return np.where(known.sum(-1) < LEAST, np.nan, found)


@dataclass(frozen=True)
class Rankings:
    """Accuracies of the candidates on test, and their scores; higher is better."""

    datasets: list[str]  # (D,)
    groups: list[str]  # (D,)
    accuracy: Array  # (D, C)
    rows: Array  # (D,): test rows
    names: list[str]  # (M,)
    scores: Array  # (D, M, C)

    def of_groups(self, values: Array) -> Array:
        """(D, ...) -> (G, ...): means over the data sets of a group."""
        names = np.array(self.groups)
        return np.stack([mean(values[names == name], 0) for name in dict.fromkeys(self.groups)])

    @property
    def group_count(self) -> int:
        return len(set(self.groups))

    def with_score(self, name: str, values: Array) -> "Rankings":
        """values: (D, C)."""
        scores = np.concatenate([self.scores, values[:, None]], axis=1)
        return replace(self, names=[*self.names, name], scores=scores)

    # --- on each group, (G, M) -----------------------------------------------------------------------------------

    def measured(self, scores: Array) -> tuple[Array, Array]:
        """rho and regret of scores (D, M, ..., C), each (G, M, ...)."""
        y = self.accuracy.reshape(len(self.groups), *[1] * (scores.ndim - 2), -1)
        return self.of_groups(rank_correlation(scores, y)), self.of_groups(regret(scores, y))

    @cached_property
    def own(self) -> tuple[Array, Array]:
        return self.measured(self.scores)

    @property
    def hits(self) -> Array:
        return self.of_groups(hit(self.scores, self.accuracy[:, None]))

    @property
    def by_chance(self) -> tuple[Array, Array]:
        """Regret and hits where any candidate is as likely to be chosen, (G,) each."""
        same = np.zeros_like(self.accuracy)
        return self.of_groups(regret(same, self.accuracy)), self.of_groups(hit(same, self.accuracy))

    # --- tests -----------------------------------------------------------------------------------------------------

    def permuted(self, draws: Draws) -> tuple[Family, Family]:
        """Of mean rho and of minus the mean regret: the candidates' scores change places, in the same way on all data sets.

        A candidate that is good on one data set tends to be good on others: to permute on each data set by itself would take them
        for independent evidence of the one order of the candidates. What is not known of either is left out in each permutation: a
        known score of a candidate that is not ranked would give the permutations other candidates to choose than there are.
        """

        def statistic(at: Positions) -> Array:
            rho, lost = self.measured(self.scores[..., at])
            return np.concatenate([mean(rho, 0), -mean(lost, 0)]).T.round(DIGITS)

        tests = draws.permuted(statistic, self.accuracy.shape[1])
        return tests[: len(self.names)], tests[len(self.names) :]


def static_order(rankings: Rankings) -> Array:
    """(D, C): mean accuracy on the data sets of all other groups, each less the mean of its candidates."""
    names = np.array(rankings.groups)
    centred = rankings.accuracy - mean(rankings.accuracy, 1)[:, None]
    return np.stack([mean(centred[names != name], 0) for name in names])


def interval(values: Array, draws: Draws) -> tuple[Array, Array]:
    """Of the mean over groups, values (G, M)."""
    return draws.interval(lambda at: mean(values.T[:, at], -1), len(values))


def signs_changed(differences: Array, draws: Draws) -> Family:
    """Of the mean difference over groups, (G, M), where each group's may as well have the other sign."""
    known = np.nan_to_num(differences.round(DIGITS)).T  # one that is not known is 0 whatever its sign
    tests = draws.tests([known], lambda values, axis: values.mean(axis), "samples", 2 ** len(differences))
    return replace(tests, p=np.where(np.isnan(differences).all(0), np.nan, tests.p))


# --- the limit -----------------------------------------------------------------------------------------------------


def squared_errors(rankings: Rankings) -> Array:
    """(D, C): a (1 - a) / n."""
    return rankings.accuracy * (1 - rankings.accuracy) / rankings.rows[:, None]


def reliability(rankings: Rankings) -> Array:
    """(D,): 1 - mean squared error / variance over the candidates, at least 0; a lower limit."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 1 - mean(squared_errors(rankings), 1) / np.nanvar(rankings.accuracy, axis=1, ddof=1)
    return np.nan_to_num(share, neginf=0).clip(min=0)


def clear_pairs(rankings: Rankings) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """(D,) each: pairs of candidates that differ by more than Z standard errors of independent accuracies, and all pairs."""
    a, error = rankings.accuracy, squared_errors(rankings)
    with np.errstate(invalid="ignore"):
        clear = np.abs(a[:, :, None] - a[:, None]) > Z * np.sqrt(error[:, :, None] + error[:, None])
    count = (~np.isnan(a)).sum(1)
    return clear.sum((1, 2)) // 2, count * (count - 1) // 2


def least_regret(rankings: Rankings, seed: int = 42) -> float:
    """Expected regret of a chooser who knows the true accuracies, since the best on test is so partly by chance.

    Simulated: true accuracies are the measured ones, shrunk to their mean so that their variance is reliability times the
    measured one; test rows are drawn independently, which makes it an upper limit.
    """
    generator = np.random.default_rng(seed)
    middle = mean(rankings.accuracy, 1)[:, None]
    true = middle + np.sqrt(reliability(rankings))[:, None] * (rankings.accuracy - middle)
    ranked = ~np.isnan(true)
    n = rankings.rows[:, None].astype(int)
    drawn = generator.binomial(n, np.where(ranked, true, 0).clip(0, 1), (SIMULATED, *true.shape)) / n
    lost = regret(true[None], np.where(ranked, drawn, np.nan)).mean(0)
    return float(rankings.of_groups(lost).mean())
