"""Scores that others proposed, from the same moments: H-score, LogME and RankMe.

Features are the mean states m (d,), y their one-hot labels (or one number), p the class frequencies, n the number of
rows. Everything follows from M = E[m m^T], S = E[m y^T], E[m], the class counts and n, so shards of the data add up.
"""

import math

import torch
from torch import Tensor

from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import whiten

WIDTH = 60.0  # of the search for LogME's alpha / beta, in natural logarithms, downwards from 1e6 times the largest sigma^2
POINTS = 61  # a round of the search divides the interval by 30


def spectrum(moments: LayerMoments) -> Tensor:
    """Eigenvalues of M (d,), ascending; what is rounding error of the largest is zero."""
    values, _ = moments.eigen
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1]
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
    if shrink:
        a, size = oas_shrinkage(covariance, moments.text_count), covariance.trace() / len(covariance)
        covariance = (1 - a) * covariance
        covariance.diagonal().add_(a * size)
    between = cross[:, frequencies > 0] / frequencies[frequencies > 0].sqrt()  # Cov(E[m | y]) is its square
    return float(whiten(covariance).pull(between).square().sum())


def logme(moments: LayerMoments) -> float:
    """LogME (You et al. 2021): the largest log evidence of Bayesian linear regression, over n, averaged over classes.

    For features F (n, d), y ~ N(F w, 1/beta), w ~ N(0, 1/alpha): with sigma^2 and z the eigenvalues of F^T F = n M and
    F^T y = n S in their basis, q(t) = y^T (I + F F^T / t)^-1 y = y^T y - sum_j z_j^2 / (sigma_j^2 + t), t = alpha / beta, and
    log evidence = -n/2 (log(2 pi q / n) + 1) - 1/2 sum_j log(1 + sigma_j^2 / t) at the best beta = n / q.
    The one number t is searched on a grid that is made finer around its best point, the same maximum that the
    published iteration of alpha and beta tends to. One-hot columns of classes without rows are dropped.
    """
    values, vectors, n = spectrum(moments), moments.eigen[1], float(moments.text_count)
    numeric = moments.targets == 1
    power = values.new_full((1,), n * moments.label_second_moment) if numeric else moments.class_counts
    S = moments.mean_label_moment[:, power > 0]
    sigma, power = n * values, power[power > 0]
    # y^T y = what each direction explains and, clamped where that is all, what none does
    explained = torch.where(sigma[:, None] > 0, (n * vectors.mT @ S).square() / sigma[:, None], 0.0)
    unexplained = (power - explained.sum(0)).clamp(min=0)

    def evidence(log_t: Tensor) -> Tensor:
        """(points, classes) -> the same, over n."""
        t = log_t.exp()[:, None]  # (points, 1, classes)
        left = sigma[:, None] / t
        q = unexplained + (explained / (1 + left)).sum(1)
        return -((2 * math.pi * q / n).log() + 1) / 2 - left.log1p().sum(1) / (2 * n)

    top = (1e6 * sigma[-1]).clamp(min=1e-300).log().expand(len(power))
    low, high = top - WIDTH, top
    steps = torch.linspace(0, 1, POINTS, dtype=values.dtype, device=values.device)[:, None]
    for _ in range(6):
        grid = low + (high - low) * steps
        best = evidence(grid).argmax(0, keepdim=True)
        low, high = (grid.gather(0, (best + step).clamp(0, POINTS - 1))[0] for step in (-1, 1))
    return float(evidence(((low + high) / 2)[None]).mean())


def rankme(moments: LayerMoments) -> float:
    """RankMe (Garrido et al. 2023): exp(-sum_j s_j log s_j), s the singular values of the features over their sum; 1 to d."""
    roots = spectrum(moments).sqrt()
    shares = roots / roots.sum()
    return float(torch.special.entr(shares).sum().exp())
