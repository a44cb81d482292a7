"""Ridge regression on mean states joined with further features, by their kernels: what do these add on held-out rows?

K_w = (1 - w) K_states + w K_more, each centred on train and scaled to a mean diagonal of 1 there; minimises
||Y - K_w a - b||^2 + n penalty tr(a^T K_w a) over train, b not penalised. Penalty and w have the lowest generalized
cross-validation error SE / (1 - df / n)^2 (Golub, Heath and Wahba 1979). Rows are train's n, then those held out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ntps.scores.probes import cross_validated

PENALTIES = tuple(10.0 ** (step / 2) for step in range(-12, 3))
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)


def linear_kernel(blocks: Iterable[Tensor], n: int, unit_norm: bool = False) -> Tensor:
    """X X_train^T (rows, n), float64, of features X (rows, D) that come in blocks of columns.

    unit_norm: of rows scaled to length 1; a row of zeros stays.
    """
    kernel = squares = torch.zeros(())
    for block in blocks:
        block = block.double()
        kernel, squares = kernel + block @ block[:n].mT, squares + block.square().sum(1)
    if unit_norm:
        inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)
        kernel = kernel * inverse[:, None] * inverse[:n]
    return kernel


def states_kernel(states: Tensor, n: int) -> Tensor:
    """(rows, n) of mean states (rows, d), each coordinate scaled to unit variance over train."""
    deviation, mean = torch.std_mean(states[:n].double(), 0, correction=0)
    return linear_kernel([(states - mean) * torch.where(deviation > 0, 1 / deviation, 0.0)], n)


def centred(kernel: Tensor) -> Tensor:
    """The kernel of the features less their mean over train, scaled to a mean diagonal of 1 there."""
    columns = kernel[: kernel.shape[1]].mean(0)
    kernel = kernel - kernel.mean(1, keepdim=True) - columns + columns.mean()
    scale = kernel.diagonal().mean()  # of train: it stands first
    return kernel / torch.where(scale > 0, scale, 1.0)


@dataclass(frozen=True)
class Ridge:
    """What GCV chose, its estimate of the skill on new rows, and the predictions (rows, C) of all rows."""

    weight: float
    penalty: float
    gcv_skill: float
    predictions: Tensor


def ridge(states: Tensor, more: Tensor, Y: Tensor, weights: Sequence[float] = WEIGHTS) -> Ridge:
    """The ridge of two centred kernels (rows, n) and targets Y (n, C) of train with the lowest GCV error."""
    n, mean = len(Y), Y.mean(0)
    penalties = n * torch.tensor(PENALTIES, dtype=Y.dtype)[:, None]
    guess = float((Y - mean).square().sum()) / (1 - 1 / n) ** 2  # the error of the class frequencies
    best = Ridge(0.0, math.inf, -math.inf, mean.expand(len(states), -1))
    for weight in weights:
        kernel = (1 - weight) * states + weight * more
        values, Q = torch.linalg.eigh(kernel[:n])
        values, target = values.clamp(min=0), Q.mT @ (Y - mean)
        shrunk = penalties / (values + penalties)
        left = shrunk.sum(1) - 1  # without the constant, which b takes
        errors = cross_validated(shrunk.square() @ target.square().sum(1), left, n)
        place = int(errors.argmin())
        if (skill := 1 - float(errors[place]) / guess) > best.gcv_skill:
            coefficients = Q @ (target / (values + penalties[place])[:, None])
            best = Ridge(weight, PENALTIES[place], skill, mean + kernel @ coefficients)
    return best


def compare(states: Tensor, more: Tensor, labels: Tensor, held_out: Tensor, classes: int) -> dict[str, float]:
    """Held-out accuracy and skill of the ridge on states and of the joint one, and what the latter gains.

    kernels (rows, n), not centred; labels (n,) and held_out (m,) are class indices. skill = 1 - SE / SE of train's
    class frequencies. accuracy_gain_error: standard error over the held-out rows, of the same ridges.
    """
    n, Y = len(labels), one_hot(labels, classes).double()
    states, more, truth = centred(states), centred(more), one_hot(held_out, classes).double()
    guess, row, hits = (truth - Y.mean(0)).square().sum(), {}, {}
    for name, weights in (("states", WEIGHTS[:1]), ("joint", WEIGHTS)):
        found = ridge(states, more, Y, weights)
        predicted = found.predictions[n:]
        hits[name] = (predicted.argmax(1) == held_out).double()
        row[f"accuracy_{name}"] = float(hits[name].mean())
        row[f"skill_{name}"] = float(1 - (truth - predicted).square().sum() / guess)
        row[f"gcv_skill_{name}"], row[f"penalty_{name}"] = found.gcv_skill, found.penalty
        row["weight"] = found.weight
    for name in ("accuracy", "skill", "gcv_skill"):
        row[f"{name}_gain"] = row[f"{name}_joint"] - row[f"{name}_states"]
    return row | {"accuracy_gain_error": float((hits["joint"] - hits["states"]).std()) / len(truth) ** 0.5}
