"""The preregistered test of docs/finetuning.md: against scikit-learn's folds, and not before all of its data are there."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

from ntps.evaluation.correlation import Draws
from report import evidence, finetuning, gain_confirmation
from report.finetuning_figure import retention_figure

TABLES = Path(__file__).resolve().parent.parent / "results/evidence"


def made(count, slope, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.1, 0.8, count)
    names = [f"data{i:02d}" for i in range(count)]
    return pd.DataFrame({
        "model": "tiny", "dataset": names, "group": names, "retention_corrected": score, "corrected_refusal": None,
        "probe_accuracy": 0.7, "lora_gain": 0.1 + slope * score + noise * rng.normal(size=count),
    })  # fmt: skip


def left_out(table):
    x, y = table[["retention_corrected"]].to_numpy(), table["lora_gain"].to_numpy()
    return np.sqrt(np.mean((cross_val_predict(LinearRegression(), x, y, cv=len(y)) - y) ** 2))


def test_errors_and_p_are_those_of_scikit_learn_and_of_all_orders():
    table, older = made(8, -0.1, 0.03), made(12, -0.1, seed=1)
    found = gain_confirmation.judged(table, older, Draws(40_320))
    y = table["lora_gain"].to_numpy()
    assert found.rmse == pytest.approx(left_out(table))
    assert found.rmse_of_mean == pytest.approx(y.std() * 8 / 7)  # a left-out mean is off by n / (n - 1)
    line = np.polyfit(older["retention_corrected"], older["lora_gain"], 1)
    off = np.polyval(line, table["retention_corrected"]) - y
    assert found.rmse_of_discovery == pytest.approx(np.sqrt(np.mean(off**2)))
    drawn = np.random.default_rng(1).permutation(list(permutations(range(8))))[:500]
    share = np.mean([left_out(table.assign(lora_gain=y[order])) <= found.rmse + 1e-12 for order in drawn])
    assert found.p == pytest.approx(share, abs=0.05)
    assert found.slope == pytest.approx(np.polyfit(table["retention_corrected"], y, 1)[0])


def test_only_a_falling_line_that_predicts_is_confirmed():
    older = made(12, -0.1, seed=1)
    assert gain_confirmation.judged(made(13, -0.1), older, Draws(500)).verdict == "confirmed"
    rising = gain_confirmation.judged(made(13, 0.1), older, Draws(500))
    assert rising.verdict == "not confirmed" and rising.p < 0.05
    assert gain_confirmation.judged(made(13, 0, 0.1), older, Draws(500)).verdict == "not confirmed"


def test_refused_data_sets_have_no_part_and_too_few_are_not_measurable():
    table, older = made(9, -0.1), made(12, -0.1, seed=1)
    table.loc[0, "corrected_refusal"] = "too little signal"
    assert gain_confirmation.judged(table, older, Draws(100)).data_sets == 8
    table.loc[1, "corrected_refusal"] = "too little signal"
    assert gain_confirmation.judged(table, older, Draws(100)) is None
    assert "Not measurable" in gain_confirmation.result(table, None, 9)


def test_nothing_is_said_of_the_score_before_all_data_sets_are_trained(tmp_path):
    table = made(12, -0.1)
    early = gain_confirmation.result(table, None, 13)
    assert "12 of the 13" in early and "slope" not in early and table["dataset"][0] not in early
    found = gain_confirmation.judged(table, table, Draws(100))
    gain_confirmation.write(found, tmp_path)
    assert gain_confirmation.headline(table, None) == ""
    assert "**confirmed**" in gain_confirmation.headline(
        table, found
    ) and "on 12 of 12" in gain_confirmation.headline(table, found)
    again = gain_confirmation.read(tmp_path)
    assert again.verdict == found.verdict and again.rmse == pytest.approx(found.rmse, rel=1e-6)
    assert gain_confirmation.read(tmp_path / "nowhere") is None


def test_the_halves_do_not_mix():
    halves = finetuning.halves()
    assert not set(halves["discovery"]) & set(halves["confirmation"])
    for half, names in halves.items():
        if half in ("discovery", "confirmation"):
            assert set(finetuning.measured(TABLES, half)["dataset"]) <= set(names)


@pytest.mark.skipif(
    not (TABLES / gain_confirmation.TABLE).exists(), reason="LoRA is not trained on all of the other half yet"
)
def test_the_committed_result_is_that_of_scikit_learn():
    """From the tables by pandas."""
    best, probes, lora = (evidence.read_csv(TABLES / f"{name}.csv") for name in ("best", "probes", "lora"))
    best = best.loc[best.groupby(["model", "dataset"])["gcv_error"].idxmin()]
    probes = probes[(probes["probe"] == "logistic_regression") & (probes["split"] == "test")]
    runs = lora[lora["final"] & (lora["split"] == "test") & (lora["seed"] == 0)]
    table = best.merge(probes[["model", "dataset", "layer", "accuracy"]]).merge(
        runs[["model", "dataset", "accuracy"]].rename(columns={"accuracy": "lora"})
    )
    table = table[table["dataset"].isin(finetuning.halves()["confirmation"])].dropna(
        subset="retention_corrected"
    )
    table["lora_gain"] = table["lora"] - table["accuracy"]
    found = gain_confirmation.read(TABLES)
    y = table["lora_gain"].to_numpy()
    assert found.data_sets == len(y)
    assert found.rmse == pytest.approx(left_out(table), rel=1e-5)
    assert found.rmse_of_mean == pytest.approx(y.std() * len(y) / (len(y) - 1), rel=1e-5)
    assert found.slope == pytest.approx(np.polyfit(table["retention_corrected"], y, 1)[0], rel=1e-5)


def test_the_figure_has_both_halves():
    made_of = {half: made(9, -0.1, seed=seed).assign(test_error=0.01) for seed, half in enumerate(("a", "b"))}
    axes = retention_figure(made_of).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert len([text for text in axes.texts if text.get_text().startswith("data")]) == 18
