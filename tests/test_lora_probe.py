"""prescreen.py --finetune_probe: a short LoRA training of the first model, its columns, its words, its picture, and what is offered without it."""

import json
import math
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

import prescreen
from ntps.accuracies import finetuning
from ntps.accuracies.training_order import pad
from ntps.errors import UserError
from ntps.evaluation.paired import mcnemar
from ntps.moments.file import StatesFile
from ntps.prescreening import lora_probe, verdicts
from ntps.run import cli
from ntps.system import checkpoint_clock
from tests.tiny import tiny_texts, two_models

ROW = {
    "accuracy": 0.79, "lora_steps": 50, "lora_accuracy": 0.812, "lora_accuracy_low": 0.78, "lora_accuracy_high": 0.841,
    "lora_over_probe": 0.022, "lora_over_probe_low": -0.005, "lora_over_probe_high": 0.049, "lora_p_value": 0.123,
    "lora_rise": 0.04, "lora_rise_low": 0.01, "lora_rise_high": 0.07, "lora_seconds": 95.2, "lora_passes": 3.21, "lora_curve": {"n": 150},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two tiny models, the first of them to rank fine-tuned for ten steps: (folder, flags, what the trained model predicts)."""
    folder = tmp_path_factory.mktemp("lora")
    models = two_models(folder)
    texts, labels = tiny_texts(240, 3, 0)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / "my.csv", index=False)
    flags = [
        "--models",
        *models,
        "--train",
        str(folder / "my.csv"),
        "--limit",
        "150",
        "--seed",
        "7",
    ]
    flags += ["--label_permutations", "0", "--output", str(folder / "out")]
    predicted = {}

    def watched(task, method, training, build):
        def keep(model, seed, identity):
            predicted["labels"] = task.labels["test"]
            with torch.inference_mode():
                rows = [model.eval()(pad([ids]), torch.ones(1, len(ids))) for ids in task.ids("test")]
            predicted["classes"] = np.array([int(row["logits"].argmax()) for row in rows])

        return finetuning.fitter(task, method, training, build, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora_probe, "fitter", watched)
        assert cli.run(prescreen.main, [*flags, "--finetune_probe", "10"]) == 0
    predicted["models"] = of(folder)
    return folder, flags, predicted


def of(folder):
    return json.loads((folder / "out/my.json").read_text())["record"]["models"]


def test_its_rows_are_the_probes_and_its_values_those_of_the_trained_model(world):
    folder, _, predicted = world
    first, other = predicted["models"]
    states = StatesFile(next((folder / "out/states").glob(f"{first['model']}/my/test.safetensors")))
    assert (states.labels == predicted["labels"]).all() and len(states.labels) == 60
    right = predicted["classes"] == predicted["labels"]
    assert first["lora_accuracy"] == right.mean() and 0 < right.sum() < 60
    low, high = binomtest(int(right.sum()), 60).proportion_ci(0.95)
    assert [first["lora_accuracy_low"], first["lora_accuracy_high"]] == pytest.approx([low, high])
    assert first["lora_over_probe"] == pytest.approx(first["lora_accuracy"] - first["accuracy"])
    assert first["lora_over_probe_low"] < first["lora_over_probe"] < first["lora_over_probe_high"]
    assert first["lora_steps"] == 10 and first["lora_curve"]["steps"] == [*range(1, 11)]
    assert first["lora_curve"]["n"] == 15 and first["lora_seconds"] > 0 and first["lora_passes"] > 0
    assert "lora_steps" not in other
    (hits,) = (folder / "out/accuracy/lora_10_steps").glob("*/my.safetensors")
    assert (lora_probe.load_file(hits)["right"] == right).all()


def test_table_page_and_answer_show_it(world, capsys):
    folder, flags, found = world
    before = (folder / "out/my.html").read_text()
    assert cli.run(prescreen.main, [*flags, "--finetune_probe", "10"]) == 0
    said = capsys.readouterr().out
    assert said.count("already there") == 5 and (folder / "out/my.html").read_text() == before
    first = found["models"][0]
    sentence = f"{first['model']}: LoRA after 10 steps has {100 * first['lora_accuracy']:.1f} % ["
    assert sentence in said and "--finetune_probe" not in said
    table = pd.read_csv(folder / "out/my.csv")
    assert table["lora_accuracy"].notna().tolist() == [True, False] and "lora_curve" not in table
    assert "LoRA after 10 steps has" in before and before.count("data:image/svg+xml;base64,") == 4
    assert "below it LoRA&#39;s accuracy over its steps" in before


def test_what_cannot_be_trained_leaves_the_ranking(world, capsys, monkeypatch):
    def unknown(*_):
        raise UserError("lora_targets: none are known")

    folder, flags, found = world
    monkeypatch.setattr(lora_probe, "chosen_targets", unknown)
    assert cli.run(prescreen.main, [*flags, "--finetune_probe", "11"]) == 1
    said = capsys.readouterr()
    assert "lora_targets: none are known" in said.err and "LoRA after" not in said.out
    assert all(f"{row['model']} is" in said.out for row in found["models"]) and "failed" not in said.out
    assert not (folder / "out/accuracy/lora_11_steps").exists()


def test_without_it_the_command_is_offered(world, capsys):
    folder, flags, _ = world
    assert cli.run(prescreen.main, flags) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--finetune_probe 50" in line]
    assert line.startswith("Expected gain in accuracy of ") and "not calibrated for this" in line
    words = shlex.split(line.partition("first steps: ")[2])
    assert words[:2] == ["python", "prescreen.py"]
    given, again = (
        vars(cli.parser_of(prescreen.main, cli.flags_of(prescreen.main)).parse_args(part))
        for part in (flags, words[2:])
    )
    assert again | {"finetune_probe": None} == given and again["finetune_probe"] == 50
    page = (folder / "out/my.html").read_text()
    assert "--finetune_probe 50</p>" in page and "below it LoRA" not in page


@pytest.mark.parametrize(("target", "labels"), [("numeric", range(60)), ("multilabel", ["a;b", "b"] * 30)])
def test_numbers_and_sets_are_refused_before_any_pass(tmp_path, capsys, target, labels):
    pd.DataFrame({"text": [f"text {i}" for i in range(60)], "label": labels}).to_csv(
        tmp_path / "my.csv", index=False
    )
    flags = [
        "--models",
        "nowhere",
        "--train",
        str(tmp_path / "my.csv"),
        "--target",
        target,
        "--output",
        str(tmp_path / "out"),
    ]
    flags += ["--label_separator", ";"] if target == "multilabel" else []
    assert cli.run(prescreen.main, [*flags, "--finetune_probe", "5"]) == 1
    said = capsys.readouterr().err
    assert (
        f"--finetune_probe: LoRA is trained on classes, one a row; my is {target}" in said
        and not (tmp_path / "out").exists()
    )
    assert cli.run(prescreen.main, flags) == 1 and "unknown model" in capsys.readouterr().err


def test_a_killed_training_goes_on(world, tmp_path, monkeypatch):
    _, flags, found = world

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    step, flags = (
        finetuning.Finetuner.training_step,
        [*flags[:-1], str(tmp_path / "out"), "--finetune_probe", "10"],
    )
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)
    monkeypatch.setattr(finetuning.Finetuner, "training_step", interrupted)
    assert cli.run(prescreen.main, flags) == 130
    monkeypatch.setattr(finetuning.Finetuner, "training_step", step)
    assert cli.run(prescreen.main, flags) == 0
    for name in ("lora_accuracy", "lora_p_value", "lora_curve"):
        assert of(tmp_path)[0][name] == found["models"][0][name], name


def test_mcnemars_exact_test():
    right, other = np.array([1] * 8 + [0] * 2 + [1] * 5, bool), np.array([0] * 8 + [1] * 2 + [1] * 5, bool)
    tails = sum(math.comb(10, k) for k in (0, 1, 2, 8, 9, 10)) / 2**10
    assert mcnemar(right, other) == mcnemar(other, right) == pytest.approx(tails)
    assert mcnemar(right, right) == 1


def test_a_rise_is_that_of_the_second_half():
    steps = [*range(5, 55, 5)]
    early = [0.1, 0.9, 0.2, 0.8]
    flat, up = (lora_probe.rise(steps, [*early, *(0.8 + slope * k for k in range(6))]) for slope in (0, 0.02))
    assert [*flat] == pytest.approx([0, 0, 0]) and [*up] == pytest.approx([0.1, 0.1, 0.1])
    assert [*lora_probe.rise(steps, [*early, *[0.9] * 6])] == [
        0,
        0,
        0,
    ]  # of which linregress has no standard error
    open_ = lora_probe.rise(steps, [*early, 0.8, 0.9, 0.8, 0.9, 0.8, 0.9])
    assert open_.low < 0 < open_.value < open_.high
    assert math.isnan(lora_probe.rise([1, 2], [0.5, 0.6]).value)


def test_the_sentence():
    said = verdicts.finetuned(ROW)
    assert said == (
        "LoRA after 50 steps has 81.2 % [78.0, 84.1] of the unseen rows right, the linear probe 79.0 %: +2.2 points [-0.5, +4.9], "
        "p = 0.12; it still rises: +4 points in the second half, on 150 validation rows; it took 95 s, 3.2 times its forward pass"
    )
    for others, words in (
        (
            {"lora_rise_low": 0.0},
            "whether it still rises is open: +0 to +7 points in the second half, on 150",
        ),
        (
            {"lora_rise_low": -0.02, "lora_rise_high": 0.009},
            "it no longer rises: under 1 point in the second half",
        ),
        (
            dict.fromkeys(("lora_rise", "lora_rise_low", "lora_rise_high"), math.nan),
            "whether it still rises was not estimated; it took",
        ),
        ({"lora_passes": math.nan}, "it took 95 s"),
        (
            {"lora_rise_low": -0.01, "lora_rise_high": 0.0, "lora_curve": {"n": 28}},
            "whether it still rises is open: 28 validation rows are too few; it took",
        ),
    ):
        assert words in verdicts.finetuned(ROW | others)
