"""Layer probes against scikit-learn on the stored states, what may not reach them, and the script from end to end."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cache
import linear_sklearn
from ntps.accuracies import layer_probes
from ntps.accuracies.layer_probes import moment_rows, state_rows
from ntps.accuracies.table import COLUMNS
from ntps.run import cli
from ntps.scores.layer_moments import LayerMoments
from ntps.system import array_files, provenance
from tests.tiny import tiny_dataset, tiny_model

SETTINGS = dict(solver="saga", max_iter=1000, tol=0.01, seed=0)


def moments_of(states, labels, classes):
    """The averages that the closed forms read, by their definitions."""
    Y, n = np.eye(classes)[labels], len(labels)
    return LayerMoments(states.T @ states / n, states.T @ Y / n, states.mean(0), Y.sum(0), 1.0, n)


def synthetic(n=240, d=24, classes=4, seed=0, decades=0.0, shift=1.0):
    """States whose class shows, coordinates' scales spread over `decades` powers of ten; train and test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 2 * n)
    labels[:classes] = np.arange(classes)
    centres = rng.normal(size=(classes, d))
    states = (rng.normal(size=(2 * n, d)) + 0.7 * centres[labels] + shift) * np.logspace(0, decades, d)
    return (states[:n], labels[:n]), (states[n:], labels[n:])


def pick(rows, probe, split):
    (row,) = [row for row in rows if row["probe"] == probe and row["split"] == split]
    return row


def peer_mse(peer, train, test, classes, split):
    states, labels = train if split == "train" else test
    peer.fit(train[0], np.eye(classes)[train[1]])
    return mean_squared_error(np.eye(classes)[labels], peer.predict(states))


# --- closed forms and scikit-learn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("decades", [0.0, 5.0], ids=["even", "ill-scaled"])
def test_least_squares_from_moments_is_scikit_learns_on_states(decades, split):
    train, test = synthetic(decades=decades)
    rows = moment_rows(moments_of(*train, 4), moments_of(*test, 4))
    scaled = peer_mse(make_pipeline(StandardScaler(), LinearRegression()), train, test, 4, split)
    plain = peer_mse(LinearRegression(fit_intercept=False), train, test, 4, split)
    assert pick(rows, "least_squares", split)["mse"] == pytest.approx(scaled, rel=1e-6)
    assert pick(rows, "least_squares_no_intercept", split)["mse"] == pytest.approx(plain, rel=1e-6)
    own = pick(state_rows(train, test, classes=4, **SETTINGS), "linear_regression", split)["mse"]
    assert own == pytest.approx(scaled, rel=1e-12)
    ridge = pick(rows, "ridge", split)
    peer = make_pipeline(StandardScaler(), Ridge(alpha=240 * ridge["penalty"]))
    assert ridge["mse"] == pytest.approx(peer_mse(peer, train, test, 4, split), rel=1e-6)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_metrics_are_scikit_learns(classes, split):
    train, test = synthetic(classes=classes)
    row = pick(state_rows(train, test, classes=classes, **SETTINGS), "logistic_regression", split)
    peer = make_pipeline(
        StandardScaler(), LogisticRegression(solver="saga", max_iter=1000, tol=0.01, random_state=0)
    ).fit(*train)
    states, labels = train if split == "train" else test
    guess = peer.predict(states)
    assert row["accuracy"] == pytest.approx(accuracy_score(labels, guess))
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guess))
    assert row["macro_f1"] == pytest.approx(f1_score(labels, guess, average="macro"))
    assert row["loss"] == pytest.approx(log_loss(labels, y_proba=peer.predict_proba(states)), rel=1e-9)
    assert (row["n"], row["n_iter"]) == (240, peer[-1].n_iter_.max())
    assert row["accuracy"] > 1.5 / classes


