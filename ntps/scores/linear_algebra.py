"""Linear algebra of the scores: whitening with a rank decision, singular vectors, nested projections. All float64.

Language-model states have a few huge coordinates, so ranks are decided on matrices scaled to unit diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ntps.errors import UserError

RANK_RTOL = 1e-12  # eigenvalues of a unit-diagonal moment up to this share of the largest count as zero
SETTLED = 1e-6  # an eigenvalue of T T^T above this share of the largest is exact to 1e-10 of itself
ZERO = "a second moment is zero: every state of this layer is zero"
SMALL = 128  # below this width a factorisation is done at once
TIE_GAP = 1e-8  # neighbouring singular values closer than this, relatively, are one tied group


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
        if self.pseudo_inverse is not None:
            return self.pseudo_inverse
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

    def leading(self, rank: int, rank_unstable: bool) -> Whitened:
        """The directions of the largest eigenvalues alone, where rows of F and columns of W are ascending."""
        return Whitened(self.F[-rank:], self.W[:, -rank:], rank_unstable)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """B = D^1/2 Q diag(values) Q^T D^1/2 with D = diag(B): one eigen-solve that serves every tolerance.

    scale (d,): D^1/2; inverse (d,): D^-1/2, 0 where B's diagonal is 0; values (d,) ascending; Q (d, d).
    """

    scale: Tensor
    inverse: Tensor
    values: Tensor
    Q: Tensor

    @classmethod
    def of(cls, B: Tensor) -> Spectrum:
        scale, inverse = diagonal_scale(finite(B))
        return cls(scale, inverse, *torch.linalg.eigh(inverse[:, None] * B * inverse))

    def matched(self, rtol: float) -> Tensor:
        """(d,) bool: eigenvalues above rtol times the largest."""
        return self.values > rtol * self.values[-1]

    def rank(self, rtol: float) -> int:
        return int(self.matched(rtol).sum())

    def whitened(self, rtol: float = RANK_RTOL) -> Whitened:
        """Whitening of B where eigenvalues up to rtol times the largest are cut; eigenvalues ascending.

        Up to RANK_RTOL they count as zero, and W lies in range(B). Above it they are left out on purpose: W is the
        last columns of W at RANK_RTOL, so that W W^T x are principal-component regression's coefficients, on
        coordinates scaled to unit mean square (method: truncated pair). Every tolerance shares one decomposition.
        `rank_unstable`: the number that stays differs between 0.1 rtol and 10 rtol.
        """
        if not self.scale.any():
            raise UserError(ZERO)
        unstable = self.rank(0.1 * rtol) != self.rank(10 * rtol)
        if rtol > RANK_RTOL:
            return self.full.leading(self.rank(rtol), unstable)
        return self._within_range(rtol, unstable)

    @cached_property
    def full(self) -> Whitened:
        return self.whitened()

    def _within_range(self, rtol: float, unstable: bool) -> Whitened:
        stays = self.matched(rtol)
        roots = self.values[stays].sqrt()
        F = roots[:, None] * self.Q[:, stays].mT * self.scale
        if stays.all():
            return Whitened(F, self.inverse[:, None] * self.Q / roots, unstable)
        basis, triangle = torch.linalg.qr(F.mT)
        # F^+ = basis triangle^-T: no part outside range(B), whatever was cut
        return Whitened(F, torch.linalg.solve_triangular(triangle, basis.mT, upper=True).mT, unstable)


def finite(moment: Tensor) -> Tensor:
    """The moment in float64; UserError where a number is not finite."""
    moment = torch.as_tensor(moment).to(torch.float64)
    if not torch.isfinite(moment.sum()):
        raise UserError("the moments hold numbers that are not finite: encode the texts in a wider dtype")
    return moment


def diagonal_scale(B: Tensor) -> tuple[Tensor, Tensor]:
    """D^1/2 and D^-1/2 of D = diag(B), (d,) each; the latter is 0 where B's diagonal is 0."""
    scale = B.diagonal().clamp(min=0).sqrt()
    return scale, torch.where(scale > 0, 1 / scale, 0.0)


def whiten(B: Tensor, rtol: float = RANK_RTOL) -> Whitened:
    """Whitening of a symmetric positive semi-definite B (d, d); as `Spectrum.whitened`, without eigenvalues if it can.

    Raises UserError where B is zero or not finite.
    """
    B = finite(B)
    scale, inverse = diagonal_scale(B)
    if not scale.any():
        raise UserError(ZERO)
    balanced = inverse[:, None] * B * inverse
    # The Frobenius norm is at least the largest eigenvalue and d * eps covers Cholesky's own rounding, so
    # where this succeeds all eigenvalues lie above 10 rtol: full, stable rank without an eigen-solve.
    margin = max(10 * rtol, len(B) * torch.finfo(B.dtype).eps)
    shifted = balanced.clone()
    shifted.diagonal().sub_(margin * torch.linalg.matrix_norm(balanced))
    if torch.linalg.cholesky_ex(shifted).info == 0:
        return Whitened(torch.linalg.cholesky(balanced).mT * scale, None, False)
    return Spectrum(scale, inverse, *torch.linalg.eigh(balanced)).whitened(rtol)


