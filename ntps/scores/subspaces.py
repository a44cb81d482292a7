"""The perception and autoregression subspaces of one layer, and the score that compares them.

All inputs are moments (averages over texts); all work is float64 on the device of the input. Notation:
M = E[m m^T], S = E[m y^T], P0 and P1 the prefix moments; d coordinates, C classes; U = perception
directions, V = autoregressive ones. Source: "Next Token Perception Score" (arXiv 2505.17169).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ntps.errors import UserError

RANK_RTOL = 1e-12  # eigenvalues of a unit-diagonal moment up to this share of the largest count as zero
SETTLED = 1e-6  # an eigenvalue of T T^T above this share of the largest is exact to 1e-10 of itself
TIE_GAP = 1e-8  # neighbouring singular values closer than this, relatively, are one tied group
ORDERS = ("descending", "released")


@dataclass(frozen=True, eq=False)
class Whitened:
    """B = F^T F with F (r, d), r = rank B, and W = F^+ (d, r): W^T B W = I, W's columns in range(B)."""

    F: Tensor
    pseudo_inverse: Tensor | None  # None: F is square and upper triangular
    rank_unstable: bool

    @property
    def rank(self) -> int:
        return self.F.shape[0]

    @cached_property
    def W(self) -> Tensor:
        return self.push(torch.eye(self.rank, dtype=self.F.dtype, device=self.F.device))

    def pull(self, x: Tensor) -> Tensor:
        """W^T x, (d, k) -> (r, k)."""
        if self.pseudo_inverse is None:
            return torch.linalg.solve_triangular(self.F.mT, x, upper=False)
        return self.pseudo_inverse.mT @ x

    def push(self, x: Tensor) -> Tensor:
        """W x, (r, k) -> (d, k)."""
        if self.pseudo_inverse is None:
            return torch.linalg.solve_triangular(self.F, x, upper=True)
        return self.pseudo_inverse @ x


def _finite(moment: Tensor) -> Tensor:
    moment = torch.as_tensor(moment).to(torch.float64)
    if not torch.isfinite(moment.sum()):
        raise UserError("the moments hold numbers that are not finite: encode the texts in a wider dtype")
    return moment


def whiten(B: Tensor, rtol: float = RANK_RTOL) -> Whitened:
    """Whitening of a symmetric positive semi-definite B (d, d), scaled to unit diagonal first.

    Language-model states have a few huge coordinates, so rank is decided on D^-1/2 B D^-1/2, D = diag(B):
    eigenvalues up to rtol times the largest are cut. `rank_unstable`: the number kept differs between
    0.1 rtol and 10 rtol. Raises UserError where B is zero or not finite.
    """
    B = _finite(B)
    scale = B.diagonal().clamp(min=0).sqrt()
    if not scale.any():
        raise UserError("a second moment is zero: every state of this layer is zero")
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    balanced = inverse[:, None] * B * inverse
    # The Frobenius norm is at least the largest eigenvalue and d * eps covers Cholesky's own rounding, so
    # where this succeeds all eigenvalues lie above 10 rtol: full, stable rank without an eigen-solve.
    margin = max(10 * rtol, len(B) * torch.finfo(B.dtype).eps)
    shifted = balanced.clone()
    shifted.diagonal().sub_(margin * torch.linalg.matrix_norm(balanced))
    if torch.linalg.cholesky_ex(shifted).info == 0:
        return Whitened(torch.linalg.cholesky(balanced).mT * scale, None, False)
    values, Q = torch.linalg.eigh(balanced)
    kept = values > rtol * values[-1]
    unstable = (values > 0.1 * rtol * values[-1]).sum() != (values > 10 * rtol * values[-1]).sum()
    F = values[kept].sqrt()[:, None] * Q[:, kept].mT * scale
    basis, triangle = torch.linalg.qr(
        F.mT
    )  # F^+ = basis triangle^-T: no part outside range(B), whatever was cut
    return Whitened(F, torch.linalg.solve_triangular(triangle, basis.mT, upper=True).mT, bool(unstable))


