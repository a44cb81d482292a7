"""The published values: four known files, a reader that runs nothing, and figures with the paper's rho. No file of the authors' is here."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from fig_plot import import_released, scatter
from fig_plot.import_released import NAMES, our_name
from fig_plot.relations import PUBLISHED, Read, relation
from fig_plot.words import load_words
from ntps.run import cli
from ntps.scores.words import PAPER_WORDS

ROOT = Path(__file__).resolve().parent.parent
MODELS = ["Qwen/Qwen2-0.5B", "apple/OpenELM-270M", "someone/else"]
TEXTS = ["sst2", "common_sense", "ucirvine/sms_spam", "a/b", "imdb"]


def made_up():
    """Values built as the authors' files are: nested names around numpy scalars, plain numbers and float32 arrays."""
    draw = np.random.default_rng(3)

    def grid(*keys):
        return {m: {t: {k: np.float64(draw.uniform()) for k in keys} for t in TEXTS} for m in MODELS}

    first = {
        space: {
            group: [draw.normal(size=(1, 2)).astype(np.float32) for _ in listed]
            for group, listed in PAPER_WORDS.items()
        }
        for space in "UV"
    }
    files = {
        "Fig1.pkl": first,
        "Fig2_1.pkl": grid("align_score", "metric_data"),
        "Fig2_2.pkl": grid("align_score", "metric_data"),
        "Fig3.pkl": grid("align_score", "lora_acc", "linear_acc"),
    }
    files["Fig2_1.pkl"][MODELS[0]]["sst2"]["metric_data"] = 0.5  # theirs mix both
    files["Fig2_2.pkl"][MODELS[0]]["sst2"]["metric_data"] = np.float32(0.25)
    return files


def pickled(values, protocol=4):
    return values if isinstance(values, bytes) else pickle.dumps(values, protocol)


def write(folder, files, protocol=4):
    (folder / "figures").mkdir(parents=True)
    for name, values in files.items():
        (folder / "figures" / name).write_bytes(pickled(values, protocol))
    return folder


def known(monkeypatch, files, protocol=4):
    """Make these the four files that are read."""
    sums = {name: hashlib.sha256(pickled(values, protocol)).hexdigest() for name, values in files.items()}
    monkeypatch.setattr(import_released, "SHA256", sums)


@pytest.mark.parametrize("protocol", [3, 4])
def test_tables_hold_the_pickles_values_in_our_columns(tmp_path, monkeypatch, protocol):
    files = made_up()
    known(monkeypatch, files, protocol)
    source = write(tmp_path / "clone", files, protocol)
    out = tmp_path / "out"
    assert cli.run(import_released.main, [str(source), "--output", str(out)]) == 0
    cell = files["Fig3.pkl"][MODELS[1]]["common_sense"]
    score = pd.read_csv(out / "fig3/ntps/openelm-270m/commonsense.csv").iloc[0]
    assert (
        score["ntps"] == cell["align_score"] and score["order"] == "released" and score["rule"] == "fraction"
    )
    assert score[["layer", "fraction", "ku", "kv", "chance"]].isna().all()
    for method, key in (("lora_finetuning", "lora_acc"), ("linear_training", "linear_acc")):
        row = pd.read_csv(out / f"fig3/accuracy/{method}/openelm-270m/commonsense.csv").iloc[0]
        assert row["accuracy"] == cell[key] and row["split"] == "test" and row["final"]
    row = pd.read_csv(out / "fig2_mse/accuracy/linear_sklearn/qwen2-0.5b/sst2.csv").iloc[0]
    assert row["mse"] == 0.25 and row["split"] == "train" and row["probe"] == "linear_regression"
    assert (out / "fig2_accuracy/ntps/someone--else/a--b.csv").exists()
    table = load_words(out)[
        "openelm-450m", "emotion"
    ]  # as the notebook reads it, whose folder is the whole import
    pd.testing.assert_frame_equal(table, load_words(out / "fig1")["openelm-450m", "emotion"])
    points = np.concatenate([np.concatenate(files["Fig1.pkl"][s][g]) for s in "UV" for g in PAPER_WORDS])
    np.testing.assert_array_equal(table[["x", "y"]], points)
    assert list(table["word"][:4]) == PAPER_WORDS["Joy"]


