"""The held-out correlation: choosing the candidate that correlates best with a target on some groups, and judging it on the group left out."""

import math
from dataclasses import dataclass

import numpy as np

from ntps.evaluation.correlation import DIGITS, Array, Positions, spearman, standard

LEAST_CHOSEN = 4  # groups of which one can be left out and the others still be ordered


@dataclass(frozen=True)
class Judged:
    """Of n groups and one target, or a stack of them in the leading axis."""

    itself: Array  # (...): the best correlation over all groups, which the choice makes too high
    heldout: Array  # (...): correlation of `share` with the target
    chosen: Positions  # (...): candidate with the best correlation over all groups
    fold: Positions  # (..., n): candidate with the best correlation without group i
    share: Array  # (..., n): share of the other groups that it puts below group i


def judge(values: Array, targets: Array) -> Judged:
    """Choose among candidates, values (m, n), for each of the targets (..., n): on all groups, and without each.

    On noise a share owes nothing to the target of the group left out (a fitted value would: leaving out a high one
    lowers the mean of the others), so the held-out correlation is near 0 on average. NaN: `itself` of fewer than 3
    groups, `heldout` of fewer than LEAST_CHOSEN, and where all is equal.
    """
    n = values.shape[1]
    rho = correlations(values, targets)
    chosen, itself = rho.argmax(-1), rho.max(-1)
    fold, share = np.zeros(targets.shape, int), np.zeros(targets.shape)
    for i in range(n):
        others, left_out = np.delete(values, i, axis=1), values[:, [i]]
        fold[..., i] = correlations(others, np.delete(targets, i, axis=-1)).argmax(-1)
        below = ((others < left_out) + (others == left_out) / 2).sum(1) / max(n - 1, 1)
        share[..., i] = below[fold[..., i]]
    heldout = spearman(share, targets) if n >= LEAST_CHOSEN else np.full(itself.shape, math.nan)
    return Judged(np.where(np.isfinite(itself), itself, math.nan), heldout, chosen, fold, share)


def correlations(values: Array, targets: Array) -> Array:
    """(..., m): Spearman's of each candidate with each target; -inf where undefined, which is never the best."""
    if values.shape[1] < 3:
        return np.full((*targets.shape[:-1], len(values)), -math.inf)
    x, y = standard(values), standard(targets)
    return np.where(x.any(-1) & y.any(-1, keepdims=True), (y @ x.T).round(DIGITS), -math.inf)
