"""The preregistered test: verdicts on tables with a known answer, and the committed tables computed again by scipy alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, permutation_test, rankdata, spearmanr

from report import confirmation, evidence
from report.confirmation_figure import with_errors

ROOT = Path(__file__).resolve().parent.parent
TABLES, HALVES = ROOT / "results/evidence", ROOT / "configs/experiments/halves.json"
SCORES = ["conditioned_lift", "retention_corrected", "retention_corrected_pca"]


def write_tables(folder, model, lift, accuracy, refused=0):
    """Two layers a pair, the first with the lower error; the scores of the last layer are constant noise."""
    datasets = json.loads(HALVES.read_text())["confirmation"]
    noise = np.random.default_rng(0).normal(size=(len(datasets), 2))
    rows = []
    for place, name in enumerate(datasets):
        for layer in (0, 1):
            at = lift[place] if layer == 0 else noise[place, 0]
            rows.append({
                "model": model, "dataset": name, "layer": layer, "kv": 5, "gcv_error": 0.1 + layer, "conditioned_lift": at,
                "conditioned_rank_prefix": 50, "retention_corrected": noise[place, layer], "ntps": noise[place, 1],
                "retention_corrected_pca": noise[place, 1], "retention_corrected_minus_pca": noise[place, layer] - 9,
                "null_lift": noise[place, 0], "gcv_skill": noise[place, 0], "retention_corrected_random": noise[place, 0], "n_texts": 100 + place, "n_over_d": 2.0 + place, "rank_prefix": 50 + place % 3, "accuracy": accuracy[place], "split": "test", "majority": 0.5, "probe": "logistic_regression", "n": 400,
                "corrected_refusal": "not significant" if place < refused else None,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    folder.mkdir(exist_ok=True)
    for name in ("best", "probes", "facts"):
        part = (
            table.drop(columns=["accuracy", "split", "majority", "probe", "n"]) if name == "best" else table
        )
        part = part[["model", "dataset", "majority"]].drop_duplicates() if name == "facts" else part
        path = folder / f"{name}.csv"
        evidence.to_csv(pd.concat([pd.read_csv(path), part]) if path.exists() else part, path)


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "confirmation.md"
    path.write_text("# Before\n\n## Result\n\nNot measured yet.\n")
    monkeypatch.setattr(confirmation, "PAGE", path)
    monkeypatch.chdir(ROOT)
    return path


def test_the_verdicts_of_known_orders(tmp_path, page):
    order = np.arange(13.0)
    write_tables(tmp_path, "one", order, order)
    confirmation.main(str(tmp_path))
    assert "not tested yet: one model of two" in page.read_text()
    write_tables(tmp_path, "two", np.roll(order, 2), order, refused=6)
    confirmation.main(str(tmp_path))
    table = pd.read_csv(tmp_path / "confirmation.csv").query("target == 'accuracy' and layer == 'best'")
    one, two = (table[table["model"] == name].set_index("score") for name in ("one", "two"))
    assert one["verdict"]["conditioned_lift"] == "confirmed" and one["rho"]["conditioned_lift"] == 1
    assert two["verdict"]["retention_corrected"] == "not measurable" and two["n"]["retention_corrected"] == 7
    assert two["verdict"]["conditioned_lift"] == "not confirmed" and two["n"]["conditioned_lift"] == 13
    text = page.read_text()
    assert text.startswith("# Before\n") and "**The conditioning hypothesis is confirmed**" in text
    assert "on 13 of 13 data sets (sign test, two-sided p 0.00024)" in text
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_random_weights_stand_beside_without_a_verdict(tmp_path, page):
    order = np.arange(13.0)
    for model in ("one", "two", "two-random"):
        write_tables(tmp_path, model, order, order)
    confirmation.main(str(tmp_path))
    control = pd.read_csv(tmp_path / "confirmation.csv").query("model == 'two-random'")
    assert len(control) and control["verdict"].isna().all() and control["p_holm"].isna().all()
    assert (control.query("score == 'conditioned_lift' and layer == 'best'")["rho"] == 1).all()
    before, after = page.read_text().split("Controls, and the same")
    assert "two-random" in after and before.count("two-random") == 1
    said = "With random weights (two-random; its best layer is the embeddings on 13 of 13), for comparison: "
    assert f"{said}conditioned_lift +1.00" in before


def test_what_was_looked_at_afterwards_is_scipys(tmp_path, page):
    """Rows grow with the order of the data sets, so does one model's lift; P0 is left whole on two of three data sets."""
    order = np.arange(13.0)
    write_tables(tmp_path, "one", order, order)
    write_tables(tmp_path, "two", np.roll(order, 2), order)
    confirmation.main(str(tmp_path))
    text = " ".join(page.read_text().split())
    rho = spearmanr(np.roll(order, 2), order).statistic
    assert "On 9 of 13 data sets (one) and 9 of 13 data sets (two) it left out at most one" in text
    assert f"with the number of train rows at a ρ of +1.00 and {rho:+.2f}".replace("-", "−") in text
    words = (ROOT / "docs/datasets.md").read_text().split("<!-- baselines -->")[1].splitlines()
    words = {
        cells[1].strip(): float(cells[8])
        for line in words
        if len(cells := line.split("|")) > 9 and "0." in cells[8]
    }
    datasets = json.loads(HALVES.read_text())["confirmation"]
    alone = spearmanr([words[name] for name in datasets], order).statistic
    assert f"the probe's accuracy at {alone:+.2f} and".replace("-", "−") in text


