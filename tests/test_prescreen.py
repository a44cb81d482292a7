"""prescreen.py: its values against the other scripts', its page, its errors, and files as people have them."""

import gzip
import json
import re
from dataclasses import asdict, fields
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import K_sweep
import linear_sklearn
import prescreen
from ntps.commands import validate
from ntps.errors import UserError
from ntps.flags import Prescreening
from ntps.models.description import resolve_model
from ntps.moments.pair import Cached, Pair
from ntps.prescreening import measure, page, ranking, user_files
from ntps.run import cli
from ntps.scores.permutation_null import p_value
from ntps.sources import yaml_files
from ntps.sources.yaml_files import config_names
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


def test_every_column_of_the_table_is_explained(world):
    explained = Path(__file__).parents[1].joinpath("docs/columns.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", explained))
    columns = pd.read_csv(world[0] / "out/my.csv").columns
    missing = [name for name in columns if not {name, re.sub("_(low|high)$", "", name)} & named]
    assert not missing, missing


def test_values_are_those_of_the_other_scripts(world):
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
        for column in measure.OF_SCORES:
            assert row[column] == pytest.approx(model[column], rel=1e-6), column
        assert row["ntps_se"] > 0 and model["corrected_refusal"] == ""
        conditioned = pd.read_csv(folder / f"out/conditioned/{name}/my.csv").query(
            "layer == @layer and choice == 'cv'"
        )
        for column in measure.OF_CONDITIONED:
            assert conditioned[column].item() == pytest.approx(model[column], rel=1e-6), column
        for column, reach in zip(measure.ESTIMATED, (1.645, 2.132)):  # normal; t with 4 degrees of freedom
            low, high = row[column] + np.array([-1, 1]) * reach * row[f"{column}_se"]
            assert [low, high] == pytest.approx([model[f"{column}_low"], model[f"{column}_high"]], rel=1e-3)
        peers = pd.read_csv(folder / f"out/scores/{name}/my.csv").set_index("layer")
        assert peers["gcv_error"].idxmin() == layer
        for column in ("gcv_skill", *measure.OF_LAYERS, "headroom"):
            assert peers[column][layer] == pytest.approx(model[column], rel=1e-6), column
        assert peers["ridge_test_skill"][layer] == pytest.approx(model["heldout_skill"], rel=1e-6)
        assert peers["ridge_test_mse"][layer] == pytest.approx(model["heldout_mse"], rel=1e-6)
        accuracy = pd.read_csv(folder / f"out/accuracy/linear_sklearn/{name}/my.csv")
        test = accuracy.query("layer == @layer and probe == 'logistic_regression' and split == 'test'")
        assert test["accuracy"].item() == pytest.approx(model["accuracy"])


def test_the_page_escapes_and_asks_no_network(world):
    folder, _, models = world
    shown = (folder / "out/my.html").read_text(encoding="utf-8")
    assert "<script" not in shown and "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in shown
    assert "grün" in shown and all(model["model"] in shown for model in models)
    assert shown.count("data:image/svg+xml;base64,") == 4
    links = re.findall(r"""(?:src|href|url|@import)\s*[=(]\s*["']?([^"')\s>]+)""", shown)
    assert links and all(link.startswith("data:") for link in links)


class Checked(HTMLParser):
    """Fails at a tag that another one's end leaves open; the tags and attributes that there are."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], set(), set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_hostile_names_change_no_tag(world):
    """Whatever comes from files, flags or a model's name stands on the page as text."""
    folder, _, models = world
    safe = Checked((folder / "out/my.html").read_text(encoding="utf-8"))
    hostile = [
        "<img src=x onerror=alert(1)>",
        '"><svg onload=a()>',
        "{{ 7 * 7 }}{% raw %}",
        "</style></p>&lt;'",
    ]
    for text in hostile:
        row = models[0] | {"model": text, "device": text, "lora_gain_note": text, "warnings": [text]}
        row |= {name: np.nan for name, value in row.items() if value is None}
        facts = {
            "name": text, "target": "classes", "texts": {"train": 2, "test": 1}, "seen": 0, "split_rule": text, "example": text,
            "classes": [text], "class_counts": {"train": [2], "test": [1]},
            "flags": asdict(prescreen.Flags(train=text)),
        }  # fmt: skip
        pictures = {"labels": "AA==", "layers": "AA==", "curves": ["AA=="]}
        what = page.context([row], facts, [text], [{"model": text, "dropped": text}])
        shown = page.TEMPLATES.get_template("page.html").render(what, pictures=pictures)
        found = Checked(shown)
        assert found.tags <= safe.tags and found.attributes <= safe.attributes
        assert unescape(shown).count(text) >= 10 and (text not in shown or text.startswith("{{"))


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
    assert measure.spread(30) == "0,4,8,11,15,19,22,26,30"
    assert measure.spread(3) == "0,1,2,3"


