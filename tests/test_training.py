"""The trainers: heads on frozen states, LoRA, from scratch; resuming, leaks, and what users get wrong."""

import csv
import gc
import json
import re
import shutil
import weakref
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from sklearn import metrics
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, LlamaConfig, TrainerState

import cache
import from_scratch
import linear_training
import lora_finetuning
from ntps.accuracies import finetuning, linear_head, training_order
from ntps.accuracies.lora import add_lora, chosen_targets, target_modules
from ntps.accuracies.table import COLUMNS
from ntps.accuracies.task import Task, cut_validation, scores
from ntps.errors import UserError
from ntps.models.description import ModelSpec, resolve_model
from ntps.models.loading import load_model, without_weights
from ntps.moments.encoder import find_blocks
from ntps.moments.file import MomentsFile
from ntps.moments.lazy_model import LazyModel
from ntps.system import atomic_files, checkpoint_clock, console, locks
from ntps.texts.dataset import load_dataset
from tests.tiny import tiny_config, tiny_dataset, tiny_model

SHORT = {"max_steps": 12, "batch_size": 4, "eval_every": 5, "learning_rate": 0.01}


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A model whose description names its LoRA targets, and 60 train and 30 test texts of three classes."""
    folder = tmp_path_factory.mktemp("pair")
    tiny_model(folder / "weights")
    description = {"path": "weights", "lora_targets": ["q_proj", "k_proj", "v_proj"]}
    (folder / "small.yaml").write_text(yaml.safe_dump(description))
    data = tiny_dataset(folder / "data")
    return {"models": [str(folder / "small.yaml")], "datasets": [str(data)]}


def table(output, method, dataset="tiny"):
    return pd.read_csv(output / "accuracy" / method / "small" / f"{dataset}.csv")


def without_seconds(frame):
    return frame.drop(columns="seconds")


def dataset_of(folder, splits, name="made"):
    """A data set from {split: [(text, label), ...]}."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with open(folder / f"{name}-{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    files = {split: f"{name}-{split}.csv" for split in splits}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"files": files, "text": "text", "label": "label"}))
    return str(path)


def texts(count, labels, start=0):
    words = "river boat bread oven wheel star".split()
    return [
        (f"{' '.join(islice((words * 9)[i % 6 :], 1 + i % 13))} {i}", labels[i % len(labels)])
        for i in range(start, start + count)
    ]


# --- metrics and the validation part -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(50, 5)), draw.choice([0, 2, 3], 50)  # 1 and 4 occur only as guesses
    found, guesses = scores(logits, labels), logits.argmax(1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guesses))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, guesses))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, shares, labels=range(5)))
    assert found["n"] == 50
    with pytest.raises(UserError, match="not finite"):
        scores(np.full((2, 2), np.nan), np.array([0, 1]))


def test_validation_part_is_a_stratified_tenth():
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 4], [500, 100, 1]))
    train, watched = cut_validation(labels, seed=3)
    assert sorted([*train, *watched]) == list(range(601))
    assert abs(np.bincount(labels[watched], minlength=5) - [50, 10, 0, 0, 0]).max() <= 1
    assert set(labels[train]) == {0, 1, 4}
    assert np.array_equal(watched, cut_validation(labels, seed=3)[1])
    assert not np.array_equal(watched, cut_validation(labels, seed=4)[1])
    with pytest.raises(UserError, match="too few"):
        cut_validation(np.array([0, 1, 0]), seed=0)


# --- the head on frozen states -------------------------------------------------------------------------------------


