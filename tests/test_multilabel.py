"""Several labels a row end to end: description, moments, every score, the probes, prescreen and ntps.rank; 90 labels."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import cache
import K_sweep
import linear_sklearn
import ntps
import prescreen
from ntps.accuracies.task import Task, set_scores
from ntps.commands import validate
from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.moments.merge import merge
from ntps.moments.sums import targets_of
from ntps.prescreening.rows import Rows
from ntps.run import cli
from ntps.scores import peers
from ntps.scores.label_signal import LabelSignal
from ntps.system import array_files
from ntps.texts.dataset import load_dataset
from tests.tiny import TOPICS, tiny_model, tiny_texts

LABELS = [f"l{place:02}" for place in range(90)]


def several(n=300, seed=0):
    """Texts, and for each a list of labels: which topics its words are of, and some at random, 90 in all."""
    texts, _ = tiny_texts(n, 5, seed)
    draw = np.random.default_rng(seed)
    rare = draw.random((n, 90)) < 0.02
    rare[:, 88] = True  # one that all rows have
    for place, topic in enumerate(TOPICS):
        rare[:, place] = [any(word in text.split() for word in topic) for text in texts]
    return texts, [[LABELS[place] for place in np.flatnonzero(row)] for row in rare]


def described(folder, labels, texts=None, ending="csv", **keys):
    """A description of texts with these labels (a list or a text each), as a path."""
    folder.mkdir(exist_ok=True)
    texts = tiny_texts(len(labels), 3, 0)[0] if texts is None else texts
    table = pd.DataFrame({"text": texts, "tags": pd.Series(labels, dtype=object)})
    if ending == "csv":
        table.to_csv(folder / "train.csv", index=False)
    elif ending == "parquet":
        table.to_parquet(folder / "train.parquet")
    else:
        table.to_json(folder / "train.jsonl", orient="records", lines=True)
    spec = {"files": {"train": f"train.{ending}"}, "text": "text", "label": "tags", "target": "multilabel"}
    (folder / "tags.yaml").write_text(yaml.safe_dump(spec | keys))
    return str(folder / "tags.yaml")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model over texts of 90 labels: (folder, data, flags), cached, scored and probed."""
    folder = tmp_path_factory.mktemp("multilabel")
    tiny_model(folder / "model")
    texts, labels = several()
    where = described(folder / "data", [";".join(found) for found in labels], texts, label_separator=";")
    pair = ["--models", str(folder / "model"), "--datasets", where, "--output", str(folder / "out")]
    assert (
        cli.run(cache.main, [*pair, "--keep_states", "--label_permutations", "39", "--partitions", "3"]) == 0
    )
    assert cli.run(K_sweep.main, pair) == 0
    assert cli.run(linear_sklearn.main, [*pair, "--layers", "1,3", "--solver", "lbfgs"]) == 0
    return folder, load_dataset(where), pair


def test_labels_are_read_alike_from_every_file(world, tmp_path):
    _, data, _ = world
    texts, labels = several()
    assert data.classes == LABELS and data.target == "multilabel" and data.targets == 90
    for ending, keys in (("jsonl", {}), ("parquet", {})):
        other = load_dataset(described(tmp_path / ending, labels, texts, ending, **keys))
        assert other.classes == LABELS
        for split, part in data.splits.items():
            assert part.texts == other.splits[split].texts and part.labels.dtype == bool
            assert np.array_equal(part.labels, other.splits[split].labels)
    rows = dict(zip(texts, labels))
    for text, row in zip(data.splits["test"].texts, data.splits["test"].labels):
        assert [LABELS[place] for place in np.flatnonzero(row)] == rows[text]
    assert "test is 30 % of the rows" in data.provenance["split_rule"]


def test_what_is_done_with_labels(tmp_path):
    labels = ["b | a|a", "", "a|c", "c", "B", "x|a", "c|1.0", "1|b"] * 8
    keys = {"label_separator": "|", "label_names": {"B": "b"}, "drop_labels": ["x"], "deduplicate": False}
    data = load_dataset(described(tmp_path, labels, **keys))
    assert data.classes == ["1", "a", "b", "c"]
    assert data.provenance["dropped"]["unlabelled"] == data.provenance["dropped"]["unwanted"] == 8
    assert data.provenance["merged_labels"] == {"1": ["1", "1.0"]}
    sets = {
        tuple(data.classes[place] for place in np.flatnonzero(row)) for row in data.splits["train"].labels
    }
    assert sets == {("a", "b"), ("a", "c"), ("c",), ("b",), ("1", "c"), ("1", "b")}
    few = load_dataset(described(tmp_path, labels, **keys, min_class_count=17))
    assert few.classes == ["b", "c"] and few.provenance["rows"] == data.provenance["rows"]


