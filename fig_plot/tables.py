"""What the figures and the summary read from a results folder: scores, curves, best layers.

A pair is (model, dataset), named as the files are.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from ntps.errors import UserError
from ntps.prescreening.curve_panel import DESCENDING
from ntps.results.tables import CURVES, HALF, PAIR, at_tenth, best_rows, read_tables
from ntps.system import array_files, provenance

KEY = [*PAIR, "layer"]
Pair = tuple[str, str]
Curves = Mapping[str, np.ndarray]

USED = (
    "layer order rule fraction kv ntps chance chance_std null_mean null_std p_value retention retention_null "
    "rank_unstable n_texts"
).split()  # columns of the scores that a figure or the summary reads
NEWER = (
    "retention_corrected retention_corrected_se retention_corrected_minus_pca retention_corrected_minus_pca_se "
    "corrected_refusal"
).split()  # and those that older tables lack
CONDITIONED = ["conditioned_lift", "conditioned_p_value"]


def score_rows(folder: str | Path) -> pd.DataFrame:
    """Every row of FOLDER/ntps/MODEL/DATASET.csv; UserError with the commands that make them if there is none."""
    table = read_tables(folder, "ntps", USED)
    if table.empty:
        raise UserError(f"no scores in {folder}: {remedy(folder)}")
    return table


def curve_files(folder: str | Path) -> dict[Pair, Path]:
    """The file of curves of each pair that has one."""
    paths = sorted((Path(folder) / "ntps").glob(f"*/*{CURVES}"))
    return {(path.parent.name, path.name.removesuffix(CURVES)): path for path in paths}


def load_curves(path: Path) -> Curves:
    """One pair over every kv: ntps, retention (layer, order, kv), null (layer, order, R, kv), layers (layer,)."""
    provenance.read(path, "scores")  # refuses a file that is cut short or not ours
    array_files.verify(path)
    return load_file(path)


def remedy(folder: str | Path, model: str = "MODEL", dataset: str = "DATASET") -> str:
    """The commands that make the results of a pair."""
    flags = f"--models {model} --datasets {dataset} --output {folder}"
    return f"run python cache.py {flags} and then python K_sweep.py {flags}"


def headlines(folder: str | Path) -> pd.DataFrame:
    """The headline's rows of every layer with CONDITIONED, at the tolerances of cross-validation, and signal_share.

    What older tables lack is NaN. of_sample: NTPS describes the sample, with fewer rows than dimensions or a signal share
    below one half.
    """
    rows = at_tenth(score_rows(folder))
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *NEWER])))
    chosen = read_tables(folder, "conditioned", [*KEY, "choice", *CONDITIONED])
    chosen, layers = chosen[chosen["choice"] == "cv"], read_tables(folder, "scores")
    for table, names in ((chosen, CONDITIONED), (layers, ["signal_share"])):
        more = (
            table.reindex(columns=[*KEY, *names])
            .dropna(subset="layer")
            .astype({"layer": rows["layer"].dtype})
        )
        rows = rows.merge(more, "left", KEY)
    few = rows["n_texts"] * rows["chance"] < rows["kv"]
    return rows.assign(of_sample=few | (rows["signal_share"].astype(float) < HALF))


def sample_warning(folder: str | Path) -> str:
    """Of how many pairs NTPS describes the sample at the best layer, in a sentence; nothing where it is none."""
    if read_tables(folder, "ntps").empty:
        return ""
    rows, best = headlines(folder), best_rows(folder).reindex(columns=KEY)
    rows = rows.merge(best.astype({"layer": rows["layer"].dtype}), on=KEY)
    few = int(rows["of_sample"].sum())
    return (
        f"At this number of rows NTPS describes the sample: for {few} of {len(rows)} pairs less than half of the probe's squared "
        "coefficients is signal, or there are fewer rows than dimensions."
        if few else ""
    )  # fmt: skip


def gain(curves: Curves) -> np.ndarray:
    """NTPS minus its median over shuffled labels, (layer, kv): what the labels add. All NaN without shuffles.

    K_sweep.py keeps quantiles of many shuffles, whose mean is not theirs.
    """
    ntps, null = curves["ntps"][:, DESCENDING], curves.get("null")
    return ntps - np.median(null[:, DESCENDING], 1) if null is not None and null.shape[2] else ntps * math.nan


def model_order(name: str) -> tuple[str, float, str]:
    """Sorts models by family and then by size, where the name has one (qwen2-0.5b before qwen2-7b)."""
    size = re.match(r"(.*?)(\d+(?:\.\d+)?)([mb])\b", name, re.IGNORECASE)
    if not size:
        return name, 0.0, name
    return size[1], float(size[2]) * (1e3 if size[3].lower() == "b" else 1), name