def test_reversed_is_not_confirmed(tmp_path, page):
    for model in ("one", "two"):
        write_tables(tmp_path, model, -np.arange(13.0), np.arange(13.0))
    confirmation.main(str(tmp_path))
    table = pd.read_csv(tmp_path / "confirmation.csv").query(
        "score == 'conditioned_lift' and layer == 'best'"
    )
    assert set(table["verdict"].dropna()) == {"reversed"}
    assert "**The conditioning hypothesis is not confirmed**" in page.read_text()


def pearson(x, y, axis):
    x, y = (part - part.mean(axis, keepdims=True) for part in (x, y))
    return ((x * y).sum(axis) / np.sqrt((x**2).sum(axis) * (y**2).sum(axis))).round(12)


def test_the_committed_readings_are_those_of_scipy():
    """No project code: from the committed tables to the printed digit."""
    if not (TABLES / "confirmation.csv").exists():
        pytest.skip("no model is measured on a whole half yet")
    best, probes = pd.read_csv(TABLES / "best.csv"), pd.read_csv(TABLES / "probes.csv")
    logistic = probes[(probes["split"] == "test") & (probes["probe"] == "logistic_regression")]
    rows = best.merge(logistic[["model", "dataset", "layer", "accuracy"]])
    halves = json.loads(HALVES.read_text())
    readings = pd.read_csv(TABLES / "confirmation.csv").query("target == 'accuracy'")
    page = (ROOT / "docs/confirmation.md").read_text()
    for (half, model), part in readings.groupby(["half", "model"]):
        own = rows[(rows["model"] == model) & rows["dataset"].isin(halves[half])]
        layers = {
            "best": own.sort_values(["gcv_error", "layer"]).drop_duplicates("dataset"),
            "last": own[own["layer"] == own["layer"].max()],
        }
        p_values = {}
        for row in part.to_dict("records"):
            kept = layers[row["layer"]].dropna(subset=row["score"])
            if row["score"].startswith("retention"):
                kept = kept[kept["corrected_refusal"].isna()]
            if row["score"] == "conditioned_lift":
                kept = kept[kept["conditioned_rank_prefix"] >= kept["kv"]]
            assert len(kept) == row["n"]
            if row["n"] < 8:
                p_values[row["layer"], row["score"]] = 1.0
                continue
            kept = kept.sort_values("dataset")
            x, y = kept[row["score"]].to_numpy(), kept["accuracy"].to_numpy()
            assert spearmanr(x, y).statistic == pytest.approx(row["rho"], abs=1e-6)
            found = permutation_test(
                (rankdata(x), rankdata(y)),
                pearson,
                vectorized=True,
                permutation_type="pairings",
                n_resamples=10_000,
                rng=1,
            )
            assert abs(found.pvalue - row["p"]) < 5 * np.sqrt(2 * row["p"] * (2 - row["p"]) / 10_000) + 1e-3
            p_values[row["layer"], row["score"]] = row["p"]
        six = part[part["score"].isin(SCORES)].sort_values("p", na_position="last")
        if model.endswith("-random"):  # a control
            assert six["p_holm"].isna().all() and six["verdict"].isna().all()
            said = {
                row["score"]: f"{row['rho']:+.2f}".replace("-", "−")
                for row in six.query("layer == 'best'").to_dict("records")
            }
            assert half != "confirmation" or all(f"{score} {rho}" in page for score, rho in said.items())
            continue
        largest = 0.0
        for place, row in enumerate(six.to_dict("records")):
            largest = max(largest, min(1, (6 - place) * p_values[row["layer"], row["score"]]))
            assert row["p_holm"] == pytest.approx(largest, abs=1e-6)
            assert (row["verdict"] == "confirmed") == (largest <= 0.05 and row["rho"] > 0)
            if half == "confirmation":
                rho = f"{row['rho']:+.2f}".replace("-", "−") if row["n"] >= 8 else "-"
                assert f"| {model} | {row['layer']} | {row['score']} | {row['n']} | {rho} |" in page
        if half == "confirmation":
            gaps = layers["best"]
            gaps = gaps[gaps["corrected_refusal"].isna()]["retention_corrected_minus_pca"].dropna()
            lower = int((gaps < 0).sum())
            assert (
                f"on {lower} of {len(gaps)} data sets (sign test, two-sided p {binomtest(lower, len(gaps)).pvalue:.2g})"
                in " ".join(page.split())
            )


def test_the_figures_bars_are_standard_errors_where_the_tables_have_them(tmp_path):
    key = {"model": "m", "dataset": "d", "layer": [0, 1]}
    probes = pd.DataFrame(key | {"probe": "logistic_regression", "accuracy": [0.8, 0.5], "n": 400})
    evidence.to_csv(probes, tmp_path / "probes.csv")
    scores = {"retention_corrected": 0.4, "conditioned_lift": 0.1, "retention_corrected_se": 0.03}
    evidence.to_csv(pd.DataFrame(key | scores), tmp_path / "best.csv")
    points = evidence.with_accuracy(tmp_path)
    first, other = with_errors(points, "retention_corrected").to_dict("records")
    assert first == pytest.approx({"x": 0.4, "y": 0.8, "x_error": 0.03, "y_error": 0.02})  # binomial
    assert other["y_error"] == pytest.approx(0.025)
    assert with_errors(points, "conditioned_lift")["x_error"].isna().all()


def test_every_point_of_the_committed_figure_has_its_bars(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = confirmation.rows_of(TABLES)
    errors = with_errors(shown[confirmation.defined(shown, SCORES[1])], SCORES[1])
    assert len(errors) > 50 and (errors["x_error"] > 0).all() and (errors["y_error"] > 0).all()