def test_training_on_states_is_training_with_the_text_encoded_again_each_epoch(pair):
    spec = resolve_model(pair["models"][0])
    model = AutoModel.from_pretrained(spec.source["path"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(spec.source["path"])
    split = load_dataset(pair["datasets"][0]).select("train")

    class Encoded:
        """Encodes texts by a plain forward pass each time they are asked for."""

        calls = 0

        def __getitem__(self, rows):
            self.calls += len(rows)
            with torch.no_grad():
                means = [
                    model(
                        **tokenizer(split.texts[row], return_tensors="pt", truncation=True)
                    ).last_hidden_state.mean(1)
                    for row in rows
                ]
            return torch.cat(means)

    def trained(states):
        torch.manual_seed(0)
        head = linear_head.new_head(32, 3, 0.05)
        flags = linear_training.Flags(**pair, epochs=3, batch_size=16, learning_rate=0.01)
        linear_head.train_head(
            states, torch.as_tensor(split.labels), head, flags, 5, lambda step, final: None
        )
        return head.linear.weight

    source = LazyModel(pair["models"][0], None, "cpu", None, None, "3")
    task = Task(source, load_dataset(pair["datasets"][0]), None)
    again = Encoded()
    torch.testing.assert_close(
        trained(linear_head.pooled_states(task, "train", "mean", "none")),
        trained(again),
        atol=1e-5,
        rtol=1e-5,
    )
    assert again.calls == 3 * 60


def test_linear_training_writes_the_contracts_table(pair, tmp_path, capsys):
    settings = {"output": str(tmp_path), "epochs": 4, "learning_rate": 0.01, "seeds": [0, 7]}
    assert linear_training.main(linear_training.Flags(**pair, **settings)) == 0
    found = table(tmp_path, "linear_training")
    assert list(found.columns) == list(COLUMNS)
    assert set(found.layer) == {3} and set(found.method) == {"linear_training"} and set(found.seed) == {0, 7}
    assert (found[found.split == "test"].final).all() and (found.split == "test").sum() == 2
    assert found.groupby(["seed", "split"]).n.first().to_dict() == {
        (seed, split): n for seed in (0, 7) for split, n in (("train", 54), ("validation", 6), ("test", 30))
    }
    assert found[found.split == "validation"].groupby("seed").step.apply(list).tolist() == [[1, 2, 3, 4]] * 2
    assert found.mse.isna().all() and found.seconds.gt(0).all() and found.tokens.gt(54).all()
    about = json.loads((tmp_path / "accuracy/linear_training/small/tiny.json").read_text())
    assert about["identity"]["settings"]["epochs"] == 4 and about["identity"]["seeds"] == [0, 7]
    capsys.readouterr()
    assert linear_training.main(linear_training.Flags(**pair, **settings)) == 0  # again, for nothing
    assert "already there" in capsys.readouterr().out
    assert linear_training.main(linear_training.Flags(**pair, **settings | {"epochs": 5})) == 1
    assert "settings.epochs is 4 there, 5 here" in capsys.readouterr().err
    assert (
        linear_training.main(linear_training.Flags(**pair, **settings | {"epochs": 5, "overwrite": True}))
        == 0
    )
    assert table(tmp_path, "linear_training").step.max() == 5


@pytest.mark.parametrize("script", [linear_training, lora_finetuning], ids=lambda s: s.__name__)
def test_more_seeds_are_added_to_the_table(pair, tmp_path, script, capsys):
    settings = {"epochs": 2} if script is linear_training else SHORT | {"max_steps": 4}
    name = script.__name__
    assert script.main(script.Flags(**pair, **settings, seeds=[7], output=str(tmp_path / "grown"))) == 0
    file = tmp_path / f"grown/accuracy/{name}/small/tiny.csv"
    head, *first = file.read_text().splitlines()
    assert script.main(script.Flags(**pair, **settings, seeds=[0, 7], output=str(tmp_path / "grown"))) == 0
    lines = file.read_text().splitlines()
    assert lines[0] == head and lines[-len(first) :] == first  # even the seconds are those
    assert script.main(script.Flags(**pair, **settings, seeds=[0, 7], output=str(tmp_path / "whole"))) == 0
    grown, whole = (table(tmp_path / x, name).drop(columns="seconds") for x in ("grown", "whole"))
    pd.testing.assert_frame_equal(grown, whole)
    capsys.readouterr()
    lines = file.read_text().splitlines()
    assert script.main(script.Flags(**pair, **settings, seeds=[0], output=str(tmp_path / "grown"))) == 0
    assert "already there" in capsys.readouterr().out and file.read_text().splitlines() == lines


def test_linear_training_reads_kept_states(pair, tmp_path, monkeypatch):
    settings = {"epochs": 3, "learning_rate": 0.01, "layer": 2}
    assert (
        linear_training.main(linear_training.Flags(**pair, **settings, output=str(tmp_path / "encoded"))) == 0
    )
    assert cache.main(cache.Flags(**pair, output=str(tmp_path / "kept"), keep_states=True)) == 0
    monkeypatch.setattr("ntps.moments.lazy_model.encode", None)
    assert linear_training.main(linear_training.Flags(**pair, **settings, output=str(tmp_path / "kept"))) == 0
    one, two = (table(tmp_path / name, "linear_training") for name in ("encoded", "kept"))
    pd.testing.assert_frame_equal(without_seconds(one), without_seconds(two), rtol=1e-4)
    with pytest.raises(TypeError):  # states of other texts are not used
        linear_training.main(
            linear_training.Flags(**pair, **settings, output=str(tmp_path / "kept"), limit=40, overwrite=True)
        )


def test_pooling_last_is_the_last_tokens_state(pair):
    source = LazyModel(pair["models"][0], None, "cpu", None, None, "2")
    task = Task(source, load_dataset(pair["datasets"][0]), None)
    states = linear_head.pooled_states(task, "test", "last", "none")
    model = AutoModel.from_pretrained(source.spec.source["path"], dtype=torch.float32).eval()
    for row in range(5):
        ids = torch.tensor(task.ids("test")[row])[None]
        expected = model(ids, output_hidden_states=True).hidden_states[2][0, -1]
        torch.testing.assert_close(states[row], expected, atol=1e-5, rtol=1e-5)


# --- LoRA ----------------------------------------------------------------------------------------------------------


def test_padding_changes_no_logits():
    folder_free = torch.nn.Module()
    folder_free.forward = lambda input_ids, use_cache: type(
        "Out", (), {"last_hidden_state": input_ids[..., None] * 1.0}
    )
    model = finetuning.Classifier(folder_free, 1, 2, 0.0)
    batch = training_order.collate([{"input_ids": np.array(ids), "labels": 0} for ids in ([2, 4, 6], [5])])
    batch["input_ids"][1, 1:] = 99  # whatever stands in the padding
    logits = model(batch["input_ids"], batch["attention_mask"])["logits"]
    torch.testing.assert_close(logits, model.head(torch.tensor([[4.0], [5.0]])))


@pytest.fixture(scope="session")
def finetuned(pair, tmp_path_factory):
    output = tmp_path_factory.mktemp("lora")
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **SHORT, output=str(output))) == 0
    return output


