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
BLOCK = 96  # columns at a time of what is done to triangular matrices
TIE_GAP = 1e-8  # neighbouring singular values closer than this, relatively, are one tied group


@dataclass(frozen=True, eq=False)
class Whitened:
    """B = F^T F with F (r, d), r = rank B, and W = F^+ (d, r): W^T B W = I, W's columns in range(B).

    B = D^1/2 Q diag(roots^2) Q^T D^1/2, so F = diag(roots) Q^T D^1/2 and W is D^-1/2 Q diag(1 / roots) projected on
    range(B). Neither is stored.
    """

    Q: Tensor  # (d, r)
    roots: Tensor  # (r,), ascending
    scale: Tensor  # (d,): D^1/2
    inverse: Tensor  # (d,): D^-1/2
    rank_unstable: bool
    basis: Tensor | None = None  # orthonormal, of range(B); None: all of R^d

    @property
    def rank(self) -> int:
        return len(self.roots)

    @property
    def F(self) -> Tensor:
        return self.roots[:, None] * self.Q.mT * self.scale

    @property
    def W(self) -> Tensor:
        return self._within_range(self.inverse[:, None] * self.Q / self.roots)

    def pull(self, x: Tensor) -> Tensor:
        """W^T x, (d, k) -> (r, k)."""
        return (self.Q.mT @ (self.inverse[:, None] * self._within_range(x))) / self.roots[:, None]

    def push(self, x: Tensor) -> Tensor:
        """W x, (r, k) -> (d, k)."""
        # few columns one after another in memory take ten times as long
        y = (x / self.roots[:, None]).contiguous()
        return self._within_range(self.inverse[:, None] * (self.Q @ y))

    def _within_range(self, x: Tensor) -> Tensor:
        return x if self.basis is None else self.basis @ (self.basis.mT @ x)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """B = D^1/2 Q diag(values) Q^T D^1/2 with D = diag(B): one eigen-solve that serves every tolerance.

    scale (d,): D^1/2; inverse (d,): D^-1/2, 0 where B's diagonal is 0; values (d,) ascending; Q (d, d). Eigenvalues up
    to `rounding` are zero, whatever the tolerance.
    """

    scale: Tensor
    inverse: Tensor
    values: Tensor
    Q: Tensor
    rounding: float = 0.0

    @classmethod
    def of(cls, B: Tensor) -> Spectrum:
        scale, inverse = diagonal_scale(finite(B))
        return cls(scale, inverse, *torch.linalg.eigh(inverse[:, None] * B * inverse))

    def matched(self, rtol: float) -> Tensor:
        """(d,) bool: eigenvalues above rtol times the largest, and above rounding."""
        return self.values > (rtol * self.values[-1]).clamp(min=self.rounding)

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
        rank, unstable = self.rank(rtol), self.rank(0.1 * rtol) != self.rank(10 * rtol)
        Q, basis = self.Q[:, -rank:], None
        if rtol > RANK_RTOL:
            basis = self.full.basis
        elif rank < len(self.values):
            basis = torch.linalg.qr(self.scale[:, None] * Q)[0]
        return Whitened(Q, self.values[-rank:].sqrt(), self.scale, self.inverse, unstable, basis)

    @cached_property
    def full(self) -> Whitened:
        return self.whitened()


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
    """Whitening of a symmetric positive semi-definite B (d, d); UserError where it is zero or not finite."""
    return Spectrum.of(B).whitened(rtol)


def inverse_factor(A: Tensor, shift: float) -> Tensor:
    """L^-1 (lower triangular) of A + shift I = L L^T, positive definite; of A only the lower triangle is read.

    By blocks of rows and columns, so that nearly all work is matrix products, of the lower triangles alone.
    """
    X = A.tril()  # L^-1 grows in its first columns, what is left of A in its last
    X.diagonal().add_(shift)
    for s in range(0, len(X), BLOCK):
        e = s + BLOCK
        own = torch.linalg.cholesky(X[s:e, s:e])
        own = torch.linalg.solve_triangular(own, torch.eye(len(own)).to(own), upper=False)
        below = X[e:, s:e] @ own.mT
        X[s:e, :s], X[s:e, s:e], X[e:, s:e] = own @ X[s:e, :s], own, 0.0
        X[e:, :e].addmm_(below, X[s:e, :e], alpha=-1)
        for j in range(e, len(X), BLOCK):
            X[j:, j : j + BLOCK].addmm_(below[j - e :], below[j - e : j - e + BLOCK].mT, alpha=-1)
    return X


def quotient(A: Tensor, R: Tensor) -> Tensor:
    """A R^-1 (r, K), A (r, K) and R (K, K) upper triangular."""
    C = torch.zeros_like(A)
    for s in range(0, len(R), BLOCK):
        e = s + BLOCK
        rest = A[:e, s:e] - C[:e, :s] @ R[:s, s:e]
        C[:e, s:e] = torch.linalg.solve_triangular(R[s:e, s:e], rest, upper=True, left=False)
    return C


def gram(X: Tensor, triangular: bool = False) -> Tensor:
    """The lower triangle of X^T X, by blocks of columns; triangular: X is upper triangular."""
    G = X.new_zeros(X.shape[1], X.shape[1])
    for s in range(0, len(G), BLOCK):
        e = s + BLOCK
        rows = X[:e] if triangular else X
        G[s:, s:e] = rows[:, s:].mT @ rows[:, s:e]
        G[s:e, s:e].tril_()
    return G


def left_singular(T: Tensor, needed: int | None = None) -> tuple[Tensor, Tensor]:
    """Left singular vectors (r, min(r, C)) and squared singular values of T (r, C), descending.

    As exact as a singular value decomposition but faster, for that also finds the right vectors. Squaring T
    spoils only what is small beside the largest value: T T^T settles the large ones, and what remains of T
    beside them is solved again by itself; not where the `needed` leading ones are all large.
    """
    if T.shape[1] < T.shape[0]:
        left, sigma, _ = torch.linalg.svd(T, full_matrices=False)
        return left, sigma**2
    values, left = torch.linalg.eigh(gram(T.mT))  # which reads the lower triangle
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

    @property
    def R(self) -> Tensor:
        return self.factors[: len(self.tau)].triu()

    def coordinates(self, targets: Tensor) -> Tensor:
        """Q^T targets, (d, m) -> (d, m); applying Q's reflectors is cheaper than forming Q, from the right above all."""
        return torch.ormqr(self.factors[:, : len(self.tau)], self.tau, targets.mT, left=False).mT

    def energies(self, targets: Tensor) -> Tensor:
        """(Q^T targets)^2 entrywise.

        ||P_k t||^2 is the sum over the first k rows for every k, and ||(I - P_k) t||^2 the sum over the others.
        """
        return self.coordinates(targets) ** 2


def first(curve: Tensor, count: int) -> Tensor:
    """The first values of a curve, its last one again where it is shorter."""
    return torch.cat([curve[:count], curve[-1:].expand(max(0, count - len(curve)), *curve.shape[1:])])


def head(rows: Tensor, count: int) -> Tensor:
    """Sums of the first k rows, k = 1..count; rows past the last are zero."""
    return first(rows.cumsum(0), count)


def corners(A: Tensor) -> Tensor:
    """Sums of all entries of the leading k x k blocks of a symmetric A, for every k."""
    return (2 * A.tril(-1).sum(1) + A.diagonal()).cumsum(0)


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
