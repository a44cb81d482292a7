"""The label-permutation null: p-values, and how far a score lies above it.

Labels are permuted by ntps.moments.sums.permuted_rows, once for all models; U of every permutation is `Perception.shuffled`,
its NTPS and retention are `Order.null` and `Order.signal`. Not in the paper (arXiv 2505.17169).
"""

import math

from torch import Tensor

NULL_SLACK = 1e-12  # a permuted score this close below the observed one counts as reaching it (rounding)


def above(value: float, level: float) -> float:
    """(value - level) / (1 - level): 0 at the level, 1 at the most a score can be; NaN where the level is 1."""
    return (value - level) / (1 - level) if level < 1 else math.nan


def p_value(observed: float, null: Tensor) -> float:
    """(1 + #{null >= observed}) / (R + 1) of R scores of permuted labels: uniform on its grid without signal; NaN for R = 0."""
    R = len(null)
    return (1 + int((null >= observed - NULL_SLACK).sum())) / (R + 1) if R else math.nan
