"""Every score of one layer from its moments: NTPS, excess loss, retention, and what ntps.scores.controls says of them.

Notation and source as in ntps.scores.subspaces; excess, retention, chance and label null are additions to the paper.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.controls import (
    NOT_HELD_OUT,
    above,
    held_out,
    jackknife_error,
    leave_one_out,
    null_figures,
    p_value,
    tight_constants,
)
from ntps.scores.probes import ridge
from ntps.scores.subspaces import (
    ORDERS,
    RANK_RTOL,
    Perception,
    head,
    nested_energies,
    relative_gaps,
    solve,
    tail,
    tied,
    whiten,
)

Layer = TypeVar("Layer")
Result = TypeVar("Result")
STEPS = 20  # the paper's sweep: k = j / 20 of the rank, j = 1..19


@dataclass(frozen=True)
class LayerScores:
    """What one layer's moments say. Curves: rule task_rank, first dimension the orders asked for, last kv = 1..rank P0."""

    ntps: Tensor  # (orders, kv)
    excess: Tensor  # (orders, kv)
    retention: Tensor  # (orders, kv)
    null: Tensor  # (orders, R, kv): ntps with shuffled labels
    rows: list[dict[str, Any]]  # the table of scores: columns named as in the scores file
    task_rank: int
    rank_mean: int
    rank_prefix: int
    rank_unstable: bool
    lower_constant: float  # excess >= lower_constant * (1 - NTPS(r, kv)), and <= with the upper one
    upper_constant: float


class Solved:
    """A layer's two eigen-solves, and what both orders share. Raises UserError where there is nothing to score."""

    def __init__(self, moments: Mapping[str, Any], rtol: float = RANK_RTOL):
        self.moments = {name: torch.as_tensor(value).to(torch.float64) for name, value in moments.items()}
        m = self.moments
        if not m["prefix_second_moment"].any():
            raise UserError(
                "no text has two tokens, or all states are zero: there is no next token to predict"
            )
        self.task = Perception(m["mean_second_moment"], m["mean_label_moment"], rtol)
        self.prefix = whiten(m["prefix_second_moment"], rtol)
        self.auto = solve(m["prefix_next_moment"], self.prefix)
        self.rank_unstable = self.task.mean.rank_unstable or self.prefix.rank_unstable
        S = m["mean_label_moment"]
        shuffled = m.get("label_moment_permuted", S.new_zeros(0, *S.shape))
        self.permutations = len(shuffled)
        own = self.task.shuffled(shuffled, rtol).flatten(1) if self.permutations else S[:, :0]
        # U_r, N and U_r of each label shuffle; S, E[m] and S of each label shuffle, whitened
        self.directions = torch.cat([self.task.U, self.task.N, own], 1)
        columns = [S, m["mean_state"][:, None], shuffled.transpose(0, 1).flatten(1)]
        self.signal = self.task.mean.pull(torch.cat(columns, 1))

    def auto_directions(self, order: str) -> tuple[Tensor, Tensor, Tensor]:
        """V in this order; for each k, whether keeping its first k cuts equal eigenvalues, and the gap it cuts.

        The gap is that of the two eigenvalues beside the cut, relative to the larger; NaN where V is complete.
        """
        V, ties, gaps = self.auto.vectors, tied(self.auto.eigenvalues), relative_gaps(self.auto.eigenvalues)
        if order == "released":
            V = V.flip(1)
            ties, gaps = (torch.cat([cut[:-1].flip(0), cut[-1:]]) for cut in (ties, gaps))
        return V, ties, gaps


def label_signal(layer: Solved, V: Tensor) -> dict[str, Tensor]:
    """Excess loss, retention and the retention of shuffled labels through V_k, k = 1..columns of V.

    excess(k) = min_Z ||M^1/2 (B* - V_k Z)||_F^2 = E_full - E(V_k), B* = M^+ S;
    retention(k) = E(V_k) / E_full; its null is E_pi[E(V_k)] / E_pi[E_full] over label shuffles pi, where
    E_pi[S S^T] = ||p||^2 mu mu^T + (E||y||^2 - ||p||^2)/(n-1) (M - mu mu^T), p = E[y]. `retention_shuffled`
    (R, kv) is that of the label shuffles that were drawn.
    """
    m, k, n = layer.moments, V.shape[1], float(layer.moments["text_count"])
    C = len(m["class_counts"])
    energies = nested_energies(layer.task.mean.F @ V, layer.signal)
    explained, common, drawn = energies[:, :C].sum(1), energies[:, C], energies[:, C + 1 :]
    drawn = drawn.reshape(len(drawn), layer.permutations, C if layer.permutations else 0).sum(2)
    systematic = (m["class_counts"] / n).square().sum()
    shuffled = systematic * common + (m["label_second_moment"] - systematic) / max(n - 1, 1) * (1 - common)
    return {
        "excess": tail(explained, k),
        "retention": share(explained, k),
        "retention_null": share(shuffled, k),
        "retention_shuffled": share(drawn, k).mT,
    }


