"""Points and intervals of docs/reproduction.md, computed again from the committed tables by pandas and scipy alone."""

import re
import warnings
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, linregress, rankdata

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/mini"
EVIDENCE = ROOT / "results/evidence"
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


def gains_of(model, seeds):
    """LoRA's mean test accuracy over these seeds less that of the logistic probe at the layer of lowest gcv_error, and retention there."""
    runs, probes, best, facts = (
        pd.read_csv(EVIDENCE / f"{name}.csv") for name in ("lora", "probes", "best", "facts")
    )
    runs = runs[
        (runs["model"] == model) & runs["final"] & (runs["split"] == "test") & runs["seed"].isin(seeds)
    ]
    best = (
        best[best["model"] == model].sort_values("gcv_error").drop_duplicates("dataset").set_index("dataset")
    )
    probes = probes[(probes["model"] == model) & (probes["probe"] == "logistic_regression")]
    probe = probes.set_index(["dataset", "layer"])["accuracy"]
    rows = {}
    for dataset, own in runs.groupby("dataset"):
        layer = best["layer"][dataset]
        refused = isinstance(best["corrected_refusal"][dataset], str)
        rows[dataset] = [
            own["accuracy"].mean() - probe[dataset, layer],
            float("nan") if refused else best["retention_corrected"][dataset],
        ]
    groups = facts[facts["model"] == model].set_index("dataset")["group"]
    return pd.DataFrame(rows, index=["gain", "retention"]).T.assign(group=groups)


def left_out_error(x, y):
    """Root mean square of left_out_errors."""
    return float(np.sqrt(np.mean(np.square(left_out_errors(x, y)))))


def left_out_errors(x, y):
    """What a line through the others misses of each; x None: their mean."""
    missed = []
    for place in range(len(y)):
        others = np.arange(len(y)) != place
        if x is None:
            missed.append(y[place] - y[others].mean())
        else:
            line = linregress(x[others], y[others])
            missed.append(y[place] - line.intercept - line.slope * x[place])
    return np.array(missed)


@pytest.mark.parametrize(("file", "seed"), [("second_model", 0), ("second_model_again", 1)])
def test_the_test_on_a_second_model_is_that_of_the_tables(file, seed):
    first, second = gains_of("smollm2-135m", [0, 1]), gains_of("gemma3-270m", [seed])  # as planned
    both = second.join(first["gain"].rename("first"), how="inner").dropna().groupby("group").mean()
    gain, smaller, retention = (both[name].to_numpy() for name in ("gain", "first", "retention"))
    table = pd.read_csv(EVIDENCE / f"{file}.csv").set_index("predictor")
    assert set(table["groups"]) == {len(both)}
    assert table["rmse_of_mean"].to_numpy() == pytest.approx(left_out_error(None, gain), rel=1e-5)
    for name, x in (("first_gain", smaller), ("retention_corrected", retention)):
        assert table["rmse"][name] == pytest.approx(left_out_error(x, gain), rel=1e-5)
        design = np.column_stack([np.ones_like(x), x])
        hat = design @ np.linalg.pinv(design)
        orders = gain[np.array(list(permutations(range(len(gain)))))]
        missed = (orders - orders @ hat) / (1 - hat.diagonal())  # of left-out groups, of least squares
        reached = np.sqrt(np.square(missed).mean(1)) <= left_out_error(x, gain) * (1 + 1e-9)
        p = reached.mean()  # the page's is of ten thousand orders
        assert table["p"][name] == pytest.approx(p, abs=4 * (p * (1 - p) / 10_000) ** 0.5)
    page = (ROOT / "docs/finetuning.md").read_text()
    if seed:
        mean, other = (f"{100 * left_out_error(x, gain):.1f}" for x in (None, smaller))
        assert (
            f"With them the mean gain is off by {mean} points, SmolLM2-135M's gain on the same data set by {other} (p"
            in page
        )
        return
    apart = left_out_errors(smaller, gain) ** 2 - left_out_errors(None, gain) ** 2
    signs = np.array(list(product((-1, 1), repeat=len(gain))))
    p = np.mean(signs @ apart <= apart.sum() + 1e-15)
    assert f"(p {p:.2g}: one-sided, the signs of the {len(gain)} groups' differences" in page
    assert p > 0.05 and "looked at afterwards, is not significant for" in page
