"""Scores that others proposed, from the same moments: H-score, LogME and RankMe.

Features are the mean states m (d,), y their one-hot labels (or one number), p the class frequencies, n the number of
rows. Everything follows from M = E[m m^T], S = E[m y^T], E[m], the class counts and n, so shards of the data add up.
"""

import math

import torch
from torch import Tensor

from ntps.scores.layer_moments import LayerMoments

WIDTH = 60.0  # of the search for LogME's alpha / beta, in natural logarithms, downwards from 1e6 times the largest sigma^2
POINTS = 61  # a round of the search divides the interval by 30


def above_noise(values: Tensor, moments: LayerMoments) -> Tensor:
    """Eigenvalues of M or of Cov(m); what is rounding error of M's largest is zero."""
    noise = moments.width * torch.finfo(values.dtype).eps * moments.eigenvalues[-1]
    return torch.where(values > noise, values, 0.0)


def oas_shrinkage(covariance: Tensor, n: float) -> float:
    """How much of (1 - a) Cov + a tr(Cov)/d I is the identity: oracle approximating shrinkage (Chen et al. 2010, eq. 23).

    As in scikit-learn's OAS: the terms of order 1/d are left out, and a = 0 for d = 1.
    """
    d = len(covariance)
    mean, square = float(covariance.trace()) / d, float(covariance.square().mean())
    spread = (n + 1) * (square - mean**2 / d)
    if d == 1:
        return 0.0
    return min(1.0, (square + mean**2) / spread) if spread > 0 else 1.0


def h_score(moments: LayerMoments, shrink: bool = True) -> float:
    """H-score (Bao et al. 2019): tr(Cov(m)^-1 Cov(E[m | y])), covariances over the rows; at least 0.

    The first is shrunk by `oas_shrinkage` unless shrink=False. A class without rows adds nothing. NaN for a
    numeric target, whose E[m | y] is not known, and for sets of labels, whose is that of 2^C classes.
    """
    covariance, cross, frequencies = moments.centred.M, moments.centred.S, moments.label_mean
    if len(frequencies) == 1 or moments.label_products is not None:
        return math.nan
    if not covariance.any():
        return 0.0
    between = cross[:, frequencies > 0] / frequencies[frequencies > 0].sqrt()  # Cov(E[m | y]) is its square
    if not shrink:
        return float(moments.centred.spectrum.full.pull(between).square().sum())
    a, (values, vectors) = oas_shrinkage(covariance, moments.text_count), moments.principal
    shrunk = (1 - a) * values + a * values.mean()
    return float(((vectors.mT @ between).square().sum(1) / shrunk).sum())


def logme(moments: LayerMoments) -> float:
    """LogME (You et al. 2021): the largest log evidence of Bayesian linear regression, over n, averaged over classes.

    For features F (n, d), y ~ N(F w, 1/beta), w ~ N(0, 1/alpha), t = alpha / (n beta) and q(t) = y^T (I + F F^T / (n t))^-1 y / n,
    log evidence = -n/2 (log(2 pi q) + 1) - 1/2 log det(I + M / t) at the best beta = 1 / q. In the principal components of
    the states, M = diag(l) + a a^T and E[m y] = z + a p, p = E[y]; so with s = sum_j a_j^2 / (l_j + t), v = sum_j a_j z_j / (l_j + t)
    q = Var(y) - sum_j z_j^2 / (l_j + t) + (p - v)^2 / (1 + s), det(I + M / t) = (1 + s) prod_j (1 + l_j / t).
    The one number t is searched on a grid that is made finer around its best point, the same maximum that the
    published iteration of alpha and beta tends to. One-hot columns of classes without rows are dropped.
    """
    values, vectors = moments.principal
    n, largest, p = float(moments.text_count), moments.eigenvalues[-1], moments.label_mean
    power = p.new_full((1,), moments.label_second_moment) if moments.targets == 1 else p
    there = power > 0
    p, power, values = p[there], power[there], above_noise(values, moments)[:, None]
    a = vectors.mT @ moments.mean_state[:, None]
    z = torch.where(values > 0, vectors.mT @ moments.centred.S[:, there], 0.0)
    # Var(y) is what each component explains and, clamped where that is all, what none does
    explained = z.square() / torch.where(values > 0, values, torch.inf)
    unexplained = (power - p.square() - explained.sum(0)).clamp(min=0)

    def evidence(log_t: Tensor) -> Tensor:
        """(points, classes) -> the same, over n."""
        t = log_t.exp()
        left = t[:, None] / (values + t[:, None])  # (points, d, classes)
        s, v = ((left * each).sum(1) / t for each in (a.square(), a * z))
        q = unexplained + (left * explained).sum(1) + (p - v).square() / (1 + s)
        return -((2 * math.pi * q).log() + 1) / 2 - (s.log1p() - left.log().sum(1)) / (2 * n)

    top = (1e6 * largest).clamp(min=1e-300).log().expand(len(power))
    low, high = top - WIDTH, top
    steps = torch.linspace(0, 1, POINTS, dtype=values.dtype, device=values.device)[:, None]
    for _ in range(6):
        grid = low + (high - low) * steps
        best = evidence(grid).argmax(0, keepdim=True)
        low, high = (grid.gather(0, (best + step).clamp(0, POINTS - 1))[0] for step in (-1, 1))
    return float(evidence(((low + high) / 2)[None]).mean())


def rankme(moments: LayerMoments) -> float:
    """RankMe (Garrido et al. 2023): exp(-sum_j s_j log s_j), s the singular values of the features over their sum; 1 to d."""
    roots = above_noise(moments.eigenvalues, moments).sqrt()
    shares = roots / roots.sum()
    return float(torch.special.entr(shares).sum().exp())