def test_labels_with_gaps_and_classes_missing_from_either_split():
    (states, labels), (test_states, test_labels) = synthetic(classes=3)
    names = np.array([0, 3, 6])  # of 8 classes; train has none of 1, test none of 0
    train = states, names[labels]
    keep = test_labels != 0
    test = test_states[keep], names[test_labels[keep]]
    test[1][:5] = 1
    rows = state_rows(train, test, classes=8, **SETTINGS)
    row = pick(rows, "logistic_regression", "test")
    peer = make_pipeline(
        StandardScaler(), LogisticRegression(solver="saga", max_iter=1000, tol=0.01, random_state=0)
    )
    known = peer.fit(*train).predict_proba(test[0])
    proba = np.zeros((len(known), 8))
    proba[:, names] = known
    assert row["loss"] == pytest.approx(log_loss(test[1], y_proba=proba, labels=range(8)), rel=1e-9)
    assert row["accuracy"] == pytest.approx(accuracy_score(test[1], peer.predict(test[0])))
    assert row["balanced_accuracy"] == pytest.approx(
        np.mean([np.mean(peer.predict(test[0])[test[1] == c] == c) for c in (1, 3, 6)])
    )
    closed = moment_rows(moments_of(*train, 8), moments_of(*test, 8))
    for split in ("train", "test"):
        assert pick(closed, "least_squares", split)["mse"] == pytest.approx(
            pick(rows, "linear_regression", split)["mse"], rel=1e-6
        )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_has_not_converged_is_told():
    train, test = synthetic()

    def logistic(**settings):
        rows = state_rows(train, test, classes=4, **SETTINGS | settings)
        return pick(rows, "logistic_regression", "train")

    short, long = logistic(max_iter=2, tol=1e-9), logistic(tol=1e-4)
    assert (short["n_iter"], short["converged"]) == (2, False)
    assert long["converged"] and 2 < long["n_iter"] < 1000
    lbfgs = logistic(solver="lbfgs", tol=1e-6)
    assert lbfgs["converged"] and lbfgs["loss"] == pytest.approx(long["loss"], rel=1e-2)


# --- test never influences anything --------------------------------------------------------------------------------


def figures(rows, split):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows if row["split"] == split]


def check_for_leaks(measure):
    """`measure(train, test)` gives rows. Train rows do not know test; a test row's score knows no other test row."""
    train, test = synthetic(n=120)
    rows = measure(train, test)
    elsewhere = measure(train, (3 * test[0][::-1] + 5, test[1]))
    assert figures(rows, "train") == figures(elsewhere, "train")
    shuffled = measure(train, (test[0], np.random.default_rng(0).permutation(test[1])))
    assert figures(rows, "train") == figures(shuffled, "train")
    assert figures(rows, "test") != figures(shuffled, "test")
    near = measure(train, (test[0][:40], test[1][:40]))
    far = measure(train, (test[0][40:], test[1][40:]))
    for whole, one, two in zip(figures(rows, "test"), figures(near, "test"), figures(far, "test")):
        for name in {"mse", "loss", "accuracy"} & whole.keys():
            assert whole[name] == pytest.approx((one[name] * 40 + two[name] * 80) / 120, rel=1e-6)


def by_states(train, test):
    return state_rows(train, test, classes=4, **SETTINGS)


def by_moments(train, test):
    return moment_rows(moments_of(*train, 4), moments_of(*test, 4))


@pytest.mark.parametrize("measure", [by_states, by_moments])
def test_nothing_leaks(measure):
    check_for_leaks(measure)


class ScaledOnTest(StandardScaler):
    """A leak: every set of states is scaled by its own mean and deviation."""

    def transform(self, X):
        return StandardScaler().fit_transform(X)


def fitted_on_both(train, test):
    rows = by_states(tuple(map(np.concatenate, zip(train, test))), test)
    return [row | {"n": 120} for row in rows]


def test_planted_leaks_are_found(monkeypatch):
    with pytest.raises(AssertionError):
        check_for_leaks(fitted_on_both)
    monkeypatch.setattr(layer_probes, "StandardScaler", ScaledOnTest)
    with pytest.raises(AssertionError):
        check_for_leaks(by_states)


