"""Linear probes in closed form from moments: least squares, ridge, their training and test errors.

One-hot (or numeric) targets y, predicted as B^T m + b. With an intercept the moments are centred first. A
squared error SE is the mean over texts of the sum over classes; `mse` averages over classes too, as
scikit-learn does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntps.scores.subspaces import RANK_RTOL, whiten

# Penalties alpha / n on unit-variance coordinates, from next to nothing to nearly silencing the states.
RIDGE_GRID = tuple(10.0 ** (step / 2) for step in range(-12, 5))


@dataclass(frozen=True)
class Probe:
    """B (d, C) and b (C,), the prediction B^T m + b; the ridge strength and its error where there is one."""

    coefficients: Tensor
    intercept: Tensor
    penalty: float = 0.0  # alpha / n, on coordinates scaled to unit variance
    gcv_error: float = float("nan")  # generalized cross-validation's estimate of mse


def _read(moments: Mapping[str, Any], *names: str) -> list[Tensor]:
    return [torch.as_tensor(moments[name]).to(torch.float64) for name in names]


def fit_moments(moments: Mapping[str, Any], intercept: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """M, S and E||y||^2, centred where there is an intercept; with mu and E[y], which are 0 without."""
    M, S, mu, counts, n, power = _read(
        moments, "mean_second_moment", "mean_label_moment", "mean_state", "class_counts", "text_count",
        "label_second_moment",
    )  # fmt: skip
    label_mean = counts / n
    if not intercept:
        return M, S, power, torch.zeros_like(mu), torch.zeros_like(label_mean)
    centred = M - torch.outer(mu, mu)
    # A constant coordinate's variance is rounding error of its square: the intercept says what it could.
    constant = centred.diagonal() <= 10 * torch.finfo(M.dtype).eps * M.diagonal()
    centred = torch.where(constant[:, None] | constant, 0.0, centred)
    cross = torch.where(constant[:, None], 0.0, S - torch.outer(mu, label_mean))
    return centred, cross, power - label_mean.square().sum(), mu, label_mean


def least_squares(moments: Mapping[str, Any], intercept: bool = True, rtol: float = RANK_RTOL) -> Probe:
    """The least-squares probe B = M^+ S, centred first with an intercept; of equals, the shortest."""
    M, S, _, mu, label_mean = fit_moments(moments, intercept)
    if M.any():
        white = whiten(M, rtol)
        S = white.push(white.pull(S))
    return Probe(S, label_mean - S.mT @ mu)


def ridge(moments: Mapping[str, Any], penalty: float | None = None, intercept: bool = True) -> Probe:
    """Ridge regression on coordinates scaled to unit variance (unit mean square without an intercept).

    Minimises E||y - B^T x - b||^2 + penalty ||B||^2, so scikit-learn's alpha is n * penalty; b is not
    penalised. With penalty=None the one of RIDGE_GRID with the lowest generalized cross-validation error
    SE / (1 - df / n)^2, df = tr H (Golub, Heath and Wahba 1979), from one eigen-solve for the whole grid.
    `gcv_error` is that error divided by C, an estimate of mse; "best layer" is the lowest of it.
    """
    M, S, power, mu, label_mean = fit_moments(moments, intercept)
    n = float(moments["text_count"])
    inverse = torch.where(M.diagonal() > 0, M.diagonal().clamp(min=0).rsqrt(), 0.0)
    values, Q = torch.linalg.eigh(inverse[:, None] * M * inverse)
    kept = values > RANK_RTOL * values[-1]
    values, Q = values[kept], Q[:, kept]
    target = Q.mT @ (inverse[:, None] * S)
    explained = target.square().sum(1) / values  # of E||y||^2, by each direction
    unexplained = (power - explained.sum()).clamp(min=0)
    spare = n - float(intercept) - len(values)  # degrees of freedom that no penalty can take
    if spare <= 0:
        unexplained, spare = torch.zeros_like(power), 0.0
    penalties = torch.tensor(RIDGE_GRID if penalty is None else [penalty], dtype=M.dtype, device=M.device)
    # What each penalty takes off each direction, (penalties, directions).
    shrunk = penalties[:, None] / (values + penalties[:, None])
    squared_errors = unexplained + (shrunk.square() * explained).sum(1)
    gcv = squared_errors / ((spare + shrunk.sum(1)) / n).square() / S.shape[1]
    best = int(gcv.nan_to_num(torch.inf).argmin())
    B = inverse[:, None] * (Q @ (target / (values + penalties[best])[:, None]))
    return Probe(B, label_mean - B.mT @ mu, float(penalties[best]), float(gcv[best]))


def constant_probe(moments: Mapping[str, Any]) -> Probe:
    """The probe that knows the class frequencies alone."""
    S, counts, n = _read(moments, "mean_label_moment", "class_counts", "text_count")
    return Probe(torch.zeros_like(S), counts / n)


def squared_error(probe: Probe, moments: Mapping[str, Any]) -> float:
    """E||y - B^T m - b||^2 over the texts of these moments, train or test.

    = E||y||^2 - 2 tr(A^T S1) + tr(A^T M1 A), with A = [B; b] and M1, S1 the moments of [m; 1].
    """
    M, S, mu, counts, n, power = _read(
        moments, "mean_second_moment", "mean_label_moment", "mean_state", "class_counts", "text_count",
        "label_second_moment",
    )  # fmt: skip
    B, b, label_mean = probe.coefficients, probe.intercept, counts / n
    linear = (B * S).sum() + b @ label_mean
    square = (B * (M @ B)).sum() + 2 * b @ (B.mT @ mu) + b @ b
    return float(power - 2 * linear + square)


def mse(probe: Probe, moments: Mapping[str, Any]) -> float:
    """scikit-learn's mean squared error: over texts and classes."""
    return squared_error(probe, moments) / len(probe.intercept)


def skill(probe: Probe, train: Mapping[str, Any], test: Mapping[str, Any]) -> float:
    """1 - SE_test(probe) / SE_test(train's class frequencies): 1 is perfect, 0 is no better than guessing."""
    return 1 - squared_error(probe, test) / squared_error(constant_probe(train), test)
