"""ntps.gain: held-out error, refusal where there is nothing to predict with, and intervals that cover."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from ntps.commands.gain import main
from ntps.errors import UserError
from ntps.evaluation import gain
from ntps.run import cli
from tests.results_folder import write_pair


def made(rng, models=1, groups=12, slope=0.5, noise=0.03, predictors=2):
    """Points whose gain follows the first predictor."""
    x = rng.uniform(size=(models, groups, predictors))
    y = 0.1 + slope * x[..., 0] + noise * rng.normal(size=(models, groups))
    names = [f"m{i}" for i in range(models)], [f"g{i}" for i in range(groups)]
    return gain.Points(*names, [f"p{i}" for i in range(predictors)], x, y, 1 - x[..., 0])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_left_out_error_is_that_of_fitting_without_the_group(rng):
    found = made(rng, models=2, groups=7)
    design = gain.designs(found)[("p0", "p1")]
    errors = []
    for g in range(7):
        kept = [j for j in range(7) if j != g]
        fit = np.linalg.lstsq(design[:, kept].reshape(-1, 3), found.gain[:, kept].ravel())[0]
        errors.append(design[:, g] @ fit - found.gain[:, g])
    assert gain.held_out(design, found.gain[None], False)[0] == pytest.approx(np.transpose(errors))


def test_across_models_the_model_is_left_out_too(rng):
    found = made(rng, models=3, groups=6)
    design = gain.designs(found)[("p0",)]
    others = [1, 2], [1, 2, 3, 4, 5]
    fit = np.linalg.lstsq(design[np.ix_(*others)].reshape(-1, 2), found.gain[np.ix_(*others)].ravel())[0]
    error = design[0, 0] @ fit - found.gain[0, 0]
    assert gain.held_out(design, found.gain[None], True)[0, 0, 0] == pytest.approx(error)


def test_nested_error_chooses_without_the_group_it_judges(rng):
    found = made(rng, groups=7, slope=0.2, noise=0.2)
    ways, errors = gain.designs(found), []
    for g in range(7):
        kept = [j for j in range(7) if j != g]
        part = gain.Points(
            found.models,
            found.groups,
            found.predictors,
            found.x[:, kept],
            found.gain[:, kept],
            found.probe[:, kept],
        )
        inner = {
            name: np.square(gain.held_out(way, part.gain[None], False)).mean()
            for name, way in gain.designs(part).items()
        }
        best = min(inner, key=inner.get)
        fit = np.linalg.lstsq(gain.designs(part)[best][0], part.gain[0])[0]
        errors.append(ways[best][0, g] @ fit - found.gain[0, g])
    assert gain.nested(found, found.gain[None])[0, 0] == pytest.approx(np.array(errors))


def test_a_clear_relation_is_found_and_used(rng):
    fit = gain.calibrate(made(rng), 100)
    assert fit["usable"] and fit["p"] == pytest.approx(1 / 101)
    assert "p0" in fit["predictors"] and fit["coefficients"]["p0"] == pytest.approx(0.5, abs=0.05)
    assert fit["held_out_error"] < 0.06 < fit["errors_of_baselines"]["mean gain"]
    # gain = 0.1 + 0.5 (1 - probe): a fixed share of the probe's errors is close, and p1 alone is nothing.
    assert fit["errors_of_baselines"]["share of the probe's errors"] < fit["errors_of_baselines"]["p1"]


def test_noise_is_refused_but_for_the_share_that_chance_lets_pass(rng):
    fits = [gain.calibrate(made(rng, groups=8, slope=0), 60, trial) for trial in range(60)]
    assert np.mean([fit["usable"] for fit in fits]) <= 0.1 + 2 * math.sqrt(0.09 / 60)
    refused = [fit for fit in fits if not fit["usable"]]
    assert all("held-out error" in fit["why"] and "mean gain" in fit["why"] for fit in refused)


@pytest.mark.slow
@pytest.mark.parametrize(("models", "groups"), [(1, 8), (1, 12), (3, 8)])
def test_prediction_intervals_cover_new_texts(rng, models, groups):
    hits = []
    for trial in range(150):
        found = made(rng, models=models, groups=groups, noise=0.1)
        fit = gain.calibrate(found, 20, trial)
        x = rng.uniform(size=(20, 2))
        truth = 0.1 + 0.5 * x[:, 0] + 0.1 * rng.normal(size=20)
        values = fit["intercept"] + sum(
            fit["coefficients"][n] * x[:, found.predictors.index(n)] for n in fit["predictors"]
        )
        hits.append(abs(truth - values) <= fit["half_width"])
    assert 0.85 <= np.mean(hits) <= 0.95


def test_few_groups_say_so(rng):
    fit = gain.calibrate(made(rng, groups=5))
    assert not fit["usable"] and "5 independent groups" in fit["why"]


# --- test-retest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3])
def test_reliability_is_the_intraclass_correlation_of_the_means(rng, seeds):
    runs = rng.normal(size=(9, 1)) + 0.5 * rng.normal(size=(9, seeds))
    found = gain.reliability(runs.mean(1)[None], runs.var(1, ddof=1)[None] / seeds)
    between, within = seeds * runs.mean(1).var(ddof=1), runs.var(1, ddof=1).mean()  # mean squares
    one = (between - within) / (between + (seeds - 1) * within)  # ICC(1, 1)
    assert found["reliability"] == pytest.approx(seeds * one / (1 + (seeds - 1) * one))  # Spearman-Brown
    assert found["error"] == pytest.approx(math.sqrt(within / seeds))
    assert gain.reliability(runs.mean(1)[None], np.full((1, 9), math.nan)) == {}


def test_reliability_is_that_of_another_run_of_all_seeds(rng):
    truth = 0.03 * rng.normal(size=(4000, 1))
    first, second = (truth + 0.02 * rng.normal(size=(4000, 2)) for _ in range(2))
    found = gain.reliability(first.mean(1)[None], first.var(1, ddof=1)[None] / 2)
    assert found["reliability"] == pytest.approx(np.corrcoef(first.mean(1), second.mean(1))[0, 1], abs=0.03)
    # even the true gains miss the measured ones by that much
    assert found["error"] == pytest.approx(np.sqrt(np.square(first.mean(1) - truth[:, 0]).mean()), rel=0.05)


# --- a folder, the file and predictions from it --------------------------------------------------------------------

USUAL = {"retention": 0.5, "probe_accuracy": 0.53}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gains of 0.5 - ntps over probes that do not matter; retention is noise."""
    rng, path = np.random.default_rng(3), tmp_path_factory.mktemp("gains")
    for number, ntps in enumerate(np.linspace(0.1, 0.4, 8)):
        probe = 0.5 + 0.03 * (number % 3)
        write_pair(
            path, "small", f"t{number}", ntps=ntps - 0.01, retention=rng.uniform(), probe=probe,
            lora=probe + 0.5 - ntps + 0.005 * rng.normal(),
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def calibration(folder):
    assert cli.run(main, ["--results", str(folder), "--permutations", "60"]) == 0
    return gain.Calibration(folder / "gain.json")


def test_the_file_is_small_and_says_where_it_comes_from(folder, calibration):
    text = (folder / "gain.json").read_text()
    assert len(text) < 10_000
    about = json.loads(text)
    assert about["fit"]["range"]["ntps"] == pytest.approx([0.1, 0.4])
    assert about["record"]["lora"] == [
        {"limit": 100, "max_length": None, "dtype": None, "settings": {"max_steps": 50}, "seeds": None}
    ]
    assert about["identity"]["models"] == ["small"] and len(about["points"]) == 8
    assert "headroom: in no results" in about["record"]["left_out"]


def test_the_report_has_the_reliability_beside_the_errors(folder, tmp_path, capsys):
    output = ["--output", str(tmp_path / "gain.json"), "--permutations", "60"]
    assert cli.run(main, ["--results", str(folder), *output]) == 0
    said = capsys.readouterr().out
    assert "  0.0100  of the gain itself, over seeds" in said  # +-0.01: s^2 / 2 = 0.01^2
    gains = [point["lora_gain"] for point in json.loads((tmp_path / "gain.json").read_text())["points"]]
    assert json.loads((tmp_path / "gain.json").read_text())["seeds"]["error"] == pytest.approx(0.01)
    assert f"reliability of the gain over seeds: {1 - 1e-4 / np.var(gains, ddof=1):.2f} (ICC" in said
    joined = cli.run(main, ["--results", str(folder), "--groups", "t0,t1", *output])
    assert (
        joined == 0 and "  0.0096  of the gain itself" in capsys.readouterr().out
    )  # sqrt((6 + 1 / 2) / 7) of 0.01


def test_one_seed_has_no_reliability(tmp_path, capsys):
    for number in range(4):
        write_pair(tmp_path, "small", f"t{number}", ntps=0.1 * number, lora=0.8)
        path = tmp_path / f"accuracy/lora_finetuning/small/t{number}.csv"
        rows = pd.read_csv(path)
        rows[rows.seed == 0].to_csv(path, index=False)
    assert cli.run(main, ["--results", str(tmp_path)]) == 0
    assert "reliability of the gain over seeds: not known: it takes two seeds" in capsys.readouterr().out
    assert json.loads((tmp_path / "gain.json").read_text())["seeds"] == {}


def test_a_prediction_within_the_range(calibration):
    found = calibration.predict(USUAL | {"ntps": 0.2}, "small")
    assert not found.reason and found.gain == pytest.approx(0.3, abs=0.02)
    assert found.low < 0.3 < found.high and found.high - found.low < 0.1


@pytest.mark.parametrize(
    ("values", "model", "reason"),
    [
        ({"ntps": 0.5}, "small", "ntps is 0.500, outside 0.100 to 0.400"),
        ({"ntps": math.nan}, "small", "ntps is not known"),
        ({"ntps": 0.2}, "other", "made from small alone"),
    ],
)
def test_predictions_are_refused_in_words(calibration, values, model, reason):
    found = calibration.predict(USUAL | values, model)
    assert found.reason.startswith("not calibrated for this: ") and reason in found.reason
    assert math.isnan(found.gain) and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ({"order": "released", "rule": "task_rank"}, "released task_rank"),
        ({"order": "descending", "rule": "fraction"}, "descending fraction"),
    ],
)
def test_scores_at_another_point_are_refused(folder, calibration, tmp_path, flags, made):
    assert not calibration.predict(USUAL | {"ntps": 0.2}, "small").reason
    about = json.loads((folder / "gain.json").read_text())
    about["identity"]["flags"] |= flags
    (tmp_path / "gain.json").write_text(json.dumps(about))
    found = gain.Calibration(tmp_path / "gain.json").predict(USUAL | {"ntps": 0.2}, "small")
    assert math.isnan(found.gain)
    assert f"takes scores of {made}, and these are of descending task_rank" in found.reason