# --- the script ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A folder with a tiny model (d=8, 2 blocks), a tiny data set, and results with and without states."""
    folder = tmp_path_factory.mktemp("probes")
    model = tiny_model(folder / "model", d=8, blocks=2)
    data = tiny_dataset(folder, n=90)
    pairs = ["--models", str(model), "--datasets", str(data)]
    common = ["--limit", "80", "--max_length", "32", "--label_permutations", "2"]
    outputs = {
        "kept": ["--keep_states"],
        "bare": [],
        "blind": ["--splits", "train"],
        "some": ["--layers", "0,2", "--keep_states"],
    }
    for output, flags in outputs.items():
        assert cli.run(cache.main, [*pairs, "--output", str(folder / output), *common, *flags]) == 0
    shutil.copytree(folder / "bare", folder / "one")  # cache.py itself refuses texts of one class
    train = next((folder / "one").rglob("train.safetensors"))
    arrays = load_file(train)
    arrays["class_counts"] = np.array([80.0, 0, 0])
    array_files.write(train, arrays, provenance.read(train))
    return folder, pairs


def run(cached, output, *flags):
    folder, pairs = cached
    return cli.run(linear_sklearn.main, [*pairs, "--output", str(folder / output), "--jobs", "1", *flags])


def table_of(cached, output):
    (path,) = (cached[0] / output / "accuracy" / "linear_sklearn").rglob("*.csv")
    return pd.read_csv(path), path


def test_the_table(cached, capsys, recwarn):
    assert run(cached, "kept") == 0
    table, path = table_of(cached, "kept")
    said = capsys.readouterr().out
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS
    assert len(table) == 3 * 5 * 2 and table.final.all() and set(table.method) == {"linear_sklearn"}
    by_probe = table.set_index(["probe", "layer", "split"])
    for layer in range(3):
        for split in ("train", "test"):
            mse = {name: by_probe.mse[name, layer, split] for name in set(table.probe)}
            assert mse["least_squares"] == pytest.approx(mse["linear_regression"], rel=1e-6)
            assert math.isnan(mse["logistic_regression"])
    kept = {
        s: load_file(next((cached[0] / "kept" / "states").rglob(f"{s}.safetensors")))
        for s in ("train", "test")
    }
    train, test = ((kept[s]["states"][2].astype(float), kept[s]["labels"]) for s in ("train", "test"))
    plain = peer_mse(LinearRegression(fit_intercept=False), train, test, 3, "test")
    assert by_probe.mse["least_squares_no_intercept", 2, "test"] == pytest.approx(plain, rel=1e-6)
    peer = make_pipeline(
        StandardScaler(), LogisticRegression(solver="saga", max_iter=1000, tol=0.01, random_state=42)
    )
    assert by_probe.accuracy["logistic_regression", 2, "test"] == pytest.approx(peer.fit(*train).score(*test))
    logistic = table[table.probe == "logistic_regression"]
    assert set(logistic.n) == {80, 45} and logistic.n_iter.notna().all()
    assert (logistic.converged.astype(str) == (logistic.n_iter < 1000).astype(str)).all()
    gcv = table[(table.probe == "ridge") & (table.split == "train")].set_index("layer").gcv_error
    best = gcv.idxmin()
    accuracy = by_probe.accuracy["logistic_regression", best, "test"]
    majority = np.mean(test[1] == np.bincount(train[1]).argmax())
    assert f"{best}; on test: accuracy {accuracy:.3f}, majority class {majority:.3f}" in said
    before = path.stat().st_mtime_ns
    assert run(cached, "kept") == 0 and "already there" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    assert run(cached, "kept", "--tol", "0.5") == 1
    assert "settings.tol is 0.01 there, 0.5 here" in capsys.readouterr().err
    assert run(cached, "kept", "--overwrite", "--tol", "1e-9", "--max_iter", "3", "--layers", "0,2") == 0
    assert not recwarn.list
    assert "not converged after 3 iterations: 2 of 2" in capsys.readouterr().out
    assert set(table_of(cached, "kept")[0].layer) == {0, 2}


