"""Tight bounds of the excess loss by NTPS; the paper's own are `Layer.bounds`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ntps.scores.subspaces import Perception


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
