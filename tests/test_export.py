"""ntps.export: the copy says what the folder says, and so do model cards and the JSON of lm_eval."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from fig_plot import kv_curves, tables
from ntps import results
from ntps.accuracies.registry import METHODS
from ntps.commands import export, selection
from ntps.results import export_formats
from ntps.results.tables import at_tenth
from ntps.run import cli
from ntps.system import atomic_files, provenance
from tests.fake_results import fake_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "whole"
    fake_grid(path, ["m"], ["a", "b", "c"])
    return path


def test_the_copy_reads_as_the_folder_does(folder, tmp_path, capsys):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy")]) == 0
    assert "wrote 18 tables" in capsys.readouterr().out  # 3 x (ntps, scores, 4 methods)
    for load in (results.load_scores, results.load_pairs):
        pd.testing.assert_frame_equal(load(folder), load(tmp_path / "copy"), rtol=1e-6, atol=1e-6)
    assert not list((tmp_path / "copy").rglob("moments"))


def test_curves_of_the_best_layer_and_the_last_are_kept(folder, tmp_path):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy")]) == 0
    whole, part = (tables.load_curves(tables.curve_files(f)["m", "a"]) for f in (folder, tmp_path / "copy"))
    assert part["layers"].tolist() == [2, 3]
    for name in ("ntps", "retention", "excess", "null"):
        np.testing.assert_allclose(part[name], whole[name][2:], rtol=1e-6)
    assert [len(figure.axes) for _, figure in kv_curves.kv_curves(tmp_path / "copy")] == [3, 3, 3]


def test_brief_keeps_the_headline_alone(folder, tmp_path):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy"), "--brief"]) == 0
    assert not list((tmp_path / "copy").rglob("*.safetensors"))
    found = tables.score_rows(tmp_path / "copy")
    whole = at_tenth(tables.score_rows(folder)).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6, check_dtype=False)


def test_names_that_look_like_numbers_stay_and_what_was_made_of_the_tables_comes_along(tmp_path):
    fake_grid(tmp_path / "whole", ["m"], ["007"])
    for name in ("gain.json", "selection/fixed.csv"):
        atomic_files.write_text(tmp_path / "whole" / name, "{}")
    for name in ("selection/.DS_Store", "ntps/m/._007.csv"):  # as macOS makes them
        (tmp_path / "whole" / name).write_bytes(b"\xff\x00")
    older = tmp_path / "copy/ntps/m/007.json"
    atomic_files.write_text(older, "{}")
    (tmp_path / "whole/ntps/m/007.json").unlink(missing_ok=True)
    assert cli.run(export.main, [str(tmp_path / "whole"), str(tmp_path / "copy")]) == 0
    assert "\nm,007," in (tmp_path / "copy/ntps/m/007.csv").read_text() and not older.exists()
    assert (tmp_path / "copy/gain.json").exists() and (tmp_path / "copy/selection/fixed.csv").exists()


def test_brief_without_a_headline_is_refused(tmp_path, capsys):
    fake_grid(tmp_path / "whole", ["m"], ["a"])
    path = tmp_path / "whole/ntps/m/a.csv"
    table = pd.read_csv(path)
    table[table["fraction"].notna()].to_csv(path, index=False)
    assert cli.run(export.main, [str(tmp_path / "whole"), str(tmp_path / "copy"), "--brief"]) == 1
    assert "a.csv has no row of rule task_rank at kv = d/10: leave out --brief" in capsys.readouterr().err


def test_names_and_notes_are_escaped_in_a_card():
    value = export_formats.Value("train", "none", "ntps", "NTPS", 1, 0, 0.5, 0.1)
    note = {"note": "<b>bold</b>"}
    one = export_formats.Measured([value], {}, {}, {}, "2026-01-01T00:00:00+00:00", note)
    card = export_formats.model_card("m", {"<img src=x>|b": one})
    assert "| &lt;img src=x&gt;\\|b | train |" in card and "&lt;b&gt;bold" in card


@pytest.mark.parametrize(("target", "told"), [("", "is the folder itself"), ("copy", "no tables in")])
def test_what_cannot_be_copied_is_refused(folder, tmp_path, capsys, target, told):
    source = tmp_path if target else folder
    assert cli.run(export.main, [str(source), str(tmp_path / target if target else folder)]) == 1
    assert told in capsys.readouterr().err


MINI = Path(__file__).resolve().parent.parent / "results" / "mini"
# the keys of lm_eval 0.4.13's EvalResults (lm_eval/result_schema.py) that are written
KEYS = """results group_subtasks configs versions n-shot higher_is_better n-samples config date model_source model_name
model_name_sanitized""".split()


def test_a_model_card_holds_the_values_of_the_tables(tmp_path):
    assert cli.run(export.main, [str(MINI), str(tmp_path), "--format", "model-card"]) == 0
    card = ModelCard.load(tmp_path / "smollm2-135m.md")
    found = {(one.dataset_name, one.dataset_split, one.metric_name): one for one in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) and card.data.model_name == "smollm2-135m"
    pairs = results.load_pairs(MINI).set_index(["model", "dataset"])
    trec6 = pairs.loc[("smollm2-135m", "trec6")]
    trained = found["trec6", "test", "final test accuracy of lora_finetuning"]
    assert trained.metric_type == "accuracy" and trained.metric_value == trec6["lora_accuracy"]
    assert trained.metric_args is None
    score = found["trec6", "train", "Next Token Perception Score (NTPS)"]
    table = pd.read_csv(MINI / "ntps" / "smollm2-135m" / "trec6.csv")
    row = at_tenth(table).set_index("layer").loc[trec6["best_layer"]]
    assert score.metric_value == row["ntps"] and score.metric_args == {"layer": trec6["best_layer"]}
    assert f"| trec6 | train | {score.metric_name} | {row['ntps']:.3g} ± {row['ntps_se']:.2g} |" in card.text
    assert "The model: SmolLM2-135M-Instruct, an instruct model" in card.text
    assert (
        "by label permutation, small above it" in card.text and "two-sided" not in card.text
    )  # of older tables
    assert not any("from_scratch" in name for *_, name in found)  # weights of another model


def test_standard_errors_are_those_that_selection_takes():
    """Corrected retention's in closed form, which needs no partitions; the jackknife's is too wide near n = d."""
    errors = {name: f"{name}_se" for name in ("retention_corrected", "ntps", "retention")}
    assert (
        export_formats.ERRORS == errors
        and selection.ERRORS.items() >= {error: name for name, error in errors.items()}.items()
    )


def test_lm_eval_reads_the_json(tmp_path):
    assert cli.run(export.main, [str(MINI), str(tmp_path), "--format", "lm-eval"]) == 0
    (file,) = (tmp_path / "smollm2-135m").glob("results_2026-*.json")
    assert ":" not in file.name
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == KEYS
    tasks = [f"ntps_{path.stem}" for path in sorted((MINI / "ntps" / "smollm2-135m").glob("*.csv"))]
    for key in (
        "results",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
    ):
        assert list(found[key]) == tasks, key
    for task, values in found["results"].items():
        assert values.pop("alias") == task.removeprefix("ntps_")
        assert all(re.fullmatch(r"[a-z0-9_]+,[a-z_]+", name) for name in values)
        names = {name.partition(",")[0].removesuffix("_stderr") for name in values}
        assert names == set(found["higher_is_better"][task])
    trec6, samples = found["results"]["ntps_trec6"], found["n-samples"]["ntps_trec6"]
    accuracy = results.load_pairs(MINI).set_index(["model", "dataset"])["lora_accuracy"][
        "smollm2-135m", "trec6"
    ]
    assert trec6["acc,lora_finetuning"] == accuracy and samples == {"original": 1346, "effective": 1200}
    assert trec6["acc_stderr,lora_finetuning"] == pytest.approx((accuracy * (1 - accuracy) / 1199) ** 0.5)
    higher = found["higher_is_better"]["ntps_trec6"]
    assert higher["ntps"] and higher["mse"] is False and higher["p_value"] is None


def test_an_earlier_copys_curves_do_not_stay(folder, tmp_path):
    for flags in ([], ["--brief"]):
        assert cli.run(export.main, [str(folder), str(tmp_path / "copy"), *flags]) == 0
    assert not list((tmp_path / "copy").rglob("*.curves.*"))


def test_words_that_look_like_nothing_are_copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "whole")
    table = tmp_path / "whole/words/m/a.csv"
    table.parent.mkdir(parents=True)
    table.write_text("model,dataset,space,group,word,x\nm,a,U,None,null,0.5\nm,a,V,NA,nan,\n")
    assert cli.run(export.main, [str(tmp_path / "whole"), str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy/words/m/a.csv").read_text() == table.read_text()


def test_an_accuracys_error_is_of_its_own_tables_rows(tmp_path):
    fake_grid(tmp_path, ["m"], ["a"])
    for table, limit in (("ntps", None), ("accuracy/lora_finetuning", 20)):
        about = provenance.of("made", {"limit": limit}, data={"rows": {"test": 50}})
        atomic_files.write_text(tmp_path / table / "m/a.json", atomic_files.to_json(about))
    values = export_formats.load(tmp_path)["m"]["a"].values
    found = {value.method: value for value in values if value.metric == "acc"}
    for method, n in (("linear_sklearn", 50), ("lora_finetuning", 20)):
        accuracy, error = found[method].value, found[method].error
        assert error == pytest.approx((accuracy * (1 - accuracy) / (n - 1)) ** 0.5)


def test_no_two_values_of_a_method_have_one_name():
    """lm_eval's JSON names a value by its metric and the method."""
    names = [(method.name, target.metric) for method in METHODS for target in method.targets
             if target.split == "test" and not target.of]  # fmt: skip
    assert len(set(names)) == len(names)


