"""The label signal of one layer, corrected for what its sample adds: adjusted R2 within a subspace and in full.

Centred moments Mc, Sc of n rows and C targets, r = rank Mc, Y = Cov(y), G = Sc^T Mc^+ Sc the explained part.
E = tr G also counts noise: s2 r / n of it, s2 = tr(Y - G) n / (n - r - 1), and of what k fixed directions explain s2 k / n
and, for what they miss of the signal is noise to them, a share k / (n - 1) of that.
Source: ordinary least squares; arXiv 2505.17169 has none of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import beta
from torch import Tensor

from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL, Whitened

LEAST = 5  # residual degrees of freedom: with fewer the variance of F, and so of a ratio of adjusted R2, is not finite
SIGNIFICANT = 0.05  # the p-value above which there is no label signal to take a share of


@dataclass(frozen=True, eq=False)
class LabelSignal:
    """Sc in the coordinates where Mc is the identity, and the noise in what it explains."""

    white: Whitened  # of Mc
    T: Tensor  # W^T Sc (r, C)
    covariance: Tensor  # Y (C, C)
    n: int
    noise_moment: Tensor | None = None  # of the residuals: W^T E[||e||^2 m m^T] W (r, r), unequal variances

    @classmethod
    def of(cls, moments: LayerMoments, rtol: float = RANK_RTOL, unequal: bool = True) -> LabelSignal | None:
        """None where the states are all the same. unequal: with the residuals' moment, where there is one."""
        fit = moments.centred
        if not fit.M.any():
            return None
        white = fit.spectrum.whitened(rtol)
        p = fit.label_mean
        first = moments.label_products
        if first is None:
            first = torch.diag(p) if moments.targets > 1 else p.new_tensor([[moments.label_second_moment]])
        noise = moments.residual_second_moment
        inner = None if noise is None or not unequal else white.pull(white.pull(noise).mT)
        return cls(white, white.pull(fit.S), first - torch.outer(p, p), moments.text_count, inner)

    @property
    def rank(self) -> int:
        return self.white.rank

    @cached_property
    def total(self) -> float:
        return float(self.covariance.trace())

    @cached_property
    def explained(self) -> float:
        """E = tr G."""
        return float(self.T.square().sum())

    @cached_property
    def noise(self) -> float:
        """s2; NaN without a degree of freedom left."""
        spare = self.n - self.rank - 1
        return (self.total - self.explained) * self.n / spare if spare > 0 else math.nan

    @cached_property
    def adjusted_r2(self) -> float:
        """(E - s2 r / n) / tr Y: the share of the labels' variance that the states explain in the population."""
        return (self.explained - self.noise * self.rank / self.n) / self.total

    @cached_property
    def p_value(self) -> float:
        """Of E without any signal: tr G = sum_c y_c R2_c, y_c the eigenvalues of Y and R2_c ~ Beta(r/2, (n - r - 1)/2).

        The beta distribution of the same mean and variance: the F test for one target, Pillai's trace for equal y_c.
        """
        r, n = self.rank, self.n
        if n - r - 1 <= 0:
            return math.nan
        powers = torch.linalg.eigvalsh(self.covariance).clamp(min=0)
        mean, one = r / (n - 1), 2 * r * (n - 1 - r) / ((n - 1) ** 2 * (n + 1))
        variance = one * float(powers.square().sum() / powers.sum() ** 2)
        size = mean * (1 - mean) / variance - 1
        return float(beta.sf(self.explained / self.total, mean * size, (1 - mean) * size))

    @property
    def refusal(self) -> str:
        """Why no share of the signal is reported; "" where it is."""
        if not self.total > 0:
            return "all labels are the same"
        if self.n - self.rank - 1 < LEAST:
            return f"{self.n} rows are too few: they span {self.rank} directions, and {LEAST + 1} rows more than these are needed"
        if not self.p_value <= SIGNIFICANT:
            return f"the label signal is not significant (p = {self.p_value:.2f})"
        return ""

    @cached_property
    def signal_share(self) -> float:
        """1 - (s2 / n) tr(Mc^+) / ||Mc^+ Sc||^2: the share of the squared coefficients that is not noise."""
        coefficients = self.white.push(self.T).square().sum()
        return float(1 - self.noise / self.n * self.white.W.square().sum() / coefficients)

    def retained(self, energies: Tensor, noise: Tensor | None = None) -> Tensor:
        """rho_k (K,): R2 within the first k directions over R2 in full, both adjusted; below 0 and above 1 by chance only.

        For the states as they are the share kept is q_k = (E_k - s2 k / n) / (E - s2 r / n); in the population of the
        states it is (q_k - c) / (1 - c), c = k / (n - 1): as R2 is adjusted, each by its own residual variance. energies
        (K,): E_k, what the first k directions explain. noise (K,): tr of the residuals' moment within them, in place of
        s2 k: errors of unequal variance. NaN where `refusal` says why.
        """
        if self.refusal:
            return torch.full_like(energies, math.nan)
        k = torch.arange(1, len(energies) + 1).to(energies).clamp(max=self.rank)
        if noise is None:
            taken, whole = self.noise * k, self.noise * self.rank
        else:
            assert self.noise_moment is not None
            taken, whole = noise, float(self.noise_moment.trace())
        kept, chance = (energies - taken / self.n) / (self.explained - whole / self.n), k / (self.n - 1)
        return (kept - chance) / (1 - chance)

    def retained_error(self, within: Tensor) -> float:
        """Standard error of rho_k for k directions V (d, k) that do not depend on these rows; NaN as for `retained`.

        within (k, C): Q^T W^T Sc, Q an orthonormal basis of the directions where Cov(m) is the identity (F V).

        With S_0, S_k, S_r the residual covariances (C, C) without states, within V and in full, of f_0 > f_k > f_r degrees
        of freedom, rho_k = tr(S_0 - S_k) / tr(S_0 - S_r). By the delta method from Cov(tr S_i, tr S_j) = 2 tr(S_j^2) / f_i
        for f_i >= f_j, exact for normal states and errors (nested sums of squares: their differences are uncorrelated).
        """
        if self.refusal:
            return math.nan
        free = [self.n - 1 - k for k in (0, len(within), self.rank)]
        parts = [torch.zeros_like(self.covariance), within.mT @ within, self.T.mT @ self.T]
        S = [(self.covariance - part) * self.n / left for part, left in zip(parts, free)]
        none, kept, full = (float(one.trace()) for one in S)
        rho = (none - kept) / (none - full)
        weights = (1 - rho, -1.0, rho)
        variance = sum(
            weights[i] * weights[j] * 2 * float(S[max(i, j)].square().sum()) / free[min(i, j)]
            for i in range(3) for j in range(3)
        )  # fmt: skip
        return math.sqrt(max(variance, 0.0)) / (none - full)


def residual_moment(moments: LayerMoments, states: Tensor, targets: Tensor) -> Tensor:
    """E[||e||^2 m m^T] (d, d) about the mean, e the residuals of least squares on states (n, d), targets (n, C).

    Each ||e_i||^2 is divided by 1 - h_i, h_i its leverage (MacKinnon and White 1985, HC2): with equal variances it is then
    unbiased for s2 Mc.
    """
    fit = moments.centred
    white = fit.spectrum.whitened()
    centred = states.to(fit.M) - fit.mean
    w = white.pull(centred.mT)  # (r, n)
    errors = (targets.to(fit.M) - fit.label_mean - w.mT @ white.pull(fit.S)).square().sum(1)
    spare = (1 - (1 + w.square().sum(0)) / moments.text_count).clamp(min=1e-12)
    return (centred.mT * (errors / spare / moments.text_count)) @ centred
