"""How high is high: shuffled labels, held-out texts, error bars from partitions of the texts, tight bounds.

Nothing here is in the paper (arXiv 2505.17169). Notation as in ntps.scores.subspaces; all from moments alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t
from torch import Tensor

from ntps.scores import probes
from ntps.scores.subspaces import Perception

NULL_SLACK = 1e-12  # a shuffled score this close below the observed one counts as reaching it (rounding)
WEAKER = 5  # ridge strengths tried in a subspace: the full probe's, and weaker ones a decade apart
NOT_HELD_OUT = dict.fromkeys(("heldout_retention", "heldout_skill", "heldout_skill_full"), math.nan)
SUMS = (
    "mean_second_moment",
    "mean_label_moment",
    "mean_state",
    "prefix_second_moment",
    "prefix_next_moment",
    "label_second_moment",
)


# --- shuffled labels -----------------------------------------------------------------------------------------------


def above(value: float, level: float) -> float:
    """(value - level) / (1 - level): 0 at the level, 1 at the most a score can be; NaN where the level is 1."""
    return (value - level) / (1 - level) if level < 1 else math.nan


def p_value(observed: float, null: Tensor) -> float:
    """(1 + #{null >= observed}) / (R + 1) of R shuffled scores: uniform on its grid without signal; NaN for R = 0."""
    R = len(null)
    return (1 + int((null >= observed - NULL_SLACK).sum())) / (R + 1) if R else math.nan


def null_figures(observed: float, null: Tensor) -> dict[str, float]:
    """Mean and deviation of R shuffled scores, the share of the way above their mean, and the p-value."""
    R = len(null)
    mean = float(null.mean()) if R else math.nan
    return {
        "null_mean": mean,
        "null_std": float(null.std()) if R > 1 else math.nan,
        "null_lift": above(observed, mean),
        "p_value": p_value(observed, null),
    }


# --- held-out texts ------------------------------------------------------------------------------------------------


def held_out(
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    full: probes.Probe,
    V: Tensor,
    counts: Sequence[int],
) -> list[dict[str, float]]:
    """What ridge probes without intercept, fitted on train, explain on test: within V_k for each k, and in full.

    skill(B) = 1 - SE_test(B) / SE_test(train's class frequencies); heldout_retention = skill(best B in span V_k)
    / skill(B*), NaN unless skill(B*) > 0. `full` is B*, of probes.ridge(train, intercept=False). Within V_k the same
    penalty D = diag(M), its strength g by generalized cross-validation on train among B*'s and weaker ones, for
    fewer directions need less. On coordinates scaled by D, with Q orthonormal to V and Q^T M Q + g I = T^-T T^-1, T
    upper triangular, the ridge solution in span V_k is Q T_k T_k^T Q^T S for every k: one factorisation for each g.
    """
    M, S, power, _, _ = probes.fit_moments(train, intercept=False)
    n, scale = float(train["text_count"]), M.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)[:, None]
    Q = torch.linalg.qr(V * scale[:, None])[0]
    inner, target = Q.mT @ (inverse * M * inverse.mT) @ Q, Q.mT @ (inverse * S)
    eye = torch.eye(len(inner), dtype=M.dtype, device=M.device)
    best = [(math.inf, target)] * len(counts)
    for step in range(WEAKER):
        strength = max(full.penalty / 10**step, probes.RIDGE_GRID[0])
        factor = torch.linalg.cholesky(inner + strength * eye)
        T = torch.linalg.solve_triangular(factor, eye, upper=False).mT
        coordinates = T.mT @ target
        explained = coordinates.square().sum(1).cumsum(0)
        freedom = (1 - strength * T.square().sum(0)).cumsum(0)
        for place, k in enumerate(counts):
            B = T[:k, :k] @ coordinates[:k]
            error = (power - explained[k - 1] - strength * B.square().sum()).clamp(min=0)
            score = float(error / (1 - freedom[k - 1] / n).clamp(min=1e-12).square())
            if score < best[place][0]:
                best[place] = (score, B)
    whole = probes.skill(full, train, test)
    rows = []
    for _, B in best:
        B = inverse * (Q[:, : len(B)] @ B)
        skill = probes.skill(probes.Probe(B, B.new_zeros(B.shape[1])), train, test)
        kept = skill / whole if whole > 0 else math.nan
        rows.append(dict(zip(NOT_HELD_OUT, (kept, skill, whole), strict=True)))
    return rows


# --- partitions of the texts ---------------------------------------------------------------------------------------


def leave_one_out(whole: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Moments of all texts but one partition's, for each partition in turn; sums that subtract."""
    n = whole["text_count"]
    for part in parts:
        left = n - part["text_count"]
        moments = {name: (n * whole[name] - part["text_count"] * part[name]) / left for name in SUMS}
        yield moments | {"class_counts": whole["class_counts"] - part["class_counts"], "text_count": left}


def jackknife_error(estimates: Tensor) -> Tensor:
    """Standard error from K estimates (K, ...), each without one of K like parts of the texts.

    sqrt((K - 1) / K sum_j (estimate_j - their mean)^2), Efron and Tibshirani 1993 (11.5), parts as units.
    """
    K = len(estimates)
    return ((K - 1) / K * (estimates - estimates.mean(0)).square().sum(0)).sqrt()


def score_interval(score: ArrayLike, error: ArrayLike, partitions: int) -> tuple[Any, Any]:
    """Ends of a 90 % interval of a score in [0, 1] from its jackknife error, for the mean score of that many texts:

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