def test_three_models_allow_a_fourth(tmp_path, rng):
    fit = {"usable": True, "predictors": ["p0"], "intercept": 0.1, "coefficients": {"p0": 1.0}}
    fit |= {"range": {"p0": [0.0, 1.0]}, "half_width": 0.1}
    about = {"format": "ntps gain calibration 1", "fit": fit, "record": {}}
    for models, known in ((["a", "b", "c"], True), (["a", "b"], False)):
        identity = {"target": "lora_gain", "models": models}
        (tmp_path / "gain.json").write_text(json.dumps(about | {"identity": identity}))
        found = gain.Calibration(tmp_path / "gain.json").predict({"p0": 0.5}, "d")
        assert found.gain == pytest.approx(0.6) if known else "made from a and b alone" in found.reason


def test_an_unusable_file_predicts_nothing(tmp_path, capsys):
    for number in range(4):
        write_pair(tmp_path, "small", f"t{number}", ntps=0.1 * number, lora=0.8)
    assert cli.run(main, ["--results", str(tmp_path)]) == 0
    assert "predicts nothing: 4 independent groups" in capsys.readouterr().out
    found = gain.Calibration(tmp_path / "gain.json").predict({"ntps": 0.2}, "small")
    assert math.isnan(found.gain) and "4 independent groups" in found.reason