def test_data_sets_of_the_hub_are_named_by_their_id(tmp_path):
    fake_grid(tmp_path, ["m"], ["a", "b", "c"])
    for name, config in (("a", "x"), ("b", "y"), ("c", "y")):
        data = {"source": {"id": "org/set", "config": config, "revision": "0" * 40}, "rows": {"test": 50}}
        about = provenance.of("scores", {}, data=data, model={"id": "org/model", "note": None})
        atomic_files.write_text(tmp_path / "ntps" / "m" / f"{name}.json", atomic_files.to_json(about))
    card = ModelCard(export_formats.model_card("m", export_formats.load(tmp_path)["m"]))
    types = {(one.dataset_name, one.dataset_type, one.dataset_config) for one in card.data.eval_results}
    # b and c share id and configuration: under one id their results would be joined
    assert types == {("a", "org/set", "x"), ("b", "b", "y"), ("c", "c", "y")}
    assert card.data.model_name == "org/model"
    found = export_formats.lm_eval("m", export_formats.load(tmp_path)["m"])
    assert found["model_name_sanitized"] == "org__model" and found["model_name"] == "org/model"
    assert found["configs"]["ntps_b"]["dataset_path"] == "org/set"


def test_rows_too_few_are_said_in_the_card(tmp_path):
    fake_grid(tmp_path, ["m"], ["few", "many"])  # 30 and 200 rows of 40 dimensions
    assert cli.run(export.main, [str(tmp_path), str(tmp_path / "cards"), "--format", "model-card"]) == 0
    text = (tmp_path / "cards" / "m.md").read_text(encoding="utf-8")
    assert text.rstrip().endswith("few: NTPS describes the sample more than the task.")


def test_brief_is_for_tables_alone(tmp_path, capsys):
    assert cli.run(export.main, [str(MINI), str(tmp_path), "--brief", "--format", "lm-eval"]) == 1
    assert "--brief: only with --format tables" in capsys.readouterr().err


@pytest.mark.parametrize("date", [None, "yesterday", 5])
def test_a_record_without_a_date_is_refused(tmp_path, capsys, date):
    fake_grid(tmp_path, ["m"], ["a"])
    about = provenance.of("scores", {})
    about["record"]["date"] = date
    atomic_files.write_text(tmp_path / "ntps" / "m" / "a.json", atomic_files.to_json(about))
    assert cli.run(export.main, [str(tmp_path), str(tmp_path / "out"), "--format", "lm-eval"]) == 1
    told = f"ntps of m x a: the record beside the table has no date ({date!r}). Restore it from a copy"
    assert told in capsys.readouterr().err