def test_figures_show_the_correlations_of_the_pickles(tmp_path, monkeypatch):
    files = made_up()
    known(monkeypatch, files)
    cli.run(import_released.main, [str(write(tmp_path / "clone", files)), "--output", str(tmp_path / "out")])
    signs = {"Fig2_1.pkl": ("fig2_accuracy", 1), "Fig2_2.pkl": ("fig2_mse", -1)}
    figures = dict(scatter.figure2(tmp_path / "out"))
    assert list(figures) == ["fig2_accuracy_published", "fig2_mse_published"]
    for name, (folder, sign) in signs.items():
        panels = {axes.get_title(): axes for axes in figures[f"{folder}_published"].axes}
        for model, cells in files[name].items():
            score, metric = (
                [float(cell[k]) for cell in cells.values()] for k in ("align_score", "metric_data")
            )
            shown = [text.get_text() for text in panels[our_name(model)].texts]
            assert any(f"ρ = {sign * spearmanr(score, metric)[0]:.2f}, n = 5" in text for text in shown), (
                shown
            )
    (_, figure), *more = scatter.figure3(tmp_path / "out")
    assert not more
    for axes in figure.axes:
        model = next(m for m in MODELS if our_name(m) == axes.get_title())
        cells = files["Fig3.pkl"][model].values()
        gains = [cell["lora_acc"] - cell["linear_acc"] for cell in cells]
        rho = -spearmanr([cell["align_score"] for cell in cells], gains)[0]
        assert any(f"ρ = {rho:.2f}" in text.get_text() for text in axes.texts)


# --- what is refused -----------------------------------------------------------------------------------------------


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    """Pickles that would make the file `marker` if the reader ran them."""
    made = f"open({str(marker)!r}, 'w').close()"
    outside = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    numpy_way = b"cnumpy.f2py.diagnose\nrun\n(tR."
    getattr_way = b"cbuiltins\ngetattr\n(cnumpy\ndtype\nS'__init__'\ntR."
    objects = np.array([Runs(exec, made)], dtype=object)
    return {
        "exec": pickle.dumps({"U": Runs(exec, made)}),
        "eval": pickle.dumps(Runs(eval, made)),
        "system": outside,
        "numpy": numpy_way,
        "getattr": getattr_way,
        "objects": pickle.dumps(objects),
        "deep": pickle.dumps({"U": {"Joy": [np.float64(1), Runs(os.system, f"touch {marker}")]}}),
    }


