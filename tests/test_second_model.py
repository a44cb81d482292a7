"""The second model of docs/finetuning.md: its judgement against scikit-learn's folds, and what the page says before it can be made."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

from ntps.evaluation.correlation import Draws
from report import evidence, finetuning_page, gain_confirmation, gains, second_model
from tests.finetuning_tables import page_with

TABLES = Path(__file__).resolve().parent.parent / "results/evidence"
FEW = Draws(permutations=500)


def made(groups, slope, seed=0):
    """Gains of both models, that of the second slope times the first's with noise; two data sets of the first group."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 0.1, groups + 1)
    names = [f"data{i:02d}" for i in range(groups + 1)]
    return pd.DataFrame({
        "model": "second", "dataset": names, "group": [names[0], *names[:-1]], "first_gain": first, "corrected_refusal": None,
        "retention_corrected": rng.uniform(size=groups + 1), "lora_gain": slope * first + 0.003 * rng.normal(size=groups + 1),
        "probe_accuracy": 0.7, "lora_accuracy": 0.75, "test_error": 0.01, "steps": 300, "settled": 1.0,
    })  # fmt: skip


def test_errors_are_those_of_scikit_learn_on_left_out_groups():
    table = made(9, 1)
    found = second_model.judged(table, FEW).set_index("predictor")
    means = table.groupby("group")[["lora_gain", *second_model.PREDICTORS]].mean()
    y = means["lora_gain"].to_numpy()
    assert found["groups"].eq(9).all()
    assert found["rmse_of_mean"].to_numpy() == pytest.approx(y.std() * 9 / 8)
    for name in second_model.PREDICTORS:
        predicted = cross_val_predict(LinearRegression(), means[[name]].to_numpy(), y, cv=9)
        assert found.loc[name, "rmse"] == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)))
    assert found.loc["first_gain", "better"] and not found.loc["retention_corrected", "better"]
    assert found.loc["first_gain", "p_holm"] == pytest.approx(2 * found.loc["first_gain", "p"])


def test_noise_is_not_better():
    assert sum(second_model.judged(made(9, 0, seed), FEW)["better"].any() for seed in range(8)) <= 2


def test_few_groups_are_not_measurable_and_none_are_not_run():
    table = made(8, 1)
    table.loc[4, ["retention_corrected", "corrected_refusal"]] = 0.5, "refused"  # as some pairs are
    assert second_model.judged(table, FEW) is None
    page = page_with(second=table, of_second=None)
    assert (
        "a second model**" not in page
        and "\n**Not measurable yet**: trained on 9 of the ten data sets" in page
    )
    assert page_with(second=table[:0], of_second=None).endswith("*not measurable*.\n\n**Not run yet.**\n")
    table = made(9, 1)
    page = page_with(second=table, of_second=second_model.judged(table, FEW))
    above, section = page.split("## A second model, fixed before its runs")
    (answer,) = (line[2:] for line in above.splitlines() if "a second model**" in line)
    assert "was not shown to be better" in answer and f"\n\n{answer}\n\n**Once more" in section
    assert "\n\nOver the 9 groups of data sets" in section
    assert "go together at" in section and section.count("\n| data") == 11


def test_its_runs_have_no_part_in_the_judgement_of_the_first(tmp_path):
    for path in TABLES.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lora = pd.read_csv(tmp_path / "lora.csv")
    lora = lora[lora["model"] == "smollm2-135m"]
    evidence.to_csv(lora, tmp_path / "lora.csv")
    alone = gains.measured(tmp_path)
    second = lora[lora["dataset"] == "trec6"].assign(model=second_model.MODEL, accuracy=0.9)
    evidence.to_csv(pd.concat([lora, second]), tmp_path / "lora.csv")
    pd.testing.assert_frame_equal(gains.measured(tmp_path), alone)
    (row,) = second_model.both_gains(tmp_path).to_dict("records")
    known = alone.set_index("dataset")["lora_gain"]
    assert row["first_gain"] == known["trec6"] and row["dataset"] == "trec6"
    assert row["lora_gain"] == pytest.approx(0.9 - row["probe_accuracy"]) and not math.isnan(
        row["retention_corrected"]
    )


