"""Linear probes in closed form from moments: least squares, ridge, their training and test errors.

One-hot (or numeric) targets y, predicted as B^T m + b. With an intercept the moments are centred first. A
squared error SE is the mean over rows of the sum over classes; `mse` averages over classes too, as
scikit-learn does.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ntps.scores.label_signal import LEAST
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL

# Penalties alpha / n on unit-variance coordinates, from next to nothing to nearly silencing the states.
RIDGE_GRID = tuple(10.0 ** (step / 2) for step in range(-12, 5))


@dataclass(frozen=True)
class Probe:
    """B (d, C) and b (C,), the prediction B^T m + b; the ridge strength and its error where there is one."""

    coefficients: Tensor
    intercept: Tensor
    penalty: float = 0.0  # alpha / n, on coordinates scaled to unit variance
    gcv_error: float = float("nan")  # generalized cross-validation's estimate of mse


def least_squares(moments: LayerMoments, intercept: bool = True) -> Probe:
    """The least-squares probe B = M^+ S, centred first with an intercept; of equals, the shortest."""
    fit = moments.centred if intercept else moments.plain
    B = fit.S
    if fit.M.any():
        white = fit.spectrum.full
        B = white.push(white.pull(B))
    return Probe(B, fit.label_mean - B.mT @ fit.mean)


def ridge(moments: LayerMoments, penalty: float | None = None, intercept: bool = True) -> Probe:
    """Ridge regression on coordinates scaled to unit variance (unit mean square without an intercept).

    Minimises E||y - B^T x - b||^2 + penalty ||B||^2, so scikit-learn's alpha is n * penalty; b is not
    penalised. With penalty=None the one of RIDGE_GRID with the lowest generalized cross-validation error
    SE / (1 - df / n)^2, df = tr H (`cross_validated`), from one eigen-solve for the whole grid.
    `gcv_error` is that error divided by C, an estimate of mse; "best layer" is the lowest of it.
    """
    fit = moments.centred if intercept else moments.plain
    n, spectrum = float(moments.text_count), fit.spectrum
    stays = spectrum.matched(RANK_RTOL)
    values, Q, inverse = spectrum.values[stays], spectrum.Q[:, stays], spectrum.inverse[:, None]
    target = Q.mT @ (inverse * fit.S)
    explained = target.square().sum(1) / values  # of E||y||^2, by each direction
    unexplained = (fit.power - explained.sum()).clamp(min=0)
    spare = n - float(intercept) - len(values)  # degrees of freedom that no penalty can take
    if spare <= 0:
        unexplained, spare = torch.zeros_like(unexplained), 0.0
    penalties = torch.tensor(RIDGE_GRID if penalty is None else [penalty], dtype=Q.dtype, device=Q.device)
    # What each penalty takes off each direction, (penalties, directions).
    shrunk = penalties[:, None] / (values + penalties[:, None])
    squared_errors = unexplained + (shrunk.square() * explained).sum(1)
    gcv = cross_validated(squared_errors, spare + shrunk.sum(1), n) / fit.S.shape[1]
    best = int(gcv.nan_to_num(torch.inf).argmin())
    B = inverse * (Q @ (target / (values + penalties[best])[:, None]))
    return Probe(B, fit.label_mean - B.mT @ fit.mean, float(penalties[best]), float(gcv[best]))


def cross_validated(squared_errors: Tensor, left: Tensor, n: float) -> Tensor:
    """SE / (left / n)^2 of every penalty, left = n - df (Golub, Heath and Wahba 1979).

    Infinite for penalties that leave fewer than LEAST degrees of freedom, where others leave more: there both SE and n - df
    vanish, and their ratio says nothing.
    """
    known = left >= min(LEAST, float(left.max()))
    return torch.where(known, squared_errors / (left / n).square(), torch.inf)


def constant_probe(moments: LayerMoments) -> Probe:
    """The probe that knows the class frequencies alone."""
    return Probe(torch.zeros_like(moments.mean_label_moment), moments.label_mean)


def guessing_error(train: LayerMoments, test: LayerMoments) -> float:
    """Its squared error: SE_test(train's class frequencies)."""
    guess = train.label_mean
    return test.label_second_moment - 2 * float(guess @ test.label_mean) + float(guess.square().sum())


def squared_error(probe: Probe, moments: LayerMoments) -> float:
    """E||y - B^T m - b||^2 over the rows of these moments, train or test.

    = E||y||^2 - 2 tr(A^T S1) + tr(A^T M1 A), with A = [B; b] and M1, S1 the moments of [m; 1].
    """
    B, b = probe.coefficients, probe.intercept
    linear = (B * moments.mean_label_moment).sum() + b @ moments.label_mean
    square = (B * (moments.mean_second_moment @ B)).sum() + 2 * b @ (B.mT @ moments.mean_state) + b @ b
    return float(moments.label_second_moment - 2 * linear + square)


def mse(probe: Probe, moments: LayerMoments) -> float:
    """scikit-learn's mean squared error: over rows and classes."""
    return squared_error(probe, moments) / len(probe.intercept)


def skill(probe: Probe, train: LayerMoments, test: LayerMoments) -> float:
    """1 - SE_test(probe) / SE_test(train's class frequencies): 1 is perfect, 0 is no better than guessing."""
    return 1 - squared_error(probe, test) / guessing_error(train, test)


def gcv_skill(probe: Probe, train: LayerMoments) -> float:
    """1 - gcv_error / that of the class frequencies, whose degrees of freedom are 1; NaN where all labels are one."""
    spare = max(1 - 1 / float(train.text_count), 1e-12)
    guess = guessing_error(train, train) / train.targets / spare**2
    return 1 - probe.gcv_error / guess if guess else math.nan