def test_layers_side_by_side_and_in_turn_agree(cached):
    tables = []
    for jobs in ("1", "2"):
        assert run(cached, "kept", "--overwrite", "--jobs", jobs) == 0
        tables.append(table_of(cached, "kept")[0].drop(columns="seconds"))
    pd.testing.assert_frame_equal(*tables)


def test_without_states_the_rest_is_told_and_then_made(cached, capsys):
    assert run(cached, "bare") == 0
    table, _ = table_of(cached, "bare")
    assert set(table.source) == {"moments"} and len(table) == 3 * 3 * 2
    said = capsys.readouterr().out
    assert "mse of ridge" in said and "--keep_states" in said
    command = said[said.index("python cache.py") :].split()[2:]
    assert run(cached, "bare") == 0 and "already there" in capsys.readouterr().out
    assert cli.run(cache.main, command) == 0
    assert run(cached, "bare") == 0
    table, _ = table_of(cached, "bare")
    assert set(table.source) == {"moments", "states"} and len(table) == 3 * 5 * 2


def test_the_test_texts_do_not_reach_the_train_rows_or_the_best_layer(cached, tmp_path, capsys):
    run(cached, "kept", "--overwrite")
    first, _ = table_of(cached, "kept")
    best = [line for line in capsys.readouterr().out.splitlines() if "best layer" in line]
    data = tiny_dataset(tmp_path, n=90)
    rows = (tmp_path / "tiny-test.csv").read_text().splitlines()
    texts, labels = zip(*(row.rsplit(",", 1) for row in rows[1:]))
    rows[1:] = [f"odd {text},{label}" for text, label in zip(texts, reversed(labels))]
    (tmp_path / "tiny-test.csv").write_text("\n".join(rows) + "\n")
    pairs = [*cached[1][:2], "--datasets", str(data), "--output", str(tmp_path)]
    flags = ["--limit", "80", "--max_length", "32", "--label_permutations", "2", "--keep_states"]
    assert cli.run(cache.main, [*pairs, *flags]) == 0
    assert cli.run(linear_sklearn.main, [*pairs, "--jobs", "1"]) == 0
    second = pd.read_csv(next((tmp_path / "accuracy").rglob("tiny.csv")))
    line = [line for line in capsys.readouterr().out.splitlines() if "best layer" in line]
    same = [table[table.split == "train"].drop(columns="seconds") for table in (first, second)]
    pd.testing.assert_frame_equal(*same, rtol=1e-9)
    assert line[0].split(";")[0] == best[0].split(";")[0]
    assert not np.allclose(
        first[first.split == "test"].mse.dropna(), second[second.split == "test"].mse.dropna()
    )


def test_errors_say_what_to_do(cached, capsys):
    def fails(output, *flags):
        assert run(cached, output, *flags) == 1
        return capsys.readouterr().err

    assert "no train moments" in fails("nothing") and not (cached[0] / "nothing").exists()
    said = fails("blind")
    assert "no test moments" in said and "--limit 80" in said and "--label_permutations 2" in said
    assert "have one and the same label" in fails("one")
    assert "has no layer 1" in fails("some", "--layers", "0,1")
    assert "layers 0 to 2" in fails("kept", "--layers", "7")
    assert "saga or lbfgs" in fails("kept", "--solver", "liblinear")
    assert "--jobs 0" in fails("kept", "--jobs", "0")
    assert "--tol" in fails("kept", "--tol", "0")


def test_files_of_different_runs_are_not_mixed(cached, capsys):
    folder, _ = cached
    for output, kind, split in (("mixed", "states", "test"), ("split", "moments", "train")):
        shutil.copytree(folder / "kept", folder / output, ignore=shutil.ignore_patterns("accuracy"))
        (other,) = (folder / "some" / kind).rglob(f"{split}.safetensors")
        shutil.copy(other, folder / output / other.relative_to(folder / "some"))
        assert run(cached, output) == 1
        said = capsys.readouterr().err
        assert "layers is [0, 2] there" in said and "--overwrite" in said
        assert not (folder / output / "accuracy").exists()