def test_second_seeds_have_no_part_in_the_tests_of_one_and_are_shown_beside_them(tmp_path):
    for path in TABLES.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lora = pd.read_csv(tmp_path / "lora.csv")
    lora = lora[(lora["seed"] == 0) | ((lora["model"] == "smollm2-135m") & (lora["dataset"] == "trec6"))]
    evidence.to_csv(lora, tmp_path / "lora.csv")
    before = second_model.both_gains(tmp_path), gains.measured(tmp_path, "confirmation")
    assert gains.more_seeds(tmp_path) == []
    second = lora[
        (lora["dataset"] == "boolq") | ((lora["model"] == second_model.MODEL) & (lora["dataset"] == "trec6"))
    ]
    second = second.assign(seed=1, accuracy=second["accuracy"] + 0.02)
    evidence.to_csv(pd.concat([lora, second]), tmp_path / "lora.csv")
    after = second_model.both_gains(tmp_path), gains.measured(tmp_path, "confirmation")
    for one, other in zip(before, after):
        pd.testing.assert_frame_equal(one, other)
    hits = evidence.read_csv(tmp_path / "hits.csv")  # so do the rows that they have right
    more = hits[(hits["dataset"] == "boolq") & (hits["method"] == "lora_finetuning")]
    more = more.assign(seed=1, right=more["right"].str.translate(str.maketrans("01", "10")))
    evidence.to_csv(pd.concat([hits, more]), tmp_path / "hits.csv")
    pd.testing.assert_frame_equal(gains.measured(tmp_path, "confirmation"), before[1])
    (second_seed,) = gains.measured(tmp_path, "confirmation", seed=1).to_dict("records")
    assert second_seed["row_gains"].mean() != before[1].set_index("dataset")["row_gains"]["boolq"].mean()
    other = second[second["dataset"] == "boolq"].assign(model=second_model.MODEL, seed=0, accuracy=0.9)
    evidence.to_csv(pd.concat([lora, second, other]), tmp_path / "lora.csv")
    half, model = gains.more_seeds(tmp_path)
    assert (half["of"], half["count"], half["dataset"]) == ("the second half", 1, "boolq") and half[
        "all"
    ] == 13
    assert (model["of"], model["dataset"], model["all"]) == ("the second model", "trec6", 11)
    assert half["most"] == pytest.approx(0.02 / 2**0.5) == model["median"]


def test_the_tests_are_made_once_more_when_all_have_a_second_seed(tmp_path):
    """Second seeds that are all higher by the same have the same errors; with one of them missing there is no test."""
    for path in TABLES.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lora = pd.read_csv(tmp_path / "lora.csv")
    further = lora["dataset"].isin(evidence.halves()["confirmation"])
    lora = lora[(lora["seed"] == 0) | ~further & (lora["model"] == gains.MODEL)]
    tested = lora[further | (lora["model"] == second_model.MODEL)]
    second = tested.assign(seed=gains.AGAIN, accuracy=tested["accuracy"] - 0.05)
    first, planned = gains.measured(TABLES), evidence.halves()["confirmation"]

    def again(rows):
        evidence.to_csv(pd.concat([lora, rows]), tmp_path / "lora.csv")
        return gain_confirmation.again(tmp_path, first, planned, FEW), second_model.again(tmp_path, FEW)

    assert again(second[~second["dataset"].isin(["boolq", "trec6"])]) == (None, None)
    outcome, of_second = again(second)
    before = gain_confirmation.judged(gains.measured(TABLES, "confirmation"), first, FEW)
    for name in ("groups", "rmse", "rmse_of_mean", "slope", "p"):
        assert outcome[name] == pytest.approx(before[name], abs=1e-6)
    same = second_model.judged(second_model.both_gains(TABLES), FEW)
    pd.testing.assert_frame_equal(of_second, same)
    page = page_with(again=finetuning_page.Again(outcome, of_second))
    assert page.count("With them the") == 2 and "Not all are there yet" not in page


def test_gains_are_judged_by_its_own_seeds_where_they_are_known():
    """The larger the variance, the fewer gains are of more than chance."""
    table = made(9, 1)
    found = [finetuning_page.of_model(table, 0.0, own) for own in (None, 0.0, 1.0)]
    assert (
        "own_seeds" not in found[0]
        and found[1]["own_seeds"] == found[1]["by_rows"] > 0 == found[2]["own_seeds"]
    )
