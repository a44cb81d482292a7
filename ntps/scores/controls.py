"""How high is high: permuted labels, held-out rows, error bars from partitions of the rows, tight bounds.

Nothing here is in the paper (arXiv 2505.17169). Notation as in ntps/scores/subspaces.py; all from moments alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t
from torch import Tensor

from ntps.scores import probes
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import Nested, diagonal_scale, inverse_factor
from ntps.scores.subspaces import Perception

NULL_SLACK = 1e-12  # a permuted score this close below the observed one counts as reaching it (rounding)
WEAKER = 5  # ridge strengths tried in a subspace: the full probe's, and weaker ones a decade apart


# --- permuted labels -------------------------------------------------------------------------------------------------


def above(value: float, level: float) -> float:
    """(value - level) / (1 - level): 0 at the level, 1 at the most a score can be; NaN where the level is 1."""
    return (value - level) / (1 - level) if level < 1 else math.nan


def p_value(observed: float, null: Tensor) -> float:
    """(1 + #{null >= observed}) / (R + 1) of R scores of permuted labels: uniform on its grid without signal; NaN for R = 0."""
    R = len(null)
    return (1 + int((null >= observed - NULL_SLACK).sum())) / (R + 1) if R else math.nan


# --- held-out rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """What ridge probes without intercept, fitted on train, explain on test: within V_k, and in full."""

    retention: float = math.nan  # skill / skill_full, NaN unless skill_full > 0
    skill: float = math.nan
    skill_full: float = math.nan


def held_out(
    train: LayerMoments,
    test: LayerMoments,
    full: probes.Probe,
    V: Tensor,
    root: Tensor,
    counts: Sequence[int],
) -> dict[int, HeldOut]:
    """The best probe within span V_k for each k of `counts`, against the full one, on test.

    skill(B) = 1 - SE_test(B) / SE_test(train's class frequencies). `full` is B*, of probes.ridge(train,
    intercept=False). Within V_k the same penalty D = diag(M), its strength g by generalized cross-validation on train
    among B*'s and weaker ones, for fewer directions need less. With D^1/2 V = Q R, root^T root = V^T M V and
    C = root R^-1, the basis V R^-1 is D-orthonormal and M is C^T C on it; with C^T C + g I = L L^T the ridge solution in
    span V_k is V R^-1 L_k^-T L_k^-1 R^-T V^T S for every k: one factorisation for each g.
    """
    fit, n = train.plain, float(train.text_count)
    R = Nested(V * diagonal_scale(fit.M)[0][:, None]).R
    C = torch.linalg.solve_triangular(R, root, upper=True, left=False)
    inner, target = C.mT @ C, torch.linalg.solve_triangular(R.mT, V.mT @ fit.S, upper=False)
    K, places = len(inner), torch.tensor(counts, device=inner.device)
    inside = torch.arange(K, device=inner.device)[:, None] < places  # (K, counts): the first k
    least = torch.full_like(places, math.inf, dtype=inner.dtype)
    best = target.new_zeros(K, len(counts), target.shape[1])
    for strength in sorted({max(full.penalty / 10**step, probes.RIDGE_GRID[0]) for step in range(WEAKER)}):
        T = inverse_factor(inner + strength * torch.eye(K, dtype=inner.dtype, device=inner.device))
        coordinates = T @ target
        explained = coordinates.square().sum(1).cumsum(0)[places - 1]
        freedom = (1 - strength * torch.linalg.vector_norm(T, dim=1).square()).cumsum(0)[places - 1]
        B = (T.mT @ (coordinates[:, None] * inside[:, :, None]).flatten(1)).view_as(best)
        error = (fit.power - explained - strength * B.square().sum((0, 2))).clamp(min=0)
        score = error / (1 - freedom / n).clamp(min=1e-12).square()
        better = score < least
        least, best = torch.where(better, score, least), torch.where(better[:, None], B, best)
    B = (V @ torch.linalg.solve_triangular(R, best.flatten(1), upper=True)).view(-1, *best.shape[1:])
    guess = probes.squared_error(probes.constant_probe(train), test)
    whole, skills = 1 - probes.squared_error(full, test) / guess, 1 - plain_errors(B, test) / guess
    return {
        k: HeldOut(skill / whole if whole > 0 else math.nan, skill, whole)
        for k, skill in zip(counts, skills.tolist(), strict=True)
    }


def plain_errors(B: Tensor, moments: LayerMoments) -> Tensor:
    """E||y - B_j^T m||^2 over the rows of these moments, for many B (d, j, C) at once: (j,)."""
    products = (moments.mean_second_moment @ B.flatten(1)).view_as(B)
    linear = (B * moments.mean_label_moment[:, None]).sum((0, 2))
    return moments.label_second_moment - 2 * linear + (B * products).sum((0, 2))


# --- partitions of the rows ------------------------------------------------------------------------------------------


def jackknife_error(estimates: Tensor) -> Tensor:
    """Standard error from K estimates (K, ...), each without one of K like parts of the rows.

    sqrt((K - 1) / K sum_j (estimate_j - their mean)^2), Efron and Tibshirani 1993 (11.5), parts as units.
    """
    K = len(estimates)
    return ((K - 1) / K * (estimates - estimates.mean(0)).square().sum(0)).sqrt()


def score_interval(score: ArrayLike, error: ArrayLike, partitions: int) -> tuple[Any, Any]:
    """Ends of a 90 % interval of a score in [0, 1] from its jackknife error, for the mean score of that many rows:

        log odds of the score -+ t error / (score (1 - score)),   t with partitions - 1 degrees of freedom,

    which stays in [0, 1] and allows for the error's own dependence on the score near 0 and 1, where score -+ t error is too
    short. In the simulations of tests/test_calibration.py 85 to 95 % hold it with ten partitions, 85 % or more with five,
    where they are too wide rather than too narrow.
    """
    inside = np.clip(score, 1e-12, 1 - 1e-12)
    reach = t.isf(0.05, partitions - 1) * np.asarray(error) / (inside * (1 - inside))
    return expit(logit(inside) - reach), expit(logit(inside) + reach)


# --- bounds of the excess loss -------------------------------------------------------------------------------------


def tight_constants(task: Perception, V: Tensor, counts: Sequence[int]) -> list[tuple[float, float]]:
    """c with c[0] (1 - NTPS(r, k)) <= excess(k) <= c[1] (1 - NTPS(r, k)), for each k; NaN unless M has full rank.

    The smallest and the largest eigenvalue of Sc = (Q_perp^T M^-1 Q_perp)^-1, Q_perp orthonormal to V_k, in place
    of M's: times lambda_r and lambda_1, and ||U_r||_F^2. With M = F^T F, Q V's complete orthogonal factor and
    F Q = Q' R, Sc is R22^T R22, R22 being R's trailing block, for every k. Rounding is taken off either side.
    """
    d = len(V)
    if task.mean.rank < d:
        return [(math.nan, math.nan)] * len(counts)
    reflectors, tau = torch.geqrf(V)
    R = torch.geqrf(torch.ormqr(reflectors, tau, task.mean.F, left=False))[0].triu()
    eigenvalues, norm = task.solution.eigenvalues, float(task.U.square().sum())
    least, most = float(eigenvalues[-1]) * norm, float(eigenvalues[0]) * norm
    constants = []
    for k in counts:
        block = R[k:, k:]
        values = torch.linalg.eigvalsh(block.mT @ block) if k < d else R.new_zeros(1)
        noise = d * torch.finfo(R.dtype).eps * float(values[-1])
        constants.append((least * max(0.0, float(values[0]) - noise), most * (float(values[-1]) + noise)))
    return constants
