"""Choosing one of many scores on some data sets and judging it on the others, for many resamples or permutations.

Units are independent groups of data sets, n of them. Leaving out group i, the candidate with the highest Spearman
correlation on the rest is chosen; what it says of i is the share of the rest that it puts below i. These n shares
against the target are the **held-out** correlation; the best correlation over all n groups is the one **on itself**.
On noise a share owes nothing to i's target (a fitted value would: leaving out a high one lowers the mean of the
rest), so the held-out correlation is near 0 on average.

Procedures: one for each kind of score (which layer and k), `any` (which of all candidates), and `nested` (which kind,
by the held-out correlation among the rest alone; then its layer and k).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntps.evaluation.correlation import ROUNDING, Array, below, correlate, ranks, standard

CHUNK = 50  # resamples at a time
LEAVE_ONE = 4  # groups of which one can be left out and the others still be ordered; nested, one more
LOWEST = -2.0  # stands for an undefined correlation when the highest is looked for


@dataclass(frozen=True)
class Judged:
    """b resamples or permutations, P procedures (each kind of score, then any and nested), n groups."""

    itself: Array  # (b, P)
    heldout: Array  # (b, P)
    chosen: NDArray[np.integer]  # (b, P): candidate chosen on all groups
    fold: NDArray[np.integer]  # (b, P, n): candidate chosen without group i
    share: Array  # (b, P, n): where it puts group i among the others


def judge(
    values: Array,
    kinds: Sequence[tuple[int, int]],
    targets: Array,
    weights: Array,
    dtype: DTypeLike = np.float32,
) -> Judged:
    """All procedures, repeated for every row of targets (b or 1, n) and of weights (b or 1, n).

    values (m, n): candidates, higher meaning a higher target; kinds: first and last + 1 candidate of each kind.
    weights: how often a group was drawn; all copies of one are left out together. NaN: correlations of fewer than
    3 groups, held-out ones of fewer than 4, nested ones of fewer than 5, and where all is equal.
    """
    lower = below(values, dtype)
    parts = []
    for start in range(0, max(len(targets), len(weights)), CHUNK):
        y = targets[start : start + CHUNK] if len(targets) > 1 else targets
        w = weights[start : start + CHUNK] if len(weights) > 1 else weights
        parts.append(judge_some(lower, kinds, y.astype(dtype), w.astype(dtype)))
    return Judged(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in Judged.__dataclass_fields__)
    )


def judge_some(lower: Array, kinds: Sequence[tuple[int, int]], targets: Array, weights: Array) -> Judged:
    n, count, kind_count = targets.shape[-1], max(len(targets), len(weights)), len(kinds)
    of_y = below(targets, lower.dtype)

    rho, _ = fit(lower, of_y, weights)
    whole = best_of_kinds(rho, kinds)  # (b, kinds)
    itself = np.take_along_axis(rho, whole, 1)
    fold = np.zeros((count, kind_count, n), int)
    share = np.zeros((count, kind_count, n), lower.dtype)
    fold_rho = np.zeros((count, kind_count, n), lower.dtype)
    for i in range(n):
        rho, shares = fit(lower, of_y, without(weights, i))
        fold[:, :, i] = best_of_kinds(rho, kinds)
        fold_rho[:, :, i] = np.take_along_axis(rho, fold[:, :, i], 1)
        share[:, :, i] = at(shares[:, :, i], fold[:, :, i])
    drawn = (weights > 0).sum(1, keepdims=True)
    heldout = np.where(drawn < LEAVE_ONE, np.nan, against(share, of_y, weights))

    any_fold = fold_rho.argmax(1)  # (b, n): the kind
    nested_fold = inner_best(lower, kinds, of_y, weights) if kind_count > 1 else any_fold
    kind_of = np.stack([any_fold, nested_fold], 1)  # (b, 2, n)
    kind_whole = np.stack([itself.argmax(1), np.nan_to_num(heldout, nan=LOWEST).argmax(1)], 1)  # (b, 2)
    more = np.take_along_axis(share, kind_of, 1)
    chosen_out = np.where(drawn < [LEAVE_ONE, LEAVE_ONE + 1], np.nan, against(more, of_y, weights))
    itself = np.concatenate([itself, np.take_along_axis(itself, kind_whole, 1)], 1)
    return Judged(
        itself=np.where(itself <= LOWEST, np.nan, itself),
        heldout=np.concatenate([heldout, chosen_out], 1),
        chosen=np.concatenate([whole, np.take_along_axis(whole, kind_whole, 1)], 1),
        fold=np.concatenate([fold, np.take_along_axis(fold, kind_of, 1)], 1),
        share=np.concatenate([share, more], 1),
    )


def inner_best(
    lower: Array, kinds: Sequence[tuple[int, int]], of_y: Array, weights: Array
) -> NDArray[np.integer]:
    """(b, n): without group i, the kind of score with the highest held-out correlation among the other groups."""
    n, count = lower.shape[-1], max(len(of_y), len(weights))
    share = np.zeros((count, len(kinds), n, n), lower.dtype)  # what is said of j when i is left out too
    for i in range(n):
        for j in range(i):  # the same choice serves i with j left out
            rho, shares = fit(lower, of_y, without(weights, i, j))
            best = best_of_kinds(rho, kinds)
            # Neither i nor j weighs anything here, so their ranks are taken among the same others.
            share[:, :, i, j], share[:, :, j, i] = at(shares[:, :, j], best), at(shares[:, :, i], best)
    inner = [against(share[:, :, i], of_y, without(weights, i)) for i in range(n)]
    return np.nan_to_num(np.stack(inner, -1), nan=LOWEST).argmax(1)


def without(weights: Array, *groups: int) -> Array:
    left = weights.copy()
    left[:, groups] = 0
    return left


def fit(lower: Array, of_y: Array, weights: Array) -> tuple[Array, Array]:
    """Correlations (b, m) of each candidate, LOWEST where undefined, and the shares (b or 1, m, n) below each group."""
    r, total = ranks(lower, weights), weights.sum(-1)
    y = target_ranks(of_y, weights)
    # Ranks have the mean total / 2, and y is centred already: no centred copy of the ranks is needed.
    variance = np.matmul(r * r, weights[..., None])[..., 0] - (total**3 / 4)[:, None]
    y = y * np.sqrt(weights)
    product = y @ r[0].T if len(r) == 1 else np.matmul(r, y[..., None])[..., 0]
    undefined = (variance < ROUNDING) | ~y.any(-1, keepdims=True) | ((weights > 0).sum(-1) < 3)[:, None]
    rho = np.where(undefined, LOWEST, product / np.sqrt(np.where(variance < ROUNDING, 1, variance)))
    # Rounded, so that candidates that order the groups alike tie, and the first of them is taken.
    return rho.round(5), r / np.maximum(total, 1)[:, None, None]


def target_ranks(of_y: Array, weights: Array) -> Array:
    return standard(np.matmul(of_y, weights[..., None])[..., 0], weights)


def best_of_kinds(rho: Array, kinds: Sequence[tuple[int, int]]) -> NDArray[np.integer]:
    """(b, kinds): the candidate with the highest correlation, of each kind."""
    return np.stack([first + rho[:, first:last].argmax(1) for first, last in kinds], 1)


def at(shares: Array, chosen: NDArray[np.integer]) -> Array:
    """shares (b or 1, m) at chosen (b, kinds)."""
    return shares[0][chosen] if len(shares) == 1 else np.take_along_axis(shares, chosen, 1)


def against(share: Array, of_y: Array, weights: Array) -> Array:
    """Correlation (b, P) of what procedures say of the groups, (b, P, n), with the target."""
    r = np.matmul(below(share, share.dtype), weights[:, None, :, None])[..., 0]
    return correlate(standard(r, weights[:, None]), target_ranks(of_y, weights)[:, None])
