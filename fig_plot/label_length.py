"""Where the length of the label directions U lies: the share of ||U||_F^2 in directions that the texts hardly vary in.

    python -m fig_plot.label_length results/mini-run --models smollm2-135m --output results/mini/label_length.csv

M = Q diag(lambda) Q^T, lambda ascending: share = sum of (Q^T U)^2 over the first half of the rows, over ||U||_F^2, at each
pair's best layer, for the labels and (mean) for the shuffled ones. U^T M U = I, so a column is long where lambda is small:
there S is mostly sampling noise, and NTPS, the share of ||U||_F^2 inside V, is mostly that noise's. Reads moments and scores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ntps import cli, storage
from ntps.kept import scorable_moments
from ntps.results import PAIR, best_rows, only
from ntps.subspaces import Perception


def main(results: str, models: Sequence[str] = (), output: str | None = None) -> int:
    """Write one row a pair that has moments and scores.

    Args:
        results: the folder that cache.py and K_sweep.py wrote to
        models: folder names of models (default: all)
        output: the table (default: RESULTS/label_length.csv)
    """
    folder, rows = Path(results), []
    pairs = only(best_rows(folder), "model", models)
    for model, dataset, layer in pairs[[*PAIR, "layer"]].itertuples(index=False):
        file = scorable_moments(folder, model, dataset, f"--models {model} --datasets {dataset}")
        moments = file.averages(file.layers.index(layer))
        M = torch.as_tensor(moments["mean_second_moment"]).double()
        shuffled = torch.as_tensor(moments["label_moment_permuted"]).double()
        small = torch.linalg.eigh(M).eigenvectors[:, : len(M) // 2]
        labels = share(M, torch.as_tensor(moments["mean_label_moment"]).double(), small)
        null = sum(share(M, S, small) for S in shuffled) / len(shuffled) if len(shuffled) else float("nan")
        rows.append((model, dataset, int(layer), labels, null))
    table = pd.DataFrame(rows, columns=[*PAIR, "layer", "labels", "shuffled"])
    path = Path(output or folder / "label_length.csv")
    storage.write_text(path, table.to_csv(index=False, float_format="%.5f"))
    print(f"wrote {path}: {len(table)} pairs")
    return 0


def share(M: Tensor, S: Tensor, Q: Tensor) -> float:
    """||Q^T U||_F^2 / ||U||_F^2 of the label directions U of (S S^T, M); M (d, d), S (d, C), Q (d, k) orthonormal."""
    U = Perception(M, S).U
    return float((Q.mT @ U).square().sum() / U.square().sum())


if __name__ == "__main__":
    sys.exit(cli.run(main))