def test_lora_table_and_adapter(pair, finetuned):
    found = table(finetuned, "lora_finetuning")
    assert list(found.columns) == list(COLUMNS)
    assert list(zip(found.step, found.split, found.final)) == [
        (5, "validation", False),
        (10, "validation", False),
        (12, "validation", True),
        (12, "test", True),
    ]
    assert not list((finetuned / "accuracy/lora_finetuning/small").glob(".*"))

    # peft's own loader on the headless class, and our head, give the accuracy of the table
    spec, folder = resolve_model(pair["models"][0]), finetuned / "adapters/small/tiny-seed0"
    base = AutoModel.from_pretrained(spec.source["path"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    factors = {name: value for name, value in model.named_parameters() if "lora_B" in name}
    assert len(factors) == 9 and all(value.abs().max() > 0 for value in factors.values())
    assert model.peft_config["default"].r == 32 and model.peft_config["default"].lora_alpha == 32
    head = load_file(folder / "head.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(spec.source["path"])
    test = load_dataset(pair["datasets"][0]).select("test")
    with torch.no_grad():
        states = [
            model(**tokenizer(text, return_tensors="pt", truncation=True)).last_hidden_state.mean(1)
            for text in test.texts
        ]
    logits = torch.cat(states) @ head["weight"].T + head["bias"]
    last = found.iloc[-1]
    assert last.accuracy == pytest.approx((logits.argmax(1).numpy() == test.labels).mean())
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(test.labels))
    assert last.loss == pytest.approx(float(loss), rel=1e-4)
    merged = load_model(spec, torch.float32, "cpu", adapter=str(folder))
    ids = torch.tensor([[1, 9, 8, 7]])
    torch.testing.assert_close(
        merged(ids).last_hidden_state, model(ids).last_hidden_state, atol=1e-4, rtol=1e-4
    )


def test_moments_before_and_after_lora_are_two_commands(pair, finetuned):
    folder = finetuned / "adapters/small/tiny-seed0"
    for adapter in (None, str(folder)):
        assert cache.main(cache.Flags(**pair, splits=["train"], output=str(finetuned), adapter=adapter)) == 0
    before, after = sorted(
        (finetuned / "moments").glob("small*/tiny/train.safetensors"), key=lambda p: len(str(p))
    )
    assert after.parent.parent.name.startswith("small+tiny-seed0-")
    first, second = (MomentsFile(path).averages(3).mean_second_moment for path in (before, after))
    assert (first - second).norm() > 1e-3 * first.norm()
    first, second = (MomentsFile(path).averages(0).mean_second_moment for path in (before, after))
    torch.testing.assert_close(first, second)  # embeddings are not adapted


def test_optimizer_and_schedule_are_the_papers(pair, tmp_path, monkeypatch):
    seen = []

    class Spy(finetuning.Watcher):
        def on_train_begin(self, args, state, control, optimizer=None, **rest):
            seen.extend(optimizer.param_groups)
            assert args.max_grad_norm == 0
            super().on_train_begin(args, state, control, **rest)

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **rest):
            rates.append(optimizer.param_groups[0]["lr"])

    rates = []
    monkeypatch.setattr(finetuning, "Watcher", Spy)
    settings = SHORT | {"max_steps": 40, "learning_rate": 1e-4, "eval_every": 100}
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, output=str(tmp_path))) == 0
    for group in seen:
        assert not group["scale_parameter"] and not group["relative_step"] and not group["warmup_init"]
    assert seen[0]["weight_decay"] == 1e-5
    cosine = [5e-5 * (1 + np.cos(np.pi * (step - 2) / 38)) for step in range(2, 40)]
    np.testing.assert_allclose(rates, [0, 5e-5, *cosine], atol=1e-12)


def test_start_layer_and_targets(pair, tmp_path):
    settings = SHORT | {"max_steps": 2, "lora_targets": ["o_proj"], "start_layer": 2}
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, output=str(tmp_path))) == 0
    stored = load_file(tmp_path / "adapters/small/tiny-seed0/adapter_model.safetensors")
    assert {name.split("layers.")[1].split(".lora")[0] for name in stored} == {"2.self_attn.o_proj"}
    merged = load_model(
        resolve_model(pair["models"][0]), torch.float32, "cpu", str(tmp_path / "adapters/small/tiny-seed0")
    )
    assert len(find_blocks(merged)) == 3


# --- the order of texts --------------------------------------------------------------------------------------------


