"""ntps.rank: rows as people hold them, the ranking that it gives, and the probe of the best layer."""

import math
import os
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import ntps
import prescreen
from ntps.errors import UserError
from ntps.flags import Prescreening
from ntps.prescreening.rows import Rows
from ntps.run import cli
from ntps.system import array_files, provenance
from ntps.texts.dataset import load_dataset
from tests.tiny import tiny_model, tiny_texts, two_models

FEW = {"label_permutations": 0, "partitions": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with two tiny models, 240 texts and their labels, ranked."""
    folder = tmp_path_factory.mktemp("rank")
    models = two_models(folder)
    texts, labels = tiny_texts(240, 3, 0)
    return models, texts, labels, ntps.rank(models, texts, labels, output=str(folder / "out"))


def test_it_is_what_prescreen_measures(world, tmp_path):
    models, texts, labels, ranking = world
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "my.csv", index=False)
    flags = [
        "--train",
        str(tmp_path / "my.csv"),
        "--text",
        "text",
        "--label",
        "label",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.run(prescreen.main, ["--models", *models, *flags]) == 0
    theirs = pd.read_csv(tmp_path / "out/my.csv").fillna({"corrected_refusal": ""})
    assert ranking.table["rank"].tolist() == [1, 2]
    ours = ranking.table.drop(columns="seconds").reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs[ours.columns], check_dtype=False, rtol=1e-9)


def test_what_it_shows(world, tmp_path):
    *_, ranking = world
    said = repr(ranking)
    assert all(name in said for name in ranking.table["model"]) and "held-out skill" in said
    assert "is first" in said and "not by NTPS" in said and "warning: only 60 held-out texts" in said
    page = ranking.report(tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="page.html/x.html.*give a path that can be written"):
        ranking.report(tmp_path / "page.html" / "x.html")
    assert page.startswith("<!doctype html>") and ranking.table["model"][0] in page


def test_again_nothing_is_computed(world, capsys):
    models, texts, labels, ranking = world
    again = ntps.rank(models, texts, labels, output=ranking.flags.output)
    assert capsys.readouterr().out.count("already there") == 4
    columns = ranking.table.columns.drop("seconds")
    pd.testing.assert_frame_equal(ranking.table[columns], again.table[columns])


def test_tables_and_mappings_are_the_same_rows(world):
    _, texts, labels, _ = world
    frame = pd.DataFrame({"review": texts, "kind": labels, "unused": object()})
    table = datasets.Dataset.from_dict({"review": texts, "kind": labels})
    named = table.class_encode_column("kind")
    both = datasets.DatasetDict(train=named, validation=named.select(range(20)), test=named.select(range(9)))
    lists = Rows.of(texts, labels, "text", None)
    for rows in (frame, table, named, both):
        found = Rows.of(rows, "kind", "review", None)
        assert found.tables["train"]["review"].tolist() == texts and found.labels.tolist() == labels
        assert found.originals == lists.originals
    assert len(Rows.of(both, "kind", "review", None).tables["test"]) == 9
    assert len(Rows.of(both, "kind", "review", "validation").tables["test"]) == 20
    assert len(Rows.of(frame, "kind", "review", frame[:7]).tables["test"]) == 7
    assert len(Rows.of(texts, labels, "text", (texts[:5], labels[:5])).tables["test"]) == 5
    bare = Rows.of(
        pd.DataFrame(zip(texts, labels)), 1, 0, None
    )  # as pandas.read_csv(..., header=None) gives it
    assert (bare.text, bare.label, bare.labels.tolist()) == ("0", "1", labels)
    deep = frame[["review", "kind"]].set_axis(pd.MultiIndex.from_tuples([("a", "t"), ("a", "l")]), axis=1)
    assert Rows.of(deep, "('a', 'l')", ("a", "t"), None).labels.tolist() == labels
    with pytest.raises(UserError, match="labels: there is no column 'a'"):
        Rows.of(deep, ("a", "l"), ("a", "t"), None)
    with pytest.raises(UserError, match="texts: there is no split 'tst'; did you mean 'test'"):
        Rows.of(both, "kind", "review", "tst")
    with pytest.raises(UserError, match="labels: there is no column 'kin'; did you mean 'kind'"):
        Rows.of(frame, "kin", "review", None)
    with pytest.raises(UserError, match="text: there is no column 'text'"):
        Rows.of(table, "kind", "text", None)


def test_labels_that_are_absent_are_dropped(tmp_path, world):
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"] * 20, "label": [0, 1, -1] * 20})
    table = table.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    assert Rows.of(table, "label", "text", None).labels.fillna("").tolist() == ["no", "yes", ""] * 20
    labels = [None if i % 5 == 0 else label for i, label in enumerate(world[2])]
    ranking = ntps.rank(world[0][0], world[1], labels, output=str(tmp_path), **FEW)
    assert ranking.data.provenance["dropped"]["unlabelled"] == 48


def test_a_template_and_test_rows(world, tmp_path):
    models, texts, labels, _ = world
    frame = pd.DataFrame({"a": texts, "b": range(240), "label": labels})
    ranking = ntps.rank(
        models[0],
        frame[:160],
        "label",
        text="{a} {b}",
        test=frame[160:],
        output=str(tmp_path),
        name="mine",
        **FEW,
    )
    assert ranking.data.splits["train"].texts[3] == f"{texts[3]} 3"
    assert ranking.facts["texts"] == {"train": 160, "test": 80}
    assert (tmp_path / "data/mine.yaml").exists()  # the other scripts go on from there
    with pytest.raises(UserError, match="earlier call had other rows of this name"):
        ntps.rank(models[0], frame, "label", text="a", output=str(tmp_path), name="mine")


TABLE = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})


@pytest.mark.parametrize(
    ("texts", "labels", "test", "message"),
    [
        (["a", "b"], None, None, "labels: None is no list: give one entry a row"),
        ("my.csv", "label", None, "texts: 'my.csv' is no list: .*a table .of pandas.read_csv."),
        (["a", "b"], "label", None, "labels: 'label' is no list"),
        (["a", "b"], np.array("x"), None, "labels: .*is no list"),
        (pyarrow.Table.from_pandas(TABLE), "label", None, "texts: a table of pyarrow's Table: .*to_pandas"),
        (["a", "b"], ["x", "y"], ["c", "d", "e"], "test: give a pair of lists"),
        (["a", "b"], ["x", "y"], TABLE, "test: give a pair of lists"),
        (TABLE, "label", (["c"], ["x"]), "test: give a DataFrame, or a Dataset"),
        (pd.concat([TABLE, TABLE["label"]], axis=1), "label", None, "labels: there are 2 columns 'label'"),
        (["a", "b"], ["x", "y"], 5, "test: give a pair of lists"),
        (["a", "b"], ["x", "y"], "ab", "test: give a pair of lists"),
        ({"train": TABLE}, "label", TABLE, "test: .*is no name of a split of texts"),
        ([b"a", "b"], ["x", "y"], None, "texts: b'a' is of the type bytes: decode it"),
        (b"ab", ["x", "y"], None, "texts: b'ab' is no list"),
        (TABLE.assign(text=[b"a", b"b"]), "label", None, "texts: b'a' is of the type bytes"),
        (TABLE.assign(label=[b"x", b"y"]), "label", None, "labels: b'x' is of the type bytes"),
        (["a", "b"], [["x", ["y"]], ["y"]], None, "labels: .'y'. is of the type list: give text or a number"),
        (["a", "b"], [{"x": 1}, "y"], None, "labels: .'x': 1. is of the type dict"),
        (["a", "b"], np.zeros((2, 2, 2)), None, "labels: .*is no list"),
        (np.array([["a"], ["b"]]), ["x", "y"], None, "texts: .*is no list"),
        (TABLE, None, None, "labels: there is no column 'None'; there are: text, label"),
        (TABLE, TABLE["label"], None, "labels: there is no column 'x'"),
        (TABLE, np.eye(2), None, "labels: there is no column '.1. 0..'"),
        (datasets.Dataset.from_pandas(TABLE).to_iterable_dataset(), "label", None, "train: .*not streamed"),
    ],
)
def test_what_are_no_rows(texts, labels, test, message):
    with pytest.raises(UserError, match=message):
        Rows.of(texts, labels, "text", test)


def test_what_are_no_arguments(tmp_path):
    rows = (["a", "b"], ["x", "y"])
    with pytest.raises(UserError, match=r"models: \[\]: give at least one"):
        ntps.rank([], *rows)
    for models in (None, 5):
        with pytest.raises(UserError, match=f"models: {models}: give at least one"):
            ntps.rank(models, *rows)
    with pytest.raises(UserError, match="limits=: no flag of prescreen.py; did you mean 'limit'"):
        ntps.rank("nowhere", *rows, limits=3)
    with pytest.raises(UserError, match="is named '../x': rename it"):
        ntps.rank("nowhere", *rows, name="../x", output=str(tmp_path / "out"))
    for wrong in ({"limit": "many"}, {"budget": "x"}, {"seed": "a"}, {"layers": [0, 1]}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))} .*: must be "):
            ntps.rank("nowhere", *rows, output=str(tmp_path / "out"), **wrong)
    for given in ("train", "label", "dataset"):
        with pytest.raises(UserError, match=f"{given}=: rows are the arguments texts and labels"):
            ntps.rank("nowhere", *rows, output=str(tmp_path / "out"), **{given: "x"})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output=: .*Not a directory"):
        ntps.rank("nowhere", *rows, output=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("limit", 1e2, "a whole number"), ("seed", 1.5, "a whole number"), ("partitions", True, "a whole number"),
        ("dtype", torch.float32, "a text"), ("device", torch.device("cpu"), "a text"), ("overwrite", "no", "True or False"),
        ("budget", False, "a number"), ("gain", b"x", "a text"),
    ],
)  # fmt: skip
def test_a_flag_of_another_type_is_refused_by_name(flag, value, words, tmp_path):
    with pytest.raises(UserError, match=f"--{flag} .*: must be {words}"):
        ntps.rank("nowhere", ["a", "b"], ["x", "y"], **{"output": str(tmp_path / "out"), flag: value})


def test_paths_and_numbers_of_numpy_are_flags(tmp_path):
    flags = Prescreening(
        models=[Path("m")],
        output=tmp_path,
        limit=np.int64(7),
        budget=np.float32(3),
        seed=torch.tensor(1),
        overwrite=np.True_,
    )
    assert (flags.models, flags.output, flags.overwrite) == (["m"], str(tmp_path), True)
    assert [type(value) for value in (flags.limit, flags.budget, flags.seed)] == [int, float, int]
    with pytest.raises(UserError, match="--output .*holds a byte that is no UTF-8"):
        Prescreening(models=["m"], output=os.fsdecode(b"out\xff"))


def test_a_model_is_ranked_once_however_its_name_is_written(world, tmp_path):
    models, texts, labels, _ = world
    again = str(Path(models[0]).parent / "." / ".." / Path(models[0]).parent.name / Path(models[0]).name)
    ranking = ntps.rank([models[0], again], texts, labels, output=str(tmp_path), **FEW)
    assert len(ranking.table) == 1


def test_two_models_of_one_name_and_one_that_cannot_be_read_are_rows(world, tmp_path):
    models, texts, labels, _ = world
    for name, model in zip("ab", models):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cand.yaml").write_text(f"path: {model}\n")
    bad = tmp_path / "bad"
    shutil.copytree(models[0], bad)
    (bad / "config.json").unlink()
    (bad / "config.json").symlink_to("/proc/self/mem")  # read in vain: an OSError
    names = [str(tmp_path / name / "cand.yaml") for name in "ab"]
    ranking = ntps.rank([*names, str(bad)], texts, labels, output=str(tmp_path / "out"), **FEW)
    assert len(ranking.table) == 3 and len(ranking.measured) == 1
    assert f"{names[0]} is called cand in the results, too: rename one" in ranking.failed[names[1]]
    assert ranking.failed[str(bad)]
    again = ntps.rank(names, texts, labels, output=str(tmp_path / "out"), **FEW, overwrite=True)
    assert again.named == {"cand": names[0]} and list(again.failed) == names[1:]


def test_a_last_layer_that_was_not_measured_is_not_called_the_last(world, tmp_path):
    models, texts, labels, _ = world
    few = FEW | {"layers": "0,1", "output": str(tmp_path)}
    ranking = ntps.rank(models[0], texts, labels, **few)
    (row,) = ranking.table.to_dict("records")
    assert row["layers"] > 1 and math.isnan(row["last_layer_loss"]) and math.isnan(row["headroom"])
    assert "the last layer was not measured" in repr(ranking)
    shown = ranking.report(tmp_path / "page.html").read_text()
    assert "The last layer was not measured." in shown and f"of {row['layers']} a linear probe" in shown


def test_none_is_the_default_of_a_flag_and_a_name_may_be_a_number(world, tmp_path):
    models, texts, labels, _ = world
    few = FEW | {"partitions": None, "layers": None, "limit": None, "output": str(tmp_path)}
    ranking = ntps.rank(models[0], texts, labels, name=5, **few)
    assert (ranking.flags.layers, ranking.flags.limit, ranking.flags.partitions) == ("spread", 2000, 5)
    assert (tmp_path / "data/5.yaml").exists()


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x"], "2 texts and 1 labels"),
        (["a"], ["x"], "cannot make a test split of 1 rows"),
        (["a"] * 2, [np.nan] * 2, "split 'train' has no rows with text and label; dropped: 2 unlabelled"),
        (["a", "b"] * 20, ["x"] * 40, "all of train has the one class 'x'"),
        (["a", "b"] * 20, ["x", "y"] * 20, "there is no model|unknown model 'nowhere'"),
    ],
)
def test_of_a_failed_call_nothing_is_left(tmp_path, texts, labels, message):
    with pytest.raises(UserError, match=message):
        ntps.rank(
            Path("nowhere"),
            [f"{text} {i}" for i, text in enumerate(texts)],
            labels,
            output=str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_a_row_with_its_reason(world, capsys):
    models, texts, labels, ranking = world
    found = ntps.rank(["nowhere", models[0]], texts, labels, output=ranking.flags.output)
    assert len(found.measured) == 1 and "unknown model" in found.failed["nowhere"]
    assert found.table["model"].tolist()[1:] == ["nowhere"]
    assert found.table["dropped"][1].startswith("failed: unknown model") and "nowhere: not measured" in repr(
        found
    )
    assert "error: nowhere: unknown model" in capsys.readouterr().err


# --- the probe -----------------------------------------------------------------------------------------------------


def test_the_probe_is_that_of_the_table(world):
    models, texts, labels, ranking = world
    held_out = ranking.data.select("test")
    for row in ranking.table.itertuples():
        probe = ranking.probe(row.model)
        y = np.array(ranking.data.classes)[held_out.labels]
        assert is_classifier(probe) and probe.layer == row.layer
        assert probe.score(held_out.texts, y) == pytest.approx(row.accuracy)
        assert np.allclose(probe.predict_proba(texts[:5]).sum(1), 1)
    assert ranking.probe().model == ranking.named[ranking.table["model"][0]]
    assert ranking.probe(models[0]).model == models[0]
    with pytest.raises(UserError, match="'c' was not measured: there are"):
        ranking.probe("c")
    with pytest.raises(UserError, match="is one text: give a list of texts"):
        ranking.probe().predict(texts[0])
    for wrong in (None, 5, [1], [None], [b"x"], [["x"]], pd.DataFrame({"text": texts[:2]})):
        with pytest.raises(UserError, match="is no list of texts: give one text a row"):
            ranking.probe().predict(wrong)


def test_the_probe_in_a_pickle_and_in_a_file(world, tmp_path):
    _, texts, _, ranking = world
    probe = ranking.probe()
    expected = probe.decision_function(texts[:10])
    packed = pickle.dumps(probe)
    assert len(packed) < 10_000  # without the model
    path = probe.save(tmp_path / "probe")
    assert path.suffix == ".safetensors" and path.with_suffix(".json").exists()
    for other in (pickle.loads(packed), ntps.TextProbe.load(path)):
        assert np.array_equal(other.decision_function(texts[:10]), expected)
        assert other.predict(texts[:10]).tolist() == probe.predict(texts[:10]).tolist()
        assert other.get_params() == probe.get_params()


def test_probes_whose_names_end_in_a_number_do_not_overwrite_each_other(world, tmp_path):
    _, _, _, ranking = world
    probe = ranking.probe()
    paths = {probe.save(tmp_path / name) for name in ("smollm2-1.7b", "smollm2-1.3b", "p.safetensors")}
    assert {path.name for path in paths} == {
        "smollm2-1.7b.safetensors",
        "smollm2-1.3b.safetensors",
        "p.safetensors",
    }
    assert ntps.TextProbe.load(tmp_path / "smollm2-1.7b").layer == probe.layer
    with pytest.raises(UserError, match="p.json.safetensors does not exist"):
        ntps.TextProbe.load(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("target", "labels", "words"),
    [
        ("class", [1, 2, 1], "target='class'"),
        ("classes", [1, None, 2], "missing"),
        ("classes", [1, 1, 1], "two classes or more"),
        ("classes", [1, "a", 1], "labels"),
        ("classes", [1, 2], "3 texts and 2 labels"),
        ("numeric", [1.0, math.nan, 2.0], "missing or not finite"),
        ("multilabel", np.array([[0, 2], [1, 0], [0, 1]]), "0 and 1 alone"),
        ("classes", np.zeros((3, 2)), "the shape .3, 2."),
        ("numeric", np.zeros((3, 2)), "the shape .3, 2."),
    ],
)
def test_labels_of_another_kind_than_the_target_are_refused(target, labels, words):
    with pytest.raises(UserError, match=words):
        ntps.TextProbe("nowhere", 1, target).fit(["a", "b", "c"], labels)


def test_classes_that_json_has_not_are_refused_when_saved(world, tmp_path):
    _, texts, labels, ranking = world
    probe = ranking.probe()
    probe.classes_ = np.array([pd.Timestamp(2020, 1, 1 + day) for day in range(3)], dtype=object)
    with pytest.raises(UserError, match="cannot be saved.*; fit it on texts or numbers"):
        probe.save(tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_a_probe_of_another_model_is_refused(world, tmp_path):
    _, texts, labels, ranking = world
    path = ranking.probe().save(tmp_path / "probe.safetensors")
    other = ntps.TextProbe.load(path).set_params(model=str(tiny_model(tmp_path / "c", seed=7)))
    with pytest.raises(UserError, match="fitted on another model"):
        other.predict(texts[:2])
    assert other.fit(texts[:60], labels[:60]).score(texts[:60], labels[:60]) > 0.5
    with pytest.raises(NotFittedError):
        clone(other).set_params(model=str(tmp_path / "c")).predict(texts[:2])
    about = provenance.read(path)
    about["identity"]["classes"] = ["one"]
    array_files.write(path, {"coefficients": np.ones((32, 3)), "intercept": np.ones(3)}, about)
    with pytest.raises(UserError, match="its arrays do not fit its classes"):
        ntps.TextProbe.load(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read|damaged"):
        ntps.TextProbe.load(path)


def test_scikit_learn_takes_it(world):
    _, texts, labels, ranking = world
    probe = clone(ranking.probe())
    scores = cross_val_score(probe, texts[:120], labels[:120], cv=2)
    assert scores.mean() > 0.5


def test_classes_keep_their_type(world, tmp_path):
    models, texts, labels, _ = world
    numbers = [int(label[-1]) for label in labels]
    ranking = ntps.rank(models[0], np.array(texts), np.array(numbers) == 1, output=str(tmp_path), **FEW)
    assert ranking.probe().predict(texts[:3]).dtype == bool
    probe = ntps.rank(models[0], texts, numbers, output=str(tmp_path), **FEW).probe()
    assert probe.predict(texts[:3]).dtype.kind == "i"
    assert ntps.TextProbe.load(probe.save(tmp_path / "p")).classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "labels", [[1.0, 1, "x"], [True, 1, "x"], [2.0, 3.0], [True, "true", 0], [1, "1.0", 2]]
)
def test_every_class_has_a_label_as_it_was_given(tmp_path, labels):
    """Labels of one value and several types are one class."""
    rows = Rows.of([f"text {i}" for i in range(len(labels))], labels, "text", None)
    with rows.written(tmp_path / "data", None, False) as files:
        spec = {"files": {"train": files["train"], "test": files["train"]}, "text": "text", "label": "label"}
        classes = load_dataset(str(tmp_path / "mine.yaml"), spec).classes
    for name in classes:
        assert any(rows.originals[name] is label for label in labels)


def test_the_probe_pools_as_the_table(world, tmp_path):
    models, texts, labels, _ = world
    ranking = ntps.rank(models[0], texts, labels, output=str(tmp_path), pooling="last", layers="2", **FEW)
    probe, held_out = ranking.probe(), ranking.data.select("test")
    y = np.array(ranking.data.classes)[held_out.labels]
    assert probe.pooling == "last" and probe.score(held_out.texts, y) == pytest.approx(
        ranking.table["accuracy"][0]
    )


def test_a_numeric_target(world, tmp_path):
    models, texts, labels, _ = world
    numbers = np.array([int(label[-1]) for label in labels]) + np.random.default_rng(0).normal(100, 0.1, 240)
    ranking = ntps.rank(models[0], texts, numbers, output=str(tmp_path), **FEW)
    assert ranking.facts["target"] == "numeric" and "RMSE" in repr(ranking)
    probe, held_out = ranking.probe(), ranking.data.select("test")
    y = held_out.labels + ranking.data.provenance["label_mean"]
    assert is_regressor(probe)
    assert np.mean((probe.predict(held_out.texts) - y) ** 2) == pytest.approx(
        ranking.table["heldout_mse"][0], rel=1e-4
    )
    assert probe.score(held_out.texts, y) > 0.3
    assert ntps.TextProbe.load(probe.save(tmp_path / "p")).predict(texts[:2]) == pytest.approx(
        probe.predict(texts[:2])
    )
    with pytest.raises(UserError, match="no probabilities"):
        probe.predict_proba(texts)


def test_a_column_of_texts_may_be_called_labels():
    table = pd.DataFrame({"labels": [f"text {i}" for i in range(8)], "a": [0, 1] * 4, "b": [1, 0] * 4})
    rows = Rows.of(table, ["a", "b"], "labels", None)
    assert rows.tables["train"][rows.text].tolist() == table["labels"].tolist()
    assert rows.label != "labels" and rows.tables["train"][rows.label].tolist() == [["b"], ["a"]] * 4


def test_labels_that_are_missing_in_a_dataset_with_class_names():
    names = datasets.ClassLabel(names=["no", "yes"])
    one = datasets.Dataset.from_dict({"text": list("abc"), "label": [1, None, 0]},
                                     features=datasets.Features({"text": datasets.Value("string"), "label": names}))  # fmt: skip
    several = datasets.Dataset.from_dict({"text": list("abc"), "label": [[1, 0], None, [None, 1]]},
                                         features=datasets.Features({"text": datasets.Value("string"), "label": datasets.Sequence(names)}))  # fmt: skip
    found = [Rows.of(table, "label", "text", None).labels.tolist() for table in (one, several)]
    assert found == [["yes", None, "no"], [["yes", "no"], None, ["yes"]]]