KINDS = ["exec", "eval", "system", "numpy", "getattr", "objects", "deep"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Fig1.pkl", "Fig3.pkl"])
def test_a_file_with_another_sum_is_refused_before_anything_of_it_is_read(
    tmp_path, monkeypatch, capsys, kind, name
):
    marker = tmp_path / "ran"
    known(monkeypatch, made_up())
    source = write(tmp_path / "clone", made_up() | {name: hostile(marker)[kind]})
    called, find = [], import_released.Numbers.find_class
    spy = lambda self, module, name: called.append(name) or find(self, module, name)  # noqa: E731
    monkeypatch.setattr(import_released.Numbers, "find_class", spy)
    assert cli.run(import_released.main, [str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and "refused" in error and "Traceback" not in error
    assert not marker.exists() and not (tmp_path / "out").exists()
    assert set(called) <= set(import_released.ADMITTED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Fig1.pkl", "Fig3.pkl"])
def test_a_hostile_pickle_is_refused_and_nothing_runs_whatever_its_sum(
    tmp_path, monkeypatch, capsys, kind, name
):
    marker = tmp_path / "ran"
    files = made_up() | {name: hostile(marker)[kind]}
    known(monkeypatch, files)
    source = write(tmp_path / "clone", files)
    assert cli.run(import_released.main, [str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "refused" in error and "Traceback" not in error
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_the_sums_are_those_of_four_files():
    assert list(import_released.SHA256) == ["Fig1.pkl", "Fig2_1.pkl", "Fig2_2.pkl", "Fig3.pkl"]
    assert all(len(bytes.fromhex(total)) == 32 for total in import_released.SHA256.values())


def test_the_hostile_pickles_would_have_run(tmp_path):
    pickle.load(io.BytesIO(hostile(tmp_path / "ran")["exec"]))
    assert (tmp_path / "ran").exists()


def test_run_as_a_file_it_exits_with_an_error(tmp_path):
    source = write(tmp_path / "clone", made_up() | {"Fig1.pkl": hostile(tmp_path / "ran")["system"]})
    command = [
        sys.executable,
        str(ROOT / "fig_plot/import_released.py"),
        str(source),
        "--output",
        str(tmp_path / "out"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Fig1.pkl" in done.stderr and "refused" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, values",
    [
        ("Fig2_1.pkl", b"not a pickle"),
        ("Fig2_1.pkl", b""),
        ("Fig2_1.pkl", {}),
        ("Fig2_1.pkl", {"m": {"t": {"align_score": 0.5}}}),
        ("Fig2_1.pkl", {"m": {"t": {"align_score": 0.5, "metric_data": "much"}}}),
        ("Fig2_1.pkl", {"m": {"t": {"align_score": 0.5, "metric_data": float("nan")}}}),
        ("Fig2_1.pkl", {"m": {"t": {"align_score": 0.5, "metric_data": np.ones(3)}}}),
        ("Fig2_1.pkl", {"..": {"t": {"align_score": 0.5, "metric_data": 0.5}}}),
        ("Fig2_1.pkl", {"m": {"t": {"align_score": np.complex64(1), "metric_data": 0.5}}}),
        ("Fig1.pkl", {"U": {"Joy": [np.ones(2)]}}),
        ("Fig1.pkl", [1, 2]),
    ],
)
def test_other_contents_are_one_clear_error(tmp_path, monkeypatch, capsys, name, values):
    known(monkeypatch, made_up())
    source = write(tmp_path / "clone", made_up() | {name: values})
    assert cli.run(import_released.main, [str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def nested(steps, each=b"\x85"):
    """A pickle of {((...),): None}, with `each` making a tuple of what is there."""
    return b"\x80\x04}" + b")" + each * steps + b"Ns."


CELL = {"align_score": 0.5, "metric_data": 0.5}
CRASHES = {
    "large": pickle.dumps("x" * 40_000),
    "deep key": nested(20_000),
    "shared key": nested(200, b"q\x00h\x00\x86"),  # 2 ** 200 empty tuples
    "huge": {"m": {"t": CELL | {"metric_data": 10**400}}},
    "truth": {"m": {"t": CELL | {"metric_data": True}}},
    "surrogate": {"m\ud800": {"t": CELL}},
    "long name": {"m" * 300: {"t": CELL}},
    "empty rows": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J\x00\x00\x00\x40K\x00\x86"
    b"cnumpy\ndtype\n\x8c\x02f8\x85R\x89C\x00tb.",
    "state of a class": b"\x80\x04cnumpy\ndtype\n}b.",
}


@pytest.mark.parametrize("kind", CRASHES)
def test_what_would_crash_or_hang_is_one_clear_error(tmp_path, monkeypatch, capsys, kind):
    known(monkeypatch, made_up())
    source = write(tmp_path / "clone", made_up() | {"Fig2_1.pkl": CRASHES[kind]})
    assert cli.run(import_released.main, [str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    error.encode()  # no lone surrogates, which a terminal refuses
    assert error.startswith("error: ") and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_import_over_an_earlier_one_writes_the_same_and_leaves_other_results_alone(tmp_path, monkeypatch):
    files, out = made_up(), tmp_path / "out"
    known(monkeypatch, files)
    again = [str(write(tmp_path / "clone", files)), "--output", str(out)]
    assert cli.run(import_released.main, again) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.csv")}
    (out / "figures").mkdir()  # of render, beside the four folders
    own = out / "fig3/selection/fixed.csv"
    own.parent.mkdir()
    own.write_text("model\n")
    next(iter(before)).write_text("cut")
    assert cli.run(import_released.main, again) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == before | {own: b"model\n"}
    assert (out / "figures").exists()


def test_a_folder_without_the_files_names_the_missing_one(tmp_path, capsys):
    assert cli.run(import_released.main, [str(tmp_path)]) == 1
    assert "Fig1.pkl" in capsys.readouterr().err


# --- the real ones, where there is a copy --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    source = os.environ.get("NTPS_RELEASED")
    if not source:
        pytest.skip("NTPS_RELEASED names no folder with the authors' files")
    out = tmp_path_factory.mktemp("released")
    assert cli.run(import_released.main, [source, "--output", str(out)]) == 0
    return Path(source), out


def test_the_papers_rho_is_in_every_panel(published):
    source, out = published
    expected = pd.read_csv(source / "correlations.csv", index_col="model")
    assert expected.shape == (8, 3)
    figures = {
        "fig2_acc": dict(scatter.figure2(out))["fig2_accuracy_published"],
        "fig2_mse": dict(scatter.figure2(out))["fig2_mse_published"],
        "fig3_gain": dict(scatter.figure3(out))["fig3_published"],
    }
    for column, figure in figures.items():
        panels = {axes.get_title(): axes for axes in figure.axes}
        assert len(panels) == 8
        for model, rho in expected[column].items():
            assert any(f"ρ = {rho:.2f} " in text.get_text() for text in panels[NAMES[model]].texts), (
                column,
                model,
            )
    read = {
        "fig2_acc": ("fig2_accuracy", "probe_train_accuracy"),
        "fig2_mse": ("fig2_mse", "probe_train_mse"),
    }
    for column, (folder, target) in (read | {"fig3_gain": ("fig3", "lora_gain_linear")}).items():
        found = relation(Read(out, folder), target, PUBLISHED).rho
        for model, rho in expected[column].items():
            assert abs(found[NAMES[model]].rho - rho) < 1e-4


def test_the_published_values_are_read_to_the_last_digit_given(published):
    source, out = published
    grid = pd.read_csv(source / "grid.csv")
    places = {
        "ntps_fig2_acc": ("fig2_accuracy/ntps", "ntps"),
        "ntps_fig2_mse": ("fig2_mse/ntps", "ntps"),
        "ntps_fig3": ("fig3/ntps", "ntps"),
        "probe_accuracy": ("fig2_accuracy/accuracy/linear_sklearn", "accuracy"),
        "probe_mse": ("fig2_mse/accuracy/linear_sklearn", "mse"),
        "lora_accuracy": ("fig3/accuracy/lora_finetuning", "accuracy"),
        "linear_accuracy": ("fig3/accuracy/linear_training", "accuracy"),
    }
    assert len(grid) == 96
    for row in grid.sample(12, random_state=0).to_dict("records"):
        for column, (folder, name) in places.items():
            table = pd.read_csv(out / folder / our_name(row["model"]) / f"{our_name(row['dataset'])}.csv")
            assert table[name].item() == pytest.approx(row[column], rel=1e-8), column
    words = load_words(out / "fig1")["openelm-450m", "emotion"].reset_index(drop=True)
    expected = pd.read_csv(source / "fig1.csv")
    np.testing.assert_allclose(words[["x", "y"]], expected[["x", "y"]], rtol=1e-6)
    assert (words[["space", "group", "word"]] == expected[["space", "group", "word"]]).all(axis=None)
