"""Two nulls, of permuted labels and of a signal in rotated directions: p-values, and how far a score lies above them.

Labels are permuted by ntps.moments.sums.permuted_rows, once for all models; U of every permutation is `Layer.own_permuted`,
its NTPS and retention are `Order.null` and `Order.retained` (ntps/scores/layer.py). Not in the paper (arXiv 2505.17169).
"""

import math

import torch
from torch import Tensor

from ntps.scores.label_signal import LabelSignal
from ntps.scores.layer_moments import LayerMoments

NULL_SLACK = 1e-12  # a level this close below 1 is 1 (rounding)
TIE = 10 * torch.finfo(torch.float32).eps  # scores this close are equal: permuted S is kept in float32


def above(value: float, level: float) -> float:
    """(value - level) / (1 - level): 0 at the level, 1 at the most a score can be; NaN where the level is 1, to rounding."""
    return (value - level) / (1 - level) if 1 - level > NULL_SLACK else math.nan


def null_mean(null: Tensor) -> float:
    """Of R scores; NaN for R = 0."""
    return float(null.mean()) if len(null) else math.nan


def null_std(null: Tensor) -> float:
    """Of R scores; NaN for R < 2."""
    return float(null.std()) if len(null) > 1 else math.nan


def p_value(observed: float, null: Tensor) -> float:
    """Two-sided: min(1, 2 min(1 + #{null >= observed}, 1 + #{null <= observed}) / (R + 1)) of R scores; NaN for R = 0, and
    where a score is NaN or infinite.

    At most alpha with probability at most alpha where observed and null are exchangeable. Scores that differ by less than
    TIE count as equal: of few rows many permutations are the same labels, or the same classes by other names.
    """
    R = len(null)
    if not (math.isfinite(observed) and null.isfinite().all()):
        return math.nan
    reached, under = ((side >= -TIE).sum() for side in (null - observed, observed - null))
    return min(1.0, 2 * (1 + min(int(reached), int(under))) / (R + 1)) if R else math.nan


def rotated(moments: LayerMoments, signal: LabelSignal | None, draws: int, seed: int = 0) -> Tensor:
    """S of labels whose signal is as large and lies in random directions of the whitened states: (R, d, C).

    W^T Sc = L diag(s) R^T becomes Q diag(s) R^T with Q (r, c) uniform among orthonormal columns; S = mu p^T + Sc.
    """
    S = moments.mean_label_moment
    if signal is None or not draws:
        return S.new_zeros(0, *S.shape)
    _, s, right = torch.linalg.svd(signal.T, full_matrices=False)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(draws, signal.rank, len(s), generator=generator, dtype=torch.float64).to(S.device)
    Q, triangle = torch.linalg.qr(drawn)
    Q = Q * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]  # else its signs are not random
    turned = Q * s @ right  # (R, r, C)
    turned = (signal.white.F.mT @ turned.transpose(0, 1).flatten(1)).view(len(S), draws, -1)
    return turned.transpose(0, 1) + torch.outer(moments.mean_state, moments.label_mean)
