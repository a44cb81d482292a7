"""The preregistered test of docs/finetuning.md: against scikit-learn's folds, and not before all of its data are there."""

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

from ntps.errors import UserError
from ntps.evaluation.correlation import Draws
from report import evidence, gain_confirmation, gains
from report.finetuning_figure import retention_figure
from tests.finetuning_tables import page_with

TABLES = Path(__file__).resolve().parent.parent / "results/evidence"


def made(count, slope, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.1, 0.8, count)
    names = [f"data{i:02d}" for i in range(count)]
    return pd.DataFrame({
        "model": "tiny", "dataset": names, "group": names, "retention_corrected": score, "retention_corrected_se": math.nan, "corrected_refusal": None,
        "probe_accuracy": 0.7, "lora_accuracy": 0.75, "lora_gain": 0.1 + slope * score + noise * rng.normal(size=count),
        "test_error": 0.01, "paired_error": [math.nan, *[0.01] * (count - 1)], "lora_passes": 12.0, "steps": 300, "settled": 1.0,
        "classes": range(count), "n_texts": 100, **dict.fromkeys(gains.MEASURED, math.nan),
    })  # fmt: skip


def said_of(table, outcome, planned):
    """The page of this second half."""
    return page_with(further=table, outcome=outcome, planned=planned, both=None)


def left_out(table):
    x, y = table[["retention_corrected"]].to_numpy(), table["lora_gain"].to_numpy()
    return np.sqrt(np.mean((cross_val_predict(LinearRegression(), x, y, cv=len(y)) - y) ** 2))


def check_correlation(found, table, rel=1e-6):
    """Fisher: artanh r is normal with variance 1 / (n - 3)."""
    r = np.corrcoef(table["retention_corrected"], table["lora_gain"])[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * norm.ppf(0.95) / math.sqrt(len(table) - 3))
    assert [found["r"], found["r_low"], found["r_high"]] == pytest.approx([r, *ends], rel=rel)


def test_errors_and_p_are_those_of_scikit_learn_and_of_all_orders():
    table, older = made(8, -0.1, 0.03), made(12, -0.1, seed=1)
    found = gain_confirmation.judged(table, older, Draws(40_320))
    y = table["lora_gain"].to_numpy()
    assert found["rmse"] == pytest.approx(left_out(table))
    assert found["rmse_of_mean"] == pytest.approx(y.std() * 8 / 7)  # a left-out mean is off by n / (n - 1)
    line = np.polyfit(older["retention_corrected"], older["lora_gain"], 1)
    off = np.polyval(line, table["retention_corrected"]) - y
    assert found["rmse_of_discovery"] == pytest.approx(np.sqrt(np.mean(off**2)))
    drawn = np.random.default_rng(1).permutation(list(permutations(range(8))))[:500]
    share = np.mean([left_out(table.assign(lora_gain=y[order])) <= found["rmse"] + 1e-12 for order in drawn])
    assert found["p"] == pytest.approx(share, abs=0.05)
    assert found["slope"] == pytest.approx(np.polyfit(table["retention_corrected"], y, 1)[0])
    check_correlation(found, table)


def test_only_a_falling_line_that_predicts_is_confirmed():
    older = made(12, -0.1, seed=1)
    falling = gain_confirmation.judged(made(13, -0.1), older, Draws(500))
    assert gain_confirmation.verdict(falling) == "confirmed"
    table = made(13, 0.1)
    rising = gain_confirmation.judged(table, older, Draws(500))
    assert gain_confirmation.verdict(rising) == "not confirmed" and rising["p"] < 0.05
    said = said_of(table, rising, table["dataset"])
    assert "\n**Not confirmed**: a lower retention goes with a smaller gain. Over 13 groups" in said
    noise = gain_confirmation.judged(made(13, 0, 0.1), older, Draws(500))
    assert gain_confirmation.verdict(noise) == "not confirmed"
    assert "p is above 0.05" in gain_confirmation.missed(noise)


def test_refused_data_sets_have_no_part_and_too_few_groups_are_not_measurable():
    table, older = made(9, -0.1), made(12, -0.1, seed=1)
    table.loc[0, "corrected_refusal"] = "too little signal"
    found = gain_confirmation.judged(table, older, Draws(100))
    assert found["groups"] == 8
    assert "refused on data00" in said_of(table, found, table["dataset"])
    assert gain_confirmation.judged(table.assign(group=["a"] * 5 + list("bcde")), older, Draws(100)) is None
    table.loc[1, "corrected_refusal"] = "too little signal"
    assert gain_confirmation.judged(table, older, Draws(100)) is None
    assert "Not measurable" in said_of(table, None, table["dataset"])


def test_nothing_is_said_of_the_score_before_all_data_sets_are_trained(tmp_path):
    table = made(13, -0.1)
    early, planned = table[:12], table["dataset"]
    said = said_of(early, None, planned)
    assert "12 of the 13" in said and "; slope" not in said and table["dataset"][0] not in said
    assert "further data sets corrected retention" not in said
    found = gain_confirmation.judged(table, table, Draws(100))
    said = said_of(table, found, planned)
    assert "* **On 13 further data sets" in said and "is confirmed as a predictor**" in said
    assert "on 13 of 13" in said and "0.010 at most" in said
    assert found["reliability"] == pytest.approx(1 - 0.01**2 / table["lora_gain"].var())
    path = tmp_path / gain_confirmation.TABLE
    gain_confirmation.write(found, path)
    again = gain_confirmation.read(path)
    assert gain_confirmation.verdict(again) == "confirmed" and again["rmse"] == pytest.approx(
        found["rmse"], rel=1e-6
    )
    gain_confirmation.write(None, path)
    assert gain_confirmation.read(path) is None
    with pytest.raises(UserError, match="data00: LoRA is trained, and there is no probe"):
        gain_confirmation.complete(table.assign(probe_accuracy=[math.nan, *[0.7] * 12]), planned)


