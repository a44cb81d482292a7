"""prescreen.py: its figures against the other scripts', its page, its errors, and files as people have them."""

import inspect
import json
import re

import numpy as np
import pandas as pd
import pytest

import K_sweep
import linear_sklearn
import prescreen
from fig_plot import prescreen_page
from ntps import cli, prescreening
from ntps.data import dataset_names, load_dataset
from ntps.errors import UserError
from ntps.models import resolve_model
from tests.tiny import tiny_model, tiny_texts

SCRIPT = '<script>alert("x")</script>'
NAMES = {"class0": SCRIPT, "class1": "$x_1$ & co", "class2": 'grün, "q"\nline'}


def mine(folder, n=240, **columns):
    """my.csv: texts with quotes, commas and newlines, and labels that are awkward to show."""
    texts, labels = tiny_texts(n, 3, 0)
    texts = [f'{text}, "quoted"\nand a new line' if i % 5 == 0 else text for i, text in enumerate(texts)]
    table = pd.DataFrame({"review": texts, "stars": [NAMES[label] for label in labels]} | columns)
    table.to_csv(folder / "my.csv", index=False, encoding="utf-8-sig")
    return str(folder / "my.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two tiny models pre-screened on awkward texts: (folder, flags, what the JSON says of the models)."""
    folder = tmp_path_factory.mktemp("prescreen")
    tiny_model(folder / "a")
    tiny_model(folder / "b", seed=1, d=48)
    flags = ["--models", str(folder / "a"), str(folder / "b"), "--train", mine(folder), "--text", "review"]
    flags += ["--label", "stars", "--output", str(folder / "out")]
    assert cli.run(prescreen.main, flags) == 0
    found = json.loads((folder / "out/my.json").read_text())
    return folder, flags, found["record"]["models"]


def test_the_models_are_ranked_by_held_out_skill(world):
    folder, _, models = world
    skills = [model["heldout_skill"] for model in models]
    assert skills == sorted(skills, reverse=True) and [model["rank"] for model in models] == [1, 2]
    assert models[1]["behind"] == pytest.approx(skills[0] - skills[1], abs=1e-6)
    table = pd.read_csv(folder / "out/my.csv")
    assert list(table.columns[:2]) == ["rank", "model"]
    assert table["heldout_skill"].tolist() == pytest.approx(skills)
    assert (table[["n_train", "n_test"]] == [180, 60]).all(axis=None)


def test_figures_are_those_of_the_other_scripts(world):
    folder, flags, models = world
    pair = [*flags[:3], "--datasets", str(folder / "out/data/my.yaml"), "--output", str(folder / "out")]
    assert cli.run(K_sweep.main, pair) == 0
    assert cli.run(linear_sklearn.main, pair) == 0
    for model in models:
        name, layer = model["model"], model["layer"]
        scores = pd.read_csv(folder / f"out/ntps/{name}/my.csv").query(
            "layer == @layer and rule == 'task_rank'"
        )
        row = scores[scores["fraction"].isna() & (scores["order"] == "descending")].iloc[0]
        for column in prescreening.SCORES:
            assert row[column] == pytest.approx(model[column], rel=1e-6), column
        assert row["ntps_se"] > 0
        peers = pd.read_csv(folder / f"out/scores/{name}/my.csv").set_index("layer")
        assert peers["gcv_error"].idxmin() == layer
        for column in ("gcv_skill", "h_score", "logme", "rankme", "headroom"):
            assert peers[column][layer] == pytest.approx(model[column], rel=1e-6), column
        assert peers["ridge_test_skill"][layer] == pytest.approx(model["heldout_skill"], rel=1e-6)
        assert peers["ridge_test_mse"][layer] == pytest.approx(model["heldout_mse"], rel=1e-6)
        accuracy = pd.read_csv(folder / f"out/accuracy/linear_sklearn/{name}/my.csv")
        test = accuracy.query("layer == @layer and probe == 'logistic_regression' and split == 'test'")
        assert test["accuracy"].item() == pytest.approx(model["accuracy"])


def test_the_page_escapes_and_asks_no_network(world):
    folder, _, models = world
    page = (folder / "out/my.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "grün" in page and all(model["model"] in page for model in models)
    assert page.count("data:image/svg+xml;base64,") == 3
    links = re.findall(r"""(?:src|href|url|@import)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert links and all(link.startswith("data:") for link in links)


def test_again_nothing_is_computed_and_the_page_stays(world, capsys):
    folder, flags, models = world
    before = (folder / "out/my.html").read_bytes()
    assert cli.run(prescreen.main, flags) == 0
    assert capsys.readouterr().out.count("already there") == 4
    assert (folder / "out/my.html").read_bytes() == before
    assert all(model["seconds"] > 0 for model in models)


def test_a_model_that_is_not_there_stops_itself_only(world, capsys):
    folder, flags, _ = world
    assert cli.run(prescreen.main, [*flags[:2], "smollm2-135", *flags[3:]]) == 1
    said = capsys.readouterr()
    assert "did you mean 'smollm2-135m'" in said.err and "One model was measured" in said.out


def test_a_numeric_target(world, tmp_path, capsys):
    flags = world[1]
    numbers = np.arange(240) % 3 + np.random.default_rng(0).normal(0, 0.1, 240)
    train = mine(tmp_path, stars=numbers)
    again = [*flags[:3], "--train", train, *flags[5:-1], str(tmp_path / "out"), "--target", "numeric"]
    assert cli.run(prescreen.main, again) == 0
    out = capsys.readouterr().out
    assert "RMSE" in out and "test is 30 % of the rows" in out
    for model in json.loads((tmp_path / "out/my.json").read_text())["record"]["models"]:
        assert 0 < model["heldout_skill"] < 1 and 0 <= model["retention"] <= 1 and "accuracy" not in model
        assert model["h_score"] is None and model["logme"] is not None
    assert "The label is a number" in (tmp_path / "out/my.html").read_text()


def test_spread_layers():
    assert prescreening.spread(30) == "0,4,8,11,15,19,22,26,30"
    assert prescreening.spread(3) == "0,1,2,3"


def test_defaults_name_what_is_shipped():
    defaults = {name: flag.default for name, flag in inspect.signature(prescreen.main).parameters.items()}
    assert [resolve_model(model).name for model in defaults["models"]] == [
        "smollm2-135m",
        "smollm2-135m-random",
    ]
    assert defaults["dataset"] in dataset_names()


# --- the texts -----------------------------------------------------------------------------------------------------


def described(folder, content, test=None, text="review", label="stars", target="classes"):
    (folder / "my.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    if test is not None:
        (folder / "mine2.csv").write_text(test)
    second = str(folder / "mine2.csv") if test is not None else None
    where = prescreening.describe(str(folder / "my.csv"), second, text, label, target, str(folder / "out"))
    return load_dataset(str(where))


def test_cells_as_people_write_them(tmp_path):
    rows = [
        ('"she said ""no"", twice"', "01"), ('"two\nlines\r\nand three"', "1"), ("naïve 漢字 😀", "1.0"),
        ("plain", "NA"), ("", "1"), ("no label", ""), ('"  spaces  "', ' "01" '.strip()), ("NULL", "NA"),
    ]  # fmt: skip
    body = "review,stars\n" + "".join(f"{text},{label}\n" for text, label in rows)
    for content in (body.encode("utf-8-sig"), body.encode(), body.replace("\n", "\r\n").encode()):
        data = described(tmp_path, content, test=body)
        assert data.classes == ["01", "1", "1.0", "NA"]
        texts = [re.sub(r"[\r\n]+", "\n", text) for text in data.splits["train"].texts]
        assert texts[:3] == ['she said "no", twice', "two\nlines\nand three", "naïve 漢字 😀"]
        dropped = data.provenance["dropped"]  # of both files
        assert len(texts) == 6 and dropped["empty"] == dropped["unlabelled"] == 2


def test_a_part_of_train_is_held_out(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{'ab'[i % 4 == 0]}\n" for i in range(80))
    data = described(tmp_path, body + "text 3,b\ntext 4,b\nthe only one,c\n")
    train, test = data.splits["train"], data.splits["test"]
    assert not set(train.texts) & set(test.texts) and "the only one" in train.texts
    assert np.bincount(test.labels, minlength=3).tolist() == [15, 5, 0]
    assert data.provenance["dropped"]["duplicate"] == 2
    assert "stratified on stars" in data.provenance["split_rule"]


def test_a_hundred_thousand_rows(tmp_path):
    body = "review,stars\n" + "".join(f'"row {i}, ""so""\nsecond line",{i % 5}\n' for i in range(100_000))
    data = described(tmp_path, body)
    assert len(data.splits["train"].texts) == 75_000 and len(data.splits["test"].texts) == 25_000
    doubts = prescreening.check_texts(data, 2000, 42)
    assert "2000 of 75000 train texts were used: --limit 75000 takes all" in doubts


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label": "star"}, "label: .* no column 'star'; did you mean 'stars'"),
        ({"text": "reviews"}, "text: .* no column 'reviews'; did you mean 'review'"),
        ({"target": "numeric"}, "label: .* has 'a', which is no number"),
    ],
)
def test_wrong_flags_suggest_the_right_ones(tmp_path, keys, message):
    body = "review,stars\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
    with pytest.raises(UserError, match=message):
        described(tmp_path, body, **keys)


def test_faults_of_the_flags(tmp_path, capsys):
    for flags, message in (
        (["--train", "nowhere.csv"], "--train nowhere.csv: there is no such file"),
        (["--test", "x.csv"], "--test: only together with --train"),
        (["--target", "numeric"], "--target: only together with --train"),
        (["--target", "number"], "--target number: must be classes or numeric"),
        (["--limit", "1"], "--limit 1: must be at least 2"),
    ):
        assert cli.run(prescreen.main, [*flags, "--output", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err


def test_labels_that_are_not_classes(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{i / 10}\n" for i in range(60))
    data = described(tmp_path, body, test=body)
    with pytest.raises(UserError, match="60 classes in 60 train texts.*--target numeric"):
        prescreening.check_texts(data, 2000, 42)
    body = "review,stars\n" + "".join(f"text {i},{i % 25}\n" for i in range(100))
    doubts = " ".join(prescreening.check_texts(described(tmp_path, body, test=body), 2000, 42))
    assert "the 25 classes are all numbers: is it --target numeric?" in doubts
    assert (
        "100 test texts are in train too" in doubts
        and "classes with fewer than 10 train texts: 25 of 25" in doubts
    )


# --- the expected gain ---------------------------------------------------------------------------------------------


def test_expected_gain_with_and_without_a_calibration(tmp_path, monkeypatch):
    monkeypatch.setattr(prescreening, "config_folders", lambda kind: [tmp_path / "configs"])
    row = {"model": "a", "accuracy": 0.8, "headroom": 0.05, "ntps": 0.3, "retention": 0.5}
    found = prescreening.expected_gain(row, None)
    assert np.isnan(found["lora_gain"]) and "no calibration file" in found["lora_gain_note"]
    fit = {"usable": True, "predictors": ["probe_accuracy"], "intercept": 0.5, "half_width": 0.02}
    fit |= {"coefficients": {"probe_accuracy": -0.5}, "range": {"probe_accuracy": [0.6, 0.9]}}
    points = [{"probe_accuracy": value} for value in (0.6, 0.7, 0.8, 0.9)]
    identity = {"target": "lora_gain", "models": ["a"]}
    about = {"format": "ntps gain calibration 1", "identity": identity, "fit": fit, "points": points}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/gain.json").write_text(json.dumps(about))
    for path in (None, str(tmp_path / "configs/gain.json")):
        found = prescreening.expected_gain(row, path)
        assert found["lora_gain"] == pytest.approx(0.1) and found["lora_gain_high"] == pytest.approx(0.12)
        assert prescreen_page.gain(found) == "+10.0 points (+8.0 to +12.0)"
    for changed, why in (
        ({"accuracy": 0.95}, "outside 0.600 to 0.900"),
        ({"model": "b"}, "made from a alone"),
    ):
        found = prescreening.expected_gain(row | changed, None)
        assert why in found["lora_gain_note"] and prescreen_page.gain(found) == "not calibrated for this"
    row.pop("accuracy")
    assert "the labels are numbers" in prescreening.expected_gain(row, None)["lora_gain_note"]
    with pytest.raises(UserError, match="nowhere.json does not exist"):
        prescreening.expected_gain(row | {"accuracy": 0.8}, str(tmp_path / "nowhere.json"))


# --- statistics ----------------------------------------------------------------------------------------------------


def test_skill_and_its_error_cover():
    """90 % intervals of skill cover the true one; two equal models are told apart in 5 % of all tries."""
    rng = np.random.default_rng(0)
    covered, apart, tries, n = 0, 0, 1000, 200
    for _ in range(tries):
        guesses = rng.gamma(2, 1, n)  # true mean 2
        shared = rng.gamma(1, 0.5, n)  # both models find the same texts hard
        errors = [0.3 * guesses + shared * rng.uniform(0.5, 1.5, n) for _ in range(2)]  # true mean 1.1
        reach = 1.645 * prescreening.ratio_error(errors[0], guesses)
        covered += abs(1 - errors[0].mean() / guesses.mean() - (1 - 1.1 / 2)) <= reach
        found = [
            prescreening.Measured({"heldout_skill": 1 - e.mean() / guesses.mean()}, [], {}, None, e, guesses)  # type: ignore[arg-type]
            for e in errors
        ]
        apart += not prescreening.rank(found)[1].row["tied"]
    assert 0.85 < covered / tries < 0.95
    assert 0.03 < apart / tries < 0.08


def test_verdict_says_when_nothing_is_learnt():
    row = {"heldout_skill": 0.01, "heldout_skill_se": 0.02, "model": "a"}
    one = prescreening.Measured(row, [], {}, None, np.ones(3), np.ones(3))  # type: ignore[arg-type]
    assert "none of these models can be recommended" in prescreen_page.verdict(prescreening.rank([one]))
