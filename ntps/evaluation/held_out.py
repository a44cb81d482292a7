"""The held-out correlation: choosing the candidate that correlates best with a target on some groups, and judging it on the group left out."""

import math
from dataclasses import dataclass

import numpy as np

from ntps.evaluation.correlation import Array, Positions, pearson, ranks

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
    x, y = ranks(values), ranks(targets)
    chosen = best(x, y)
    fold = np.stack([best(without(x, i), without(y, i)) for i in range(n)], -1)
    share = (x[fold, np.arange(n)] / max(n - 1, 1) + 1) / 2
    itself, heldout = pearson(x[chosen], y), pearson(ranks(share), y)
    few = np.full(itself.shape, math.nan)
    return Judged(itself if n > 2 else few, heldout if n >= LEAST_CHOSEN else few, chosen, fold, share)


def without(x: Array, i: int) -> Array:
    """Ranks (of `ranks`) among all but group i: doubled ranks above that of i fall by two, centred they move by one."""
    return np.delete(x - np.sign(x - x[..., [i]]), i, axis=-1)


def best(x: Array, y: Array) -> Positions:
    """(...): the first of the candidates, ranks (m, n), with the largest correlation with each target, ranks (..., n).

    Products of ranks are exact in float32 for fewer than 369 groups, so equal correlations tie. A candidate of
    equal values is never the best.
    """
    size = np.linalg.norm(x, axis=-1).astype(np.float32)
    rho = y.astype(np.float32) @ x.astype(np.float32).T
    rho /= np.where(size == 0, 1, size)
    rho[..., size == 0] = -math.inf
    return rho.argmax(-1)
