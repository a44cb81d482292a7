"""cache.py as its users call it: outputs, skipping, refusing, kills, partitions, bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import cache
import linear_training
from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.moments import lazy_model, resumable_pass
from ntps.moments.file import MomentsFile, unpack
from ntps.run import cli
from ntps.system import array_files, atomic_files, checkpoint_clock, locks, provenance
from ntps.texts.dataset import load_dataset
from tests.tiny import tiny_world, world_flags

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def call(world, output, *flags) -> int:
    """cache.py in process, with the flags of a command line."""
    return cli.run(cache.main, world_flags(world, output, *flags))


def moments_folder(output: Path) -> Path:
    return next((output / "moments").glob("*/tiny"))


def test_files_shapes_and_provenance(world, tmp_path, capsys):
    assert call(world, tmp_path, "--label_permutations", 3, "--keep_states", "--tokens_per_batch", 100) == 0
    folder = moments_folder(tmp_path)
    train, test = load_file(folder / "train.safetensors"), load_file(folder / "test.safetensors")
    assert train["mean_second_moment"].shape == (4, 32 * 33 // 2)
    assert train["label_moment_permuted"].shape == (3, 4, 32, 3)
    assert "prefix_next_moment" in train and "prefix_next_moment" not in test
    assert train["class_counts"].sum() == train["text_count"][0] == 60
    about = provenance.read(folder / "train.safetensors", "moments")
    assert about["identity"]["max_length"] == 64 and about["identity"]["layers"] == [0, 1, 2, 3]
    assert about["record"]["tokens"] == train["token_count"][0]
    states = load_file(next((tmp_path / "states").glob("*/tiny/train.safetensors")))
    data = load_dataset(str(world / "data" / "tiny.yaml"))
    assert np.array_equal(states["labels"], data.splits["train"].labels)
    means = states["states"].astype(np.float64)
    M = unpack(train["mean_second_moment"][2], 32)
    assert np.allclose(means[2].T @ means[2] / 60, M, rtol=1e-12, atol=0)
    out = capsys.readouterr().out
    assert "wrote" in out and "4 layers, 60 texts" in out and "tokens/s" in out
    hidden = [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert not hidden, "progress files stay behind"


def test_same_identity_is_skipped_without_loading_the_model_and_another_is_refused(
    world, tmp_path, capsys, monkeypatch
):
    assert call(world, tmp_path, "--limit", 30) == 0
    path = moments_folder(tmp_path) / "train.safetensors"
    stamp = path.stat().st_mtime_ns
    monkeypatch.setattr(lazy_model, "load_model", lambda *_: pytest.fail("the model was loaded"))
    assert call(world, tmp_path, "--limit", 30, "--tokens_per_batch", 99) == 0
    assert "already there" in capsys.readouterr().out
    assert call(world, tmp_path, "--limit", 31) == 1
    assert "limit is 30 there, 31 here" in capsys.readouterr().err
    assert call(world, tmp_path, "--limit", 30, "--layers", "0,2") == 1
    assert "layers" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == stamp
    monkeypatch.undo()
    assert call(world, tmp_path, "--limit", 31, "--overwrite") == 0
    assert path.stat().st_mtime_ns != stamp


def test_states_may_be_asked_for_later_and_leave_the_moments_alone(world, tmp_path):
    assert call(world, tmp_path, "--splits", "train") == 0
    path = moments_folder(tmp_path) / "train.safetensors"
    stamp = path.stat().st_mtime_ns
    assert call(world, tmp_path, "--splits", "train", "--keep_states") == 0
    assert path.stat().st_mtime_ns == stamp
    states = load_file(next((tmp_path / "states").glob("*/tiny/train.safetensors")))["states"]
    mean = load_file(path)["mean_state"]
    assert np.allclose(states.astype(np.float64).mean(1), mean, rtol=1e-12)


def test_partitions_add_up_to_the_whole(world, tmp_path):
    assert call(world, tmp_path / "a", "--splits", "train", "--keep_states") == 0
    assert call(world, tmp_path / "b", "--splits", "train", "--partitions", 3, "--keep_states") == 0
    whole, folder = moments_folder(tmp_path / "a"), moments_folder(tmp_path / "b")
    parts = [MomentsFile(folder / f"train.{i}-of-3.safetensors") for i in (1, 2, 3)]
    assert sum(part.text_count for part in parts) == 60
    a, b = load_file(whole / "train.safetensors"), load_file(folder / "train.safetensors")
    for name in a:
        scale = np.linalg.norm(a[name])
        assert np.linalg.norm(a[name] - b[name]) <= 1e-6 * scale, name
    total = parts[0].load()
    parts[1].add_to(total)
    parts[2].add_to(total)
    assert torch.allclose(
        total.average("prefix_next_moment", 1), torch.as_tensor(b["prefix_next_moment"][1]), rtol=1e-12
    )
    read = [
        load_file(next((tmp_path / x / "states").glob("*/tiny/train.safetensors")))["states"] for x in "ab"
    ]
    assert np.allclose(*read, atol=1e-6)


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import cache
from ntps.moments import resumable_pass
from ntps.run import cli
from ntps.system import checkpoint_clock
checkpoint_clock.SECONDS = 0.0
inner, calls = resumable_pass.encode, [0]
def encode(*arguments):
    for tokens in inner(*arguments):
        calls[0] += 1
        if calls[0] == {batches}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield tokens
resumable_pass.encode = encode
sys.exit(cli.run(cache.main, sys.argv[1:]))
"""


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("batches", [2, 9])
def test_a_killed_run_goes_on_and_ends_at_the_same_numbers(world, tmp_path, partitions, batches, capsys):
    flags = [
        "--splits",
        "train",
        "--tokens_per_batch",
        "128",
        "--keep_states",
        "--partitions",
        str(partitions),
    ]
    pair = ["--models", str(world / "model"), "--datasets", str(world / "data" / "tiny.yaml")]
    code = KILLED.format(root=str(ROOT), batches=batches)
    run = subprocess.run(
        [sys.executable, "-c", code, *pair, "--output", str(tmp_path / "killed"), *flags], cwd=ROOT
    )
    assert run.returncode == -9
    assert not list((tmp_path / "killed").rglob("train.safetensors"))
    assert call(world, tmp_path / "killed", *flags) == 0
    assert "going on" in capsys.readouterr().out
    assert call(world, tmp_path / "whole", *flags) == 0
    for kind in ("moments", "states"):
        a, b = (
            load_file(next((tmp_path / x / kind).glob("*/tiny/train.safetensors")))
            for x in ("killed", "whole")
        )
        for name in a:
            assert np.allclose(a[name], b[name], rtol=1e-12, atol=1e-12 * np.abs(b[name]).max(initial=0)), (
                name
            )
    assert not [path for path in (tmp_path / "killed").rglob(".*") if path.is_file()]