def inverse_factor(A: Tensor) -> Tensor:
    """L^-1 (lower triangular) of A = L L^T, positive definite: by halves, so that nearly all work is matrix products."""
    if len(A) <= SMALL:
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(A), eye, upper=False)
    h = len(A) // 2
    first = inverse_factor(A[:h, :h])
    below = A[h:, :h] @ first.mT
    second = inverse_factor(A[h:, h:] - below @ below.mT)
    result = A.new_zeros(A.shape)
    result[:h, :h], result[h:, h:] = first, second
    result[h:, :h] = -(second @ below) @ first
    return result


def left_singular(T: Tensor, needed: int | None = None) -> tuple[Tensor, Tensor]:
    """Left singular vectors (r, min(r, C)) and squared singular values of T (r, C), descending.

    As exact as a singular value decomposition but faster, for that also finds the right vectors. Squaring T
    spoils only what is small beside the largest value: T T^T settles the large ones, and what remains of T
    beside them is solved again by itself; not where the `needed` leading ones are all large.
    """
    if T.shape[1] < T.shape[0]:
        left, sigma, _ = torch.linalg.svd(T, full_matrices=False)
        return left, sigma**2
    values, left = torch.linalg.eigh(T @ T.mT)
    values, left = values.flip(0).clamp(min=0), left.flip(1)
    settled = int((values > SETTLED * values[0]).sum())
    if 0 < settled < min(len(values), needed or len(values)):
        inner, small = left_singular(left[:, settled:].mT @ T)
        left = torch.cat([left[:, :settled], left[:, settled:] @ inner], 1)
        values = torch.cat([values[:settled], small])
    return left, values


class Nested:
    """The nested spans of the first k columns of a matrix (d, K), from one QR factorisation for every k.

    Q is the complete orthogonal factor: its first k columns span the first k columns of the matrix, Q[:, :len(R)] R.
    """

    def __init__(self, columns: Tensor):
        self.factors, self.tau = torch.geqrf(columns)

    @cached_property
    def R(self) -> Tensor:
        return self.factors[: len(self.tau)].triu()

    def coordinates(self, targets: Tensor) -> Tensor:
        """Q^T targets, (d, m) -> (d, m); applying Q's reflectors is cheaper than forming Q."""
        return torch.ormqr(self.factors[:, : len(self.tau)], self.tau, targets, transpose=True)

    def energies(self, targets: Tensor) -> Tensor:
        """(Q^T targets)^2 entrywise.

        ||P_k t||^2 is the sum over the first k rows for every k, and ||(I - P_k) t||^2 the sum over the others.
        """
        return self.coordinates(targets) ** 2


def nested_energies(columns: Tensor, targets: Tensor) -> Tensor:
    """`Nested(columns).energies(targets)`: (d, k), (d, m) -> (d, m)."""
    return Nested(columns).energies(targets)


def head(rows: Tensor, count: int) -> Tensor:
    """Sums of the first k rows, k = 1..count; rows past the last are zero."""
    sums = rows.cumsum(0)[:count]
    return torch.cat([sums, sums[-1:].expand(count - len(sums), *sums.shape[1:])])


def tail(rows: Tensor, count: int) -> Tensor:
    """Sums of the rows after the first k, k = 1..count, each added up by itself and not by a difference."""
    sums = rows.flip(0).cumsum(0).flip(0)[1 : count + 1]
    return torch.cat([sums, sums.new_zeros(count - len(sums), *sums.shape[1:])])


def share(energies: Tensor, count: int) -> Tensor:
    """The first k rows' share of all, k = 1..count; at most 1."""
    return (head(energies, count) / energies.sum(0)).clamp(max=1)


def tied(eigenvalues: Tensor) -> Tensor:
    """(k,) bool: does taking the first j+1 eigenvectors cut a group of equal eigenvalues (descending)?"""
    sigma = eigenvalues.sqrt()
    noise = len(sigma) * torch.finfo(sigma.dtype).eps * sigma[0]
    cut = sigma[:-1] - sigma[1:] <= torch.maximum(TIE_GAP * sigma[:-1], noise)
    return torch.cat([cut, cut.new_zeros(1)])


def relative_gaps(eigenvalues: Tensor) -> Tensor:
    """(k,): (lambda_j - lambda_j+1) / lambda_j, descending, j = 1..k; 0 between zeros, NaN after the last."""
    larger = eigenvalues[:-1]
    gaps = (larger - eigenvalues[1:]) / torch.where(larger > 0, larger, 1.0)
    return torch.cat([gaps, gaps.new_full((1,), math.nan)])
