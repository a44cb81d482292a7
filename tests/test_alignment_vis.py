"""alignment_vis.py on a tiny model: coordinates by their definition, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import alignment_vis
import cache
import K_sweep
from ntps.moments.file import MomentsFile
from ntps.run import cli
from ntps.scores.words import PAPER_WORDS, leading_pair
from tests.tiny import tiny_dataset, tiny_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tiny_model(folder / "tiny")
    pair = [
        "--models",
        str(folder / "tiny"),
        "--datasets",
        str(tiny_dataset(folder, name="texts")),
        "--output",
        str(folder / "out"),
    ]
    assert cli.run(cache.main, [*pair, "--splits", "train"]) == 0
    return folder, pair


def tables(folder):
    return sorted((folder / "out/words").glob("*/*.csv"))


def test_coordinates_are_mean_states_on_the_two_directions(world, capsys):
    folder, pair = world
    assert cli.run(alignment_vis.main, [*pair, "--layer", "2"]) == 0
    assert "layer 2" in capsys.readouterr().out
    (table,) = tables(folder)
    rows = pd.read_csv(table)
    assert [len(rows), *rows["space"].unique()] == [26, "U", "V"]
    assert list(rows["word"][:13]) == [word for group in PAPER_WORDS.values() for word in group]
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    model = AutoModel.from_pretrained(folder / "tiny").eval()
    file = MomentsFile(next((folder / "out/moments").glob("*/*/train.safetensors")))
    for space in "UV":
        own = rows[rows["space"] == space].reset_index(drop=True)
        directions = leading_pair(file.averages(file.layers.index(2)), space)[0].numpy()
        for word, tokens, x, y in own[["word", "tokens", "x", "y"]].itertuples(index=False):
            ids = tokenizer(word, return_tensors="pt")  # with the special token in front
            assert tokens == ids["input_ids"].shape[1] and ids["input_ids"][0, 0] == tokenizer.bos_token_id
            with torch.no_grad():
                state = model(**ids, output_hidden_states=True).hidden_states[2][0].double().mean(0).numpy()
            np.testing.assert_allclose(np.abs([x, y]), np.abs(state @ directions), rtol=1e-3, atol=1e-4)
        centre = own.groupby("group")[["x", "y"]].mean()
        assert (centre.loc["Joy"] >= centre.loc["Sad"]).all()
    assert table.with_suffix(".png").stat().st_size > 10_000
    assert table.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    before = table.stat().st_mtime_ns
    assert cli.run(alignment_vis.main, [*pair, "--layer", "2"]) == 0
    assert "already there" in capsys.readouterr().out and table.stat().st_mtime_ns == before
    assert cli.run(alignment_vis.main, [*pair, "--layer", "1"]) == 1
    assert "layer is 2 there, 1 here" in capsys.readouterr().err


def test_own_words_and_the_best_layer(world, capsys):
    folder, pair = world
    words = folder / "words.yaml"
    words.write_text("Water: [river, boat]\nFood: [bread, 'oven sugar']\nSky: [moon]\n")
    flags = [*pair, "--words", str(words), "--between", "Sky", "Food", "--overwrite"]
    assert cli.run(alignment_vis.main, flags) == 1
    assert "K_sweep.py" in capsys.readouterr().err  # no best layer yet
    assert cli.run(K_sweep.main, pair) == 0
    assert cli.run(alignment_vis.main, flags) == 0
    rows = pd.read_csv(tables(folder)[0])
    scores = pd.read_csv(next((folder / "out/scores").glob("*/*.csv")))
    assert set(rows["layer"]) == {scores.loc[scores["gcv_error"].idxmin(), "layer"]}
    assert "oven sugar" in set(rows["word"])
    for _, own in rows.groupby("space"):
        centre = own.groupby("group")[["x", "y"]].mean()
        assert (centre.loc["Sky"] >= centre.loc["Food"]).all()


@pytest.mark.parametrize(
    "text, flags, message",
    [
        ("Joy: [glad]", [], "two or more lists"),
        ("[a, b]", [], "such as `Joy: [lovely, amazing]`"),
        ("Joy: [glad]\nSad: ['']", [], "empty word"),
        ("Joy: [glad", [], "cannot be read"),
        ("Joy: [yes]\nSad: [low]", [], "True is no text: quote it"),
        ("No: [low]\nJoy: [glad]", [], "False is no text: quote it"),
        ("Joy: [glad]\nSad: [12]", [], "12 is no text: quote it"),
        ("A: [x]\nB: [y]", ["--between", "A", "C"], "name two of the groups A, B"),
        ("A: [x]\nB: [y]", ["--between", "A"], "name two of the groups"),
        ("A: [x]\nB: [y]", ["--layer", "9"], "has the layers"),
    ],
)
def test_clear_errors(world, capsys, text, flags, message):
    folder, pair = world
    (folder / "bad.yaml").write_text(text)
    assert cli.run(alignment_vis.main, [*pair, "--words", str(folder / "bad.yaml"), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_moments_of_another_model_are_refused(world, capsys, tmp_path):
    folder, pair = world
    name = next((folder / "out/moments").iterdir()).name
    tiny_model(tmp_path / "tiny", seed=5)
    flags = ["--models", str(tmp_path / "tiny"), *pair[2:]]
    assert cli.run(alignment_vis.main, flags) == 1
    assert "no train moments" in capsys.readouterr().err  # its folder's name tells it apart
    other = next(p for p in [tmp_path / "tiny"])
    from ntps.models.description import resolve_model
    from ntps.models.loading import output_name

    linked = folder / "out/moments" / output_name(resolve_model(str(other)))
    linked.symlink_to(folder / "out/moments" / name)
    assert cli.run(alignment_vis.main, [*flags, "--layer", "1"]) == 1
    assert "of another model" in capsys.readouterr().err


def test_without_flags_it_is_about_the_demos_pair(tmp_path, capsys):
    assert cli.run(alignment_vis.main, ["--output", str(tmp_path)]) == 1
    pair = "--models smollm2-135m --datasets rotten_tomatoes_pypi"
    assert f"run python cache.py {pair}" in capsys.readouterr().err
