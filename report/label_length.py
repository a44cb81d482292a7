"""What the labels add to shuffled ones: where the length of U lies, and how much of the added signal V keeps.

    python -m report.label_length results/mini-run --models smollm2-135m --output results/mini/label_length.csv

M = Q diag(lambda) Q^T, lambda ascending: share = sum of (Q^T U)^2 over the first half of the rows, over ||U||_F^2, at each
pair's best layer, for the labels and (mean) for the shuffled ones. U^T M U = I, so a column is long where lambda is small:
there S is mostly sampling noise, and NTPS, the share of ||U||_F^2 inside V, is mostly that noise's. Labels explain more of
themselves than shuffled ones do, E_full = tr(S^T M^+ S): `added` is E_full less its mean over the shuffles, `added_kept` the share
of it in V at kv = d/10, (E(V_k) - mean E(V_k)) / added; retention also counts what any labels would keep. Reads moments and scores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from fig_plot.tables import score_rows
from ntps.moments.pair import Pair
from ntps.results.tables import PAIR, at_tenth, best_rows, only
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.scores.linear_algebra import Nested
from ntps.system import atomic_files


def main(results: str, models: Sequence[str] = (), output: str | None = None) -> int:
    """Write one row a pair that has moments and scores.

    Args:
        results: the folder that cache.py and K_sweep.py wrote to
        models: folder names of models (default: all)
        output: the table (default: RESULTS/label_length.csv)
    """
    folder, rows = Path(results), []
    tenth = at_tenth(score_rows(folder))[[*PAIR, "layer", "kv"]]
    pairs = only(best_rows(folder), model=models).merge(tenth, on=[*PAIR, "layer"])
    for model, dataset, layer, kv in pairs[[*PAIR, "layer", "kv"]].itertuples(index=False):
        file = Pair.named(folder, model, dataset).train_moments()
        solved = Layer(file.averages(file.layers.index(layer)))
        M, shuffled = solved.moments.mean_second_moment, solved.moments.permuted
        small = torch.linalg.eigh(M).eigenvectors[:, : len(M) // 2]
        nulls = [share(U, small) for U in solved.task.shuffled(shuffled).unbind(1)] if len(shuffled) else []
        null = sum(nulls) / len(nulls) if nulls else float("nan")
        own = share(solved.task.U, small)
        rows.append((model, dataset, int(layer), own, null, *added_signal(solved, int(kv))))
    table = pd.DataFrame(rows, columns=[*PAIR, "layer", "labels", "shuffled", "added", "added_kept"])
    path = Path(output or folder / "label_length.csv")
    atomic_files.write_text(path, table.to_csv(index=False, float_format="%.5f"))
    print(f"wrote {path}: {len(table)} pairs")
    return 0


def share(U: Tensor, Q: Tensor) -> float:
    """||Q^T U||_F^2 / ||U||_F^2 of directions U (d, r); Q (d, k) orthonormal."""
    return float((Q.mT @ U).square().sum() / U.square().sum())


def added_signal(layer: Layer, kv: int) -> tuple[float, float]:
    """What the labels explain beyond the mean of their shuffles, and the share of that inside V_kv; NaN without shuffles."""
    C, R = layer.moments.targets, len(layer.moments.permuted)
    V = layer.auto.vectors[:, :kv]
    energies = Nested(layer.task.mean.F @ V).energies(layer.whitened_labels)
    if not R:
        return float("nan"), float("nan")
    kept, full = (float(rows[:, :C].sum() - rows[:, C + 1 :].sum() / R) for rows in (energies[:kv], energies))
    return full, kept / full


if __name__ == "__main__":
    sys.exit(cli.run(main))