def test_faults_of_the_user(folder, tmp_path, capsys):
    assert cli.run(main, ["--results", str(folder), "--predictors", "nptS"]) == 1
    assert "--predictors nptS: there are" in capsys.readouterr().err
    assert cli.run(main, ["--results", str(folder), "--target", "gain"]) == 1
    assert "--target gain: must be one of lora_gain, lora_gain_linear" in capsys.readouterr().err
    assert cli.run(main, ["--results", str(folder), "--target", "lora_gain_linear"]) == 1
    assert "no lora_gain_linear" in capsys.readouterr().err
    (tmp_path / "cut.json").write_text('{"format": "ntps gain calibration 1", "fit"')
    with pytest.raises(UserError, match="cut short"):
        gain.Calibration(tmp_path / "cut.json")
    for fit in (
        '{"usable": true}',
        "[]",
        '{"usable": true, "coefficients": {"ntps": "a"}, "intercept": 0, "half_width": 1}',
    ):
        rest = '"identity": {"models": []}'
        (tmp_path / "broken.json").write_text(
            f'{{"format": "ntps gain calibration 1", "fit": {fit}, {rest}}}'
        )
        with pytest.raises(UserError, match="no whole calibration"):
            gain.Calibration(tmp_path / "broken.json")
    (tmp_path / "part.json").write_text('{"format": "ntps gain calibration 1", "fit": {}}')
    with pytest.raises(UserError, match="no whole calibration"):
        gain.Calibration(tmp_path / "part.json")


def test_points_average_a_group_and_leave_out_what_some_model_lacks():
    rows = [("a", "g", 0.1), ("a", "g", 0.3), ("b", "g", 0.5), ("a", "h", 0.2)]
    table = pd.DataFrame(rows, columns=["model", "group", "lora_gain"]).assign(probe_accuracy=0.5, ntps=0.3)
    found, notes = gain.points(table, ["ntps"], "lora_gain")
    assert found.groups == ["g"] and found.gain.ravel().tolist() == pytest.approx([0.2, 0.5])
    assert notes == ["h: not known for every model and predictor"]
