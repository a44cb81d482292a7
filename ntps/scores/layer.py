"""NTPS, excess loss and retention of one layer as curves over kv, from subspaces that are each decomposed once.

ntps    the score of one layer's moments, by itself
Layer   the moments of one layer, its eigen-solves and probes, computed when first needed
Order   its autoregressive directions in one order, and every curve over kv = 1..K
Point   one (order, rule, ku, kv): what a score of ntps/scores/registry.py is a function of
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.scores import probes
from ntps.scores.baselines import PrincipalComponents, RandomDirections
from ntps.scores.bounds import tight_constants
from ntps.scores.held_out_probe import HeldOut, held_out
from ntps.scores.label_signal import LabelSignal
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL, Nested, head, quotient, relative_gaps, share, tail, tied
from ntps.scores.permutation_null import rotated
from ntps.scores.subspaces import ORDERS, Perception, Solution, autoregression

STEPS = 20  # the paper's sweep: k = j / 20 of the rank, j = 1..19


class Layer:
    """A layer's subspaces and probes, each computed when first needed; UserError then if there is nothing to score.

    rtol, prefix_rtol: eigenvalues of M, and of P0, up to this share of the largest are left out (prefix_rtol None: the
    same). test: moments of other rows, for held-out scores (their prefix moments are not needed). tight: also the tight
    bounds of the excess loss, 19 eigen-solves an order.
    """

    def __init__(
        self,
        moments: LayerMoments,
        test: LayerMoments | None = None,
        rtol: float = RANK_RTOL,
        tight: bool = False,
        prefix_rtol: float | None = None,
    ):
        self.moments, self.test, self.rtol, self.tight = moments, test, rtol, tight
        self.prefix_rtol = rtol if prefix_rtol is None else prefix_rtol

    @cached_property
    def task(self) -> Perception:
        """U."""
        m = self.moments
        return Perception(m.plain.spectrum.whitened(self.rtol), m.mean_label_moment)

    @cached_property
    def auto(self) -> Solution:
        """V, largest eigenvalue first."""
        return autoregression(self.moments, self.prefix_rtol)

    @property
    def d(self) -> int:
        return self.moments.width

    @property
    def K(self) -> int:
        """rank P0: the largest kv."""
        return self.auto.whitened.rank

    @property
    def rank_unstable(self) -> bool:
        return self.task.mean.rank_unstable or self.auto.whitened.rank_unstable

    @cached_property
    def orders(self) -> dict[str, Order]:
        return {name: Order(self, name) for name in ORDERS}

    @cached_property
    def ridge(self) -> probes.Probe:
        """With intercept, its strength by generalized cross-validation on train."""
        return probes.ridge(self.moments)

    @cached_property
    def ridge_plain(self) -> probes.Probe:
        """The same without intercept."""
        return probes.ridge(self.moments, intercept=False)

    @cached_property
    def label_signal(self) -> LabelSignal | None:
        """Of the centred moments; None where the states are all the same."""
        return LabelSignal.of(self.moments)

    @cached_property
    def pca(self) -> PrincipalComponents:
        return PrincipalComponents(self)

    @cached_property
    def random(self) -> RandomDirections:
        """As many random directions as the headline takes."""
        return RandomDirections.of(self, self.tenth)

    @cached_property
    def tenth(self) -> int:
        """The headline's kv: d/10."""
        return min(max(1, self.d // 10), self.K)

    @cached_property
    def rotated(self) -> Tensor:
        """S with its signal rotated among whitened directions, as many as there are label permutations (R, d, C)."""
        return rotated(self.moments, self.label_signal, len(self.moments.permuted))

    @cached_property
    def own_permuted(self) -> Tensor:
        """U_r of every label permutation, side by side (d, R C)."""
        C = self.moments.targets
        return self.task.directions(self.whitened_labels[:, C + 1 :], C).flatten(1)

    @cached_property
    def whitened_labels(self) -> Tensor:
        """W^T of S, of E[m], and of S of every label permutation: (rank M, C + 1 + R C)."""
        m = self.moments
        columns = [m.mean_label_moment, m.mean_state[:, None], m.permuted.transpose(0, 1).flatten(1)]
        return self.task.mean.pull(torch.cat(columns, 1))

    @cached_property
    def explained(self) -> Tensor:
        """E_full = tr(S^T M^+ S)."""
        return self.whitened_labels[:, : self.moments.targets].square().sum()

    @cached_property
    def whitened_auto(self) -> Tensor:
        """V in the coordinates where M is the identity, F V."""
        return self.task.mean.F @ self.auto.vectors

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """lower (1 - NTPS(r, kv)) <= excess <= upper (1 - NTPS(r, kv)); the lower is 0 unless M has full rank."""
        values, norm = self.moments.eigenvalues, self.task.U.square().sum()
        smallest = values[0].clamp(min=0) if self.task.mean.rank == self.d else 0.0
        eigenvalues = self.task.solution.eigenvalues
        return float(smallest * eigenvalues[-1] * norm), float(values[-1] * eigenvalues[0] * norm)

    @cached_property
    def coordinates(self) -> list[tuple[str, float, int, int]]:
        """(rule, fraction, ku, kv) of the table's rows: kv at the 19 fractions and d/10, then the paper's sweep."""
        r, rank = self.task.task_rank, self.task.mean.rank
        sweep = [(j / STEPS, max(1, j * rank // STEPS), max(1, j * self.K // STEPS)) for j in range(1, STEPS)]
        return [
            *(("task_rank", fraction, r, kv) for fraction, _, kv in sweep),
            ("task_rank", math.nan, r, self.tenth),
            *(("fraction", *point) for point in sweep),
        ]

    @cached_property
    def listed(self) -> list[int]:
        """Every kv of the table."""
        return sorted({point[-1] for point in self.coordinates})

    def points(self, order: str) -> list[Point]:
        """The table's rows in one order."""
        return [Point(self.orders[order], *point) for point in self.coordinates]


@dataclass(frozen=True, eq=False)
class Retained:
    """Of the linearly explained label signal, what V's leading directions lose and keep, as curves over kv."""

    excess: Tensor  # (K,)
    retention: Tensor  # (K,)
    null: Tensor  # (K,): retention of permuted labels, in expectation
    permuted: Tensor  # (R, K): of each permutation


class Order:
    """V in one order and, each a curve over kv = 1..K, what the spans of its leading directions hold."""

    def __init__(self, layer: Layer, name: str):
        if name not in ORDERS:
            raise UserError(f"order must be one of {', '.join(ORDERS)}, not {name!r}")
        self.layer, self.name = layer, name
        self.V = self.turned(layer.auto.vectors)
        # by kv: does it cut equal eigenvalues, and the gap of the two beside it, relative to the larger
        self.ties, self.gaps = tied(layer.auto.eigenvalues), relative_gaps(layer.auto.eigenvalues)
        if name == "released":
            self.ties, self.gaps = (torch.cat([cut[:-1].flip(0), cut[-1:]]) for cut in (self.ties, self.gaps))

    def turned(self, columns: Tensor) -> Tensor:
        """Columns that belong to V's, largest eigenvalue first, in this order."""
        return columns.flip(1) if self.name == "released" else columns

    @cached_property
    def spans(self) -> Nested:
        return Nested(self.V)

    @cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Energies, by direction of V's orthonormal basis, of U's columns (d, r) and of U of each permutation (d, R)."""
        layer, r, R = self.layer, self.layer.task.task_rank, len(self.layer.moments.permuted)
        energies = self.spans.energies(torch.cat([layer.task.U, layer.own_permuted], 1))
        return energies[:, :r], energies[:, r:].reshape(layer.d, R, -1 if R else 0).sum(2)

    @cached_property
    def columns(self) -> Tensor:
        return self.directions[0]

    @cached_property
    def every(self) -> Tensor:
        """Energies of W, all directions of M, by direction (d,): q^T M^+ q for V's orthonormal basis."""
        own, white = self.spans.R, self.whitened_spans.R
        if own.shape == white.shape == (self.layer.d,) * 2:  # Q^T M Q = C^T C, C = white own^-1
            return torch.linalg.vector_norm(quotient(own, white), dim=1).square()
        return self.spans.energies(self.layer.task.mean.W).sum(1)

    @cached_property
    def null_space(self) -> Tensor:
        """Energies of N, what the labels leave free of these directions, N N^T = W W^T - U U^T."""
        return (self.every - self.columns.sum(1)).clamp(min=0)

    def curve(self, ku: int | None = None) -> Tensor:
        """(K,): NTPS, ||P U_ku||_F^2 / ||U_ku||_F^2 with P the projector on V_kv; None: of U_r, all that the labels determine."""
        weights, null_share = self.layer.task.weights(ku, self.name)
        energies = self.columns @ weights
        return share(energies + null_share * self.null_space if null_share else energies, self.layer.K)

    @cached_property
    def ntps(self) -> Tensor:
        """(K,): rule task_rank."""
        return self.curve()

    @cached_property
    def missed(self) -> Tensor:
        """1 - NTPS, added up by itself."""
        label = self.columns.sum(1)
        return tail(label, self.layer.K) / label.sum()

    @cached_property
    def label_free(self) -> Tensor:
        """tr(P W W^T) / tr(W W^T), which the paper's sweep in released order nearly is."""
        return share(self.every, self.layer.K)

    @cached_property
    def null(self) -> Tensor:
        """(R, K): NTPS of the label permutations."""
        return share(self.directions[1], self.layer.K).mT

    @cached_property
    def rotated(self) -> Tensor:
        """(R, K): NTPS of the label signal in rotated directions."""
        layer, R = self.layer, len(self.layer.rotated)
        U = layer.task.shuffled(layer.rotated).flatten(1)
        return share(self.spans.energies(U).reshape(layer.d, R, -1 if R else 0).sum(2), layer.K).mT

    @cached_property
    def centred_spans(self) -> Nested:
        """Of Fc V: R^T R = V^T Cov(m) V."""
        assert self.layer.label_signal is not None
        return Nested(self.layer.label_signal.white.F @ self.V)

    @cached_property
    def label_coordinates(self) -> Tensor:
        """The centred label signal along the orthonormal directions of Fc V (r, C)."""
        assert self.layer.label_signal is not None
        return self.centred_spans.coordinates(self.layer.label_signal.T)

    @cached_property
    def corrected(self) -> Tensor:
        """(K,): corrected retention."""
        signal, K = self.layer.label_signal, self.layer.K
        if signal is None:
            return self.V.new_full((K,), math.nan)
        return signal.retained(head(self.label_coordinates.square().sum(1), K))

    def corrected_error(self, kv: int) -> float:
        """Its standard error, in closed form."""
        signal = self.layer.label_signal
        return math.nan if signal is None else signal.retained_error(self.label_coordinates[:kv])

    @cached_property
    def corrected_unequal(self) -> Tensor:
        """(K,): the same for errors of unequal variance; NaN without the residuals' moment."""
        signal, K = self.layer.label_signal, self.layer.K
        if signal is None or signal.noise_moment is None:
            return self.V.new_full((K,), math.nan)
        values, vectors = torch.linalg.eigh(signal.noise_moment)
        noise = self.centred_spans.energies(vectors * values.clamp(min=0).sqrt()).sum(1)
        return signal.retained(head(self.label_coordinates.square().sum(1), K), head(noise, K))

    @cached_property
    def whitened_spans(self) -> Nested:
        """Of F V: R^T R = V^T M V."""
        return Nested(self.turned(self.layer.whitened_auto))

    @cached_property
    def retained(self) -> Retained:
        """What the labels and their permutations keep.

        excess(k) = min_Z ||M^1/2 (B* - V_k Z)||_F^2 = E_full - E(V_k), B* = M^+ S;
        retention(k) = E(V_k) / E_full; its null is E_pi[E(V_k)] / E_pi[E_full] over label permutations pi, where
        E_pi[S S^T] = ||p||^2 mu mu^T + (E||y||^2 - ||p||^2)/(n-1) (M - mu mu^T), p = E[y].
        """
        layer, m, K = self.layer, self.layer.moments, self.layer.K
        C, R = m.targets, len(m.permuted)
        energies = self.whitened_spans.energies(layer.whitened_labels)
        explained, common, drawn = energies[:, :C].sum(1), energies[:, C], energies[:, C + 1 :]
        systematic = m.label_mean.square().sum()
        rest = (m.label_second_moment - systematic) / max(m.text_count - 1, 1)
        return Retained(
            excess=tail(explained, K),
            retention=share(explained, K),
            null=share(systematic * common + rest * (1 - common), K),
            permuted=share(drawn.reshape(len(drawn), R, C if R else 0).sum(2), K).mT,
        )

    @property
    def excess(self) -> Tensor:
        return self.retained.excess

    @property
    def retention(self) -> Tensor:
        return self.retained.retention

    @cached_property
    def held_out(self) -> dict[int, HeldOut]:
        """By kv of the table; nothing without test moments."""
        layer = self.layer
        if layer.test is None:
            return {}
        spans = self.whitened_spans
        return held_out(layer.moments, layer.test, layer.ridge_plain, self.V, spans.R, layer.listed)

    @cached_property
    def tight(self) -> dict[int, tuple[float, float]]:
        """Tight constants of the bounds by kv of the table; nothing unless requested."""
        layer = self.layer
        if not layer.tight:
            return {}
        return dict(zip(layer.listed, tight_constants(layer.task, self.V, layer.listed), strict=True))


@dataclass
class Point:
    """One row of the table: an order, a rule with its fraction, and the numbers of directions ku and kv."""

    of: Order
    rule: str
    fraction: float
    ku: int
    kv: int

    @property
    def layer(self) -> Layer:
        return self.of.layer

    def at(self, curve: Tensor) -> float:
        """A curve's value at kv, the last dimension."""
        return float(curve[self.kv - 1])

    @cached_property
    def weights(self) -> tuple[Tensor, float]:
        """How much of each column of U_r, and of the null space, is among the first ku."""
        ku = self.ku if self.rule == "fraction" else None
        return self.layer.task.weights(ku, self.of.name)

    @cached_property
    def ntps(self) -> float:
        return self.at(self.of.ntps if self.rule == "task_rank" else self.of.curve(self.ku))

    @cached_property
    def chance(self) -> float:
        return self.kv / self.layer.d

    @cached_property
    def chance_std(self) -> float:
        return self.layer.task.chance_std(self.kv, *self.weights)

    @cached_property
    def null(self) -> Tensor:
        """(R,): NTPS of the label permutations; none for rule fraction."""
        return self.of.null[:, self.kv - 1] if self.rule == "task_rank" else self.of.columns[:0, 0]

    @property
    def in_papers_order(self) -> bool:
        """Whether the point has corrected scores and baselines: U_r against the leading directions."""
        return self.rule == "task_rank" and self.of.name == "descending"

    @property
    def is_tenth(self) -> bool:
        """Whether it is the headline, kv = d/10."""
        return self.in_papers_order and math.isnan(self.fraction)

    @cached_property
    def rotated(self) -> Tensor:
        """(R,): NTPS of the label signal in rotated directions."""
        return self.of.rotated[:, self.kv - 1] if self.in_papers_order else self.of.columns[:0, 0]

    @cached_property
    def retention_null(self) -> Tensor:
        """(R,): retention of the label permutations."""
        return self.of.retained.permuted[:, self.kv - 1]

    @property
    def held_out(self) -> HeldOut:
        return self.of.held_out.get(self.kv, HeldOut())

    @property
    def tight(self) -> tuple[float, float]:
        return self.of.tight.get(self.kv, (math.nan, math.nan))


def ntps(
    moments: LayerMoments, ku: int | None = None, kv: int | None = None, order: str = "descending"
) -> Tensor | float:
    """NTPS of one layer's moments: ||P U_ku||_F^2 / ||U_ku||_F^2, P the projector on V_kv; in [0, 1].

    ku=None takes the directions that the labels determine (rule task_rank, where order "released" reverses
    V only); a number is rule fraction's: the null space in expectation, and "released" reverses both sides.
    kv=None gives every kv = 1..rank P0. Source: arXiv 2505.17169.
    """
    layer = Layer(moments)
    of, rank = Order(layer, order), layer.task.mean.rank
    if (ku is not None and not 1 <= ku <= rank) or (kv is not None and not 1 <= kv <= layer.K):
        raise UserError(f"ku goes from 1 to {rank} and kv from 1 to {layer.K}, not {ku} and {kv}")
    curve = of.curve(ku)
    return curve if kv is None else float(curve[kv - 1])