def share(energies: Tensor, count: int) -> Tensor:
    """The first k rows' share of all, k = 1..count; at most 1."""
    return (head(energies, count) / energies.sum(0)).clamp(max=1)


def order_curves(layer: Solved, V: Tensor) -> dict[str, Tensor]:
    """Curves over kv = 1..columns of V, and, per direction of that Q, the energies of U's columns and of N.

    `missed` is 1 - NTPS, `label_free` tr(P W W^T) / tr(W W^T), which the paper's sweep in released order nearly is.
    """
    (d, K), r, rank, R = V.shape, layer.task.task_rank, layer.task.mean.rank, layer.permutations
    energies = nested_energies(V, layer.directions)
    columns, null_space = energies[:, :r], energies[:, r : r + rank].sum(1)
    shuffled = energies[:, r + rank :].reshape(d, R, -1 if R else 0).sum(2)
    label = columns.sum(1)
    return label_signal(layer, V) | {
        "columns": columns,
        "null_space": null_space,
        "ntps": share(label, K),
        "missed": tail(label, K) / label.sum(),
        "label_free": share(label + null_space, K),
        "null": share(shuffled, K).mT,
    }


def score_row(
    task: Perception, curves: Mapping[str, Tensor], order: str, rule: str, ku: int, kv: int
) -> dict[str, Any]:
    """One row's figures. NaN: z and lift where all subspaces score the same, label null for rule fraction."""
    weights, null_share = task.weights(ku if rule == "fraction" else None, order)
    picked = curves["columns"] @ weights + null_share * curves["null_space"]
    value = min(1.0, float(picked[:kv].sum() / picked.sum()))
    chance, spread = kv / len(picked), task.chance_std(kv, weights, null_share)
    row = {"ntps": value, "chance": chance, "chance_std": spread}
    row["z"] = (value - chance) / spread if spread else math.nan
    row["lift"] = above(value, chance) if spread else math.nan
    row |= null_figures(value, curves["null"][:, kv - 1] if rule == "task_rank" else picked[:0])
    for name in ("excess", "retention", "retention_null", "label_free"):
        row[name] = float(curves[name][kv - 1])
    row["retention_adjusted"] = above(row["retention"], row["retention_null"])
    row["retention_p_value"] = p_value(row["retention"], curves["retention_shuffled"][:, kv - 1])
    return row


