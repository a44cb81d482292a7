"""Pooling: moments by their definition, states of real models, and that no two poolings are mixed."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

import alignment_vis
import cache
import K_sweep
import linear_sklearn
import linear_training
import prescreen
from ntps import from_arrays
from ntps.commands import merge
from ntps.errors import UserError
from ntps.flags import POOLINGS
from ntps.moments.batches import Corpus
from ntps.moments.encoder import Encoder, encode
from ntps.moments.file import MomentsFile, unpack
from ntps.moments.sums import Batch, Moments, permuted_rows, targets_of
from ntps.run import cli
from ntps.scores.words import leading_pair
from ntps.system import provenance
from report import pooling as report
from tests.test_cache import killed
from tests.test_moments import NAMES, ragged
from tests.tiny import tiny_model, tiny_world, world_flags

OTHERS = POOLINGS[1:]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def call(script, world, output, *flags) -> int:
    return cli.run(script.main, world_flags(world, output, *flags))


def file_of(output, kind, split="train") -> Path:
    (path,) = (output / kind).glob(f"*/tiny/{split}.safetensors")
    return path


def same(a, b, tolerance) -> bool:
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(
        np.linalg.norm(a[name] - b[name]) <= tolerance * np.linalg.norm(b[name]) for name in a
    )


def by_definition(states, lengths, labels, pooling):
    """A plain loop over texts and tokens, (n, T, d) float64."""
    sums, tokens = {}, 0

    def add(name, value):
        sums[name] = sums.get(name, torch.zeros_like(value)) + value / len(states)

    for X, count, label in zip(states, lengths, labels):
        X = X[:count]
        if pooling == "mean_without_first" and count > 1:
            X = X[1:]
        m, y = X[-1] if pooling == "last" else X.mean(0), targets_of([label], 3)[0]
        tokens += len(X)
        add("mean_second_moment", torch.outer(m, m))
        add("mean_label_moment", torch.outer(m, y))
        add("mean_state", m)
        for t in range(len(X)):
            c, following = X[:t].sum(0), X[t]  # c is 0 for the first
            add("prefix_second_moment", torch.outer(c, c))
            add("prefix_next_moment", torch.outer(c, following))
    return sums, tokens


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 7, 33, 70]))
def test_moments_are_those_of_the_definition(pooling, seed, longest):
    states, lengths, labels = ragged(longest=longest, seed=seed)
    expected, tokens = by_definition(states, lengths, labels, pooling)
    states[torch.arange(longest)[None] >= lengths[:, None]] = torch.nan  # padding on the right
    moments = from_arrays(states, lengths, labels, 3, permutations=2, pooling=pooling)
    for name in NAMES:
        assert torch.allclose(moments.average(name, 0), expected[name], rtol=1e-12, atol=1e-12), name
    assert (moments.text_count, moments.token_count) == (len(states), tokens)
    shuffled = by_definition(
        states.nan_to_num(), lengths, labels[permuted_rows(len(labels), 2, 42)[1]], pooling
    )[0]
    assert torch.allclose(
        moments.average("label_moment_permuted", 0)[1], shuffled["mean_label_moment"], atol=1e-12
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_parts_add_up_in_any_order(pooling, seed, cut):
    states, lengths, labels = ragged(longest=40, seed=seed)
    whole = from_arrays(states, lengths, labels, 3, pooling=pooling)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    first, second = (
        from_arrays(states[rows], lengths[rows], labels[rows.numpy()], 3, pooling=pooling)
        for rows in (order[:cut], order[cut:])
    )
    first.merge(second)
    for name, total in whole.sums.items():
        assert torch.allclose(first.sums[name], total, rtol=1e-12, atol=1e-11), name
    assert first.token_count == whole.token_count


def test_without_the_first_token_is_the_mean_of_the_sequence_that_is_left():
    states, lengths, labels = ragged(longest=40)
    lengths = lengths.clamp(min=2)
    a = from_arrays(states, lengths, labels, 3, pooling="mean_without_first")
    b = from_arrays(states[:, 1:], lengths - 1, labels, 3)
    assert all(torch.equal(a.sums[name], b.sums[name]) for name in a.sums) and a.token_count == b.token_count


def test_an_unknown_pooling_is_refused(world, tmp_path, capsys):
    with pytest.raises(UserError, match="pooling 'max': must be mean or last or mean_without_first"):
        from_arrays(torch.ones(2, 4, 3), [3, 3], [0, 1], pooling="max")
    assert call(cache, world, tmp_path / "out", "--pooling", "max") == 1
    assert (
        "--pooling max: must be mean or last or" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize("pooling", OTHERS)
@pytest.mark.parametrize("packs", [None, 0])
def test_states_are_those_of_each_text_alone(tmp_path, pooling, packs):
    model = AutoModel.from_pretrained(tiny_model(tmp_path), dtype=torch.float64).eval()
    draw = np.random.default_rng(0)
    ids = [draw.integers(3, 100, length) for length in (1, 2, 5, 33, 1, 17, 40)]
    corpus = Corpus(ids, np.arange(7) % 2, 2, pooling)
    encoder, kept = Encoder(model), np.zeros((4, 7, 32))
    encoder.packs = encoder.packs if packs is None else packs
    moments = Moments(range(4), 32, 2)
    batches = [np.array([6, 3, 5]), np.array([2, 1, 0, 4])]
    for pass_moments in (None, moments):
        for rows, found in encode(encoder, corpus, batches, pass_moments):
            kept[:, rows] = found
        for row, tokens in enumerate(ids):
            with torch.no_grad():
                own = torch.stack(
                    model(torch.from_numpy(tokens)[None], output_hidden_states=True).hidden_states
                )[:, 0]
            expected = own[:, -1] if pooling == "last" else own[:, min(1, len(tokens) - 1) :].mean(1)
            np.testing.assert_allclose(kept[:, row], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.average("mean_second_moment", 2), kept[2].T @ kept[2] / 7, rtol=1e-12)


def test_a_token_that_is_not_finite_spoils_the_last_ones_text_too():
    states = torch.ones(9, 4)
    states[4] = torch.nan  # in the middle of the second text
    batch = Batch(torch.tensor([3, 4, 2]), torch.ones(3, 1, dtype=torch.float64), pooling="last")
    assert not Moments([0], 4, 1).add(0, states, batch)[1].isfinite().any()


@pytest.mark.parametrize("pooling", OTHERS)
def test_parts_kills_and_shards_end_at_the_same_numbers(world, tmp_path, pooling, capsys):
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states", "--pooling", pooling]
    assert call(cache, world, tmp_path / "whole", *flags) == 0
    killed(world, tmp_path / "killed", 9, "--keep_states", "--partitions", "2", "--pooling", pooling)
    capsys.readouterr()
    assert call(cache, world, tmp_path / "killed", *flags, "--partitions", 2) == 0
    assert "going on" in capsys.readouterr().out
    for shard in ("1/2", "2/2"):
        assert call(cache, world, tmp_path / "shards", *flags, "--shard", shard) == 0
    assert cli.run(merge.main, [str(tmp_path / "shards")]) == 0
    for kind in ("moments", "states"):
        for way in ("killed", "shards"):
            assert same(file_of(tmp_path / way, kind), file_of(tmp_path / "whole", kind), 1e-6), (kind, way)
    states = load_file(file_of(tmp_path / "whole", "states"))["states"].astype(float)
    moments = load_file(file_of(tmp_path / "whole", "moments"))
    M = unpack(moments["mean_second_moment"][2], 32)
    np.testing.assert_allclose(states[2].T @ states[2] / 60, M, rtol=1e-12)
    dropped = 60 if pooling == "mean_without_first" else 0  # with <s> in front every row has two tokens
    record = provenance.read(file_of(tmp_path / "whole", "moments"))["record"]
    assert moments["token_count"][0] == record["tokens"] - dropped


def test_a_checkpoint_of_another_pooling_is_not_used(world, tmp_path, capsys):
    killed(world, tmp_path / "a", 4, "--keep_states", "--pooling", "last")
    capsys.readouterr()
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states"]
    assert call(cache, world, tmp_path / "a", *flags) == 0 and call(cache, world, tmp_path / "b", *flags) == 0
    assert (
        'starting over: it is of another run: pooling is "last" there, "mean" here' in capsys.readouterr().out
    )
    for kind in ("moments", "states"):
        assert same(file_of(tmp_path / "a", kind), file_of(tmp_path / "b", kind), 0)


def test_only_another_than_the_default_is_in_the_identity_and_is_refused(world, tmp_path, capsys):
    assert call(cache, world, tmp_path, "--keep_states") == 0
    assert call(cache, world, tmp_path, "--keep_states", "--pooling", "mean") == 0
    assert "pooling" not in provenance.read(file_of(tmp_path, "moments"))["identity"]
    capsys.readouterr()
    assert call(cache, world, tmp_path, "--pooling", "last") == 1
    assert (
        'pooling is "mean" there, "last" here. Use another --output, or --overwrite'
        in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def pooled(world, tmp_path_factory):
    """A results folder for each pooling, with states, scores and probes."""
    folder = tmp_path_factory.mktemp("pooled")
    for pooling in POOLINGS:
        assert call(cache, world, folder / pooling, "--keep_states", "--pooling", pooling) == 0
        for script in (K_sweep, linear_sklearn):
            assert call(script, world, folder / pooling) == 0
    return folder


@pytest.mark.parametrize(
    "kind, split", [("states", "train"), ("states", "test"), ("moments", "train"), ("moments", "test")]
)
def test_files_of_two_poolings_are_refused_by_every_script(world, pooled, tmp_path, capsys, kind, split):
    shutil.copytree(
        pooled / "last", tmp_path / "mixed", ignore=shutil.ignore_patterns("accuracy", "ntps", "scores")
    )
    shutil.copy(file_of(pooled / "mean_without_first", kind, split), file_of(tmp_path / "mixed", kind, split))
    capsys.readouterr()
    scripts = [linear_sklearn] if (kind, split) == ("states", "test") else [linear_sklearn, K_sweep]
    for script in scripts:
        assert call(script, world, tmp_path / "mixed") == 1
        said = capsys.readouterr().err
        assert "pooling is" in said and '"mean_without_first"' in said and "--overwrite" in said
    assert not (tmp_path / "mixed" / "accuracy").exists()


def test_probes_read_the_states_as_pooled(pooled):
    found = {}
    for pooling in POOLINGS:
        (path,) = (pooled / pooling / "accuracy/linear_sklearn").glob("*/tiny.csv")
        table = pd.read_csv(path).set_index(["layer", "split", "probe"])["mse"]
        found[pooling] = table.xs("linear_regression", level="probe")
        moments = table.xs("least_squares", level="probe")
        np.testing.assert_allclose(
            found[pooling].xs("train", level="split"), moments.xs("train", level="split"), rtol=1e-5
        )
    assert (found["last"] != found["mean"]).all() and (found["mean_without_first"] != found["mean"]).any()


def test_the_command_for_what_is_missing_names_the_pooling(world, pooled, tmp_path, capsys):
    shutil.copytree(pooled / "last" / "moments", tmp_path / "moments")
    assert call(linear_sklearn, world, tmp_path) == 0
    command = capsys.readouterr().out.split("run python cache.py ")[1].split("\n")[0]
    assert "--pooling last" in command and cli.run(cache.main, command.split()) == 0
    assert file_of(tmp_path, "states").exists()


def test_a_linear_head_reads_kept_states_of_its_pooling_alone(world, pooled, capsys):
    for pooling in POOLINGS:
        flags = ["--epochs", "1", "--pooling", pooling, "--overwrite"]
        assert call(linear_training, world, pooled / pooling, *flags) == 0
        assert "states from" in capsys.readouterr().out
    assert call(linear_training, world, pooled / "last", "--epochs", "1", "--overwrite") == 0
    assert "states from" not in capsys.readouterr().out


@pytest.mark.parametrize("pooling", OTHERS)
def test_words_are_pooled_as_the_moments(world, pooled, pooling):
    assert call(alignment_vis, world, pooled / pooling, "--layer", "2") == 0
    (path,) = (pooled / pooling / "words").glob("*/tiny.csv")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(world / "model"),
        AutoModel.from_pretrained(world / "model").eval(),
    )
    file = MomentsFile(file_of(pooled / pooling, "moments"))
    for space, word, x, y in pd.read_csv(path)[["space", "word", "x", "y"]].itertuples(index=False):
        ids = tokenizer(word, return_tensors="pt")
        with torch.no_grad():
            own = model(**ids, output_hidden_states=True).hidden_states[2][0].double()
        state = (own[-1] if pooling == "last" else own[1:].mean(0)).numpy()
        plane = leading_pair(file.averages(file.layers.index(2)), space)[0].numpy()
        np.testing.assert_allclose(np.abs([x, y]), np.abs(state @ plane), rtol=1e-3, atol=1e-4)


def test_prescreen_measures_and_says_the_pooling(world, tmp_path):
    files = [str(world / "data" / f"tiny-{split}.csv") for split in ("train", "test")]
    flags = ["--models", str(world / "model"), "--train", files[0], "--test", files[1], "--layers", "all"]
    assert cli.run(prescreen.main, [*flags, "--output", str(tmp_path), "--pooling", "last"]) == 0
    (row,) = pd.read_csv(tmp_path / "tiny-train.csv").to_dict("records")
    assert row["pooling"] == "last" and "it is of mean states" in row["lora_gain_note"]
    assert "pooling of a text&#39;s states</dt><dd>last" in (tmp_path / "tiny-train.html").read_text()
    (path,) = (tmp_path / "states").glob("*/tiny-train/train.safetensors")
    assert provenance.read(path)["identity"]["pooling"] == "last"


def test_rows_of_one_token_keep_it_and_are_counted(tmp_path, capsys):
    tiny_model(tmp_path / "model", bos=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny.yaml").write_text(
        "files: {train: t.csv, test: t.csv}\ntext: text\nlabel: label\n"
    )
    (tmp_path / "data" / "t.csv").write_text("text,label\nriver,a\nboat fish,b\nbread,a\noven the sugar,b\n")
    flags = ["--splits", "train", "--keep_states", "--pooling", "mean_without_first", "--layers", "0"]
    assert call(cache, tmp_path, tmp_path / "out", *flags) == 0
    assert "--pooling mean_without_first: 2 train rows of one token keep it" in capsys.readouterr().out
    states = load_file(file_of(tmp_path / "out", "states"))["states"][0]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tmp_path / "model"),
        AutoModel.from_pretrained(tmp_path / "model"),
    )
    embedded = model.get_input_embeddings().weight.detach().numpy()
    for row, words in enumerate(["river", "fish", "bread", "the sugar"]):
        np.testing.assert_allclose(states[row], embedded[tokenizer(words)["input_ids"]].mean(0), atol=1e-6)


def test_the_report_sets_poolings_side_by_side(pooled, tmp_path, capsys):
    assert cli.run(report.main, [str(pooled), "--output", str(tmp_path / "pooling.csv")]) == 0
    assert "1 pairs in all of 3 folders" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "pooling.csv")
    assert sorted(table["pooling"]) == sorted(POOLINGS) and table[report.SHOWN[:6]].notna().all(axis=None)
    assert cli.run(report.main, [str(tmp_path)]) == 1
    assert "no results folders" in capsys.readouterr().err
