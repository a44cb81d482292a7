"""A model's verdict in words, the differences it rests on, and the reference that skill is compared with."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ntps.evaluation.paired import mean_difference, share_difference
from ntps.prescreening import verdicts
from ntps.sources import yaml_files
from report.reference import reference

ROOT = Path(__file__).resolve().parent.parent
ROW = {
    "n_test": 10**6, "heldout_skill": 0.567, "heldout_skill_se": 0.01, "accuracy": 0.83, "majority_accuracy": 0.226, "over_guessing_low": 0.55,
    "layer": 19, "layers": 30, "last_layer_loss": 0.07, "last_layer_loss_low": 0.03, "last_layer_loss_high": 0.11,
    "doubling_gain": 0.03, "doubling_gain_low": 0.01, "doubling_gain_high": 0.05,
}  # fmt: skip


def said(**others):
    return verdicts.verdict_of(ROW | others)


def test_a_verdict():
    assert said() == (
        "usable: 83 % right on unseen rows, 23 % by guessing; the last layer loses 7 points of skill; "
        "more labels would help: +3 points of skill at twice as many"
    )


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"over_guessing_low": 0.0}, "hardly usable: 83 %"),
        ({"heldout_skill_se": 0.3}, "hardly usable: 83 %"),
        ({"over_guessing_low": -0.1, "heldout_skill_se": 0.3}, "not usable: 83 %"),
        ({"accuracy": 0.996}, "usable: over 99 % right"),
        ({"accuracy": 1.0}, "usable: 100 % right"),
        ({"layer": 30}, "; the last layer is the best;"),
        ({"last_layer_loss_low": 0.0}, "; whether the last layer loses skill is open: +0 to +11 points;"),
        ({"last_layer_loss_low": -0.02, "last_layer_loss_high": 0.009}, "; the last layer loses hardly anything: under 1 point of skill;"),
        ({"last_layer_loss": -0.024, "last_layer_loss_low": -0.03, "last_layer_loss_high": -0.01}, "the last layer gains 2.4 points"),
        ({"last_layer_loss": 1.35, "last_layer_loss_low": 1.1}, "; the last layer is no better than guessing;"),
        ({"last_layer_loss": math.nan}, "; the last layer was not measured;"),
        ({"doubling_gain_low": 0.0}, "whether more labels would help is open: +0 to +5 points"),
        ({"doubling_gain_low": 0.009}, "whether more labels would help is open: +0.9 to +5 points"),
        ({"doubling_gain": -0.4, "doubling_gain_low": -0.67, "doubling_gain_high": -0.0001}, "whether more labels would help is not known: skill does not rise with rows here"),
        ({"doubling_gain": -0.012, "doubling_gain_low": -0.013, "doubling_gain_high": -0.011}, "would help is not known: skill does not rise"),
        ({"doubling_gain_low": -4.66, "doubling_gain_high": 0.39}, "whether more labels would help is open: not known to 100 points of skill"),
        ({"last_layer_loss_low": -1.0, "last_layer_loss_high": 0.3}, "whether the last layer loses skill is open: not known to 100 points;"),
        ({"seen": 0.43}, "usable: 83 % right on test rows, 43 % of which are train rows, 23 % by guessing;"),
        ({"heldout_skill": -0.46, "accuracy": math.nan, "micro_f1": 0.1, "heldout_skill_se": 0.02}, "not usable: micro F1 0.10, significantly worse than guessing on unseen rows;"),
        ({"doubling_gain_low": -0.002, "doubling_gain_high": 0.009}, "more labels would hardly help: under 1 point"),
        ({"doubling_gain_low": 1e-17, "doubling_gain": 1e-16, "doubling_gain_high": 1e-15}, "more labels would hardly help: under 1 point"),
        ({"doubling_gain": math.nan}, "whether more labels would help was not estimated"),
        ({"micro_f1": 0.62}, "usable: micro F1 0.62, explains 57 % of the labels' variance on unseen rows, 0 % by guessing;"),
    ],
)  # fmt: skip
def test_every_word_has_its_threshold(others, words):
    assert words in said(**others)


def test_points():
    found = [verdicts.points(value) for value in (0.0004, 0.0704, 0.084, 0.124, 1.38, -0.0243)]
    assert found == ["0 points", "7 points", "8.4 points", "12 points", "138 points", "-2.4 points"]
    assert verdicts.points(0.03, "+") == "+3 points"


def test_of_what_is_not_usable_the_last_layer_is_not_judged():
    found = said(over_guessing_low=-0.1, heldout_skill_se=0.3)
    assert "last layer" not in found and "more labels" in found


def test_numbers_are_judged_by_skill_alone():
    row = {
        name: value
        for name, value in ROW.items()
        if name not in ("accuracy", "majority_accuracy", "over_guessing_low")
    }
    assert verdicts.verdict_of(row).startswith("usable: explains 57 % of the labels' variance on unseen rows")
    assert verdicts.verdict_of(row | {"heldout_skill_se": 0.3}).startswith("not usable: explains")


def test_rows_that_train_has_are_not_called_unseen_beside_lora():
    row = ROW | {
        f"lora_{name}{end}": 0.1 for name in ("accuracy", "over_probe", "rise") for end in verdicts.ENDS
    }
    row |= {
        "lora_curve": {"n": 200},
        "lora_passes": 3.0,
        "lora_steps": 50,
        "lora_p_value": 0.5,
        "lora_seconds": 9,
    }
    assert "of the unseen rows right" in verdicts.finetuned(row | {"seen": 0.0})
    assert "of the test rows, 43 % of which are train rows right" in verdicts.finetuned(row | {"seen": 0.43})


def test_every_word_of_a_verdict_has_a_rule():
    rules = " ".join(f"{word}: {rule}" for word, rule in verdicts.RULES.items()).lower()
    for word in (
        "usable",
        "hardly usable",
        "not usable",
        "the last layer loses",
        "more labels would help",
        "hardly help",
        "open",
    ):
        assert word in rules, word
    assert f"{verdicts.POINT} of skill" in rules and "95 %" in rules


@pytest.mark.parametrize(
    ("both", "one", "other", "n"), [(0.5, 0.1, 0.1, 60), (0.7, 0.15, 0.05, 100), (0.85, 0.02, 0.02, 300)]
)
def test_intervals_of_differences_cover(both, one, other, n):
    """95 % intervals of a difference of shares, and of a mean; two equal predictions differ significantly in at most 5 %."""
    rng, truth, shares, means = np.random.default_rng(0), one - other, [], []
    for _ in range(2000):
        kind = rng.choice(4, n, p=[both, one, other, 1 - both - one - other])
        found = share_difference(kind < 2, (kind == 0) | (kind == 2))
        assert found.low <= found.value <= found.high
        shares.append(found.low <= truth <= found.high)
        mean = mean_difference(rng.gamma(2, 1, n))
        means.append(mean.low <= 2 <= mean.high)
    assert 0.94 <= np.mean(shares) <= 0.99 and 0.92 <= np.mean(means) <= 0.97


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_of_a_mean_of_few_rows_covers(n):
    rng, held = np.random.default_rng(0), []
    for _ in range(4000):
        mean = mean_difference(rng.normal(1, 2, n))
        held.append(mean.low <= 1 <= mean.high)
    assert 0.94 <= np.mean(held) <= 0.96


def test_shares_that_never_differ_have_an_interval():
    found = share_difference(np.ones(8, bool), np.ones(8, bool))
    assert found.value == 0 and found.low == -found.high and 0.2 < found.high < 0.35
    assert found.columns("a") == {"a": 0, "a_low": found.low, "a_high": found.high}


def test_the_shipped_reference_is_that_of_the_committed_tables():
    shipped = json.loads((ROOT / "configs/reference.json").read_text())
    assert shipped == json.loads(json.dumps(reference([str(ROOT / "results/mini")])))
    assert len(shipped["heldout_skill"]) == 12


def test_skill_is_compared_with_other_data_sets(tmp_path, monkeypatch):
    known = {
        "model": "small",
        "rows": "9 to 12",
        "heldout_skill": {"a": 0.1, "b": 0.5, "c": 0.6, "mine": 0.2},
    }
    (tmp_path / "reference.json").write_text(json.dumps(known))
    monkeypatch.setattr(yaml_files, "config_folders", lambda kind: [tmp_path / "here", tmp_path / kind])
    assert (
        verdicts.standing(ROW, "mine")
        == "Its skill is above what small has on 2 of 3 other data sets (9 to 12 train rows)."
    )
    assert "3 of 4" in verdicts.standing(ROW, "other")
    assert verdicts.standing(ROW | {"micro_f1": 0.5}, "mine") == ""  # the reference is of classes
    (tmp_path / "reference.json").unlink()
    assert verdicts.standing(ROW, "mine") == ""
