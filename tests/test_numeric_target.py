"""Numeric targets end to end: description, moments, every score, the probes; and who refuses them."""

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LinearRegression

import cache
import K_sweep
import linear_sklearn
from ntps.accuracies.task import Task
from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.run import cli
from ntps.scores import probes
from ntps.system import array_files
from ntps.texts.dataset import load_dataset
from tests.tiny import tiny_model, tiny_texts


def described(folder, labels, **keys):
    """A description of tiny texts with these labels (60 train, 30 test), as a path."""
    folder.mkdir(exist_ok=True)
    texts, _ = tiny_texts(90, 3, 0)
    table = pd.DataFrame({"text": texts, "stars": labels})
    table[:60].to_csv(folder / "train.csv", index=False)
    table[60:].to_csv(folder / "test.csv", index=False)
    spec = {"files": {"train": "train.csv", "test": "test.csv"}, "text": "text", "label": "stars"}
    (folder / "stars.yaml").write_text(yaml.safe_dump(spec | {"target": "numeric"} | keys))
    return folder / "stars.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model's moments and states over tiny texts with numbers, scored and probed."""
    folder = tmp_path_factory.mktemp("numeric")
    numbers = np.round(np.random.default_rng(0).normal(3, 1, 90), 3) + np.arange(90) % 3
    return *scored(folder, numbers), numbers


def scored(folder, numbers):
    """The output folder of the scripts over these labels, and the train moments."""
    tiny_model(folder / "model")
    yaml_file = described(folder / "data", numbers)
    pair = ["--models", str(folder / "model"), "--datasets", str(yaml_file), "--output", str(folder / "out")]
    assert (
        cli.run(cache.main, [*pair, "--keep_states", "--label_permutations", "5", "--partitions", "3"]) == 0
    )
    assert cli.run(K_sweep.main, pair) == 0
    assert cli.run(linear_sklearn.main, pair) == 0
    moments = next((folder / "out/moments").glob("*/stars/train.safetensors"))
    return folder / "out", MomentsFile(moments)


def test_labels_are_the_numbers(tmp_path):
    numbers = [f" {x} " if i % 2 else f"{x}e0" for i, x in enumerate(range(-3, 87))]
    data = load_dataset(str(described(tmp_path, numbers)))
    assert data.numeric and data.targets == 1 and data.classes == []
    assert data.provenance["label_mean"] == 26.5  # of train, not of all
    for split, expected in (("train", range(-3, 57)), ("test", range(57, 87))):
        assert (data.splits[split].labels + 26.5).tolist() == list(expected)
    assert data.select("test", 5).labels.dtype == np.float64


def test_a_number_is_dropped_however_it_is_written(tmp_path):
    numbers = ["-999.0", "-999", "-9.99e2"] * 10 + [str(place) for place in range(60)]
    data = load_dataset(str(described(tmp_path, numbers, drop_labels=[-999])))
    assert data.provenance["dropped"]["unwanted"] == 30
    assert data.splits["train"].labels.tolist() == [place - 14.5 for place in range(30)]


def test_numbers_of_a_hub_folder_may_be_negative(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "folder").mkdir()
    table = pd.DataFrame({"text": [f"text {i}" for i in range(20)], "stars": range(-10, 10)})
    table.to_parquet(tmp_path / "folder/train.parquet")
    spec = {"id": "folder", "text": "text", "label": "stars", "target": "numeric"}
    (tmp_path / "stars.yaml").write_text(yaml.safe_dump(spec))
    data = load_dataset(str(tmp_path / "stars.yaml"))
    numbers = np.concatenate([part.labels for part in data.splits.values()]) + data.provenance["label_mean"]
    assert sorted(numbers) == pytest.approx(list(range(-10, 10)), abs=1e-12)
    assert data.splits["train"].labels.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        (["four"] * 90, {}, "label: split 'test' has 'four', which is no number"),
        (["inf"] * 90, {}, "has 'inf', which is no number"),
        (
            ["1e200"] * 90,
            {},
            "has '1e200', which is no number to learn: one between -1e.30 and 1e.30 is needed",
        ),
        (["1,5"] * 90, {}, "has '1,5', which is no number to learn: write 1.5 for 1,5"),
        (["1_000"] * 90, {}, "has '1_000', which is no number"),
        (["1e-170", "2e-170", "3e-170"] * 30, {}, "label: the numbers of train differ by less than"),
        (["2"] * 90, {}, "all of train has the one number 2.0"),
        (["2"] * 90, {"target": "number"}, "target: 'number' is none of classes, numeric, multilabel"),
        (["2"] * 90, {"label_ranges": [[0, 1, "a"]]}, "label_ranges: .* makes classes"),
    ],
)
def test_faults(tmp_path, labels, keys, message):
    with pytest.raises(UserError, match=message):
        load_dataset(str(described(tmp_path, labels, **keys)))


def test_moments_are_those_of_the_numbers(world):
    output, file, numbers = world
    y = numbers[:60] - numbers[:60].mean()
    states = array_files.maps(next((output / "states").glob("*/stars/train.safetensors")))
    assert np.allclose(states["labels"], y, rtol=0, atol=1e-14)
    assert file.about["record"]["data"]["label_mean"] == pytest.approx(numbers[:60].mean())
    assert file.targets == 1 and file.class_counts.tolist() == pytest.approx([y.sum()], abs=1e-12)
    assert file.label_second_moment == pytest.approx(np.mean(y**2))
    for place in range(len(file.layers)):
        means = states["states"][place].astype(float)
        assert np.allclose(file.averages(place).mean_label_moment[:, 0], means.T @ y / 60, atol=1e-6)


def test_no_score_depends_on_where_the_labels_have_their_zero(world, tmp_path):
    output, _, numbers = world
    moved, _ = scored(tmp_path, numbers + 2000)
    for pattern in ("ntps/*/stars.csv", "scores/*/stars.csv", "accuracy/linear_sklearn/*/stars.csv"):
        tables = [pd.read_csv(next(folder.glob(pattern))) for folder in (output, moved)]
        tables = [table.drop(columns="seconds", errors="ignore") for table in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-7, atol=1e-9)


def test_probes_are_scikit_learns(world):
    output, file, _ = world
    table = pd.read_csv(next((output / "accuracy/linear_sklearn").glob("*/stars.csv")))
    assert set(table.probe) == {
        "linear_regression", "least_squares", "least_squares_no_intercept", "ridge",
    }  # fmt: skip
    states = array_files.maps(next((output / "states").glob("*/stars/train.safetensors")))
    means, y = states["states"][1].astype(float), np.array(states["labels"])
    fitted = LinearRegression().fit(means, y)
    ours = probes.least_squares(file.averages(1))
    assert np.allclose(
        means @ ours.coefficients[:, 0].numpy() + ours.intercept.numpy(), fitted.predict(means)
    )
    assert probes.skill(ours, file.averages(1), file.averages(1)) == pytest.approx(fitted.score(means, y))


def test_accuracy_is_refused(tmp_path):
    data = load_dataset(str(described(tmp_path, np.arange(90))))
    with pytest.raises(UserError, match="target: numeric"):
        Task(None, data, None)  # type: ignore[arg-type]