def killed(world, output, batches, *flags):
    """A run with a checkpoint after every batch, killed after some."""
    pair = [
        "--models",
        str(world / "model"),
        "--datasets",
        str(world / "data" / "tiny.yaml"),
        "--splits",
        "train",
    ]
    command = [
        sys.executable,
        "-c",
        KILLED.format(root=str(ROOT), batches=batches),
        *pair,
        "--output",
        str(output),
    ]
    assert subprocess.run([*command, "--tokens_per_batch", "128", *flags], cwd=ROOT).returncode == -9


def test_sums_too_large_for_the_memory_leave_nothing(world, tmp_path, capsys, monkeypatch):
    inner = resumable_pass.CachedSplit.empty

    def too_large(cached, device):
        if device != "meta":
            raise MemoryError
        return inner(cached, device)

    monkeypatch.setattr(resumable_pass.CachedSplit, "empty", too_large)
    assert call(world, tmp_path / "out", "--keep_states") == 1
    assert "out of memory: take fewer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_kill_between_moments_and_states_costs_no_pass(world, tmp_path, monkeypatch, partitions):
    flags = ["--splits", "train", "--keep_states", "--partitions", partitions]
    assert call(world, tmp_path / "whole", *flags) == 0

    def killed(temporary, path):
        raise KeyError("killed")

    with monkeypatch.context() as patched, pytest.raises(KeyError, match="killed"):
        inner = atomic_files.replace
        patched.setattr(
            atomic_files, "replace", lambda a, b: (killed if "states" in b.parts else inner)(a, b)
        )
        call(world, tmp_path / "killed", *flags)
    assert (moments_folder(tmp_path / "killed") / "train.safetensors").exists()
    assert not list((tmp_path / "killed").glob("states/*/tiny/train.safetensors"))
    monkeypatch.setattr(resumable_pass, "encode", killed)
    assert call(world, tmp_path / "killed", *flags) == 0
    for kind in ("moments", "states"):
        a, b = (
            load_file(next((tmp_path / x / kind).glob("*/tiny/train.safetensors")))
            for x in ("killed", "whole")
        )
        assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    assert not [path for path in (tmp_path / "killed").rglob(".*") if path.is_file()]