@dataclass(frozen=True)
class Solution:
    """Generalized eigenvectors W `left` (d, k) of (A, B), B-orthonormal, and eigenvalues (k,), descending."""

    vectors: Tensor
    eigenvalues: Tensor
    left: Tensor  # (r, k), orthonormal: the same directions in whitened coordinates


def left_singular(T: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (r, min(r, C)) and squared singular values of T (r, C), descending.

    As exact as a singular value decomposition but faster, for that also finds the right vectors. Squaring T
    spoils only what is small beside the largest value: T T^T settles the large ones, and what remains of T
    beside them is solved again by itself.
    """
    if T.shape[1] < T.shape[0]:
        left, sigma, _ = torch.linalg.svd(T, full_matrices=False)
        return left, sigma**2
    values, left = torch.linalg.eigh(T @ T.mT)
    values, left = values.flip(0).clamp(min=0), left.flip(1)
    settled = int((values > SETTLED * values[0]).sum())
    if 0 < settled < len(values):
        inner, small = left_singular(left[:, settled:].mT @ T)
        left, values = (
            torch.cat([left[:, :settled], left[:, settled:] @ inner], 1),
            torch.cat([values[:settled], small]),
        )
    return left, values


def solve(factor: Tensor, whitened: Whitened, rtol: float = 0.0) -> Solution:
    """Eigenvectors of (factor factor^T, B), largest eigenvalue first, for factor (d, C): min(r, C) of them.

    From the singular vectors of W^T factor, so the condition number is not squared. With rtol > 0,
    eigenvalues up to rtol times the largest are dropped. Raises UserError where factor is zero.
    """
    left, eigenvalues = left_singular(whitened.pull(_finite(factor)))
    if not eigenvalues[0] > 0:
        raise UserError("a cross moment is zero: states and labels, or states and next states, are unrelated")
    if rtol > 0:
        kept = int((eigenvalues > rtol * eigenvalues[0]).sum())
        left, eigenvalues = left[:, :kept], eigenvalues[:kept]
    return Solution(whitened.push(left), eigenvalues, left)


def nested_energies(columns: Tensor, targets: Tensor) -> Tensor:
    """(Q^T targets)^2 entrywise, Q the complete orthogonal factor of `columns`: (d, k), (d, m) -> (d, m).

    Q's first j columns span the first j of `columns`, so ||P_j t||^2 is the sum over the first j rows for
    every j, and ||(I - P_j) t||^2 the sum over the others. Applying Q's reflectors is cheaper than forming Q.
    """
    reflectors, tau = torch.geqrf(columns)
    return torch.ormqr(reflectors[:, : len(tau)], tau, targets, transpose=True) ** 2


def head(rows: Tensor, count: int) -> Tensor:
    """Sums of the first k rows, k = 1..count; rows past the last are zero."""
    sums = rows.cumsum(0)[:count]
    return torch.cat([sums, sums[-1:].expand(count - len(sums), *sums.shape[1:])])


def tail(rows: Tensor, count: int) -> Tensor:
    """Sums of the rows after the first k, k = 1..count, each added up by itself and not by a difference."""
    sums = rows.flip(0).cumsum(0).flip(0)[1 : count + 1]
    return torch.cat([sums, sums.new_zeros(count - len(sums), *sums.shape[1:])])


def tied(eigenvalues: Tensor) -> Tensor:
    """(k,) bool: does keeping the first j+1 eigenvectors cut a group of equal eigenvalues (descending)?"""
    sigma = eigenvalues.sqrt()
    noise = len(sigma) * torch.finfo(sigma.dtype).eps * sigma[0]
    cut = sigma[:-1] - sigma[1:] <= torch.maximum(TIE_GAP * sigma[:-1], noise)
    return torch.cat([cut, cut.new_zeros(1)])


def relative_gaps(eigenvalues: Tensor) -> Tensor:
    """(k,): (lambda_j - lambda_j+1) / lambda_j, descending, j = 1..k; 0 between zeros, NaN after the last."""
    larger = eigenvalues[:-1]
    gaps = (larger - eigenvalues[1:]) / torch.where(larger > 0, larger, 1.0)
    return torch.cat([gaps, gaps.new_full((1,), math.nan)])


class Perception:
    """The label side of a layer: U_r and, in expectation, the null space N that has eigenvalue 0."""

    def __init__(self, M: Tensor, S: Tensor, rtol: float = RANK_RTOL):
        self.mean = whiten(M, rtol)
        self.solution = solve(S, self.mean, rtol)
        self.U = self.solution.vectors
        self.task_rank = self.U.shape[1]
        self.null_rank = self.mean.rank - self.task_rank

    @cached_property
    def N(self) -> Tensor:
        """(d, rank M), N N^T = W W^T - U_r U_r^T: a basis of the null space, up to rotation."""
        return self.mean.W - self.U @ self.solution.left.mT

    @cached_property
    def null_energies(self) -> tuple[Tensor, Tensor, Tensor]:
        """||N||_F^2, column sums of (N^T U)^2 (r,) and ||N^T N||_F^2: N's part of tr A and tr A^2."""
        N = self.N
        return N.square().sum(), (N.mT @ self.U).square().sum(0), (N.mT @ N).square().sum()

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
        trace = weights @ self.U.square().sum(0)
        square = weights @ (self.U.mT @ self.U).square() @ weights
        if share:
            norm, cross, null = self.null_energies
            trace = trace + share * norm
            square = square + 2 * share * (cross @ weights) + share**2 * null
        spread = float(square - trace**2 / d)
        if d == 1 or spread <= 1e-12 * float(square):
            return 0.0
        return math.sqrt(2 * kv * (d - kv) / (d * (d - 1) * (d + 2)) * spread) / float(trace)

    def shuffled(self, factors: Tensor, rtol: float = RANK_RTOL) -> Tensor:
        """U_r of R label shuffles, (R, d, C) -> (d, R, c); zero past a shuffle's own rank."""
        R, d, C = factors.shape
        white = self.mean.pull(factors.transpose(0, 1).reshape(d, R * C)).view(-1, R, C).transpose(0, 1)
        left, sigma, _ = torch.linalg.svd(white, full_matrices=False)
        left = left * (sigma**2 > rtol * sigma[:, :1] ** 2)[:, None]
        return self.mean.push(left.transpose(0, 1).reshape(self.mean.rank, -1)).view(d, R, left.shape[-1])


def ntps(
    moments: Mapping[str, Any], ku: int | None = None, kv: int | None = None, order: str = "descending"
) -> Tensor | float:
    """NTPS of one layer's moments: ||P U_ku||_F^2 / ||U_ku||_F^2, P the projector on V_kv; in [0, 1].

    ku=None takes the directions that the labels determine (rule task_rank, where order "released" reverses
    V only); a number is rule fraction's: the null space in expectation, and "released" reverses both sides.
    kv=None gives every kv = 1..rank P0.
    """
    if order not in ORDERS:
        raise UserError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    task = Perception(moments["mean_second_moment"], moments["mean_label_moment"])
    V = solve(moments["prefix_next_moment"], whiten(moments["prefix_second_moment"])).vectors
    if (ku is not None and not 1 <= ku <= task.mean.rank) or (kv is not None and not 1 <= kv <= V.shape[1]):
        raise UserError(
            f"ku goes from 1 to {task.mean.rank} and kv from 1 to {V.shape[1]}, not {ku} and {kv}"
        )
    weights, share = task.weights(ku, order)
    targets = [task.U * weights.sqrt()] + ([math.sqrt(share) * task.N] if share else [])
    energies = nested_energies(V if order == "descending" else V.flip(1), torch.cat(targets, 1)).sum(1)
    curve = (head(energies, V.shape[1]) / energies.sum()).clamp(max=1)
    return curve if kv is None else float(curve[kv - 1])