def test_a_row_may_have_no_label(tmp_path):
    data = load_dataset(described(tmp_path, [[], ["a"], ["a", "b"], None] * 10, ending="jsonl"))
    assert data.provenance["dropped"]["unlabelled"] == 10
    assert (~data.splits["train"].labels.any(1)).sum() > 0


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        (["a;b"] * 40, {}, "'a;b' is no list of labels: say what lies between labels, label_separator"),
        (["a", "b"] * 20, {"label_separator": ""}, "label_separator: '' is nothing"),
        (["a", "b"] * 20, {"label_separator": ";", "target": "classes"}, "goes with target: multilabel"),
        (["a;b"] * 40, {"label_separator": ";"}, "all of train has the one label or set of them"),
        (["a"] * 40, {"label_separator": ";"}, "all of train has the one label or set of them"),
        (["a"] * 40, {"target": "sets"}, "target: 'sets' is none of classes, numeric, multilabel"),
        ([["a"]] * 40, {"target": "classes"}, "a text has one label, or target: multilabel"),
    ],
)
def test_faults(tmp_path, labels, keys, message):
    with pytest.raises(UserError, match=message):
        load_dataset(described(tmp_path, labels, ending="jsonl", **keys))


def test_classes_that_look_like_sets_name_the_remedy(tmp_path, capsys):
    load_dataset(described(tmp_path, ["a", "b", "a;b", "b;a"] * 10, target="classes"))
    assert "target: multilabel with label_separator: ';'" in capsys.readouterr().err


def test_lists_of_the_hub_have_the_names_of_their_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    names = datasets.Sequence(datasets.ClassLabel(names=["joy", "anger", "grief"]))
    table = datasets.Dataset.from_dict(
        {"text": [f"text {i}" for i in range(40)], "tags": [[0, 2], [1], []] * 13 + [[0]]}
    )
    table = table.cast_column("tags", names)
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder/train.parquet")
    spec = {"id": "folder", "text": "text", "label": "tags", "target": "multilabel"}
    (tmp_path / "tags.yaml").write_text(yaml.safe_dump(spec))
    data = load_dataset(str(tmp_path / "tags.yaml"))
    assert data.classes == ["joy", "anger", "grief"]
    assert sum(part.labels.sum() for part in data.splits.values()) == 13 * 3 + 1
    found = Rows.of(table, "tags", "text", None)
    assert found.labels.tolist()[:3] == [["joy", "grief"], ["anger"], []] and found.target == "multilabel"


# --- moments and scores --------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_matrix(world):
    folder, data, _ = world
    path = next((folder / "out/moments").glob("*/tags/train.safetensors"))
    file, y = MomentsFile(path), data.splits["train"].labels.astype(float)
    states = array_files.maps(next((folder / "out/states").glob("*/tags/train.safetensors")))
    assert np.array_equal(states["labels"], y)
    assert file.class_counts.tolist() == y.sum(0).tolist()
    assert file.label_second_moment == pytest.approx(y.sum(1).mean())
    for place in (0, 3):
        moments, means = file.averages(place), states["states"][place].astype(float)
        assert np.allclose(moments.mean_label_moment, means.T @ y / len(y), atol=1e-6)
        assert np.allclose(moments.label_products, y.T @ y / len(y), atol=1e-12)
        signal = LabelSignal.of(moments)
        assert np.allclose(signal.covariance, np.cov(y.T, bias=True), atol=1e-12)
        assert signal.total == pytest.approx(moments.centred.power)
    order = ntps.moments.sums.permuted_rows(len(y), 39, 42)[7]
    assert np.allclose(file.averages(3).permuted[7], means.T @ y[order] / len(y), atol=1e-5)


def test_partitions_add_up_and_leave_one_out(world, tmp_path):
    folder, _, _ = world
    path = next((folder / "out/moments").glob("*/tags/train.safetensors"))
    whole, parts = MomentsFile(path), sorted(path.parent.glob("train.*-of-3.safetensors"))
    first, *others = (MomentsFile(part) for part in parts)
    rest = whole.averages(2).without(first.averages(2))
    n = sum(other.text_count for other in others)
    both = sum(other.averages(2).label_products * other.text_count for other in others) / n
    assert rest.text_count == n and torch.allclose(rest.label_products, both)