def padding_share(lengths, order, batch_size):
    batches = [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    return 1 - lengths.sum() / padded


def test_grouping_by_length_halves_the_padding():
    lengths = np.random.default_rng(0).choice([2, 5, 10, 20, 50, 100], 1000)
    order = training_order.grouped_order(lengths.tolist(), 16, seed=1)
    assert sorted(order) == list(range(1000))
    assert lengths[order[:16]].max() == 100
    random = np.random.default_rng(1).permutation(1000)
    assert padding_share(lengths, order, 16) < padding_share(lengths, random, 16) / 2
    # the batches are not sorted: the first quarter is no longer than the last
    means = [lengths[order[i : i + 16]].mean() for i in range(0, 992, 16)]
    assert abs(np.corrcoef(means, np.arange(62))[0, 1]) < 0.4
    assert order != training_order.grouped_order(lengths.tolist(), 16, seed=2)
    assert sorted(training_order.grouped_order([3, 1], 4, seed=0)) == [0, 1]


# --- killed and resumed --------------------------------------------------------------------------------------------


def test_each_row_of_a_step_counts_alike_however_it_is_divided(pair, tmp_path, monkeypatch):
    """48 rows at once, in two halves, or as 20, 20 and 8."""
    weights = []

    class Watch(finetuning.Watcher):
        def on_step_end(self, args, state, control, model=None, **rest):
            weights.append(model.head[-1].weight.detach().clone())

    monkeypatch.setattr(finetuning, "Watcher", Watch)
    for size, times in ((48, 1), (24, 2), (20, 3)):
        settings = {"batch_size": size, "gradient_accumulation": times, "lora_dropout": 0.0, "dropout": 0.0}
        settings |= {"limit": 52, "max_steps": 2, "eval_every": 2, "output": str(tmp_path / str(size))}
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0
    first, whole, _, halves, _, unequal = weights
    assert (whole - first).abs().max() > 1e-4  # the first step is of the warm-up, at rate 0
    torch.testing.assert_close(halves, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(unequal, whole, atol=1e-6, rtol=0)


def test_rows_whose_positions_hang_on_others_are_refused(tmp_path):
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 32}
    config = SimpleNamespace(rope_parameters=rope, get_text_config=lambda: config)
    task = SimpleNamespace(model=SimpleNamespace(name="m", config=config))
    finetuning.check_positions(task, [3, 32])
    finetuning.check_positions(task, [33, 40])
    with pytest.raises(UserError, match="say --max_length 32"):
        finetuning.check_positions(task, [32, 33])


class Killed(BaseException):
    """As good as a kill: nothing in the code catches it."""


@pytest.mark.parametrize(  # 9 steps an epoch: in the middle of one, between two, and in the last scores
    ("script", "step"),
    [(lora_finetuning, 20), (lora_finetuning, 18), (lora_finetuning, 21), (from_scratch, 20)],
)
def test_a_killed_training_ends_as_an_uninterrupted_one(pair, tmp_path, monkeypatch, script, step):
    settings = {
        "max_steps": 22,
        "batch_size": 3,
        "gradient_accumulation": 2,
        "eval_every": 5,
        "learning_rate": 1e-3,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert script.main(script.Flags(**pair, **settings, output=str(whole), limit=60)) == 0
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)

    class Killer(finetuning.Watcher):
        def on_save(self, args, state, control, **rest):
            if state.global_step == step < 21:
                raise Killed

        def on_train_end(self, args, state, control, **rest):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "Watcher", Killer)
        with pytest.raises(Killed):
            script.main(script.Flags(**pair, **settings, output=str(cut), limit=60))
    [folder] = (cut / "accuracy").glob("*/small/.tiny-seed0.checkpoints")
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name == f"checkpoint-{step}"
    # a checkpoint that a kill cut short is passed over
    shutil.copytree(newest, folder / "checkpoint-99")
    (folder / "checkpoint-99" / "trainer_state.json").write_text('{"epoch"')
    # and one that was not yet on the disk when the power was cut
    shutil.copytree(newest, folder / "checkpoint-98")
    (folder / "checkpoint-98" / "optimizer.pt").write_bytes(b"")
    starts = []

    class Watch(finetuning.Watcher):
        def on_train_begin(self, args, state, control, **rest):
            starts.append(state.global_step)

    monkeypatch.setattr(finetuning, "Watcher", Watch)
    assert script.main(script.Flags(**pair, **settings, output=str(cut), limit=60)) == 0
    assert starts == [step]
    one, two = (table(output, script.METHOD) for output in (whole, cut))
    pd.testing.assert_frame_equal(without_seconds(one), without_seconds(two), check_exact=True)
    assert two.seconds.is_monotonic_increasing
    assert not folder.exists()
    if script is lora_finetuning:
        one, two = (
            load_file(out / "adapters/small/tiny-seed0/adapter_model.safetensors") for out in (whole, cut)
        )
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_speed_of_a_resumed_training_is_its_own():
    with console.progress(1000, "token", "a run") as bar:
        bar.start_t -= 10  # seconds ago
        watcher = finetuning.Watcher(bar, None)
        watcher.on_train_begin(None, TrainerState(num_input_tokens_seen=600), None)
        bar.update(50)
        shown = bar.format_dict
    assert shown["n"] == 650 and shown["initial"] == 600
    assert (shown["n"] - shown["initial"]) / shown["elapsed"] == pytest.approx(5, rel=0.01)


def no_room_for_tables(path, text, write=atomic_files.write_text):
    if path.suffix == ".csv":
        raise OSError(28, "No space left on device")
    write(path, text)


def test_seeds_outlive_a_table_that_cannot_be_written(pair, tmp_path, monkeypatch):
    settings = SHORT | {"max_steps": 4, "output": str(tmp_path)}
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, seeds=[0, 1])) == 0
    kept = table(tmp_path, "lora_finetuning")

    with monkeypatch.context() as patch:
        patch.setattr("ntps.accuracies.table.atomic_files.write_text", no_room_for_tables)
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, seeds=[2])) == 1
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, seeds=[3])) == 0
    found = table(tmp_path, "lora_finetuning")
    assert set(found.seed) == {0, 1, 3}
    pd.testing.assert_frame_equal(found[found.seed < 2], kept, check_exact=True)


def test_a_restart_that_fails_keeps_the_checkpoints(pair, tmp_path, monkeypatch, capsys):
    settings = SHORT | {"output": str(tmp_path), "limit": 60}
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)

    def failing(*_):
        raise UserError("cannot load the weights")

    class Killer(finetuning.Watcher):
        def on_save(self, args, state, control, **rest):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "Watcher", Killer)
        with pytest.raises(Killed):
            lora_finetuning.main(lora_finetuning.Flags(**pair, **settings))
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "check_causal", failing)
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 1
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0
    assert "going on from" in capsys.readouterr().out


