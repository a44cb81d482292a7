"""What the best ridge probes within the leading autoregressive directions explain on held-out rows, from moments alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntps.scores import probes
from ntps.scores.label_signal import LEAST
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import Nested, diagonal_scale, gram, inverse_factor, quotient

WEAKER = 5  # ridge strengths tried in a subspace: the full probe's, and weaker ones a decade apart


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
    """The best probe within span V_k for each k of `counts`, ascending, against the full one, on test.

    skill(B) = 1 - SE_test(B) / SE_test(train's class frequencies). `full` is B*, of probes.ridge(train,
    intercept=False). Within V_k the same penalty D = diag(M), its strength g by generalized cross-validation on train
    among B*'s and weaker ones that leave LEAST degrees of freedom, for fewer directions need less. With D^1/2 V = Q R, root^T root = V^T M V and
    C = root R^-1, the basis V R^-1 is D-orthonormal and M is C^T C on it; with C^T C + g I = L L^T and T = L^-1 the ridge
    solution in span V_k is V R^-1 T_k^T T_k R^-T V^T S, T_k the first k rows, for every k: one factorisation for each g.
    """
    fit, n, K = train.plain, float(train.text_count), counts[-1]
    V = V[:, :K]
    R = Nested(V * diagonal_scale(fit.M)[0][:, None]).R
    inner = gram(quotient(root[:K, :K], R), triangular=True)
    target = torch.linalg.solve_triangular(R.mT, V.mT @ fit.S, upper=False)
    places, blocks = torch.tensor(counts, device=V.device), list(zip([0, *counts], counts))
    least = torch.full_like(places, math.inf, dtype=V.dtype)
    best = target.new_zeros(K, len(counts), target.shape[1])
    for strength in sorted({max(full.penalty / 10**step, probes.RIDGE_GRID[0]) for step in range(WEAKER)}):
        T = inverse_factor(inner, strength)
        coordinates = T @ target
        explained = coordinates.square().sum(1).cumsum(0)[places - 1]
        freedom = (1 - strength * torch.linalg.vector_norm(T, dim=1).square()).cumsum(0)[places - 1]
        B = torch.stack([T[s:e].mT @ coordinates[s:e] for s, e in blocks], 1).cumsum(1)
        error = (fit.power - explained - strength * B.square().sum((0, 2))).clamp(min=0)
        score = error / (1 - freedom / n).clamp(min=1e-12).square()
        better = (score < least) & ((n - freedom >= LEAST) | (strength == full.penalty))
        least, best = torch.where(better, score, least), torch.where(better[:, None], B, best)
    B = (V @ torch.linalg.solve_triangular(R, best.flatten(1), upper=True)).view(-1, *best.shape[1:])
    errors = plain_errors(torch.cat([B, full.coefficients[:, None]], 1), test)
    *skills, whole = (1 - errors / probes.guessing_error(train, test)).tolist()
    return {
        k: HeldOut(skill / whole if whole > 0 else math.nan, skill, whole)
        for k, skill in zip(counts, skills, strict=True)
    }


def plain_errors(B: Tensor, moments: LayerMoments) -> Tensor:
    """E||y - B_j^T m||^2 over the rows of these moments, for many B (d, j, C) at once: (j,)."""
    products = (moments.mean_second_moment @ B.flatten(1)).view_as(B)
    linear = (B * moments.mean_label_moment[:, None]).sum((0, 2))
    return moments.label_second_moment - 2 * linear + (B * products).sum((0, 2))