def test_shards_are_merged(world, tmp_path):
    folder, data, pair = world
    flags = [*pair[:-1], str(tmp_path), "--keep_states", "--label_permutations", "0"]
    for number in (1, 2):
        assert cli.run(cache.main, [*flags, "--shard", f"{number}/2"]) == 0
    whole = next((folder / "out/states").glob("*/tags/train.safetensors"))
    parts = sorted(tmp_path.glob("states/*/tags/train.*.safetensors"))
    assert np.array_equal(array_files.maps(merge(parts))["labels"], array_files.maps(whole)["labels"])
    moments = MomentsFile(merge(sorted(tmp_path.glob("moments/*/tags/train.*.safetensors"))))
    other = MomentsFile(next((folder / "out/moments").glob("*/tags/train.safetensors")))
    assert torch.allclose(moments.averages(1).label_products, other.averages(1).label_products)


def test_the_p_value_holds_without_signal():
    """Of correlated labels, on states that know nothing of them: uniform, which with diag(p) for E[y y^T] it is not."""
    draw, values, wrong = np.random.default_rng(0), [], []
    for _ in range(200):
        n, d = 120, 8
        common = draw.random((n, 1)) < 0.4
        y = torch.as_tensor((common & (draw.random((n, 12)) < 0.9)).astype(float))
        m = torch.as_tensor(draw.normal(size=(n, d)))
        shared = {
            "mean_second_moment": m.T @ m / n,
            "mean_label_moment": m.T @ y / n,
            "mean_state": m.mean(0),
        }
        shared |= {
            "class_counts": y.sum(0),
            "label_second_moment": float(y.square().sum() / n),
            "text_count": n,
        }
        moments = ntps.LayerMoments(**shared, label_products=y.T @ y / n)
        values.append(LabelSignal.of(moments).p_value)
        wrong.append(LabelSignal.of(ntps.LayerMoments(**shared)).p_value)
        assert np.isnan(peers.h_score(moments)) and np.isfinite(peers.logme(moments))
    assert 0.02 < np.mean(np.array(values) <= 0.05) < 0.09
    assert np.mean(np.array(wrong) <= 0.05) > 0.15 or np.isnan(wrong).any()


def test_every_score_is_there(world):
    folder, data, _ = world
    scores = pd.read_csv(next((folder / "out/scores").glob("*/tags.csv")))
    assert scores["h_score"].isna().all() and scores[["logme", "gcv_skill", "adjusted_r2"]].notna().all(
        axis=None
    )
    assert scores["gcv_skill"].max() > 0.02
    table = pd.read_csv(next((folder / "out/ntps").glob("*/tags.csv")))
    head = table[(table.rule == "task_rank") & table.fraction.isna() & (table.order == "descending")]
    assert head[["ntps", "retention", "p_value", "null_mean"]].notna().all(axis=None)
    assert head["retention_corrected"].notna().any()


# --- probes --------------------------------------------------------------------------------------------------------


def test_probes_are_scikit_learns(world):
    folder, data, _ = world
    table = pd.read_csv(next((folder / "out/accuracy/linear_sklearn").glob("*/tags.csv")))
    rows = table[(table.probe == "logistic_regression") & (table.layer == 3)].set_index("split")
    states = [
        array_files.maps(next((folder / "out/states").glob(f"*/tags/{split}.safetensors")))
        for split in ("train", "test")
    ]
    (X, y), (X_test, y_test) = ((s["states"][3].astype(float), np.array(s["labels"])) for s in states)
    scaler = StandardScaler().fit(X)
    fitted = OneVsRestClassifier(LogisticRegression(max_iter=1000, tol=0.01)).fit(scaler.transform(X), y)
    guessed = fitted.predict(scaler.transform(X_test))
    assert rows.micro_f1["test"] == pytest.approx(f1_score(y_test, guessed, average="micro"))
    present = (y_test + guessed).any(0)
    assert rows.macro_f1["test"] == pytest.approx(
        f1_score(y_test[:, present], guessed[:, present], average="macro")
    )
    assert rows.accuracy["test"] == pytest.approx((y_test == guessed).all(1).mean())
    assert rows.micro_f1["train"] > 0.3 and np.isnan(rows.balanced_accuracy["test"])


def test_scores_of_sets():
    labels, guessed = np.array([[1, 0, 0], [1, 1, 0]], bool), np.array([[1, 0, 0], [1, 0, 0]], bool)
    found = set_scores(guessed, labels)
    assert found == {"accuracy": 0.5, "macro_f1": 0.5, "micro_f1": 0.8, "n": 2}
    assert np.isnan(set_scores(labels[:, 2:], labels[:, 2:])["micro_f1"])


