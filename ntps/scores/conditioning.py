"""NTPS with the smallest directions of M and P0 left out: the path over tolerances, and the tolerances of cross-validation.

U and V have the lengths of least-squares coefficients, which are ruled by the smallest eigenvalues of M and P0, that is by
noise. On matrices scaled to unit diagonal, M keeps eigenvalues above rtol times the largest, P0 above prefix_rtol
times. Not in the paper (arXiv 2505.17169), whose code cuts at an absolute 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntps.scores.label_signal import LabelSignal
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import Spectrum, corners, left_singular
from ntps.scores.permutation_null import above, null_mean, p_value
from ntps.scores.subspaces import grams, inverse_roots

GRID = tuple(10.0 ** (-12 + step / 4) for step in range(48))  # tolerances that cross-validation chooses from
AT_ONCE = 4096  # columns of shuffled cross moments


@dataclass(frozen=True)
class Tolerances:
    """Where M and P0 are cut, and who chose it: grid (by hand), cv (cross-validation's minimum) or cv_1se."""

    rtol: float
    prefix_rtol: float
    choice: str = "grid"


@dataclass(frozen=True)
class Conditioned:
    """NTPS(r, kv) at one pair of tolerances."""

    tolerances: Tolerances
    rank_mean: int
    rank_prefix: int
    kv: int
    d: int
    ntps: float
    pca: float
    null: Tensor  # (R,): of the label permutations; none where rtol leaves no more directions than there are labels
    signal_share: float

    @property
    def lift(self) -> float:
        """(NTPS - null) / (1 - null)."""
        return above(self.ntps, null_mean(self.null))

    @property
    def p_value(self) -> float:
        return p_value(self.ntps, self.null)


def leading_first(spectrum: Spectrum) -> Tensor:
    """W (d, r), largest eigenvalue first: what a tolerance leaves are the first `spectrum.rank(rtol)` columns."""
    return spectrum.full.W.flip(1)


def path(layer: Layer, wanted: Sequence[Tolerances], kv: int) -> Iterator[Conditioned]:
    """NTPS with kv directions at each pair of tolerances; they all share one decomposition of M and one of P0.

    For each tolerance of P0 there is one eigen-solve of what is left of it.
    """
    if not wanted:
        return
    moments, spectrum = layer.moments, layer.moments.plain.spectrum
    prefix_rtols, rtols = (sorted({getattr(one, name) for one in wanted}) for name in ("prefix_rtol", "rtol"))
    bases = leading(layer, prefix_rtols, kv)
    ranks = {tau: spectrum.rank(tau) for tau in rtols}
    sides = label_sides(moments, leading_first(spectrum), sorted(set(ranks.values())), [Q for Q, _ in bases])
    signals = {tau: LabelSignal.of(moments, tau, unequal=False) for tau in rtols}
    for one in wanted:
        place, rank_mean, signal = prefix_rtols.index(one.prefix_rtol), ranks[one.rtol], signals[one.rtol]
        (Q, rank_prefix), side = bases[place], sides[rank_mean]
        observed, null = side.shares[place, 0], side.shares[place, 1:]
        if rank_mean <= moments.targets:  # any labels take all directions, and NTPS knows nothing of these
            null = null[:0]
        yield Conditioned(
            tolerances=one,
            rank_mean=rank_mean,
            rank_prefix=rank_prefix,
            kv=Q.shape[1],
            d=moments.width,
            ntps=float(observed),
            pca=float(side.pca[place]),
            null=null,
            signal_share=signal.signal_share if signal else math.nan,
        )


def leading(layer: Layer, rtols: Sequence[float], kv: int) -> list[tuple[Tensor, int]]:
    """By tolerance: an orthonormal basis of the kv leading autoregressive directions in what is left of P0, and its rank."""
    P1, spectrum = layer.moments.prefix_next_moment, layer.moments.prefix_spectrum
    assert P1 is not None
    ranks = {tau: spectrum.rank(tau) for tau in rtols if tau != layer.prefix_rtol}
    W = leading_first(spectrum)[:, : max(ranks.values(), default=0)]
    T = W.mT @ P1  # of which each tolerance leaves the first rows

    def directions(tau: float) -> tuple[Tensor, int]:
        if tau == layer.prefix_rtol:
            return layer.auto.vectors[:, :kv], layer.K
        rank = ranks[tau]
        return W[:, :rank] @ left_singular(T[:rank], kv)[0][:, :kv], rank

    return [(torch.linalg.qr(V)[0], rank) for V, rank in map(directions, rtols)]


@dataclass(frozen=True)
class LabelSide:
    """What several bases and principal components hold of U at one rank of M."""

    shares: Tensor  # (bases, 1 + R): NTPS of the labels and of their permutations
    pca: Tensor  # (bases,): of the labels, with as many principal components


def label_sides(
    moments: LayerMoments, W: Tensor, ranks: Sequence[int], bases: Sequence[Tensor]
) -> dict[int, LabelSide]:
    """By rank r: U U^T = X_r (T_r^T T_r)^+ X_r^T with T_r the first r rows of W^T S and X_r = W_r T_r, sums over these rows."""
    C, sizes = moments.targets, [Q.shape[1] for Q in bases]
    components = moments.principal[1][:, : max(sizes)]
    rows = torch.cat([torch.cat([*bases, components], 1).mT @ W, W])  # of Q^T X_r for each basis, and of X_r
    own = moments.mean_label_moment[None]
    chunks = [own, *moments.permuted.split(max(1, AT_ONCE // C))] if len(moments.permuted) else [own]
    shares: dict[int, list[Tensor]] = {r: [] for r in ranks}
    tops: dict[int, Tensor] = {}
    for number, factors in enumerate(chunks):
        T = W.mT @ factors.transpose(0, 1).flatten(1)  # (r, R C)
        X, G, before = T.new_zeros(len(rows), T.shape[1]), T.new_zeros(len(factors), C, C), 0
        for r in ranks:
            X += rows[:, before:r] @ T[before:r]
            G, before = G + grams(T[before:r], C), r
            U = torch.einsum("krc,rce->kre", X.view(len(X), -1, C), inverse_roots(G))
            *parts, top, whole = U.square().sum(2).split([*sizes, max(sizes), len(W)])
            shares[r].append(torch.stack([part.sum(0) for part in parts]) / whole.sum(0))
            if not number:
                tops[r] = (top[:, 0].cumsum(0) / whole.sum())[[size - 1 for size in sizes]]
    return {r: LabelSide(torch.cat(shares[r], 1).clamp(max=1), tops[r]) for r in ranks}


# --- cross-validation ------------------------------------------------------------------------------------------------


def fold_errors(rest: LayerMoments, part: LayerMoments) -> tuple[Tensor, Tensor]:
    """Squared error on `part` of principal-component regression fitted on the `rest`, for every tolerance of GRID.

    Of y on m, and of the next state on the prefix sum, without E||next state||^2, which no tolerance changes. The next
    state is measured in the units in which P0 has unit diagonal: else the few huge coordinates of a language model's
    states would choose alone, and the choice would depend on the units of each. For the leading r directions
    B_r = W_r W_r^T S, error E||y||^2 - 2 tr(B_r^T S') + tr(B_r^T M' B_r): cumulative sums over r.
    """
    assert rest.prefix_next_moment is not None and part.prefix_next_moment is not None
    units = rest.prefix_spectrum.inverse
    own = regression_errors(rest.plain.spectrum, rest.mean_label_moment, part.mean_second_moment,
                            part.mean_label_moment)  # fmt: skip
    following = regression_errors(rest.prefix_spectrum, rest.prefix_next_moment * units, part.prefix_second_moment,
                                  part.prefix_next_moment * units)  # fmt: skip
    return own + part.label_second_moment, following


def regression_errors(spectrum: Spectrum, S: Tensor, M: Tensor | None, cross: Tensor) -> Tensor:
    """(GRID,): -2 tr(B_r^T S') + tr(B_r^T M' B_r) with r what each tolerance keeps."""
    assert M is not None
    W = leading_first(spectrum)
    T = W.mT @ S
    errors = corners(W.mT @ M @ W * (T @ T.mT)) - 2 * (T * (W.mT @ cross)).sum(1).cumsum(0)
    ranks = torch.tensor([spectrum.rank(tau) for tau in GRID], device=errors.device)
    return errors[ranks - 1]


def chosen(errors: Iterable[tuple[Tensor, Tensor]], counts: Sequence[int]) -> tuple[Tolerances, Tolerances]:
    """The tolerances of lowest cross-validated error (cv), and the largest within one standard error of it (cv_1se).

    errors: of `fold_errors`, counts: rows of the folds. The standard error is that of the folds' differences to the
    minimum, so that what all tolerances share is not in it.
    """
    weights = np.array(counts) / sum(counts)
    sides = [best_and_largest(np.array([fold.tolist() for fold in side]), weights) for side in zip(*errors)]
    (least, largest), (prefix_least, prefix_largest) = sides
    return Tolerances(least, prefix_least, "cv"), Tolerances(largest, prefix_largest, "cv_1se")


def best_and_largest(errors: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """errors (folds, GRID); of equal ones the largest tolerance, for it keeps the fewest directions."""
    mean = weights @ errors
    best = len(GRID) - 1 - int(np.argmin(mean[::-1]))
    gaps = errors - errors[:, [best]]
    spread = np.sqrt(np.square(gaps - weights @ gaps).T @ weights / (len(weights) - 1))
    within = np.flatnonzero(weights @ gaps <= spread)
    return GRID[best], GRID[within.max()]
