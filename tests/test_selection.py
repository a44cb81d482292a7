"""ntps.selection: from a results folder to a report and its tables."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from ntps.commands import selection
from ntps.evaluation.correlation import holm
from ntps.run import cli
from tests.results_folder import write_pair, write_table

FAST = ["--resamples", "1000", "--permutations", "1000"]


def run(folder, *flags):
    return cli.run(selection.main, ["--results", str(folder), *FAST, *map(str, flags)])


def table(folder, name):
    return pd.read_csv(folder / "selection" / f"{name}.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, thirteen data sets of which two share their texts: ntps follows the probe, retention goes against it."""
    path, rng = tmp_path_factory.mktemp("selection"), np.random.default_rng(0)
    for model, shift in (("one", 0.0), ("two", 0.05)):
        for number in range(13):
            probe = 0.5 + 0.03 * number + shift
            write_pair(
                path, model, f"t{number}", ntps=probe / 2 + 0.01 * rng.normal(), retention=1 - probe, probe=probe,
                lora=0.95, classes=2 + number % 3, tokens=1000 + 100 * (number % 4),
                source={"id": f"texts{min(number, 11)}"},
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def ran(folder):
    assert run(folder) == 0
    return folder


def test_groups_count_once(ran):
    assert set(table(ran, "fixed")["n_groups"]) == {12}
    assert "t11,t12" in set(table(ran, "folds")["group"])


def test_the_score_that_follows_the_accuracy_holds_and_its_opposite_is_reversed(ran):
    choices = table(ran, "choices").set_index(["target", "model", "procedure"]).sort_index()
    good, bad = (
        choices.loc["probe_accuracy", "one", "ntps"],
        choices.loc["probe_accuracy", "one", "retention"],
    )
    assert good["heldout"] > 0.9 and good["reading"] == "holds"
    assert good["heldout_p"] == pytest.approx(2 / 1001) and abs(good["gap"]) < 0.1
    assert (
        bad["heldout"] < -0.9 and bad["heldout_p"] == pytest.approx(2 / 1001) and bad["reading"] == "reversed"
    )
    assert choices.loc["probe_accuracy", "one", "any"]["heldout"] > 0.9


def test_after_a_choice_there_is_no_interval(ran):
    assert list(table(ran, "choices").columns) == (
        "model target n_groups procedure score layer k itself itself_p heldout heldout_p heldout_p_holm "
        "heldout_critical gap reading".split()
    )
    assert set(table(ran, "comparisons")["basis"]) == {"fixed"}


def test_gain_is_expected_to_be_low_where_a_score_is_high(ran):
    fixed = table(ran, "fixed").set_index(["target", "model", "score"])["rho"]
    assert fixed["lora_gain", "one", "ntps"] > 0.9  # gain = 0.95 - probe
    assert fixed["lora_gain", "one", "probe_accuracy"] == pytest.approx(1)


def test_models_that_share_groups_have_a_mean_that_keeps_them_together(ran):
    fixed = (
        table(ran, "fixed")
        .set_index(["target", "score", "model"])
        .sort_index()["rho"]["probe_accuracy", "ntps"]
    )
    assert fixed["mean of 2 models"] == pytest.approx((fixed["one"] + fixed["two"]) / 2)


def test_comparisons_have_the_probe(ran):
    found = table(ran, "comparisons").set_index(["target", "model", "basis", "other"]).sort_index()
    row = found.loc["probe_accuracy", "one", "fixed", "retention"]
    assert (
        row["difference"] == pytest.approx(row["ntps"] - row["rho_other"])
        and row["reading"] == "ntps is better"
    )
    assert row["low"] > 0
    assert "gcv_skill" in found.loc["probe_accuracy", "one", "fixed"].index
    assert "probe_accuracy" in found.loc["lora_gain", "one", "fixed"].index


def test_partial_correlations_have_an_interval_for_each_covariate_that_varies(ran):
    found = table(ran, "partial")
    found = found[
        (found["target"] == "probe_accuracy") & (found["score"] == "ntps") & (found["model"] == "one")
    ]
    found = found.set_index("covariate")
    assert set(found.index) == {"classes", "tokens_per_text", "n_over_d"}
    assert found.loc["classes", "low"] <= found.loc["classes", "partial"] <= found.loc["classes", "high"]
    assert math.isnan(found.loc["n_over_d", "partial"])  # the same for all: nothing to hold constant


def test_what_is_judged_against_what_is_said(ran, capsys):
    assert run(ran, "--models", "one") == 0
    said = capsys.readouterr().out
    assert "probe_accuracy: test accuracy of linear_sklearn's logistic regression at the best layer" in said
    assert "lora_gain: final test accuracy of lora_finetuning - probe_accuracy" in said
    assert "counted once: t11,t12" in said
    about = json.loads((ran / "selection" / "selection.json").read_text())
    assert about["record"]["targets"]["lora_gain"] in said
    assert about["identity"]["flags"]["seed"] == 42


def test_scores_that_need_the_labels_of_test_are_no_candidates(ran):
    assert not table(ran, "folds")["score"].str.startswith(("heldout", "ridge_test")).any()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_data_sets_measure_nothing(tmp_path, capsys, count):
    rng = np.random.default_rng(count)
    for number in range(count):
        write_pair(tmp_path, "one", f"t{number}", ntps=rng.uniform(), probe=rng.uniform())
    assert run(tmp_path) == 0
    choices = table(tmp_path, "choices")
    assert choices["reading"].eq(f"not measurable: {count} groups").all()
    assert table(tmp_path, "fixed")[["low", "high"]].isna().all(axis=None)
    if count == 3:  # 3 groups have 6 orders: no two-sided p below 2/6
        assert table(tmp_path, "fixed")["p"].dropna().ge(2 / 6 - 1e-9).all()
    said = capsys.readouterr().out
    assert ("no correlation: it takes more than" in said) == (count <= 2)
    assert ("not measurable" in said) == (count > 2)


def test_a_score_too_noisy_to_order_the_data_sets_is_not_measurable(tmp_path):
    rng, ntps = np.random.default_rng(3), np.linspace(0.2, 0.4, 8)
    for number, value in enumerate(ntps):
        write_pair(tmp_path, "one", f"t{number}", ntps=value, probe=rng.uniform())
        path = tmp_path / "ntps" / "one" / f"t{number}.csv"
        pd.read_csv(path).assign(ntps_se=0.06).to_csv(path, index=False)
    assert run(tmp_path) == 0
    row = table(tmp_path, "fixed").set_index("score").loc["ntps"]
    assert row["reliability"] == pytest.approx(1 - 0.06**2 / ntps.var(ddof=1))
    assert row["reading"] == f"not measurable: reliability {row['reliability']:.2f}"
    assert not table(tmp_path, "folds")["score"].eq("ntps_se").any()


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Nine data sets: two have no retention, five no excess, one no ntps; and the same without the two."""
    path, rng = tmp_path_factory.mktemp("refused"), np.random.default_rng(5)
    for number in range(9):
        for folder in ["all", "seven"][: 1 + (number > 1)]:
            noise = rng.normal(size=2)
            pair = {"ntps": 0.3 + 0.02 * number + 0.01 * noise[0], "retention": 0.5 + 0.03 * number}
            write_pair(path / folder, "one", f"t{number}", **pair, probe=0.5 + 0.04 * (number ^ 1))
            scores = path / folder / "ntps" / "one" / f"t{number}.csv"
            table = pd.read_csv(scores).assign(excess=math.nan if number > 3 else 0.1 * number, ntps_se=0.01)
            table["retention_se"] = 0.01
            refused = {0: ["retention", "retention_se"], 1: ["retention", "retention_se"], 8: ["ntps"]}
            table[refused.get(number, [])] = math.nan
            table.to_csv(scores, index=False)
    assert run(path / "all") == 0 and run(path / "seven", "--scores", "retention", "gcv_error") == 0
    return path


def test_a_score_is_judged_on_the_data_sets_that_have_it(refused):
    fixed = table(refused / "all", "fixed").set_index("score")
    assert fixed["n_groups"].to_dict() == {
        "gcv_error": 9, "gcv_skill": 9, "ridge_train_mse": 9, "ridge_train_skill": 9, "ntps": 8, "retention": 7
    }  # fmt: skip
    seven = table(refused / "seven", "fixed").set_index("score")
    same = ["rho", "low", "high", "p", "reliability"]
    pd.testing.assert_series_equal(fixed.loc["retention", same], seven.loc["retention", same])
    choices = table(refused / "all", "choices").set_index("procedure")
    assert choices["n_groups"]["retention"] == 7 and choices["n_groups"]["any"] == 9
    chosen = ["itself", "itself_p", "heldout", "heldout_p", "gap"]
    alone = table(refused / "seven", "choices").set_index("procedure")
    pd.testing.assert_series_equal(choices.loc["retention", chosen], alone.loc["retention", chosen])


def test_scores_of_other_data_sets_are_one_family_of_tests(refused):
    fixed = table(refused / "all", "fixed").set_index("score")
    assert set(fixed["n_groups"][fixed["p"].notna()]) == {
        7,
        8,
    }  # the scores of all nine are the same everywhere
    assert fixed["p_holm"].to_numpy() == pytest.approx(holm(fixed["p"].to_numpy()), nan_ok=True)
    seven = table(refused / "seven", "fixed").set_index("score")
    assert fixed.loc["retention", "critical"] > seven.loc["retention", "critical"]


def test_scores_are_compared_on_the_data_sets_that_have_both(refused):
    found = table(refused / "all", "comparisons").set_index("other")
    assert found["n_groups"]["retention"] == 6 and found["n_groups"]["gcv_error"] == 8


def test_a_score_that_too_few_data_sets_have_is_left_out_with_the_reason(refused, capsys):
    assert run(refused / "all") == 0
    said = capsys.readouterr().out
    assert (
        "left out: excess: 4 of 9 groups have it; no order of fewer than 5 is significant (all models)"
        in said
    )
    assert "left out: t0: no retention" in said and "left out: t8: no ntps" in said
    assert "excess" not in set(table(refused / "all", "fixed")["score"])


def test_noise_with_many_candidates_is_not_taken_for_a_finding(tmp_path):
    rng = np.random.default_rng(1)
    for number in range(8):
        write_pair(
            tmp_path,
            "one",
            f"t{number}",
            ntps=rng.uniform(),
            retention=rng.uniform(),
            probe=rng.uniform(0.5, 0.9),
        )
    assert run(tmp_path) == 0
    choices = table(tmp_path, "choices").set_index("procedure")
    assert (choices["itself"] >= choices["heldout"] - 1e-9).loc["any"]
    assert choices.loc["any", "heldout_p"] > 0.1


def test_published_values_have_nothing_to_choose(tmp_path, capsys):
    for number in range(7):
        pair = {"model": "one", "dataset": f"t{number}"}
        nowhere = dict.fromkeys(("layer", "fraction", "kv", "chance", "n_texts"))  # the paper does not tell
        score = pair | nowhere | {"order": "released", "rule": "fraction", "ntps": 0.1 * number}
        write_table(tmp_path / "ntps" / "one" / f"t{number}.csv", "scores", [score])
        row = {"layer": None, "split": "train", "probe": "logistic_regression"}
        row |= {"accuracy": 0.5 + 0.05 * (number % 6)}
        path = tmp_path / "accuracy" / "linear_sklearn" / "one" / f"t{number}.csv"
        write_table(path, "accuracy", [pair | row])
    assert run(tmp_path, "--order", "released", "--rule", "fraction") == 0
    assert "one candidate, so nothing to choose" in capsys.readouterr().out
    row = table(tmp_path, "fixed").iloc[0]
    assert (
        row["target"] == "probe_train_accuracy" and row["low"] <= row["rho"] <= row["high"] and row["p"] > 0
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--targets", "accuracy"], "--targets accuracy: there are probe_accuracy"),
        (
            ["--targets", "scratch_accuracy"],
            "--targets scratch_accuracy: not in the results; there are probe_accuracy",
        ),
        (["--scores", "npts"], "--scores npts: there are ntps"),
        (["--models", "three"], "--models three: not in the results; there are one two"),
        (["--order", "released"], "no scores of --order released --rule task_rank"),
        (["--groups", "t1,t99"], "no data set t99"),
        (["--resamples", "3"], "--resamples 3: must be at least 1000"),
    ],
)
def test_faults_of_the_user(folder, capsys, flags, message):
    assert run(folder, *flags) == 1
    assert message in capsys.readouterr().err


def test_a_model_without_accuracies_and_one_without_scores_end_nothing(tmp_path, capsys):
    rng = np.random.default_rng(2)
    for number in range(3):
        write_pair(tmp_path, "one", f"t{number}", ntps=rng.uniform(), probe=rng.uniform())
        write_pair(tmp_path, "bare", f"t{number}", ntps=rng.uniform(), probe=None)
    write_pair(tmp_path, "unscored", "t0", ntps=0.1)
    for path in tmp_path.glob("*/unscored/*"):
        path.unlink()
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert "bare: 0 independent groups" in said and "unscored: 0 independent groups" in said
    assert "left out: t0: no probe_accuracy (bare, unscored)" in said
    assert table(tmp_path, "choices")["model"].unique().tolist() == ["one"]