def test_trainings_refuse_them(world):
    with pytest.raises(UserError, match="target: multilabel: trainings are of classes, one a row"):
        Task(None, world[1], None)  # type: ignore[arg-type]


# --- prescreen and ntps.rank ---------------------------------------------------------------------------------------


def test_prescreen_and_validate(world, tmp_path, capsys):
    folder, data, _ = world
    columns = ["--text", "text", "--label", "tags", "--target", "multilabel", "--label_separator", ";"]
    train = str(folder / "data/train.csv")
    assert cli.run(validate.main, [train, *columns]) == 0
    assert "90: l00, l01" in capsys.readouterr().out
    flags = ["--models", str(folder / "model"), "--train", train, *columns, "--output", str(tmp_path)]
    assert cli.run(prescreen.main, [*flags, "--label_permutations", "39", "--partitions", "2"]) == 0
    said = capsys.readouterr().out
    assert (
        "micro F1" in said and "all labels right" in said and "labels with fewer than 10 train texts" in said
    )
    (row,) = json.loads((tmp_path / "train.json").read_text())["record"]["models"]
    assert 0 < row["micro_f1"] <= 1 and 0 <= row["accuracy"] <= 1 and row["h_score"] is None
    assert "the labels are sets" in row["lora_gain_note"]
    shown = (tmp_path / "train.html").read_text()
    assert "one a label, reach a micro F1 of" in shown and "90 labels," in shown and "<th>label</th>" in shown


def test_rank_takes_lists_and_matrices(world, tmp_path):
    folder, data, _ = world
    texts, labels = several()
    matrix = np.array([[label in found for label in LABELS] for found in labels])
    few = {"output": str(tmp_path), "label_permutations": 0, "partitions": 2}
    lists = ntps.rank(str(folder / "model"), texts, labels, **few)
    frame = pd.DataFrame(matrix.astype(int), columns=LABELS)
    named = ntps.rank(str(folder / "model"), texts, frame, **few)
    assert lists.flags.train == named.flags.train  # the very same rows
    wide = Rows.of(frame.assign(text=texts), LABELS, "text", None)
    assert (
        wide.labels.tolist() == labels == Rows.of(texts, list(map(set, labels)), "text", None).labels.tolist()
    )
    assert (
        Rows.of(datasets.Dataset.from_pandas(frame.assign(text=texts)), LABELS, "text", None).labels.tolist()
        == labels
    )
    assert Rows.of(texts, csr_matrix(matrix), "text", None).labels.equals(
        Rows.of(texts, matrix, "text", None).labels
    )
    numbered = ntps.rank(str(folder / "model"), texts, matrix, **few)
    assert numbered.table["heldout_skill"][0] == pytest.approx(lists.table["heldout_skill"][0])
    probe, held_out = lists.probe(), lists.data.select("test")
    assert probe.classes_.tolist() == LABELS and numbered.probe().classes_.tolist() == list(range(90))
    assert probe.score(held_out.texts, held_out.labels) == pytest.approx(lists.table["accuracy"][0])
    guessed = probe.predict(held_out.texts)
    assert guessed.shape == held_out.labels.shape and guessed[:, 88].all()
    assert set_scores(guessed > 0, held_out.labels)["micro_f1"] == pytest.approx(lists.table["micro_f1"][0])
    assert np.array_equal(probe.predict_proba(texts[:9]) > 0.5, probe.predict(texts[:9]) > 0)
    other = ntps.TextProbe.load(probe.save(tmp_path / "probe"))
    assert np.array_equal(other.predict(texts[:9]), probe.predict(texts[:9]))
    again = probe.fit(texts[:60], [found[:2] for found in labels[:60]])
    assert again.predict(texts[:2]).shape == (2, len(again.classes_))
    assert again.fit(texts[:60], frame[:60]).classes_.tolist() == LABELS
    for wrong, message in ((2 * matrix, "holds 0 and 1 only"), ([[1, 1]] * 300, "has a label twice")):
        with pytest.raises(UserError, match=message):
            ntps.rank(str(folder / "model"), texts, wrong, **few)


def test_targets_of_sets_are_the_matrix():
    labels = np.array([[True, False], [True, True]])
    assert targets_of(labels, 2).tolist() == [[1, 0], [1, 1]]
    assert targets_of(labels[[[1, 0]]], 2).shape == (1, 2, 2)
