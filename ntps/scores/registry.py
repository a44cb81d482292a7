"""Every score, one function and one entry each: tables, selection, figures and docs/columns.md are made from these.

A new score of the subspaces is a function of a Point and an entry in SUBSPACE_SCORES; one of a whole layer is a
function of a Layer and an entry in LAYER_SCORES; one at a pair of tolerances is a function of a Conditioned and an entry in
CONDITIONED_SCORES. Nothing else has to be told of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.sparse.linalg import eigsh

from ntps.scores import peers, probes
from ntps.scores.layer import Layer, Point
from ntps.scores.permutation_null import above, null_mean, null_std, p_value


@dataclass(frozen=True)
class Score:
    """A column of a table of scores, and the function that computes it.

    value: of a Point, of a Layer or of a Conditioned. direction: +1 if a higher value promises labels that a linear probe reads well,
    -1 if a lower one does: a candidate, compared with accuracies; 0 for a control or a fact. label: its name in
    figures. on_test: it uses the labels of the test split, so it is no candidate unless requested. error_of: this
    column is the jackknife standard error of that score over partitions (NaN without).
    """

    name: str
    meaning: str
    value: Callable[[Any], Any]
    direction: int = 0
    label: str = ""
    on_test: bool = False
    error_of: str = ""


def nothing(_: Any) -> float:
    """Filled in later, where there are partitions."""
    return math.nan


# --- functions of a Point ------------------------------------------------------------------------------------------


def z(point: Point) -> float:
    """Standard deviations above chance; NaN where all subspaces score the same."""
    return (point.ntps - point.chance) / point.chance_std if point.chance_std else math.nan


def lift(point: Point) -> float:
    return above(point.ntps, point.chance) if point.chance_std else math.nan


def retention(point: Point) -> float:
    return point.at(point.of.retention)


def retention_null(point: Point) -> float:
    return point.at(point.of.retained.null)


def missed(point: Point) -> float:
    """1 - NTPS(r, kv), which the bounds use whatever ku the row has."""
    return point.at(point.of.missed)


def corrected(point: Point) -> float:
    return point.at(point.of.corrected) if point.in_papers_order else math.nan


def corrected_unequal(point: Point) -> float:
    return point.at(point.of.corrected_unequal) if point.in_papers_order else math.nan


def refusal(point: Point) -> str:
    signal = point.layer.label_signal
    if not point.in_papers_order:
        return "for U_r and the leading directions only"
    return "the states are all the same" if signal is None else signal.refusal


def heldout(point: Point) -> float:
    return point.held_out.retention


@dataclass(frozen=True)
class Compared:
    """A score that principal components and random directions are held against, for U_r and the leading directions."""

    name: str
    value: Callable[[Point], float]
    pca: Callable[[Point], float]
    random: Callable[[Point], float]
    on_test: bool = False


COMPARED = (
    Compared("ntps", lambda p: p.ntps, lambda p: p.at(p.layer.pca.ntps), lambda p: p.chance),
    Compared("retention", retention, lambda p: p.at(p.layer.pca.retention), lambda p: p.layer.random.retention),
    Compared("retention_corrected", corrected, lambda p: p.at(p.layer.pca.corrected), lambda p: p.layer.random.corrected),
    Compared("heldout_retention", heldout, lambda p: p.layer.pca.held_out.retention,
             lambda p: p.layer.random.held_out, on_test=True),
)  # fmt: skip


def baselines(compared: Compared) -> tuple[Score, ...]:
    """Columns of what principal components and random directions reach, and of the difference to the former."""
    name, on_test = compared.name, compared.on_test

    def pca(point: Point) -> float:
        there = point.is_tenth if on_test else point.in_papers_order
        return compared.pca(point) if there else math.nan

    def chance(point: Point) -> float:
        return compared.random(point) if point.is_tenth else math.nan

    return (
        Score(f"{name}_pca", f"{name} of the kv leading principal components of the centred states", pca,
              int(name == "retention_corrected"), "corrected retention of principal components", on_test=on_test),
        Score(f"{name}_minus_pca", f"{name} less {name}_pca: what next-token directions keep beyond the states' largest ones",
              lambda point: compared.value(point) - pca(point), on_test=on_test),
        Score(f"{name}_minus_pca_se", "standard error of that difference over partitions of the train rows", nothing,
              error_of=f"{name}_minus_pca"),
        Score(f"{name}_random", f"{name} of random directions (kv = d/10)", chance, on_test=on_test),
    )  # fmt: skip


SUBSPACE_SCORES: tuple[Score, ...] = (
    Score("ntps", "share of ||U||^2 inside the leading kv directions of V", lambda p: p.ntps, 1, "NTPS"),
    Score("chance", "the same for random subspaces of kv directions", lambda p: p.chance),
    Score("chance_std", "its standard deviation", lambda p: p.chance_std),
    Score("z", "standard deviations above chance", z),
    Score("lift", "share of the way from chance to 1", lift),
    Score("excess", "squared error lost by seeing only the leading kv directions of V",
          lambda p: p.at(p.of.excess), -1, "excess loss"),
    Score("excess_lower", "lower bound that NTPS gives", lambda p: p.layer.bounds[0] * missed(p)),
    Score("excess_upper", "upper bound that NTPS gives", lambda p: p.layer.bounds[1] * missed(p)),
    Score("retention", "share of the linearly explained label signal that these directions keep", retention, 1,
          "retention"),
    Score("rank_mean", "rank of M", lambda p: p.layer.task.mean.rank),
    Score("rank_prefix", "rank of P0", lambda p: p.layer.K),
    Score("rank_unstable", "a rank depends on the tolerance", lambda p: p.layer.rank_unstable),
    Score("n_texts", "rows of the train split", lambda p: p.layer.moments.text_count),
    Score("null_mean", "mean NTPS of R label permutations", lambda p: null_mean(p.null)),
    Score("null_std", "their standard deviation", lambda p: null_std(p.null)),
    Score("p_value", "two-sided p-value of NTPS among R label permutations; for a layer fixed beforehand",
          lambda p: p_value(p.ntps, p.null)),
    Score("retention_null", "retention of permuted labels, in expectation", retention_null),
    Score("label_free", "NTPS of all directions of M, whatever the labels", lambda p: p.at(p.of.label_free)),
    Score("tie", "kv cuts a group of equal eigenvalues", lambda p: bool(p.of.ties[p.kv - 1])),
    Score("null_lift", "share of the way from null_mean to 1", lambda p: above(p.ntps, null_mean(p.null)), 1,
          "NTPS above its permutation null"),
    Score("retention_adjusted", "share of the way from retention_null to 1",
          lambda p: above(retention(p), retention_null(p)), 1, "retention above its permutation null"),
    Score("retention_p_value", "two-sided p-value of retention among R label permutations; for a layer fixed beforehand",
          lambda p: p_value(retention(p), p.retention_null)),
    Score("heldout_retention", "skill of the best ridge probe within these directions over that of the full one, on test",
          heldout, 1, "held-out retention", on_test=True),
    Score("heldout_skill", "skill of a ridge probe without intercept within these directions, on test: 1 perfect, 0 class frequencies",
          lambda p: p.held_out.skill, 1, "held-out skill of V", on_test=True),
    Score("heldout_skill_full", "skill of the full ridge probe without intercept, on test (with one: ridge_test_skill)", lambda p: p.held_out.skill_full, 1,
          "held-out skill", on_test=True),
    Score("ntps_se", "standard error of ntps (rule task_rank) over partitions of the rows", nothing, error_of="ntps"),
    Score("retention_se", "standard error of retention over partitions of the rows", nothing, error_of="retention"),
    Score("n_over_d", "rows for each dimension; below 1 scores describe the sample",
          lambda p: p.layer.moments.text_count / p.layer.d),
    Score("excess_lower_tight", "tight lower bound (--tight_bounds, M of full rank)", lambda p: p.tight[0] * missed(p)),
    Score("excess_upper_tight", "tight upper bound (--tight_bounds, M of full rank)", lambda p: p.tight[1] * missed(p)),
    Score("retention_corrected", "share of the label signal that these directions keep, noise taken off: a ratio of adjusted R2",
          corrected, 1, "corrected retention"),
    Score("retention_corrected_se", "its standard error, in closed form for directions that do not depend on these rows",
          lambda p: p.of.corrected_error(p.kv) if p.in_papers_order else math.nan),
    Score("retention_corrected_jackknife", "its standard error over partitions of the rows: too wide near n = d", nothing,
          error_of="retention_corrected"),
    Score("retention_corrected_unequal", "the same for errors of unequal variance (needs cache.py --keep_states)",
          corrected_unequal),
    Score("corrected_refusal", "why retention_corrected is empty", refusal),
    Score("rotated_mean", "mean NTPS of R label signals of equal size in random directions of the whitened states",
          lambda p: null_mean(p.rotated)),
    Score("rotated_p_value", "two-sided p-value of NTPS among them", lambda p: p_value(p.ntps, p.rotated)),
    *(score for compared in COMPARED for score in baselines(compared)),
    Score("eigenvalue_gap", "gap of the eigenvalues beside kv, relative to the larger; near 0: the cut is arbitrary",
          lambda p: float(p.of.gaps[p.kv - 1])),
)  # fmt: skip


# --- functions of a Layer ------------------------------------------------------------------------------------------


def ridge_test_mse(layer: Layer) -> float:
    return probes.mse(layer.ridge, layer.test) if layer.test else math.nan


def ridge_test_skill(layer: Layer) -> float:
    return probes.skill(layer.ridge, layer.moments, layer.test) if layer.test else math.nan


RELEASED = 1e-8  # the published code keeps eigenvalues above it


def released_prefix_rtol(layer: Layer) -> float:
    P0 = layer.moments.prefix_second_moment
    if P0 is None or not P0.any():
        return math.nan
    return RELEASED / float(
        eigsh(P0.cpu().numpy(), 1, return_eigenvectors=False, v0=P0.diagonal().cpu().numpy())[0]
    )


LAYER_SCORES: tuple[Score, ...] = (
    Score("gcv_error", "ridge probe's mse by generalized cross-validation on train; the best layer has the lowest",
          lambda x: x.ridge.gcv_error, -1, "probe's error, cross-validated"),
    Score("gcv_skill", "the skill that it stands for: 1 perfect, 0 class frequencies",
          lambda x: probes.gcv_skill(x.ridge, x.moments), 1, "probe's skill, cross-validated"),
    Score("ridge_penalty", "that probe's strength, alpha / n on coordinates of unit variance", lambda x: x.ridge.penalty),
    Score("ridge_train_mse", "its mse on train", lambda x: probes.mse(x.ridge, x.moments), -1, "probe's mse on train"),
    Score("ridge_train_skill", "its skill on train", lambda x: probes.skill(x.ridge, x.moments, x.moments), 1,
          "probe's skill on train"),
    Score("ols_train_mse", "mse of least squares on train",
          lambda x: probes.mse(probes.least_squares(x.moments), x.moments), -1, "mse of least squares on train"),
    Score("ridge_test_mse", "the ridge probe's mse on test", ridge_test_mse, -1, "probe's mse on test", on_test=True),
    Score("ridge_test_skill", "the ridge probe's skill on test", ridge_test_skill, 1, "probe's skill on test",
          on_test=True),
    Score("signal_share", "share of the squared least-squares coefficients that is not noise; below 1/2 NTPS describes the sample",
          lambda x: x.label_signal.signal_share if x.label_signal else math.nan),
    Score("adjusted_r2", "share of the labels' variance that the states explain, noise taken off",
          lambda x: x.label_signal.adjusted_r2 if x.label_signal else math.nan, 1, "adjusted R2"),
    Score("signal_p_value", "p-value of that share being 0", lambda x: x.label_signal.p_value if x.label_signal else math.nan),
    Score("released_rtol", "rtol of M, not equilibrated, that the published code's absolute 1e-8 amounts to",
          lambda x: RELEASED / max(float(x.moments.eigenvalues[-1]), 1e-300)),
    Score("released_prefix_rtol", "the same of P0", released_prefix_rtol),
    Score("h_score", "H-score with OAS shrinkage (Bao et al. 2019); of classes alone",
          lambda x: peers.h_score(x.moments), 1, "H-score"),
    Score("logme", "LogME (You et al. 2021)", lambda x: peers.logme(x.moments), 1, "LogME"),
    Score("rankme", "RankMe (Garrido et al. 2023)", lambda x: peers.rankme(x.moments), 1, "RankMe"),
)  # fmt: skip


CONDITIONED_SCORES: tuple[Score, ...] = (
    Score("conditioned_ntps", "NTPS(r, kv) on what the tolerances leave of M and P0, kv = d/10 or all that is left of P0", lambda c: c.ntps, 1, "conditioned NTPS"),
    Score("conditioned_null_mean", "its mean over R label permutations", lambda c: null_mean(c.null)),
    Score("conditioned_null_std", "their standard deviation", lambda c: null_std(c.null)),
    Score("conditioned_p_value", "two-sided p-value among them, for a layer and tolerances fixed beforehand; at cv slightly too small", lambda c: c.p_value),
    Score("conditioned_lift", "share of the way from conditioned_null_mean to 1; empty where rtol leaves no more directions than labels", lambda c: c.lift, 1,
          "conditioned NTPS above its null"),
    Score("conditioned_chance", "kv / d: of random directions", lambda c: c.kv / c.d),
    Score("conditioned_ntps_pca", "of the kv leading principal components of the centred states", lambda c: c.pca),
    Score("conditioned_ntps_minus_pca", "difference of the two", lambda c: c.ntps - c.pca),
    Score("conditioned_signal_share", "signal_share on the centred states' directions that rtol leaves",
          lambda c: c.signal_share),
    Score("conditioned_rank_mean", "directions left of M", lambda c: c.rank_mean),
    Score("conditioned_rank_prefix", "directions left of P0", lambda c: c.rank_prefix),
)  # fmt: skip


def headroom(rows: Sequence[Mapping[str, float]]) -> float:
    """What choosing the layer is worth: the best layer's gcv_skill minus the last layer's, of all layers' rows in order."""
    skills = [row["gcv_skill"] for row in rows]
    return max(skills) - skills[-1]


