"""A layer's rows of the tables of scores, made from the registry, and their error bars from partitions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.conditioning import Tolerances, chosen, fold_errors, path
from ntps.scores.error_bars import jackknife_error
from ntps.scores.layer import Layer, Point
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL
from ntps.scores.registry import CONDITIONED_SCORES, EVERY, LAYER_SCORES, SUBSPACE_SCORES, Score
from ntps.scores.subspaces import ORDERS

Row = dict[str, Any]
QUANTILES = 21


@dataclass(frozen=True)
class LayerScores:
    """What one layer's moments say. Curves: rule task_rank, first dimension the orders requested, last kv = 1..rank P0."""

    ntps: Tensor  # (orders, kv)
    excess: Tensor  # (orders, kv)
    retention: Tensor  # (orders, kv)
    null: Tensor  # (orders, R, kv): ntps with permuted labels; of more than QUANTILES permutations, quantiles from 0 to 1
    rows: list[Row]  # the table of scores: columns named as in the scores file
    task_rank: int
    rank_mean: int
    rank_prefix: int
    rank_unstable: bool
    lower_constant: float  # excess >= lower_constant * (1 - NTPS(r, kv)), and <= with the upper one
    upper_constant: float


def layer_scores(
    moments: LayerMoments,
    rtol: float = RANK_RTOL,
    test: LayerMoments | None = None,
    orders: Sequence[str] = ORDERS,
    tight: bool = False,
    prefix_rtol: float | None = None,
) -> LayerScores:
    """Every score of one layer's subspaces, for the orders requested and both rules; see `Layer` for the arguments."""
    return subspace_scores(Layer(moments, test, rtol, tight, prefix_rtol), orders)


def subspace_scores(layer: Layer, orders: Sequence[str] = ORDERS) -> LayerScores:
    """The same from a Layer."""
    rows = [row_of(point) for order in orders for point in layer.points(order)]
    chosen = [layer.orders[order] for order in orders]
    curves = {name: torch.stack([getattr(order, name) for order in chosen])
              for name in ("ntps", "excess", "retention", "null")}  # fmt: skip
    if curves["null"].shape[1] > QUANTILES:  # what a picture shows of them
        levels = torch.linspace(0, 1, QUANTILES).to(curves["null"])
        curves["null"] = torch.quantile(curves["null"], levels, 1).transpose(0, 1)
    lower, upper = layer.bounds
    return LayerScores(
        **curves, rows=rows, task_rank=layer.task.task_rank, rank_mean=layer.task.mean.rank, rank_prefix=layer.K,
        rank_unstable=layer.rank_unstable, lower_constant=lower, upper_constant=upper,
    )  # fmt: skip


def row_of(point: Point) -> Row:
    place = {"order": point.of.name} | {
        name: getattr(point, name) for name in ("rule", "fraction", "ku", "kv")
    }
    return place | {score.name: score.value(point) for score in SUBSPACE_SCORES}


def layer_row(layer: Layer) -> dict[str, float]:
    """A layer's row of the scores of whole layers: probes, H-score, LogME, RankMe. No prefix moments are needed."""
    return {score.name: score.value(layer) for score in LAYER_SCORES}


def conditioned_rows(layer: Layer, wanted: Sequence[Tolerances]) -> list[Row]:
    """A row for each pair of tolerances, at the headline's kv."""
    return [
        {"choice": one.tolerances.choice, "rtol": one.tolerances.rtol, "prefix_rtol": one.tolerances.prefix_rtol, "kv": one.kv}
        | {score.name: score.value(one) for score in CONDITIONED_SCORES}
        for one in path(layer, wanted, layer.tenth)
    ]  # fmt: skip


def add_error_bars(
    rows: Sequence[Row], whole: Layer, parts: Iterable[LayerMoments]
) -> tuple[Tolerances, ...]:
    """Fill in the standard errors of one layer's rows from the moments of K partitions, and choose tolerances by them.

    One pair of eigen-solves for each partition dropped; of ntps, errors for rule task_rank only. NaN where what is
    left cannot be scored, or has fewer rows than M has rank (as for n < d): the scores then move with the number of
    rows more than with which. ntps.scores.error_bars.score_interval makes intervals of them.
    """
    scores = {score.name: EVERY[score.error_of] for score in SUBSPACE_SCORES if score.error_of}
    estimates: list[list[list[float]]] = []
    errors, counts, failed = [], [], False
    for part in parts:
        rest = whole.moments.without(part)
        errors.append(fold_errors(rest, part))
        counts.append(part.text_count)
        if not failed:
            layer = Layer(rest, whole.test, whole.rtol, prefix_rtol=whole.prefix_rtol)
            found = estimates_of(layer, rows, list(scores.values()))
            failed = found is None
            estimates += [found] if found else []
    if estimates and not failed:
        spread = jackknife_error(torch.tensor(estimates, dtype=torch.float64)).tolist()
        for name, values in zip(scores, spread, strict=True):
            for row, error in zip(rows, values, strict=True):
                on_curve = row["rule"] == "task_rank"  # the estimates are of the curve of U_r
                has_value = not math.isnan(row[scores[name].name])
                if on_curve or (has_value and name != "ntps_se"):
                    row[name] = error
    return chosen(errors, counts) if len(errors) > 1 else ()


def estimates_of(layer: Layer, rows: Sequence[Row], scores: Sequence[Score]) -> list[list[float]] | None:
    """Each score at each row's kv on the curve of U_r; None where the layer cannot be scored."""
    if layer.moments.text_count < rows[0]["rank_mean"]:
        return None
    try:
        points = [Point(layer.orders[row["order"]], "task_rank", row["fraction"], layer.task.task_rank,
                        min(row["kv"], layer.K)) for row in rows]  # fmt: skip
        return [[score.value(point) for point in points] for score in scores]
    except UserError:
        return None