def test_one_model_at_a_time_is_in_memory(pair, tmp_path, monkeypatch):
    """Trainer holds its model in a cycle, which Python frees when it happens to look."""
    inner, made, alive = finetuning.check_causal, [], []

    def watched(base):
        alive.append(sum(one() is not None for one in made))
        made.append(weakref.ref(base))
        return inner(base)

    monkeypatch.setattr(finetuning, "check_causal", watched)
    gc.disable()
    try:
        settings = SHORT | {"max_steps": 2, "output": str(tmp_path)}
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, seeds=[0, 1, 2])) == 0
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_names_that_look_like_numbers_stay_when_seeds_are_added(pair, tmp_path):
    rows = {"train": texts(40, "ab"), "test": texts(20, "ab", 40)}
    settings = SHORT | {"max_steps": 2, "output": str(tmp_path)}
    for name in ("007", "NA"):
        data = dataset_of(tmp_path, rows, name)
        for seeds in ([0], [1]):
            flags = lora_finetuning.Flags(models=pair["models"], datasets=[data], seeds=seeds, **settings)
            assert lora_finetuning.main(flags) == 0
        with open(tmp_path / f"accuracy/lora_finetuning/small/{name}.csv", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        assert {row["dataset"] for row in found} == {name} and {row["seed"] for row in found} == {"0", "1"}


def test_a_table_that_is_replaced_never_stands_without_its_provenance(pair, tmp_path, monkeypatch):
    settings = SHORT | {"max_steps": 2, "output": str(tmp_path)}
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0

    with monkeypatch.context() as patch:
        patch.setattr("ntps.accuracies.table.atomic_files.write_text", no_room_for_tables)
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, overwrite=True)) == 1
    assert not list((tmp_path / "accuracy").rglob("tiny.*"))


def test_too_little_memory_late_in_a_training_keeps_its_checkpoints(pair, tmp_path, monkeypatch, capsys):
    settings = SHORT | {"output": str(tmp_path), "limit": 60}
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)
    step = finetuning.Finetuner.training_step

    def late(self, *args, **kwargs):
        if self.state.global_step == 7:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning.Finetuner, "training_step", late)
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 1
    assert list((tmp_path / "accuracy").rglob("checkpoint-*"))
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0
    assert "going on from" in capsys.readouterr().out


def test_precision_is_that_of_dtype_whatever_a_launcher_says(pair, tmp_path, monkeypatch):
    for name in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", name)
        settings = SHORT | {"max_steps": 3, "output": str(tmp_path / name), "dtype": "float32"}
        assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0
    one, two = (without_seconds(table(tmp_path / name, "lora_finetuning")) for name in ("no", "bf16"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_model_that_looks_ahead_is_refused(pair, tmp_path, capsys):
    for kind, message in ((BertConfig, "looks ahead: only causal models"), (LlamaConfig, "")):
        config = kind(
            vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
        )
        model = AutoModel.from_config(config)
        if message:
            with pytest.raises(UserError, match=message):
                finetuning.check_causal(model)
        else:
            finetuning.check_causal(model.train())
            assert model.training


def test_an_architecture_that_cannot_be_built_is_one_error(pair, tmp_path, capsys):
    folder = tiny_model(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_act": "nonsense"}))
    flags = pair | SHORT | {"models": [str(folder)], "max_steps": 2, "output": str(tmp_path / "out")}
    assert from_scratch.main(from_scratch.Flags(**flags)) == 1
    assert "transformers cannot build the model of its config.json" in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(settings | {"return_dict": False}))
    assert from_scratch.main(from_scratch.Flags(**flags)) == 0


def test_finished_seeds_are_not_trained_again(pair, tmp_path, monkeypatch):
    settings = SHORT | {"max_steps": 4, "output": str(tmp_path), "seeds": [0, 1]}
    begun = []

    class Killer(finetuning.Watcher):
        def on_train_begin(self, args, state, control, **rest):
            begun.append(args.seed)
            if begun == [0, 1]:
                raise Killed

    monkeypatch.setattr(finetuning, "Watcher", Killer)
    with pytest.raises(Killed):
        lora_finetuning.main(lora_finetuning.Flags(**pair, **settings))
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings)) == 0
    assert begun == [0, 1, 1]
    assert set(table(tmp_path, "lora_finetuning").seed) == {0, 1}


# --- until it has settled ------------------------------------------------------------------------------------------

PATIENT = {"max_steps": 60, "batch_size": 6, "eval_every": 3, "learning_rate": 0.02, "patience": 3}


def test_the_best_validation_step_is_the_first_of_the_highest():
    curve = [
        {"step": 5, "loss": 0.1},
        *({"step": 10 * i, finetuning.VALIDATION: a} for i, a in enumerate([0.3, 0.5, 0.4, 0.5])),
    ]
    assert finetuning.best_validation(curve) == (10, 2)
    assert finetuning.best_validation(curve[:3]) == (10, 0)


