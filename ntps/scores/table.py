"""A layer's rows of the tables of scores, made from the registry, and their error bars from partitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.error_bars import jackknife_error
from ntps.scores.layer import Layer, Point
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL
from ntps.scores.registry import EVERY, LAYER_SCORES, SUBSPACE_SCORES
from ntps.scores.subspaces import ORDERS

Row = dict[str, Any]


@dataclass(frozen=True)
class LayerScores:
    """What one layer's moments say. Curves: rule task_rank, first dimension the orders requested, last kv = 1..rank P0."""

    ntps: Tensor  # (orders, kv)
    excess: Tensor  # (orders, kv)
    retention: Tensor  # (orders, kv)
    null: Tensor  # (orders, R, kv): ntps with permuted labels
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
) -> LayerScores:
    """Every score of one layer's subspaces, for the orders requested and both rules; see `Layer` for the arguments."""
    return subspace_scores(Layer(moments, test, rtol, tight), orders)


def subspace_scores(layer: Layer, orders: Sequence[str] = ORDERS) -> LayerScores:
    """The same from a Layer."""
    rows = [row_of(point) for order in orders for point in layer.points(order)]
    chosen = [layer.orders[order] for order in orders]
    curves = {name: torch.stack([getattr(order, name) for order in chosen])
              for name in ("ntps", "excess", "retention", "null")}  # fmt: skip
    lower, upper = layer.bounds
    return LayerScores(
        **curves, rows=rows, task_rank=layer.task.task_rank, rank_mean=layer.task.mean.rank, rank_prefix=layer.K,
        rank_unstable=layer.rank_unstable, lower_constant=lower, upper_constant=upper,
    )  # fmt: skip


def row_of(point: Point) -> Row:
    place = {
        "order": point.of.name,
        "rule": point.rule,
        "fraction": point.fraction,
        "ku": point.ku,
        "kv": point.kv,
    }
    return place | {score.name: score.value(point) for score in SUBSPACE_SCORES}


def layer_row(layer: Layer) -> dict[str, float]:
    """A layer's row of the scores of whole layers."""
    return {score.name: score.value(layer) for score in LAYER_SCORES}


def other_scores(train: LayerMoments, test: LayerMoments | None = None) -> dict[str, float]:
    """The same from moments that need no prefix moments: probes, H-score, LogME, RankMe."""
    return layer_row(Layer(train, test))


def add_error_bars(
    rows: Sequence[Row], whole: LayerMoments, parts: Iterable[LayerMoments], rtol: float = RANK_RTOL
) -> None:
    """Fill in the standard errors of one layer's rows from the moments of K partitions; of ntps, rule task_rank only.

    One pair of eigen-solves for each partition dropped. NaN where what is left cannot be scored, or has fewer
    rows than M has rank (as for n < d): the scores then move with the number of rows more than with which.
    ntps.scores.error_bars.score_interval makes intervals of them.
    """
    errors = {score.name: EVERY[score.error_of] for score in SUBSPACE_SCORES if score.error_of}
    estimates = []
    for part in parts:
        moments = whole.without(part)
        if moments.text_count < rows[0]["rank_mean"]:
            return
        try:
            layer = Layer(moments, rtol=rtol)
            # the curve of rule task_rank at each row's kv: an error is that of the score of U_r
            points = [Point(layer.orders[row["order"]], "task_rank", row["fraction"], layer.task.task_rank,
                            min(row["kv"], layer.K)) for row in rows]  # fmt: skip
            estimates.append([[score.value(point) for point in points] for score in errors.values()])
        except UserError:
            return
    for name, values in zip(errors, jackknife_error(torch.tensor(estimates, dtype=torch.float64)).tolist()):
        for row, error in zip(rows, values, strict=True):
            if row["rule"] == "task_rank" or name != "ntps_se":
                row[name] = error
