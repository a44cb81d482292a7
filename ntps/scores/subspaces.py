"""The perception and autoregression subspaces of one layer.

All inputs are moments (averages over rows); all work is float64 on the device of the input. Notation:
M = E[m m^T], S = E[m y^T], P0 and P1 the prefix moments; d coordinates, C classes; U = perception
directions, V = autoregressive ones. Source: "Next Token Perception Score" (arXiv 2505.17169).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL, Whitened, finite, gram, left_singular, tied

ORDERS = ("descending", "released")


@dataclass(frozen=True)
class Solution:
    """Generalized eigenvectors W `left` (d, k) of (A, B), B-orthonormal, and eigenvalues (k,), descending."""

    vectors: Tensor
    eigenvalues: Tensor
    left: Tensor  # (r, k), orthonormal: the same directions in whitened coordinates; empty for V
    whitened: Whitened  # of B


def solve(factor: Tensor, whitened: Whitened, rtol: float = 0.0) -> Solution:
    """Eigenvectors of (factor factor^T, B), largest eigenvalue first, for factor (d, C): min(r, C) of them.

    From the singular vectors of W^T factor, so the condition number is not squared. With rtol > 0,
    eigenvalues up to rtol times the largest are dropped. Raises UserError where factor is zero.
    """
    left, eigenvalues = left_singular(whitened.pull(finite(factor)))
    if not eigenvalues[0] > 0:
        raise UserError("a cross moment is zero: states and labels, or states and next states, are unrelated")
    if rtol > 0:
        kept = int((eigenvalues > rtol * eigenvalues[0]).sum())
        left, eigenvalues = left[:, :kept], eigenvalues[:kept]
    return Solution(whitened.push(left), eigenvalues, left, whitened)


class Perception:
    """The label side of a layer: U_r and, in expectation, the null space N that has eigenvalue 0."""

    def __init__(self, mean: Whitened, S: Tensor):
        self.mean = mean
        self.solution = solve(S, mean, RANK_RTOL)
        self.U = self.solution.vectors
        self.task_rank = self.U.shape[1]
        self.null_rank = self.mean.rank - self.task_rank

    @cached_property
    def null_energies(self) -> tuple[Tensor, Tensor, Tensor]:
        """||N||_F^2, column sums of (N^T U)^2 (r,) and ||N^T N||_F^2: N's part of tr A and tr A^2.

        N (d, rank M), N N^T = W W^T - U_r U_r^T, is a basis of the null space, up to rotation.
        """
        N = self.mean.W - self.U @ self.solution.left.mT
        inner = gram(N)
        square = 2 * inner.square().sum() - inner.diagonal().square().sum()
        return N.square().sum(), (N.mT @ self.U).square().sum(0), square

    @cached_property
    def overlaps(self) -> Tensor:
        """U^T U (r, r)."""
        return self.U.mT @ self.U

    def weights(self, ku: int | None, order: str) -> tuple[Tensor, float]:
        """How much of each column of U_r (r,), and of N, is among rule fraction's first ku; None: all of U_r.

        Where ku cuts the null space or a group of equal eigenvalues, each column counts for its chance of
        being taken from a random basis. Label eigenvalues do tie: for rank M = n they are class frequencies.
        """
        weights = torch.ones_like(self.solution.eigenvalues)
        if ku is None:
            return weights, 0.0
        if order == "descending":
            taken, null_count = slice(0, ku), max(0, ku - self.task_rank)
        else:
            null_count = min(ku, self.null_rank)
            taken = slice(self.task_rank - (ku - null_count), None)
        weights.zero_()[taken] = 1
        group = torch.cat([weights.new_zeros(1), (~tied(self.solution.eigenvalues))[:-1].cumsum(0)]).long()
        shares = torch.bincount(group, weights) / torch.bincount(group)
        return shares[group], null_count / self.null_rank if self.null_rank else 0.0

    def chance_std(self, kv: int, weights: Tensor, share: float) -> float:
        """Standard deviation of the score over random kv-dimensional subspaces; 0 where A is isotropic.

        Var ||PU||^2 = 2k(d-k) / (d(d-1)(d+2)) (tr A^2 - (tr A)^2 / d), A = U diag(weights) U^T + share N N^T.
        """
        d = len(self.U)
        trace = weights @ self.overlaps.diagonal()
        square = weights @ self.overlaps.square() @ weights
        if share:
            norm, cross, null = self.null_energies
            trace = trace + share * norm
            square = square + 2 * share * (cross @ weights) + share**2 * null
        spread = float(square - trace**2 / d)
        if d == 1 or spread <= 1e-12 * float(square):
            return 0.0
        return math.sqrt(2 * kv * (d - kv) / (d * (d - 1) * (d + 2)) * spread) / float(trace)

    def shuffled(self, factors: Tensor) -> Tensor:
        """U_r of R other cross moments, such as those of shuffled labels: (R, d, C) -> (d, R, C), zero past each one's rank.

        With T = W^T S and T^T T = R diag(l) R^T (C, C), U = W T R diag(l)^-1/2: W^T S need not be decomposed.
        """
        return self.directions(self.mean.pull(factors.transpose(0, 1).flatten(1)), factors.shape[2])

    def directions(self, T: Tensor, C: int) -> Tensor:
        """The same from W^T S of all of them, side by side (rank M, R C)."""
        pushed = self.mean.push(T).unflatten(1, (-1, C))
        return torch.einsum("drc,rce->dre", pushed, inverse_roots(grams(T, C)))


def grams(T: Tensor, C: int) -> Tensor:
    """T_j^T T_j (R, C, C) of R matrices of C columns side by side, (r, R C)."""
    T = T.view(len(T), -1, C).transpose(0, 1)
    return T.mT @ T


def inverse_roots(G: Tensor) -> Tensor:
    """R diag(l)^-1/2 of G = R diag(l) R^T (R, C, C), zero for eigenvalues up to RANK_RTOL times the largest."""
    values, vectors = torch.linalg.eigh(G)
    stays = values > RANK_RTOL * values[:, -1:].clamp(min=0)
    return vectors * torch.where(stays, values, torch.inf).rsqrt()[:, None]


def autoregression(moments: LayerMoments, rtol: float = RANK_RTOL) -> Solution:
    """The eigenvectors V of (P1 P1^T, P0), largest eigenvalue first; UserError where there is no next token to predict."""
    P0, P1 = moments.prefix_second_moment, moments.prefix_next_moment
    if P0 is None or P1 is None:
        raise UserError("these moments hold no prefix moments: run cache.py again with --prefix_moments all")
    if not P0.any():
        raise UserError("no row has two tokens, or all states are zero: there is no next token to predict")
    solution = solve(P1, moments.prefix_spectrum.whitened(rtol))
    return replace(solution, left=P1.new_empty(0))  # as large as V, and not used