@pytest.mark.parametrize("script", [lora_finetuning, from_scratch])
def test_training_stops_once_validation_has_settled(pair, tmp_path, script, capsys, monkeypatch):
    rates = []

    class Spy(finetuning.Watcher):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **rest):
            rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(finetuning, "Watcher", Spy)
    assert script.main(script.Flags(**pair, **PATIENT, output=str(tmp_path))) == 0
    found = table(tmp_path, script.METHOD)
    assert list(found.columns) == [*COLUMNS, "settled"] and found.settled.all()
    watched, [test] = found[found.split == "validation"], found[found.split == "test"].to_dict("records")
    best = watched.accuracy.argmax()  # the first of equals
    assert len(watched) == best + 1 + 3 and watched.step.max() < 60
    assert watched.step.tolist() == list(range(3, 3 * len(watched) + 1, 3))
    assert watched.final.tolist() == [place == best for place in range(len(watched))]
    assert test["final"] and test["step"] == watched.step.iloc[best]
    assert test["tokens"] == watched.tokens.max() and test["seconds"] >= watched.seconds.max()  # of all of it
    assert (
        f"settled; validation was best at step {test['step']}, of {watched.step.max()}"
        in capsys.readouterr().out
    )
    assert rates[:3] == pytest.approx([0, 0.02 / 3, 0.04 / 3]) and set(rates[3:]) == {0.02}
    about = json.loads((tmp_path / f"accuracy/{script.METHOD}/small/tiny.json").read_text())
    assert about["identity"]["settings"]["patience"] == 3


def test_test_score_and_adapter_are_those_of_the_best_step(pair, tmp_path, monkeypatch):
    weights, judged = {}, {}

    class Keeper(finetuning.Watcher):
        def on_step_end(self, args, state, control, model=None, **rest):
            weights[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}
            super().on_step_end(args, state, control, **rest)

    class Judge(finetuning.Finetuner):
        def evaluate(self, eval_dataset=None, **rest):
            if "test" in (eval_dataset or {}):
                judged.update({name: value.clone() for name, value in self.model.state_dict().items()})
            return super().evaluate(eval_dataset, **rest)

    monkeypatch.setattr(finetuning, "Watcher", Keeper)
    monkeypatch.setattr(finetuning, "Finetuner", Judge)
    flags = lora_finetuning.Flags(**pair, **PATIENT, output=str(tmp_path))
    assert lora_finetuning.main(flags) == 0
    found = table(tmp_path, "lora_finetuning")
    best = found[found.split == "test"].step.item()
    assert best < max(weights) and judged.keys() == weights[best].keys()
    assert all(torch.equal(value, weights[best][name]) for name, value in judged.items())
    assert not all(torch.equal(value, weights[max(weights)][name]) for name, value in judged.items())
    stored = load_file(tmp_path / "adapters/small/tiny-seed0/adapter_model.safetensors")
    for name, value in stored.items():
        assert torch.equal(value, judged[f"base.{name.replace('.weight', '.default.weight')}"]), name


def test_what_has_not_settled_says_so(pair, tmp_path, capsys):
    settings = PATIENT | {"max_steps": 7, "patience": 9}
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, output=str(tmp_path))) == 0
    assert "not settled within --max_steps; validation was best at step" in capsys.readouterr().out
    found = table(tmp_path, "lora_finetuning")
    assert not found.settled.any() and found[found.split == "validation"].step.tolist() == [3, 6, 7]
    assert found[found.final].step.nunique() == 1 and found[found.final].split.tolist() == [
        "validation",
        "test",
    ]


def test_patience_needs_a_validation_part(pair, tmp_path):
    with pytest.raises(UserError, match="--patience: not with --released_protocol"):
        lora_finetuning.Flags(**pair, patience=2, released_protocol=True, output=str(tmp_path))