@pytest.mark.parametrize(("r", "power"), [(0.67, gain_confirmation.POWER[13]), (0, 0.03)])
def test_the_power_of_the_rule_is_as_the_page_says(r, power):
    """Normal retention and gains of thirteen data sets, correlated at -r."""
    confirmed, repetitions = 0, 200
    for seed in range(repetitions):
        table = made(13, 0)
        x, noise = np.random.default_rng(seed).normal(size=(2, 13))
        table = table.assign(retention_corrected=x, lora_gain=-r * x + math.sqrt(1 - r**2) * noise)
        found = gain_confirmation.judged(table, table, Draws(200))
        confirmed += gain_confirmation.verdict(found) == "confirmed"
    error = math.sqrt(power * (1 - power) / repetitions)
    assert confirmed / repetitions == pytest.approx(power, abs=3 * error)


def test_the_halves_do_not_mix():
    halves = gains.halves()
    assert not set(halves["discovery"]) & set(halves["confirmation"])
    for half in ("discovery", "confirmation"):
        assert set(gains.measured(TABLES, half)["dataset"]) <= set(halves[half])


def test_the_test_has_its_model_and_its_seed_alone(tmp_path, monkeypatch):
    """A second seed and a second model of the confirmation half have no part."""
    for path in TABLES.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lora = pd.read_csv(tmp_path / "lora.csv")
    lora = lora[(lora["dataset"] == "trec6") & (lora["seed"] == 0)].assign(dataset="boolq")
    twice = pd.concat([lora, lora.assign(seed=1, accuracy=0.0), lora.assign(model="gemma3-270m")])
    evidence.to_csv(twice, tmp_path / "lora.csv")
    found = gains.measured(tmp_path, "confirmation")
    assert found["model"].tolist() == ["smollm2-135m"] and found["seeds"].tolist() == [1]
    assert found["lora_accuracy"][0] > 0.9 and gains.measured(tmp_path).empty


@pytest.mark.parametrize(("file", "seed"), [(gain_confirmation.TABLE, 0), (gain_confirmation.TABLE_AGAIN, 1)])
def test_the_committed_result_is_that_of_scikit_learn(file, seed):
    """From the tables by pandas; there is none before every data set of that half has a run of that seed."""
    best, probes, lora = (evidence.read_csv(TABLES / f"{name}.csv") for name in ("best", "probes", "lora"))
    best = best.loc[best.groupby(["model", "dataset"])["gcv_error"].idxmin()]
    probes = probes[(probes["probe"] == "logistic_regression") & (probes["split"] == "test")]
    runs = lora[lora["final"] & (lora["split"] == "test") & (lora["seed"] == seed)]
    table = best.merge(probes[["model", "dataset", "layer", "accuracy"]]).merge(
        runs[["model", "dataset", "accuracy"]].rename(columns={"accuracy": "lora"})
    )
    table = table[table["dataset"].isin(gains.halves()["confirmation"]) & (table["model"] == "smollm2-135m")]
    found = gain_confirmation.read(TABLES / file)
    if set(gains.halves()["confirmation"]) - set(table["dataset"]):
        assert found is None
        return
    table = table[table["corrected_refusal"].isna()].dropna(subset="retention_corrected")
    table["lora_gain"] = table["lora"] - table["accuracy"]
    y = table["lora_gain"].to_numpy()
    assert found["groups"] == len(y)
    assert found["rmse"] == pytest.approx(left_out(table), rel=1e-5)
    assert found["rmse_of_mean"] == pytest.approx(y.std() * len(y) / (len(y) - 1), rel=1e-5)
    assert found["slope"] == pytest.approx(np.polyfit(table["retention_corrected"], y, 1)[0], rel=1e-5)
    check_correlation(found, table, 1e-5)
    rng = np.random.default_rng(0)
    reached = [
        left_out(table.assign(lora_gain=rng.permutation(y))) <= found["rmse"] + 1e-9 for _ in range(500)
    ]
    assert np.mean(reached) == pytest.approx(found["p"], abs=0.06)
    holds = found["rmse"] < found["rmse_of_mean"] and found["p"] <= 0.05 and found["slope"] < 0
    assert gain_confirmation.verdict(found) == ("confirmed" if holds else "not confirmed")


def test_the_figure_has_both_halves():
    made_of = {half: made(9, -0.1, seed=seed) for seed, half in enumerate(("a", "b"))}
    axes = retention_figure(made_of).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert len([text for text in axes.texts if text.get_text().startswith("data")]) == 18


def test_the_figures_bars_across_are_two_standard_errors_of_retention():
    """Where none is known there is no bar."""
    table = made(9, -0.1).assign(retention_corrected_se=[*[0.03] * 8, math.nan])
    axes = retention_figure({"a": table, "b": made(9, -0.1, seed=1)}).axes[0]
    across = [np.ptp(ends[:, 0]) for ends in axes.containers[0][2][0].get_segments() if len(ends)]
    assert across == pytest.approx([0.12] * 8)


def test_every_retention_of_the_committed_figure_has_its_bar():
    for half in ("discovery", "confirmation"):
        table = gains.measured(TABLES, half).dropna(subset="retention_corrected")
        assert len(table) > 9 and (table["retention_corrected_se"] > 0).all()
