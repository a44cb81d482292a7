"""Words in the plane of a layer's two leading perception (U) or autoregressive (V) directions (figure 1 of the paper)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL, tied, whiten
from ntps.scores.subspaces import Solution, autoregression, solve

COLUMNS = ("model", "dataset", "layer", "space", "group", "word", "tokens", "x", "y")
SPACES = ("U", "V")
PAPER_WORDS = {
    "Joy": ["lovely", "enjoyable", "amazing", "delighted"],
    "Sad": ["horrible", "disappointing", "unhappy", "lonely"],
    "Be": ["am", "is", "are", "was", "were"],
}


def leading_pair(moments: LayerMoments, space: str) -> tuple[Tensor, bool]:
    """The two leading directions (d, 2) of U or V, and whether equal eigenvalues make them arbitrary.

    Each is scaled so that over the train rows E[(v^T m)^2] = v^T M v = 1: a word at 1 lies as far out as rows
    do. U has this scale by itself. UserError where there is one direction only (a numeric label).
    """
    M = moments.mean_second_moment
    if space == "U":
        solution: Solution = solve(moments.mean_label_moment, whiten(M), RANK_RTOL)
    else:
        solution = autoregression(moments)
    pair = solution.vectors[:, :2]
    if pair.shape[1] < 2:
        raise UserError(f"{space} has one direction only: a plane needs labels that determine two")
    lengths = (pair * (M @ pair)).sum(0).sqrt()
    return pair / lengths, bool(tied(solution.eigenvalues)[:2].any())


def signs(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A sign for each axis (2,): the mean of the rows `first` is nowhere below the mean of the rows `second`.

    Eigenvectors have no sign of their own; with this rule, figures of different models can be held side by side.
    """
    return np.where(points[first].mean(0) < points[second].mean(0), -1.0, 1.0)


def dividing_line(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float]:
    """(w, b) of the line w^T x = b between two groups of points (n, 2): linear discriminant analysis.

    w = Sigma^+ (mean_1 - mean_2), Sigma the pooled covariance within the groups, and b half-way between the means
    (equal priors), so that w^T x > b on the first group's side. w = 0: the means agree, and there is no line.
    """
    means = first.mean(0), second.mean(0)
    rest = np.concatenate([first - means[0], second - means[1]])
    w = np.linalg.pinv(rest.T @ rest / len(rest), rcond=1e-12, hermitian=True) @ (means[0] - means[1])
    if not w.any():  # no spread within the groups along their difference, or no difference
        w = means[0] - means[1]
    return w, float(w @ (means[0] + means[1]) / 2)


def right_side(first: np.ndarray, second: np.ndarray) -> int:
    """How many points of both groups lie on their own group's side of the dividing line."""
    w, b = dividing_line(first, second)
    return int((first @ w > b).sum() + (second @ w < b).sum())
