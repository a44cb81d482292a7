"""Row by row what LoRA and the probe have right: the accuracies of the tables again, from adapters and a refitted probe."""

import shutil

import pandas as pd
import pytest

import cache
import K_sweep
import linear_sklearn
import lora_finetuning
from ntps.results.tables import best_layers
from ntps.run import cli
from report import evidence, hits
from tests.tiny import tiny_world, world_flags

STEPS = "--seeds 0 1 --max_steps 20 --eval_every 10 --batch_size 4 --learning_rate 0.01 --rank 2 --lora_dropout 0".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = tiny_world(tmp_path_factory.mktemp("hits"), n=80)
    run = world_flags(world, world / "out")
    cached = [*run, "--splits", "train", "test", "--keep_states"]
    assert cli.run(cache.main, cached) == cli.run(K_sweep.main, run) == 0
    assert cli.run(linear_sklearn.main, [*run, "--solver", "lbfgs"]) == 0
    assert cli.run(lora_finetuning.main, [*run, *STEPS, "--patience", "2"]) == 0
    return world


def ask(world, *flags):
    return cli.run(hits.main, [str(world / "out"), *world_flags(world, "unused")[:4], *flags])


def test_accuracies_are_those_of_the_tables(world, capsys):
    assert ask(world) == 0, capsys.readouterr().err
    found = evidence.read_hits(world / "out").set_index(["method", "seed"])
    assert [len(digits) for digits in found["right"]] == found["n"].tolist()
    out, pair = world / "out" / "accuracy", "*/tiny.csv"
    lora = pd.read_csv(next((out / "lora_finetuning").glob(pair)))
    lora = lora[lora["final"] & (lora["split"] == "test")].set_index("seed")["accuracy"]
    probes = pd.read_csv(next((out / "linear_sklearn").glob(pair)))
    at = (probes["probe"] == "logistic_regression") & (probes["split"] == "test")
    probe = probes[at].set_index("layer")["accuracy"]
    for (method, seed), row in found.iterrows():
        share = row["right"].count("1") / row["n"]
        wanted = (
            lora[seed]
            if method == "lora_finetuning"
            else probe[best_layers(world / "out")[row["model"], "tiny"]]
        )
        assert share == pytest.approx(wanted) and row["accuracy"] == pytest.approx(wanted)
    assert ask(world) == 0 and "already there" in capsys.readouterr().out


def test_an_adapter_of_other_texts_is_refused(world, capsys):
    texts = world / "data" / "tiny-test.csv"
    before = texts.read_bytes()
    shutil.rmtree(world / "out" / "hits", ignore_errors=True)
    try:
        texts.write_bytes(before.replace(b"the", b"two"))
        assert ask(world) == 1 and "texts_sha256" in capsys.readouterr().err
    finally:
        texts.write_bytes(before)
