"""Points and intervals of docs/reproduction.md, computed again from the committed tables by pandas and scipy alone."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, rankdata

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/mini"
MODEL = "smollm2-135m"
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
SIGN = {"excess": -1, "ridge_train_mse": -1, "ols_train_mse": -1, "gcv_error": -1}  # lower is better
SCORES = [
    *SIGN,
    "ntps",
    "retention",
    "retention_adjusted",
    "null_lift",
    "gcv_skill",
    "ridge_train_skill",
    "logme",
]


def read(kind):
    parts = [pd.read_csv(path) for path in sorted((TABLES / kind / MODEL).glob("*.csv"))]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def points():
    """A row a group of data sets: every score at the layer of the lowest gcv_error and kv = d/10, accuracy on test, gain."""
    layers = read("scores").dropna(subset="gcv_error")
    best = layers.loc[layers.groupby("dataset")["gcv_error"].idxmin()]
    sweep = read("ntps")
    sweep = sweep[
        (sweep["order"] == "descending") & (sweep["rule"] == "task_rank") & sweep["fraction"].isna()
    ]
    assert (sweep["chance"] - 0.1).abs().max() < 0.01
    table = best.merge(sweep, on=["dataset", "layer"], suffixes=("", "_"))
    probes = read("accuracy/linear_sklearn")
    probes = probes[(probes["split"] == "test") & (probes["probe"] == "logistic_regression")]
    table = table.merge(probes[["dataset", "layer", "accuracy"]], on=["dataset", "layer"])
    lora = read("accuracy/lora_finetuning")
    lora = lora[(lora["split"] == "test") & lora["final"]].groupby("dataset")["accuracy"].mean()
    table["gain"] = lora.loc[table["dataset"]].to_numpy() - table["accuracy"]
    group = table["dataset"].replace({"trec6": "trec", "trec50": "trec"})
    assert len(table) == 12
    return table.groupby(group)[[*SCORES, "accuracy", "gain"]].mean()


def correlation(x, y, axis=-1):
    ranks = [rankdata(values, axis=axis) for values in (x, y)]
    centred = [values - values.mean(axis, keepdims=True) for values in ranks]
    with np.errstate(invalid="ignore"):
        r = (centred[0] * centred[1]).sum(axis) / np.sqrt(
            np.prod([(c**2).sum(axis) for c in centred], axis=0)
        )
    return np.nan_to_num(r)


def printed(x, y):
    """As the page has it: 0.96 [0.76, 1.00]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (x, y),
            correlation,
            paired=True,
            vectorized=True,
            confidence_level=0.9,
            n_resamples=10_000,
            rng=42,
        )
    values = correlation(x, y), *found.confidence_interval
    point, low, high = (f"{value:.2f}".replace("-", "−") for value in values)
    return f"{point} [{low}, {high}]"


def row(score):
    """The cells of a score's row in the table of scores."""
    line = re.search(rf"^\| {score} \|.*$", PAGE, re.MULTILINE)[0]
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("score", SCORES)
def test_a_scores_correlations_are_those_of_the_tables(points, score):
    x = SIGN.get(score, 1) * points[score].to_numpy()
    cells = row(score)
    assert cells[1] == printed(x, points["accuracy"].to_numpy())
    assert cells[3] == printed(x, -points["gain"].to_numpy())  # positive: a higher score, a smaller gain


def test_the_claims_are_those_of_the_tables(points):
    ntps = points["ntps"].to_numpy()
    assert (
        f"| NTPS tracks the linear probe's accuracy | {printed(ntps, points['accuracy'].to_numpy())}, p"
        in PAGE
    )
    assert f"over the probe | {printed(ntps, -points['gain'].to_numpy())}, p" in PAGE