def layer_scores(
    moments: Mapping[str, Any],
    rtol: float = RANK_RTOL,
    test: Mapping[str, Any] | None = None,
    orders: Sequence[str] = ORDERS,
) -> LayerScores:
    """Every score of one layer, for the orders asked for and both rules, from one pair of eigen-solves.

    moments: mean_second_moment M (d, d), mean_label_moment S (d, C), mean_state (d,), prefix_second_moment
    P0 (d, d), prefix_next_moment P1 (d, d), class_counts (C,) or the sum of a numeric target (1,),
    label_second_moment E||y||^2, text_count and, where labels were shuffled, label_moment_permuted (R, d, C).
    test: the same of other texts (the prefix moments are not needed), for held-out retention; NaN without.
    """
    layer = Solved(moments, rtol)
    task, M = layer.task, layer.moments["mean_second_moment"]
    d, r, rank, K = len(M), task.task_rank, task.mean.rank, layer.prefix.rank
    spectrum, norm = torch.linalg.eigvalsh(M), task.U.square().sum()
    smallest = spectrum[0].clamp(min=0) if rank == d else 0.0
    lower = float(smallest * task.solution.eigenvalues[-1] * norm)
    upper = float(spectrum[-1] * task.solution.eigenvalues[0] * norm)

    sweep = [(j / STEPS, max(1, j * rank // STEPS), max(1, j * K // STEPS)) for j in range(1, STEPS)]
    points = [("task_rank", fraction, r, kv) for fraction, _, kv in sweep]
    points += [("task_rank", math.nan, r, min(max(1, d // 10), K))]
    points += [("fraction", *point) for point in sweep]
    listed = sorted({point[-1] for point in points})
    facts = {
        "rank_mean": rank,
        "rank_prefix": K,
        "rank_unstable": layer.rank_unstable,
        "n_over_d": float(layer.moments["text_count"]) / d,
        "ntps_se": math.nan,
        "retention_se": math.nan,
    }
    full = ridge(layer.moments, intercept=False) if test else None
    pair = []
    rows = []
    for order in orders:
        V, ties, gaps = layer.auto_directions(order)
        curves = order_curves(layer, V)
        pair.append(curves)
        tight = dict(zip(listed, tight_constants(task, V, listed)))
        skills = dict(zip(listed, held_out(layer.moments, test, full, V, listed))) if test and full else {}
        for rule, fraction, ku, kv in points:
            row = {"order": order, "rule": rule, "fraction": fraction, "ku": ku, "kv": kv}
            row |= score_row(task, curves, order, rule, ku, kv)
            missed = float(curves["missed"][kv - 1])
            row |= {"excess_lower": lower * missed, "excess_upper": upper * missed}
            row |= {"excess_lower_tight": tight[kv][0] * missed, "excess_upper_tight": tight[kv][1] * missed}
            row |= skills.get(kv, NOT_HELD_OUT)
            row |= {"tie": bool(ties[kv - 1]), "eigenvalue_gap": float(gaps[kv - 1])}
            rows.append(row | facts)
    stacked = {name: torch.stack([c[name] for c in pair]) for name in ("ntps", "excess", "retention", "null")}
    return LayerScores(**stacked, rows=rows, task_rank=r, rank_mean=rank, rank_prefix=K,
                       rank_unstable=layer.rank_unstable, lower_constant=lower, upper_constant=upper)  # fmt: skip


def add_error_bars(
    rows: Sequence[dict[str, Any]],
    whole: Mapping[str, Any],
    parts: Iterable[Mapping[str, Any]],
    rtol: float = RANK_RTOL,
) -> None:
    """Fill in ntps_se (rule task_rank) and retention_se of one layer's rows from the moments of K partitions.

    One pair of eigen-solves for each partition left out. NaN where what is left cannot be scored, or has fewer
    texts than M has rank (as for n < d): the scores then move with the number of texts more than with which.
    ntps.scores.controls.score_interval makes intervals of them.
    """
    kvs = torch.tensor([row["kv"] for row in rows])
    orders = list(dict.fromkeys(row["order"] for row in rows))
    places = torch.tensor([orders.index(row["order"]) for row in rows])
    estimates = []
    for moments in leave_one_out(whole, parts):
        if float(moments["text_count"]) < rows[0]["rank_mean"]:
            return
        try:
            layer = Solved(moments, rtol)
        except UserError:
            return
        pair = [order_curves(layer, layer.auto_directions(order)[0]) for order in orders]
        reached = kvs.clamp(max=layer.prefix.rank) - 1
        curves = [torch.stack([c[name] for c in pair]).cpu() for name in ("ntps", "retention")]
        estimates.append(torch.stack([curve[places, reached] for curve in curves]))
    ntps_errors, retention_errors = jackknife_error(torch.stack(estimates)).tolist()
    for row, first, second in zip(rows, ntps_errors, retention_errors, strict=True):
        row["retention_se"] = second
        if row["rule"] == "task_rank":
            row["ntps_se"] = first


def map_layers(
    function: Callable[[Layer], Result], layers: Iterable[Layer], workers: int | None = None
) -> Iterator[Result]:
    """function over layers, in order, several at a time (default: as many as torch has threads).

    torch.linalg releases the interpreter lock, and two layers on one thread each are done sooner than two
    in turn on two threads. Give layers by number, for `function` to read from disk, where they are large; and workers=1
    where they lie on a GPU.
    """
    threads = torch.get_num_threads()
    workers = workers or threads
    torch.set_num_threads(max(1, threads // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(function, layers)
    finally:
        torch.set_num_threads(threads)