def test_defaults_name_what_is_shipped():
    defaults = {name: flag.default for name, flag in cli.flags_of(prescreen.main).items()}
    assert [resolve_model(model).name for model in defaults["models"]] == [
        "smollm2-135m",
        "smollm2-135m-random",
    ]
    assert user_files.EXAMPLE in config_names("datasets")
    (told,) = (one.metadata["help"] for one in fields(Prescreening) if one.name == "dataset")
    assert f"default: {user_files.EXAMPLE})" in told


# --- the texts -----------------------------------------------------------------------------------------------------


def described(folder, content, test=None, text="review", label="stars", target="classes"):
    folder.mkdir(exist_ok=True)
    (folder / "my.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    if test is not None:
        (folder / "mine2.csv").write_text(test)
    second = str(folder / "mine2.csv") if test is not None else None
    train, output = str(folder / "my.csv"), str(folder / "out")
    flags = prescreen.Flags(train=train, test=second, text=text, label=label, target=target, output=output)
    return user_files.load(flags)[1]


def test_cells_as_people_write_them(tmp_path):
    rows = [
        ('"she said ""no"", twice"', "01"), ('"two\nlines\r\nand three"', "1"), ("naïve 漢字 😀", "1.0"),
        ("plain", "NA"), ("", "1"), ("no label", ""), ('"  spaces  "', ' "01" '.strip()), ("NULL", "NA"),
    ]  # fmt: skip
    body = "review,stars\n" + "".join(f"{text},{label}\n" for text, label in rows)
    for content in (body.encode("utf-8-sig"), body.encode(), body.replace("\n", "\r\n").encode()):
        data = described(tmp_path, content, test=body)
        assert data.classes == ["01", "1", "NA"] and data.provenance["merged_labels"] == {"1": ["1", "1.0"]}
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
    found = user_files.check(data, 2000, 42)
    assert "2000 of 75000 train texts were used: --limit 75000 takes all" in found


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
    (texts := tmp_path.parent / "texts.csv").write_text("text,label\na,x\nb,x\n")
    (other := tmp_path.parent / "other.csv").write_text("text,star\nc,x\nd,y\n")
    both = ["--train", str(texts), "--test", str(other)]
    for flags, message in (
        (["--train", str(texts)], f"error: --train {texts}: "),
        (
            [*both, "--text", "texts"],
            f"error: --train {texts} --test {other}: text: split 'train' has no column",
        ),
        ([*both, "--encoding", "utf-16"], f"error: --train: cannot read {texts}: it is not utf-16"),
        (["--train", "nowhere.csv"], "--train nowhere.csv: there is no such file"),
        (["--test", "x.csv"], "--test: only together with --train"),
        (["--train", "x.csv", "--dataset", "trec6"], "--dataset trec6: not together with --train x.csv"),
        (["--target", "numeric"], "--target: only together with --train"),
        (["--target", "number"], "--target number: must be classes or numeric"),
        (["--limit", "1"], "--limit 1: must be at least 2"),
        (["--label_permutations", "38"], "--label_permutations 38: must be 0 or at least 39"),
        (["--label_permutations", "-1"], "--label_permutations -1: must be 0 or at least 39"),
    ):
        assert cli.run(prescreen.main, [*flags, "--output", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_labels_that_are_not_classes(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{i / 10}\n" for i in range(60))
    data = described(tmp_path, body, test=body)
    with pytest.raises(UserError, match="60 classes in 60 train texts.*--target numeric"):
        user_files.check(data, 2000, 42)
    body = "review,stars\n" + "".join(f"text {i},{i % 25}\n" for i in range(100))
    other = body.replace("text 9", "another 9")
    found = " ".join(user_files.check(described(tmp_path, body, test=other), 2000, 42))
    assert "the 25 classes are all numbers: is it --target numeric?" in found
    assert (
        "89 test texts are in train too" in found
        and "classes with fewer than 10 train texts: 25 of 25" in found
    )


def test_test_rows_that_are_all_of_train_or_of_other_classes_are_refused(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(60))
    with pytest.raises(UserError, match="all 60 test texts are in train too"):
        user_files.check(described(tmp_path, body, test=body), 2000, 42)
    other = "review,stars\n" + "".join(f"new {i},{'AB'[i % 2]}\n" for i in range(60))
    with pytest.raises(
        UserError,
        match="no test text has one of the classes of its train texts .test: A, B.: are they written alike",
    ):
        user_files.check(described(tmp_path, body, test=other), 2000, 42)
    some = "review,stars\n" + "".join(
        f"{'new' if i % 2 else 'text'} {i},{'ab'[i % 3 % 2]}\n" for i in range(60)
    )
    data = described(tmp_path, body, test=some)
    assert user_files.seen(data, prescreen.Flags(train="x")) == 30
    assert validate.warnings(data)[0].startswith("30 test texts are in train too")


@pytest.mark.parametrize(
    ("rows", "label", "message"),
    [
        ([(f"text {i}", i / 7) for i in range(60)] + [("text 0", 0.0)] * 3, "stars",
         "60 rows .dropped: 3 duplicate.: with 60 different values of 'stars'.*--target numeric"),
        ([("one", "a"), ("two", "b")], "stars", "2 rows .dropped: none.: with 2 different values"),
        ([(f"text {i}", i % 2) for i in range(40)], "review", "40 rows .* values of 'review'.*the right label"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_split(tmp_path, rows, label, message):
    body = "review,stars\n" + "".join(f"{text},{star}\n" for text, star in rows)
    with pytest.raises(UserError, match=message):
        described(tmp_path, body, label=label)


def test_duplicates_are_counted_once(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(80))
    body += "".join(f"text {i},{'aab'[i % 3]}\n" for i in range(6))  # texts 1, 2 and 3 as other than before
    found = user_files.check(described(tmp_path, body), 2000, 42)
    assert "dropped rows: 6 duplicate (3 of them with another label)" in found


def test_a_test_part_that_scores_nothing(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{i % 2}\n" for i in range(20))
    with pytest.raises(UserError, match="1 test text of 21: .* needs at least 2"):
        user_files.check(described(tmp_path, body, test="review,stars\nnew,1\n"), 2000, 42)
    same = "review,stars\nnew,1\nother,1.0\n"
    data = described(tmp_path / "b", body, test=same, target="numeric")
    with pytest.raises(UserError, match="2 test texts all have one number"):
        user_files.check(data, 2000, 42)


def test_a_refused_run_leaves_the_description_of_an_earlier_one(tmp_path, capsys):
    body = "review,stars,other\n" + "".join(f"text {i},{'ab'[i % 2]},{i % 3}\n" for i in range(40))
    (tmp_path / "my.csv").write_text(body)
    flags = ["--train", str(tmp_path / "my.csv"), "--text", "review", "--output", str(tmp_path / "out")]
    where, models = tmp_path / "out/data/my.yaml", ["--models", "nowhere"]
    assert cli.run(prescreen.main, [*models, *flags, "--label", "star"]) == 1
    assert "did you mean 'stars'" in capsys.readouterr().err and not where.exists()
    assert cli.run(prescreen.main, [*models, *flags, "--label", "other"]) == 1
    tiny_model(tmp_path / "a")
    real = ["--models", str(tmp_path / "a")]
    assert (
        cli.run(prescreen.main, [*real, *flags, "--label", "stars"]) == 0
    )  # nothing rests on the failed run
    before = where.read_text()
    assert "label: stars" in before
    capsys.readouterr()
    assert cli.run(prescreen.main, [*models, *flags, "--label", "other"]) == 1
    assert "give another --output, or --overwrite" in capsys.readouterr().err and where.read_text() == before
    assert cli.run(prescreen.main, [*models, *flags, "--label", "star", "--overwrite"]) == 1
    assert "did you mean 'stars'" in capsys.readouterr().err and where.read_text() == before
    assert cli.run(prescreen.main, [*models, *flags, "--label", "other", "--overwrite"]) == 1
    assert where.read_text() == before  # nor does one that measured nothing replace it
    assert cli.run(prescreen.main, [*real, *flags, "--label", "stars"]) == 0
    assert cli.run(prescreen.main, [*real, *flags, "--label", "other", "--overwrite"]) == 0
    assert "label: other" in where.read_text()


@pytest.mark.parametrize("label", ["star", "review", "one", "other"], ids=str)
def test_of_a_failed_run_nothing_is_left(tmp_path, capsys, label):
    body = "review,stars,one,other\n" + "".join(f"text {i},{'ab'[i % 2]},1,{i // 2}\n" for i in range(40))
    (tmp_path / "my.csv").write_text(body)
    flags = ["--models", "nowhere", "--train", str(tmp_path / "my.csv"), "--text", "review"]
    for name in (label, "stars"):
        assert cli.run(prescreen.main, [*flags, "--label", name, "--output", str(tmp_path / "out")]) == 1
        assert "earlier run" not in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["my.csv", "my.csv.gz"])
def test_validate_states_the_split_that_prescreen_makes(tmp_path, capsys, name):
    body = "review;stars;id\n" + "".join(f"café {i};{'AaBB'[i % 4]};{i}\n" for i in range(40))
    (tmp_path / name).write_bytes(
        gzip.compress(body.encode("cp1252")) if "gz" in name else body.encode("cp1252")
    )
    tiny_model(tmp_path / "a")
    for label, target, rule in (("stars", "classes", "test is 25 % of the rows, stratified on stars, seed 42"),
                                ("id", "numeric", "test is 30 % of the rows, shuffled with seed 42, not stratified")):  # fmt: skip
        shared = [
            "--text",
            "review",
            "--label",
            label,
            "--target",
            target,
            "--encoding",
            "cp1252",
            "--normalise_labels",
        ]
        assert cli.run(validate.main, [str(tmp_path / name), *shared]) == 0
        said = capsys.readouterr().out
        assert f"test split       {rule}\n" in said and "data set         my\n" in said
        output = ["--output", str(tmp_path / label)]
        models = ["--models", str(tmp_path / "a"), *output]
        assert cli.run(prescreen.main, [*models, "--train", str(tmp_path / name), *shared]) == 0
        assert rule in capsys.readouterr().out
        assert cli.run(validate.main, [str(tmp_path / label / "data/my.yaml")]) == 0
        assert capsys.readouterr().out == said
        if target == "classes":
            assert "classes          2: a, b\n" in said


def test_flags_of_columns_need_a_file(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("id: a/b\ntext: a\nlabel: b\n")
    for flag in ("--text", "--encoding", "--delimiter"):
        assert cli.run(prescreen.main, [flag, "comma", "--output", str(tmp_path)]) == 1
        assert f"{flag}: only together with --train" in capsys.readouterr().err
        assert cli.run(validate.main, [str(tmp_path / "my.yaml"), flag, "comma"]) == 1
        assert f"{flag}: only with a file of rows" in capsys.readouterr().err


def test_facts_have_numbers_as_the_file_has_them(tmp_path):
    body = "review,stars\n" + "".join(f"text {i},{100 + i}\n" for i in range(20))
    data = described(tmp_path, body, test=body, target="numeric")
    label = user_files.facts(data, prescreen.Flags())["label"]
    assert [label[name] for name in ("mean", "least", "most")] == pytest.approx([109.5, 100, 119])


# --- the expected gain ---------------------------------------------------------------------------------------------


def test_expected_gain_with_and_without_a_calibration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(yaml_files, "config_folders", lambda kind: [Path("configs"), tmp_path / "shipped"])
    row = {"model": "a", "accuracy": 0.8, "headroom": 0.05, "ntps": 0.3, "retention": 0.5, "pooling": "mean"}
    found = measure.expected_gain(row, None)
    assert np.isnan(found["lora_gain"]) and "no calibration file" in found["lora_gain_note"]
    fit = {"usable": True, "predictors": ["probe_accuracy"], "intercept": 0.5, "half_width": 0.02}
    fit |= {"coefficients": {"probe_accuracy": -0.5}, "range": {"probe_accuracy": [0.6, 0.9]}}
    points = [{"probe_accuracy": value} for value in (0.6, 0.7, 0.8, 0.9)]
    identity = {"target": "lora_gain", "models": ["a"]}
    about = {"format": "ntps gain calibration 1", "identity": identity, "fit": fit, "points": points}
    for folder in ("configs", "shipped"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs/gain.json").write_text(json.dumps(about))
    assert np.isnan(measure.expected_gain(row, None)["lora_gain"]), "of the folder that it is run in"
    (tmp_path / "shipped/gain.json").write_text(json.dumps(about))
    for path in (None, str(tmp_path / "configs/gain.json")):
        found = measure.expected_gain(row, path)
        assert found["lora_gain"] == pytest.approx(0.1) and found["lora_gain_high"] == pytest.approx(0.12)
        assert page.gain(found) == "+10.0 points (+8.0 to +12.0)"
    for changed, why in (
        ({"accuracy": 0.95}, "outside 0.600 to 0.900"),
        ({"model": "b"}, "made from a alone"),
        ({"pooling": "last"}, "it is of mean states"),
    ):
        found = measure.expected_gain(row | changed, None)
        assert why in found["lora_gain_note"] and page.gain(found) == "not calibrated for this"
    row.pop("accuracy")
    assert "the labels are numbers" in measure.expected_gain(row, None)["lora_gain_note"]
    with pytest.raises(UserError, match="nowhere.json does not exist"):
        measure.expected_gain(row | {"accuracy": 0.8}, str(tmp_path / "nowhere.json"))


# --- statistics ----------------------------------------------------------------------------------------------------


def test_skill_and_its_error_cover():
    """90 % intervals of skill cover the true one; two equal models differ significantly in 5 % of all tries."""
    rng = np.random.default_rng(0)
    covered, apart, tries, n = 0, 0, 1000, 200
    for _ in range(tries):
        guesses = rng.gamma(2, 1, n)  # true mean 2
        shared = rng.gamma(1, 0.5, n)  # both models find the same texts hard
        errors = [0.3 * guesses + shared * rng.uniform(0.5, 1.5, n) for _ in range(2)]  # true mean 1.1
        reach = 1.645 * measure.ratio_error(errors[0], guesses)
        covered += abs(1 - errors[0].mean() / guesses.mean() - (1 - 1.1 / 2)) <= reach
        found = [
            measure.Measured({"heldout_skill": 1 - e.mean() / guesses.mean()}, None, e, guesses)  # type: ignore[arg-type]
            for e in errors
        ]
        apart += not ranking.ordered(found)[1].row["tied"]
    assert 0.85 < covered / tries < 0.95
    assert 0.03 < apart / tries < 0.08


@pytest.mark.parametrize("n", [10, 20, 300])
def test_equal_models_are_tied(n):
    """Of five equal models, in about 5 % of tries some is called not tied, with ten rows as with many."""
    rng, apart, tries = np.random.default_rng(1), 0, 2000
    for _ in range(tries):
        errors, guesses = rng.normal(1, 0.5, (5, n)) if n < 100 else rng.gamma(2, 0.5, (5, n)), np.ones(n)
        found = [
            measure.Measured({"heldout_skill": -e.mean()}, None, e, guesses)  # type: ignore[arg-type]
            for e in errors
        ]
        apart += not all(one.row["tied"] for one in ranking.ordered(found))
    assert 0.03 < apart / tries < 0.07
    assert ranking.reach(1) == ranking.reach(2) == pytest.approx(1.95996, abs=1e-4)


def test_error_of_an_accuracy():
    assert measure.share_error(1, 20) == pytest.approx(np.sqrt(22 * 2 / 24**3))
    assert measure.share_error(0, 20) == pytest.approx(measure.share_error(1, 20))
    assert measure.share_error(0.3, 10**6) == pytest.approx(np.sqrt(0.21 / 10**6), rel=1e-4)


@pytest.mark.parametrize("shuffles", [19, 20, 39, 59, 99])
def test_above_below_and_among_shuffled_labels(shuffles):
    """Against both one-sided tests on the shuffles themselves, each at half the level."""
    null = torch.linspace(0, 1, shuffles, dtype=torch.float64)
    for reached in range(shuffles + 1):
        observed = (reached - 0.5) / (shuffles - 1)  # above that many
        row = row_of(p_value(observed, null), shuffles, observed)
        above, below = (round(2 * (1 + n) / (shuffles + 1), 9) <= 0.05 for n in (shuffles - reached, reached))
        side = "above" if above else "below" if below else "among"
        assert [measure.side_of(row, score) for score in measure.NULLS] == [side] * 3
    same = p_value(1 - 1e-13, torch.ones(shuffles))  # all directions kept: every shuffle scores the same
    assert measure.side_of(row_of(same, shuffles), "ntps") == "among"
    assert measure.side_of(row_of(np.nan, 0), "ntps") == ""


def row_of(p, shuffles, score=0.1):
    names = {
        score: value for names in measure.NULLS.values() for score, value in zip(names, (p, 0.5), strict=True)
    }
    return names | dict.fromkeys(measure.NULLS, score) | {"shuffles": shuffles}


def with_p(world, p, shuffles, score=0.1, **others):
    """A measured row with other values: what its card on the page says, and its warnings."""
    row = dict(world[2][0]) | row_of(p, shuffles, score) | others
    row["lora_gain"] = row["seconds"] = np.nan
    facts = {"texts": {"test": 60}, "target": "classes"}
    kept = Cached(Pair.of(world[1][1], str(world[0] / "out/data/my.yaml"), str(world[0] / "out")))
    found = measure.warnings_of(row, kept.train)
    card = page.TEMPLATES.get_template("card.html").render(row=row | {"warnings": []}, facts=facts)
    return card, " ".join(found)


def test_what_is_said_of_shuffled_labels(world):
    card, found = with_p(world, 2 / 201, 200)
    where = "the labels matter to it, and where they lie is what corrected retention says"
    assert f"significantly below them: {where}" in card and "significantly less than the" in card
    below = "significantly below the label-permutation null: the labels matter to it; corrected retention says where they lie"
    assert (
        f" NTPS is {below}" in found
        and f"retention is {below}" in found
        and f"conditioned NTPS is {below}" in found
    )
    assert "indistinguishable" not in card + found
    card, found = with_p(world, 0.5, 200)
    assert "it is indistinguishable from them" in card and "indistinguishable from the" in card
    assert found.count("is indistinguishable from the label-permutation null") == 3
    card, found = with_p(world, 2 / 201, 200, score=0.9)
    assert "lie more along" in card and "significantly more than the" in card
    assert "permutation" not in found and "shuffled" not in found
    card, found = with_p(world, np.nan, 0)
    assert card.count("without shuffled labels nothing shows") == 2 and "expected of" not in card
    assert found.count("shuffled labels") == 1 and "nothing shows" in found


def test_warnings_of_the_sample_and_of_a_refusal(world):
    card, found = with_p(world, 0.5, 200, signal_share=0.2)
    assert (
        "at this number of rows NTPS describes the sample: 180 for " in found and "signal share 0.20" in found
    )
    assert (
        "label signal, as many principal components" in " ".join(card.split()) and "no corrected" not in found
    )
    for low, high, said in (
        (0.1, 0.3, "beyond what varies most"),
        (-0.3, -0.1, "keeps more"),
        (-0.1, 0.1, "may be 0"),
    ):
        ends = {"retention_corrected_minus_pca_low": low, "retention_corrected_minus_pca_high": high}
        assert said in with_p(world, 0.5, 200, **ends)[0]
    card, found = with_p(world, 0.5, 200, signal_share=0.6, n_over_d=2, corrected_refusal="no signal")
    assert "describes the sample" not in found and "no corrected retention: no signal" in found
    assert "is not reported: no signal" in card and "principal components:" not in card


def test_the_page_says_what_its_p_and_signal_are(world):
    shown = " ".join((world[0] / "out/my.html").read_text().split())
    assert (
        "exact for a layer fixed beforehand" in shown and "the p of retention can be off either way" in shown
    )
    assert "signal includes what every text shares" in shown and "Agresti and Coull" in shown


def test_verdict_says_when_nothing_is_learnt():
    row = {"heldout_skill": 0.01, "heldout_skill_se": 0.02, "model": "a", "n_test": 100}
    one = measure.Measured(row, None, np.ones(3), np.ones(3))  # type: ignore[arg-type]
    (ranked,) = ranking.ordered([one])
    assert "none of these models can be recommended" in page.verdict([ranked.row])
    other = ranked.row | {"model": "b", "heldout_skill": 0.009, "heldout_skill_se": 0.001}
    said = page.verdict([ranked.row, other])
    assert said == "a is first, but its held-out skill is not significantly above 0; that of b is above it."