HEADROOM = Score(
    "headroom", "the best layer's gcv_skill minus the last layer's, the same in every row", headroom
)

# columns that name a row of the table of subspace scores, and all of them
COORDINATES = ("model", "dataset", "layer", "order", "rule", "fraction", "ku", "kv")
COLUMNS = (*COORDINATES, *(score.name for score in SUBSPACE_SCORES))
LAYER_COLUMNS = ("model", "dataset", "layer", "n_texts", *(score.name for score in (*LAYER_SCORES, HEADROOM)))
CONDITIONED_COORDINATES = ("model", "dataset", "layer", "choice", "rtol", "prefix_rtol", "kv")
CONDITIONED_COLUMNS = (*CONDITIONED_COORDINATES, *(score.name for score in CONDITIONED_SCORES))
EVERY = {score.name: score for score in (*SUBSPACE_SCORES, *LAYER_SCORES, *CONDITIONED_SCORES)}
# score: the column of the standard error that is shown beside it
STANDARD_ERRORS = {name: f"{name}_se" for name in EVERY if f"{name}_se" in EVERY}


def candidates(scores: tuple[Score, ...] = (), on_test: bool = False) -> dict[str, int]:
    """Names and directions of the scores that accuracies may be compared with: those of train, or of the test split."""
    listed = scores or EVERY.values()
    return {score.name: score.direction for score in listed if score.direction and score.on_test == on_test}