def test_a_checkpoint_of_other_settings_is_not_used(world, tmp_path):
    killed(world, tmp_path / "a", 4)
    assert call(world, tmp_path / "a", "--splits", "train", "--limit", 20) == 0
    assert call(world, tmp_path / "b", "--splits", "train", "--limit", 20) == 0
    a, b = (load_file(moments_folder(tmp_path / x) / "train.safetensors") for x in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_checkpoint_of_other_token_ids_is_not_used(world, tmp_path, capsys, monkeypatch):
    """As another version of a tokenizer may give them."""
    killed(world, tmp_path, 4)
    monkeypatch.setattr(resumable_pass, "digest", lambda ids: "other")
    flags = ["--splits", "train", "--tokens_per_batch", "128"]
    assert call(world, tmp_path, *flags) == 0 and "starting over: " in capsys.readouterr().out


def test_checkpoint_and_states_of_two_killed_runs_are_not_mixed(world, tmp_path):
    killed(world, tmp_path / "a", 4, "--keep_states")
    killed(
        world, tmp_path / "a", 1, "--keep_states", "--max_length", "20"
    )  # dies before its first checkpoint
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states"]
    assert call(world, tmp_path / "a", *flags) == 0 and call(world, tmp_path / "b", *flags) == 0
    for kind in ("moments", "states"):
        a, b = (load_file(next((tmp_path / x / kind).rglob("train.safetensors"))) for x in "ab")
        assert all(np.array_equal(a[name], b[name]) for name in a), kind


def test_a_restart_that_fails_keeps_the_checkpoint(world, tmp_path, capsys, monkeypatch):
    killed(world, tmp_path, 4, "--keep_states")
    left = sorted(path for path in tmp_path.rglob(".*") if path.is_file() and path.suffix != ".lock")
    assert len(left) == 2
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states"]
    with monkeypatch.context() as broken:
        broken.setattr(atomic_files, "check_space", lambda *_: (_ for _ in ()).throw(UserError("no space")))
        assert call(world, tmp_path, *flags) == 1
    with monkeypatch.context() as broken:
        broken.setattr(lazy_model, "load_model", lambda *_: (_ for _ in ()).throw(UserError("no model")))
        assert call(world, tmp_path, *flags) == 1
    assert all(path.exists() for path in left)
    assert call(world, tmp_path, *flags) == 0 and "going on" in capsys.readouterr().out


@pytest.mark.parametrize("resumed", [False, True])
def test_a_disk_that_fails_late_costs_no_checkpoint(world, tmp_path, capsys, monkeypatch, resumed):
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states"]
    if resumed:
        killed(world, tmp_path, 4, "--keep_states")
    inner = array_files.header

    def full(layout, about):
        if about["format"].startswith("ntps moments"):
            raise OSError(28, "No space left on device")
        return inner(layout, about)

    with monkeypatch.context() as broken:
        broken.setattr(array_files, "header", full)
        assert call(world, tmp_path, *flags) == 1
    assert "No space" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tmp"))
    assert call(world, tmp_path, *flags) == 0 and "going on" in capsys.readouterr().out


def test_a_lost_partition_starts_over(world, tmp_path, capsys):
    flags = ["--splits", "train", "--tokens_per_batch", "128", "--partitions", "2"]
    killed(world, tmp_path, 9, "--partitions", "2")
    (moments_folder(tmp_path) / "train.1-of-2.safetensors").unlink()
    assert call(world, tmp_path, *flags) == 0
    assert "1-of-2.safetensors does not exist" in capsys.readouterr().out


def test_states_that_are_no_longer_asked_for_leave_nothing(world, tmp_path):
    killed(world, tmp_path, 4, "--keep_states")
    assert call(world, tmp_path, "--splits", "train") == 0
    assert not (tmp_path / "states").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_damaged_checkpoint_is_reported_and_not_used(world, tmp_path, capsys):
    killed(world, tmp_path, 4)
    resume = next(tmp_path.rglob(".train.resume.safetensors"))
    resume.write_bytes(resume.read_bytes()[:200])
    assert call(world, tmp_path, "--splits", "train", "--tokens_per_batch", "128") == 0
    assert "cannot be used, starting over" in capsys.readouterr().out


def test_two_processes_do_not_work_on_the_same_output(world, tmp_path, capsys):
    assert call(world, tmp_path, "--splits", "train") == 0
    folder = moments_folder(tmp_path)
    (folder / "train.safetensors").unlink()
    with locks.locked(folder / ".train.lock"):
        assert call(world, tmp_path, "--splits", "train") == 1
        assert "another process" in capsys.readouterr().err
    assert call(world, tmp_path, "--splits", "train") == 0


def test_a_broken_output_is_reported_and_kept(world, tmp_path, capsys):
    assert call(world, tmp_path, "--splits", "train") == 0
    path = moments_folder(tmp_path) / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    cut = path.read_bytes()
    assert call(world, tmp_path, "--splits", "train") == 1
    assert str(path) in capsys.readouterr().err and path.read_bytes() == cut
    assert call(world, tmp_path, "--splits", "train", "--overwrite") == 0


def yaml_with(folder: Path, rows: str, text="text", label="label") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_text(rows, encoding="utf-8")
    (folder / "mine.yaml").write_text(
        f"files: {{train: train.csv, test: train.csv}}\ntext: {text}\nlabel: {label}\n"
    )
    return folder / "mine.yaml"


GOOD = "text,label\nred green,a\nblue,b\nred,a\nyellow,b\n"


@pytest.mark.parametrize(
    "change, flags, said",
    [
        ({}, ["--models", "smolm2-135m"], "smollm2-135m"),
        ({}, ["--datasets", "trec7"], "trec6"),
        ({}, ["--datasets", "nowhere.yaml"], "nowhere.yaml"),
        ({}, ["--limit", "0"], "limit"),
        ({}, ["--max_length", "0"], "max_length"),
        ({}, ["--tokens_per_batch", "-1"], "tokens_per_batch"),
        ({}, ["--label_permutations", "-1"], "label_permutations"),
        ({}, ["--seed", "-1"], "seed"),
        ({}, ["--device", "meta"], "meta"),
        ({}, ["--prefix_moments", "some"], "prefix_moments"),
        ({}, ["--layers", "0,9"], "layers 0 to 3"),
        ({}, ["--layers", "one"], "0,8,16"),
        ({}, ["--splits", "trian"], "train"),
        ({}, ["--splits", "train", "tset"], "tset"),
        ({}, ["--limit", "1"], "one and the same label"),
        ({}, ["--partitions", "5"], "4 rows only"),
        ({}, ["--device", "cuda:7"], "cuda:7"),
        ({}, ["--dtype", "float8"], "float8"),
        ({}, ["--adapter", "nowhere"], "nowhere"),
        ({"text": "txt"}, [], "text"),
        ({"rows": "text,label\n"}, [], "no "),
        ({"rows": "text,label\nred,a\nblue,a\n"}, [], "class"),
        ({"rows": None}, [], "train.csv"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(world, tmp_path, capsys, change, flags, said):
    where = yaml_with(tmp_path / "in", change.get("rows", GOOD) or "", change.get("text", "text"))
    if "rows" in change and change["rows"] is None:
        (tmp_path / "in" / "train.csv").unlink()
    command = [
        "--models",
        str(world / "model"),
        "--datasets",
        str(where),
        "--output",
        str(tmp_path / "out"),
        *flags,
    ]
    try:
        code = cli.run(cache.main, command)
    except SystemExit as stop:  # the parser's own refusals
        code = stop.code
    error = capsys.readouterr().err
    assert code in (1, 2) and said in error and "Traceback" not in error
    assert len([line for line in error.splitlines() if "error:" in line]) == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_pair_does_not_stop_the_others(world, tmp_path, capsys):
    assert (
        call(world, tmp_path, "--datasets", "nope", str(world / "data" / "tiny.yaml"), "--splits", "train")
        == 1
    )
    assert "nope" in capsys.readouterr().err and moments_folder(tmp_path).is_dir()


def test_non_finite_weights_and_states_leave_nothing(world, tmp_path, capsys, monkeypatch):
    real = lazy_model.load_model

    def spoiled(*arguments):
        model = real(*arguments)
        with torch.no_grad():
            model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
        return model

    monkeypatch.setattr(lazy_model, "load_model", spoiled)
    assert call(world, tmp_path / "out", "--keep_states") == 1
    error = capsys.readouterr().err
    assert "text " in error and "layer 2" in error
    assert not (tmp_path / "out").exists()


def test_no_space_is_said_before_the_pass(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(atomic_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(lazy_model, "load_model", lambda *_: pytest.fail("the model was loaded"))
    assert call(world, tmp_path / "out") == 1
    assert "no space" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_one_error(world, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert call(world, tmp_path / "out") == 1
    assert "Traceback" not in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_float64_runs_in_float64(world, tmp_path):
    assert call(world, tmp_path, "--splits", "train", "--dtype", "float64", "--keep_states") == 0
    states = load_file(next((tmp_path / "states").rglob("train.safetensors")))["states"]
    assert states.dtype == np.float64 and not np.array_equal(states, states.astype(np.float32))


def test_empty_texts_are_dropped_and_counted(world, tmp_path):
    where = yaml_with(tmp_path / "in", GOOD + '"   ",a\n,b\n')
    assert (
        cli.run(
            cache.main,
            ["--models", str(world / "model"), "--datasets", str(where), "--output", str(tmp_path / "out")],
        )
        == 0
    )
    path = next((tmp_path / "out" / "moments").glob("*/mine/train.safetensors"))
    assert provenance.read(path)["record"]["data"]["dropped"]["empty"] == 4  # two a split
    assert load_file(path)["text_count"][0] == 4


@pytest.mark.parametrize(
    "how", [{"pad_token": None}, {"padding_side": "left"}, {"model_max_length": int(1e30)}]
)
def test_tokenizers_of_all_kinds_give_the_same_moments(world, tmp_path, how):
    shutil.copytree(world / "model", tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | how))
    for model, output in ((world / "model", "a"), (tmp_path / "model", "b")):
        command = [
            "--models",
            str(model),
            "--datasets",
            str(world / "data" / "tiny.yaml"),
            "--max_length",
            "64",
        ]
        assert cli.run(cache.main, [*command, "--output", str(tmp_path / output), "--splits", "train"]) == 0
    a, b = (load_file(next((tmp_path / x).rglob("train.safetensors"))) for x in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    facts = provenance.read(next((tmp_path / "b").rglob("train.safetensors")))["record"]["tokenizer"]
    assert facts["put_right"]


def test_config_file_flags_and_unknown_keys(world, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"models: [{world / 'model'}]\ndatasets: [{world / 'data' / 'tiny.yaml'}]\nlimit: 10\nsplits: [train]\n"
    )
    assert (
        cli.run(cache.main, ["--config", str(config), "--output", str(tmp_path / "out"), "--limit", "12"])
        == 0
    )
    assert load_file(moments_folder(tmp_path / "out") / "train.safetensors")["text_count"][0] == 12
    config.write_text(config.read_text() + "limmit: 3\n")
    with pytest.raises(SystemExit):
        cli.run(cache.main, ["--config", str(config)])
    assert "limmit" in capsys.readouterr().err


def test_limits_nest_and_results_do_not_depend_on_the_batch_size(world, tmp_path):
    assert call(world, tmp_path / "a", "--splits", "train", "--tokens_per_batch", 64) == 0
    assert call(world, tmp_path / "b", "--splits", "train", "--tokens_per_batch", 10_000) == 0
    a, b = (load_file(moments_folder(tmp_path / x) / "train.safetensors") for x in "ab")
    assert all(np.linalg.norm(a[name] - b[name]) <= 1e-6 * np.linalg.norm(a[name]) for name in a)
    data = load_dataset(str(world / "data" / "tiny.yaml"))
    assert set(data.select("train", 10).texts) < set(data.select("train", 20).texts)


def test_random_weights_control(world, tmp_path):
    control = tmp_path / "control.yaml"
    control.write_text(f"random_of: {world / 'model'}\nseed: 1\n")
    command = ["--models", str(control), "--datasets", str(world / "data" / "tiny.yaml"), "--splits", "train"]
    for output in "ab":
        assert cli.run(cache.main, [*command, "--output", str(tmp_path / output)]) == 0
    a, b = (load_file(next((tmp_path / x).rglob("train.safetensors"))) for x in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert resolve_model(str(control)).name == "control"


def test_the_script_and_show_run_as_commands(world, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pair = ["--models", str(world / "model"), "--datasets", str(world / "data" / "tiny.yaml")]
    run = subprocess.run(
        [sys.executable, str(ROOT / "cache.py"), *pair, "--splits", "train", "--output", "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    file = next((tmp_path / "out").rglob("train.safetensors"))
    shown = subprocess.run(
        [sys.executable, "-m", "ntps.show", str(file)], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0 and "mean_second_moment" in shown.stdout and "4x528" in shown.stdout
    assert json.loads(shown.stdout[shown.stdout.index("{") :])["identity"]["split"] == "train"
    gone = subprocess.run(
        [sys.executable, "-m", "ntps.show", "nothing"], env=environment, capture_output=True, text=True
    )
    assert gone.returncode == 1 and "nothing does not exist" in gone.stderr and "Traceback" not in gone.stderr


@pytest.mark.parametrize("flag", ["--adapter", "--shard", "--dtype"])
def test_names_are_taken_as_they_stand(world, tmp_path, capsys, flag):
    """`#a` is no comment and `null` is not "none given": what was asked for is refused, not left out."""
    for value in ("#a", "null"):
        assert call(world, tmp_path / "out", flag, value) == 1
        assert value in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        call(world, tmp_path / "out", flag, "")
    assert "empty" in capsys.readouterr().err


def test_flags_are_not_abbreviated(world, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(world, tmp_path, "--conf", "e.yaml")
    assert "--conf" in capsys.readouterr().err


def test_a_token_that_the_model_does_not_embed_is_told(world, tmp_path, capsys):
    from transformers import AutoTokenizer

    shutil.copytree(world, tmp_path / "w")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "w/model")
    tokenizer.add_tokens("[EXTRA]")
    tokenizer.save_pretrained(tmp_path / "w/model")
    with open(tmp_path / "w/data/tiny-train.csv", "a", encoding="utf-8") as file:
        file.write("some [EXTRA] words,class0\n")
    assert call(tmp_path / "w", tmp_path / "out") == 1
    assert "text 60 ('some [EXTRA] words') has token" in capsys.readouterr().err
    assert cli.run(linear_training.main, world_flags(tmp_path / "w", tmp_path / "out")) == 1
    assert "text 60 ('some [EXTRA] words') has token" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("")],
)
def test_a_model_too_large_for_the_memory_is_told(world, tmp_path, capsys, monkeypatch, raised):
    def too_large(*_):
        raise raised

    monkeypatch.setattr(lazy_model, "load_model", too_large)
    assert call(world, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "error: " in told and "out of memory: take fewer" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("permutations", "words"),
    [(2**31 - 1, "the output takes .* fewer --layers or --label_permutations"), (10**22, "below 2\\*\\*31")],
)
def test_a_width_that_no_disk_has_is_one_error(tmp_path, capsys, permutations, words):
    world, output = tiny_world(tmp_path / "world", n=30), tmp_path / "results"
    assert cli.run(cache.main, [*world_flags(world, output), "--label_permutations", str(permutations)]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told and re.search(words, told)
