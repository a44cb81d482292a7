"""Every score of one layer from its moments: NTPS with its chance level, excess loss, retention, label null.

Notation and source as in ntps.subspaces; excess, retention, chance and label null are additions to the paper.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.subspaces import ORDERS, RANK_RTOL, Perception, head, nested_energies, solve, tail, tied, whiten

Layer = TypeVar("Layer")
Result = TypeVar("Result")
NULL_SLACK = 1e-12  # a shuffled score this close below the observed one counts as reaching it (rounding)
STEPS = 20  # the paper's sweep: k = j / 20 of the rank, j = 1..19


@dataclass(frozen=True)
class LayerScores:
    """What one layer's moments say. Curves: rule task_rank, first dimension ORDERS, last kv = 1..rank P0."""

    ntps: Tensor  # (2, kv)
    excess: Tensor  # (2, kv)
    retention: Tensor  # (2, kv)
    null: Tensor  # (2, R, kv): ntps with shuffled labels
    rows: list[dict[str, Any]]  # the table of scores: columns named as in the scores file
    task_rank: int
    rank_mean: int
    rank_prefix: int
    rank_unstable: bool
    lower_constant: float  # excess >= lower_constant * (1 - NTPS(r, kv)), and <= with the upper one
    upper_constant: float


def label_signal(moments: Mapping[str, Tensor], task: Perception, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Excess loss, retention and the retention of shuffled labels through V_k, k = 1..columns of V.

    excess(k) = min_Z ||M^1/2 (B* - V_k Z)||_F^2 = E_full - E(V_k), B* = M^+ S;
    retention(k) = E(V_k) / E_full; its null is E_pi[E(V_k)] / E_pi[E_full] over label shuffles pi, where
    E_pi[S S^T] = ||p||^2 mu mu^T + (E||y||^2 - ||p||^2)/(n-1) (M - mu mu^T), p = E[y].
    """
    mean, k, n = task.mean, V.shape[1], float(moments["text_count"])
    signal = mean.pull(torch.cat([moments["mean_label_moment"], moments["mean_state"][:, None]], 1))
    energies = nested_energies(mean.F @ V, signal)
    explained, common = energies[:, :-1].sum(1), energies[:, -1]
    systematic = (moments["class_counts"] / n).square().sum()
    shuffled = systematic * common + (moments["label_second_moment"] - systematic) / max(n - 1, 1) * (
        1 - common
    )
    retention = head(torch.stack([explained, shuffled], 1), k) / torch.stack(
        [explained.sum(), shuffled.sum()]
    )
    return tail(explained, k), retention[:, 0].clamp(max=1), retention[:, 1].clamp(max=1)


def null_figures(observed: float, null: Tensor) -> dict[str, float]:
    """Mean and deviation of R shuffled scores, p = (1 + #{null >= observed}) / (R + 1); NaN for R = 0."""
    R = len(null)
    return {
        "null_mean": float(null.mean()) if R else math.nan,
        "null_std": float(null.std()) if R > 1 else math.nan,
        "p_value": (1 + int((null >= observed - NULL_SLACK).sum())) / (R + 1) if R else math.nan,
    }


def order_curves(
    moments: Mapping[str, Tensor], task: Perception, directions: Tensor, V: Tensor
) -> dict[str, Tensor]:
    """Curves over kv = 1..columns of V, and, per direction of that Q, the energies of U's columns and of N.

    directions: U_r, N and U_r of each label shuffle, side by side. `missed` is 1 - NTPS, `label_free`
    tr(P W W^T) / tr(W W^T), which the paper's sweep in released order nearly is.
    """
    d, K = V.shape
    r, rank, R = task.task_rank, task.mean.rank, len(moments.get("label_moment_permuted", ()))
    energies = nested_energies(V, directions)
    columns, null_space = energies[:, :r], energies[:, r : r + rank].sum(1)
    shuffled = energies[:, r + rank :].reshape(d, R, -1 if R else 0).sum(2)
    label, whole = columns.sum(1), columns.sum(1) + null_space
    excess, retention, retention_null = label_signal(moments, task, V)
    return {
        "columns": columns,
        "null_space": null_space,
        "ntps": (head(label, K) / label.sum()).clamp(max=1),
        "missed": tail(label, K) / label.sum(),
        "label_free": (head(whole, K) / whole.sum()).clamp(max=1),
        "null": (head(shuffled, K) / shuffled.sum(0)).clamp(max=1).mT,
        "excess": excess,
        "retention": retention,
        "retention_null": retention_null,
    }


def score_row(
    task: Perception, curves: Mapping[str, Tensor], order: str, rule: str, ku: int, kv: int
) -> dict[str, Any]:
    """One row's figures. NaN: z and lift where all subspaces score the same, label null for rule fraction."""
    weights, share = task.weights(ku if rule == "fraction" else None, order)
    picked = curves["columns"] @ weights + share * curves["null_space"]
    value = min(1.0, float(picked[:kv].sum() / picked.sum()))
    chance, spread = kv / len(picked), task.chance_std(kv, weights, share)
    row = {"ntps": value, "chance": chance, "chance_std": spread}
    row["z"] = (value - chance) / spread if spread else math.nan
    row["lift"] = (value - chance) / (1 - chance) if spread else math.nan
    row |= null_figures(value, curves["null"][:, kv - 1] if rule == "task_rank" else picked[:0])
    for name in ("excess", "retention", "retention_null", "label_free"):
        row[name] = float(curves[name][kv - 1])
    return row


def layer_scores(moments: Mapping[str, Any], rtol: float = RANK_RTOL) -> LayerScores:
    """Every score of one layer, for both orders and both rules, from one pair of eigen-solves.

    moments: mean_second_moment M (d, d), mean_label_moment S (d, C), mean_state (d,), prefix_second_moment
    P0 (d, d), prefix_next_moment P1 (d, d), class_counts (C,) or the sum of a numeric target (1,),
    label_second_moment E||y||^2, text_count and, where labels were shuffled, label_moment_permuted (R, d, C).
    """
    m = {name: torch.as_tensor(value).to(torch.float64) for name, value in moments.items()}
    M = m["mean_second_moment"]
    if not m["prefix_second_moment"].any():
        raise UserError("no text has two tokens, or all states are zero: there is no next token to predict")
    task, prefix = Perception(M, m["mean_label_moment"], rtol), whiten(m["prefix_second_moment"], rtol)
    auto = solve(m["prefix_next_moment"], prefix)
    d, r, rank, K = len(M), task.task_rank, task.mean.rank, prefix.rank
    directions = [task.U, task.N]
    if len(m.get("label_moment_permuted", ())):
        directions.append(task.shuffled(m["label_moment_permuted"], rtol).flatten(1))

    spectrum, norm = torch.linalg.eigvalsh(M), task.U.square().sum()
    smallest = spectrum[0].clamp(min=0) if rank == d else 0.0
    lower = float(smallest * task.solution.eigenvalues[-1] * norm)
    upper = float(spectrum[-1] * task.solution.eigenvalues[0] * norm)

    unstable = task.mean.rank_unstable or prefix.rank_unstable
    sweep = [(j / STEPS, max(1, j * rank // STEPS), max(1, j * K // STEPS)) for j in range(1, STEPS)]
    points = [("task_rank", fraction, r, kv) for fraction, _, kv in sweep]
    points += [("task_rank", math.nan, r, min(max(1, d // 10), K))]
    points += [("fraction", *point) for point in sweep]
    pair = []
    rows = []
    for order in ORDERS:
        V, ties = auto.vectors, tied(auto.eigenvalues)
        if order == "released":
            V, ties = V.flip(1), torch.cat([ties[:-1].flip(0), ties[-1:]])
        curves = order_curves(m, task, torch.cat(directions, 1), V)
        pair.append(curves)
        for rule, fraction, ku, kv in points:
            row = {"order": order, "rule": rule, "fraction": fraction, "ku": ku, "kv": kv}
            row |= score_row(task, curves, order, rule, ku, kv)
            missed = float(curves["missed"][kv - 1])
            row |= {"excess_lower": lower * missed, "excess_upper": upper * missed, "tie": bool(ties[kv - 1])}
            rows.append(row | {"rank_mean": rank, "rank_prefix": K, "rank_unstable": unstable})
    stacked = {name: torch.stack([c[name] for c in pair]) for name in ("ntps", "excess", "retention", "null")}
    return LayerScores(**stacked, rows=rows, task_rank=r, rank_mean=rank, rank_prefix=K,
                       rank_unstable=unstable, lower_constant=lower, upper_constant=upper)  # fmt: skip


def map_layers(
    function: Callable[[Layer], Result], layers: Iterable[Layer], workers: int | None = None
) -> Iterator[Result]:
    """function over layers, in order, several at a time (default: as many as torch has threads).

    torch.linalg releases the interpreter lock, and two layers on one thread each are done sooner than two
    in turn on two threads. At most `workers` layers are held, so the iterator may load each from disk; give
    workers=1 where the layers lie on a GPU.
    """
    threads = torch.get_num_threads()
    workers = workers or threads
    torch.set_num_threads(max(1, threads // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future[Result]] = deque()
            for layer in layers:
                waiting.append(pool.submit(function, layer))
                if len(waiting) == workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)
