"""What other directions than next-token prediction's score: principal components of the states, and random ones.

V_k is replaced by the k leading eigenvectors of Cov(m), or by k Gaussian directions; everything else stays.
Not in the paper (arXiv 2505.17169): a score that is to show what next-token prediction favours has to beat both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ntps.scores.held_out_probe import HeldOut, held_out
from ntps.scores.linear_algebra import RANK_RTOL, Nested, first, head, share

if TYPE_CHECKING:
    from ntps.scores.layer import Layer

DRAWS = 5  # random subspaces whose mean is reported
SEED = 0


class PrincipalComponents:
    """NTPS, retention and corrected retention of the leading principal components, as curves over k = 1..K."""

    def __init__(self, layer: Layer):
        self.layer = layer
        values, self.V = layer.moments.principal
        noise = len(values) * torch.finfo(values.dtype).eps * values[0]
        self.values = torch.where(values > noise, values, torch.inf)  # no variance: nothing is explained

    @cached_property
    def ntps(self) -> Tensor:
        return share((self.V.mT @ self.layer.task.U).square().sum(1), self.layer.K)

    @cached_property
    def retention(self) -> Tensor:
        """V^T M V = diag(l) + a a^T with a = V^T mu, so E_k = sum z_j^2 / l_j - ||sum a_j z_j / l_j||^2 / (1 + sum a_j^2 / l_j).

        Where directions of M are left out, E_k is of the others, as the whole is.
        """
        m, layer = self.layer.moments, self.layer
        if layer.rtol > RANK_RTOL:
            own = layer.whitened_labels[:, : m.targets]
            return share(Nested(layer.task.mean.F @ self.V).energies(own).sum(1), layer.K)
        a, z = self.V.mT @ m.mean_state, self.V.mT @ m.mean_label_moment
        ratio = a / self.values
        along = (ratio[:, None] * z).cumsum(0).square().sum(1) / (1 + (ratio * a).cumsum(0))
        explained = (z.square().sum(1) / self.values).cumsum(0) - along
        explained = torch.where(self.values.isfinite(), explained, math.nan)  # then the mean alone is left
        return (first(explained, self.layer.K) / self.layer.explained).clamp(max=1)

    @cached_property
    def corrected(self) -> Tensor:
        signal = self.layer.label_signal
        if signal is None:
            return self.values.new_full((self.layer.K,), math.nan)
        z = self.V.mT @ self.layer.moments.centred.S
        return signal.retained(head(z.square().sum(1) / self.values, self.layer.K))

    @cached_property
    def held_out(self) -> HeldOut:
        """At the headline's k, of those with a variance."""
        there = int(self.values[: self.layer.tenth].isfinite().sum())
        V = self.V[:, :there]
        return held_out_within(self.layer, V, Nested(self.layer.task.mean.F @ V)) if there else HeldOut()


@dataclass(frozen=True)
class RandomDirections:
    """Means over DRAWS random subspaces of k directions, uniform as those of NTPS's chance."""

    retention: float
    corrected: float
    held_out: float

    @classmethod
    def of(cls, layer: Layer, k: int) -> RandomDirections:
        generator = torch.Generator().manual_seed(SEED)
        drawn = torch.randn(DRAWS, layer.d, k, generator=generator, dtype=torch.float64).to(layer.task.U)
        together = drawn.transpose(0, 1).flatten(1)  # one product for all draws
        signal, own = layer.label_signal, layer.whitened_labels[:, : layer.moments.targets]
        spans = [Nested(columns) for columns in (layer.task.mean.F @ together).split(k, 1)]
        retention = [float(within.energies(own)[:k].sum() / layer.explained) for within in spans]
        unseen = [held_out_within(layer, V, within).retention for V, within in zip(drawn, spans)]
        corrected = [math.nan]
        if signal is not None:
            centred = [Nested(columns) for columns in (signal.white.F @ together).split(k, 1)]
            corrected = [
                float(signal.retained(head(within.energies(signal.T).sum(1), k))[-1]) for within in centred
            ]
        return cls(*(sum(values) / len(values) for values in (retention, corrected, unseen)))


def held_out_within(layer: Layer, V: Tensor, spans: Nested) -> HeldOut:
    """The held-out probe within span V (d, k), spans of F V; nothing without test moments."""
    if layer.test is None:
        return HeldOut()
    k = V.shape[1]
    return held_out(layer.moments, layer.test, layer.ridge_plain, V, spans.R, [k])[k]