@pytest.mark.parametrize("at", ["best", "after", "end"])
def test_a_killed_training_settles_as_an_uninterrupted_one(pair, tmp_path, monkeypatch, at):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **PATIENT, output=str(whole))) == 0
    one = table(whole, "lora_finetuning")
    best = one[one.final].step.iloc[0]
    if at != "best":  # at the best step patience saves by itself
        monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)

    class Killer(finetuning.Watcher):
        def on_save(self, args, state, control, **rest):
            if state.global_step == best + {"best": 0, "after": 5}.get(at, 10**6):
                raise Killed

        def on_train_end(self, args, state, control, **rest):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "Watcher", Killer)
        with pytest.raises(Killed):
            lora_finetuning.main(lora_finetuning.Flags(**pair, **PATIENT, output=str(cut)))
    assert lora_finetuning.main(lora_finetuning.Flags(**pair, **PATIENT, output=str(cut))) == 0
    two = table(cut, "lora_finetuning")
    pd.testing.assert_frame_equal(without_seconds(one), without_seconds(two), check_exact=True)
    one, two = (
        load_file(out / "adapters/small/tiny-seed0/adapter_model.safetensors") for out in (whole, cut)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((cut / "accuracy/lora_finetuning/small").glob(".*"))


# --- the test split influences nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "more"),
    [(linear_training, {}), (lora_finetuning, {}), (from_scratch, {}), (lora_finetuning, {"patience": 1})],
    ids=["linear", "lora", "scratch", "patience"],
)
def test_the_test_split_influences_nothing(pair, tmp_path, script, more):
    rows = {"train": texts(60, "abc"), "test": texts(30, "abc", start=60)}
    spoiled = rows | {"test": texts(23, "bca", start=900)}
    settings = {"batch_size": 4, "learning_rate": 0.01, "max_steps": 12}
    settings |= more | ({"epochs": 2} if script is linear_training else {"eval_every": 5})
    found = []
    for number, splits in enumerate((rows, spoiled)):
        data = dataset_of(tmp_path / f"data{number}", splits)
        output = tmp_path / f"out{number}"
        assert (
            script.main(script.Flags(models=pair["models"], datasets=[data], output=str(output), **settings))
            == 0
        )
        found.append(without_seconds(table(output, script.__name__, "made")))
    clean, other = (frame[frame.split != "test"].reset_index(drop=True) for frame in found)
    pd.testing.assert_frame_equal(clean, other, check_exact=True)
    assert found[0].query("split == 'test'").loss.item() != found[1].query("split == 'test'").loss.item()
    assert found[0].query("split == 'test'").final.all()
    if script is lora_finetuning:
        name = "adapters/small/made-seed0/adapter_model.safetensors"
        one, two = (load_file(tmp_path / f"out{number}" / name) for number in (0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("script", [linear_training, lora_finetuning], ids=lambda s: s.__name__)
def test_released_protocol_watches_test(pair, tmp_path, script):
    settings = {"batch_size": 20, "learning_rate": 0.01, "max_steps": 6, "released_protocol": True}
    settings |= {} if script is linear_training else {"eval_every": 3}
    assert script.main(script.Flags(**pair, **settings, output=str(tmp_path))) == 0
    found = table(tmp_path, script.__name__)
    assert set(found.split) <= {"train", "test"}
    assert list(found[found.split == "test"].step) == [3, 6]
    assert list(found[found.split == "test"].final) == [False, True]


# --- from scratch --------------------------------------------------------------------------------------------------


def test_from_scratch_trains_all_of_fresh_weights(pair, tmp_path, monkeypatch):
    kept = {}

    class Spy(finetuning.Watcher):
        def on_train_begin(self, args, state, control, model=None, **rest):
            kept[args.seed] = (
                model,
                {name: value.detach().clone() for name, value in model.named_parameters()},
            )

    monkeypatch.setattr(finetuning, "Watcher", Spy)
    assert from_scratch.main(from_scratch.Flags(**pair, **SHORT, seeds=[0, 1], output=str(tmp_path))) == 0
    stored = load_file(f"{resolve_model(pair['models'][0]).source['path']}/model.safetensors")
    model, before = kept[0]
    for name, value in model.named_parameters():
        assert value.requires_grad and value.dtype == torch.float32
        assert not torch.equal(value, before[name]), name
    name = "layers.1.self_attn.q_proj.weight"
    assert before[f"base.{name}"].std() < 0.03 < stored[f"model.{name}"].std()
    assert not torch.equal(before[f"base.{name}"], kept[1][1][f"base.{name}"])
    assert not (tmp_path / "adapters").exists()


# --- texts and labels of every kind, and what users get wrong ------------------------------------------------------


@pytest.mark.parametrize("script", [linear_training, lora_finetuning], ids=lambda s: s.__name__)
def test_gaps_missing_classes_short_and_long_texts(pair, tmp_path, script):
    train = [("a", "3"), ("star " * 500, "9"), *texts(30, ["3", "9", "12"])]
    test = [
        ("b", "3"),
        ("moon " * 400, "7"),
        *texts(10, ["3", "9"], start=50),
    ]  # 7 never in train, 12 never in test
    data = dataset_of(tmp_path / "data", {"train": train, "test": test})
    settings = {"batch_size": 4, "max_steps": 6, "output": str(tmp_path / "out")}
    assert script.main(script.Flags(models=pair["models"], datasets=[data], **settings)) == 0
    found = table(tmp_path / "out", script.__name__, "made")
    assert found.n[found.split == "test"].item() == 12
    assert np.isfinite(found[["accuracy", "balanced_accuracy", "macro_f1", "loss"]]).all(axis=None)
    about = json.loads((tmp_path / "out/accuracy" / script.__name__ / "small/made.json").read_text())
    assert about["identity"]["data"]["classes"] == ["3", "7", "9", "12"]
    assert about["record"]["texts_cut"] == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("script", "settings", "message"),
    [
        (lora_finetuning, {"learning_rate": 1e30}, "loss is not finite at step"),
        (linear_training, {"learning_rate": 1e30}, "not finite"),
        (lora_finetuning, {"lora_targets": ["qkv"]}, "no such module, but .*q_proj"),
        (lora_finetuning, {"start_layer": 3}, "blocks 0 to 2"),
        (lora_finetuning, {"device": "cpu:1"}, "CUDA_VISIBLE_DEVICES|cannot be used"),
        (lora_finetuning, {"seeds": [1, 1]}, "--seeds 1 1"),
        (linear_training, {"limit": 1}, "one and the same label"),
        (linear_training, {"layer": 9}, "layers 0 to 3"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(pair, tmp_path, capsys, script, settings, message):
    settings = {"max_steps": 8, "batch_size": 4, "output": str(tmp_path / "out")} | settings
    assert script.main(script.Flags(**pair, **settings)) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "settings",
    [
        *({"batch_size": 0}, {"batch_size": 2**31}, {"max_steps": 0}, {"limit": 10**19}),
        *(
            {"learning_rate": 0.0},
            {"learning_rate": 1e300},
            {"weight_decay": -1.0},
            {"weight_decay": float("nan")},
        ),
        *({"dropout": 1.0}, {"log_to": "wandbb"}),
    ],
)
def test_settings_out_of_range(pair, tmp_path, settings):
    with pytest.raises(UserError, match=f"--{next(iter(settings))} "):
        lora_finetuning.main(lora_finetuning.Flags(**pair, **settings, output=str(tmp_path)))


ROOMS = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("kind", "own", "targets"),
    [
        ("llama", {}, ["q_proj", "k_proj", "v_proj"]),
        ("gpt2", {}, ["c_attn"]),
        ("gpt_neox", {}, ["query_key_value"]),
        ("bloom", {"n_head": 4}, ["query_key_value"]),
        ("phi3", {"num_attention_heads": 4, "num_key_value_heads": 4}, ["qkv_proj"]),
        ("openelm", {}, ["qkv_proj"]),
        ("mpt", {"d_model": 32, "n_heads": 4}, ["Wqkv"]),  # by PEFT's table, as the next
        ("rwkv", {"attention_hidden_size": 32}, ["key", "value", "receptance", "output"]),
    ],
)
def test_a_known_architecture_has_targets_without_a_flag(kind, own, targets, capsys):
    spec = ModelSpec("plain", {"path": "nowhere"})
    if kind in ("llama", "gpt2", "openelm"):
        config = tiny_config(kind, 50)
    else:
        config = AutoConfig.for_model(kind, **ROOMS | {"num_attention_heads": 4} | own)
    assert chosen_targets(spec, (), config) == targets
    assert f"plain: LoRA adapts {' '.join(targets)}" in capsys.readouterr().out
    assert target_modules(without_weights(spec, config), targets, 0)
    described = ModelSpec("plain", {"path": "nowhere"}, lora_targets=["x"])
    assert chosen_targets(described, (), config) == ["x"] and chosen_targets(described, ["y"], config) == [
        "y"
    ]
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["llama", "gpt2", "openelm"])
def test_all_linear_is_what_peft_means_by_it(kind, capsys):
    spec, config = ModelSpec("plain", {"path": "nowhere"}), tiny_config(kind, 50)
    targets = chosen_targets(spec, ["all-linear"], config)
    assert f"LoRA adapts {' '.join(targets)}, all linear modules of its blocks" in capsys.readouterr().out
    model = get_peft_model(without_weights(spec, config), LoraConfig(target_modules="all-linear"))
    adapted = {name for name, _ in model.base_model.model.named_modules() if name.endswith(".lora_A")}
    assert {f"{name}.lora_A" for name in target_modules(without_weights(spec, config), targets, 0)} == adapted
    described = ModelSpec("plain", {"path": "nowhere"}, lora_targets=["all-linear"])
    assert chosen_targets(described, (), config) == targets


def test_targets_that_peft_refuses_are_one_error():
    spec, config = ModelSpec("plain", {"path": "nowhere"}), AutoConfig.for_model("mamba", **ROOMS)
    settings = {"lora_targets": ["all-linear"], "start_layer": 0, "rank": 2, "alpha": 2, "lora_dropout": 0.0}
    settings["lora_targets"] = chosen_targets(spec, settings["lora_targets"], config)
    with pytest.raises(UserError, match="--lora_targets: .*out_proj"):
        add_lora(without_weights(spec, config), "plain", settings)


def test_an_unknown_architecture_needs_the_flag():
    config = AutoConfig.for_model("mamba", **ROOMS)
    with pytest.raises(UserError, match="plain: lora_targets: none are known for mamba.*--lora_targets"):
        chosen_targets(ModelSpec("plain", {"path": "nowhere"}), (), config)


def test_a_plain_folder_is_trained_and_texts_need_a_test_split(pair, tmp_path, capsys):
    weights = resolve_model(pair["models"][0]).source["path"]
    tables = [tmp_path / name for name in ("plain", "named")]
    for model, output in zip((weights, pair["models"][0]), tables):
        few = lora_finetuning.Flags(
            models=[model], datasets=pair["datasets"], max_steps=2, output=str(output)
        )
        assert lora_finetuning.main(few) == 0
    assert capsys.readouterr().out.count("LoRA adapts q_proj k_proj v_proj") == 1
    a, b = (pd.read_csv(next((folder / "accuracy").rglob("tiny.csv"))) for folder in tables)
    assert a.drop(columns=["model", "seconds"]).equals(b.drop(columns=["model", "seconds"]))
    data = load_dataset(pair["datasets"][0])
    data.splits.pop("test")
    source = LazyModel(pair["models"][0], None, "cpu", None, None, "all")
    with pytest.raises(UserError, match="no split 'test'"):
        Task(source, data, None)


def test_one_run_at_a_time_works_on_a_table(pair, tmp_path, capsys):
    folder = tmp_path / "accuracy/linear_training/small"
    with locks.locked(folder / ".tiny.lock"):
        assert linear_training.main(linear_training.Flags(**pair, epochs=1, output=str(tmp_path))) == 1
    assert "another process is working on this" in capsys.readouterr().err
    assert linear_training.main(linear_training.Flags(**pair, epochs=1, output=str(tmp_path))) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.csv", "tiny.json"]


def test_the_time_of_an_evaluation_is_not_that_of_the_checkpoint_after_it(monkeypatch):
    """Else each evaluation put the next checkpoint off by twenty times as long as it took."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bar = SimpleNamespace(update=lambda _: None, n=0)
    watcher, state = finetuning.Watcher(bar, None), TrainerState(global_step=1, max_steps=9)

    def saves(at, evaluates_until=None, wrote_at=None):
        now[0], control = at, SimpleNamespace(should_save=False)
        watcher.on_step_end(None, state, control)
        if evaluates_until:
            now[0] = evaluates_until
            watcher.on_evaluate(None, state, control)
        if wrote_at:
            now[0] = wrote_at
            watcher.on_save(None, state, control)
        return control.should_save

    assert not saves(59) and saves(60, evaluates_until=160, wrote_at=161)
    assert not saves(220) and saves(221, wrote_at=231)  # a write of ten seconds: not before 200 more
    assert not saves(430) and saves(431, wrote_at=5000)  # stopped for an hour
    assert not saves(5599) and saves(5600)
