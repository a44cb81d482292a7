"""Several processes on one split: the same sums as one, whatever happens to them; shards and their merge."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import cache
from ntps.commands.merge import main as merge_command
from ntps.errors import UserError
from ntps.moments.merge import merge
from ntps.run import cli
from ntps.system import array_files, processes, provenance
from tests.launch import SCRIPTS, disk_full, killed, launch, not_finite, silent, training_killed
from tests.tiny import tiny_world, world_flags

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--splits", "train", "--tokens_per_batch", "128", "--keep_states", "--label_permutations", "3"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def call(world, output, *flags) -> int:
    return cli.run(cache.main, world_flags(world, output, *flags))


def files(output: Path) -> dict[str, Path]:
    return {f"{p.parts[-4]}/{p.name}": p for p in output.rglob("*.safetensors")}


def assert_same(a: Path, b: Path, tolerance: float) -> None:
    assert files(a).keys() == files(b).keys() and files(a)
    for name in files(a):
        left, right = load_file(files(a)[name]), load_file(files(b)[name])
        for key in left:
            scale = np.linalg.norm(right[key])
            assert np.linalg.norm(left[key] - right[key]) <= tolerance * scale, (name, key)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_make_what_one_makes(world, tmp_path, count):
    two_texts = ["--splits", "train", "--limit", "2", "--seed", "2", "--tokens_per_batch", "1"]
    asked = {"plain": FLAGS[2:], "parts": [*FLAGS, "--partitions", "2"], "few": [*two_texts, "--keep_states"]}
    commands = [
        ["cache", *world_flags(world, tmp_path / "many" / name, *flags)] for name, flags in asked.items()
    ]
    commands[0].insert(commands[0].index("--datasets") + 2, "nowhere.yaml")
    found = launch(count, commands, tmp_path)
    assert [code for code, _, _ in found] == [1] * count  # of the data set that is not there
    errors = [line for _, _, error in found for line in error.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "nowhere.yaml" in errors[0]
    assert found[0][1].count("wrote") == 4 and not any(out for _, out, _ in found[1:])
    assert "token" in found[0][2] and "token" not in found[1][2]  # one bar
    for name, flags in asked.items():
        assert call(world, tmp_path / "one" / name, *flags) == 0
        assert_same(tmp_path / "many" / name, tmp_path / "one" / name, 1e-10)
        assert call(world, tmp_path / "many" / name, *flags) == 0  # one identity: there already
    record = provenance.read(files(tmp_path / "many" / "few")["moments/train.safetensors"])["record"]
    assert record["processes"] == count and record["texts"] == 2
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_lost_process_ends_the_others_and_a_rerun_finishes(world, tmp_path):
    output, flags = tmp_path / "killed", [*FLAGS, "--partitions", "2"]
    began = time.monotonic()
    found = launch(2, [["cache", *world_flags(world, output, *flags)]], tmp_path, killed)
    assert found[1][0] == -9 and found[0][0] == 1 and time.monotonic() - began < 120
    assert "error: process 0 has lost another one" in found[0][2] and "Traceback" not in found[0][2]
    assert list(output.rglob(".train.resume.safetensors")) and "moments/train.safetensors" not in files(
        output
    )
    shutil.copytree(output, tmp_path / "with_one")
    commands = [["cache", *world_flags(world, where, *flags)] for where in (output, tmp_path / "whole")]
    again = launch(2, commands, tmp_path)
    assert [code for code, _, _ in again] == [0, 0] and "going on with" in again[0][1]
    assert_same(output, tmp_path / "whole", 1e-12)
    assert call(world, tmp_path / "with_one", *flags) == 0
    assert_same(tmp_path / "with_one", tmp_path / "whole", 1e-10)


@pytest.mark.parametrize("trouble, said", [(not_finite, "not finite"), (disk_full, "No space left")])
def test_a_users_error_in_one_process_ends_the_launch(world, tmp_path, trouble, said):
    found = launch(2, [["cache", *world_flags(world, tmp_path / "out", *FLAGS)]], tmp_path, trouble)
    assert [code for code, _, _ in found] == [1, 1]
    errors = [line for _, _, error in found for line in error.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and said in errors[0] and "Traceback" not in found[0][2] + found[1][2]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_process_that_is_silent_is_lost_after_the_timeout(world, tmp_path):
    found = launch(2, [["cache", *world_flags(world, tmp_path / "out", *FLAGS)]], tmp_path, silent)
    assert [code for code, _, _ in found] == [1, 1] and "has lost another one" in found[0][2]


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    """The three shards of a run, each from a machine of its own."""
    folder = tmp_path_factory.mktemp("machines")
    for i in (1, 2, 3):
        assert call(world, folder / f"machine{i}", *FLAGS, "--shard", f"{i}/3") == 0
    return folder


def merged(folder: Path, *flags) -> int:
    return cli.run(merge_command, [str(folder), *flags])


def test_merged_shards_are_the_partitions_of_one_run(world, shards, tmp_path, capsys):
    for machine in shards.iterdir():
        shutil.copytree(machine, tmp_path / "all", dirs_exist_ok=True)
    assert merged(tmp_path / "all") == 0
    assert call(world, tmp_path / "one", *FLAGS, "--partitions", "3") == 0
    for path in (tmp_path / "all").rglob("states/*/*/train.?-of-3.safetensors"):
        path.unlink()  # one run keeps no states apart
    assert_same(tmp_path / "all", tmp_path / "one", 1e-13)
    for name, path in files(tmp_path / "all").items():
        other = provenance.read(files(tmp_path / "one")[name])
        assert provenance.read(path)["identity"] == other["identity"]
    capsys.readouterr()
    assert call(world, tmp_path / "all", *FLAGS, "--partitions", "3") == 0 and merged(tmp_path / "all") == 0
    assert "already there" in capsys.readouterr().out


def test_merge_finds_the_files_of_several_machines_below_one_folder(shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "x")
    assert merged(tmp_path / "x") == 0
    assert capsys.readouterr().out.count("3 parts") == 2
    assert len(list((tmp_path / "x" / "machine1").rglob("train.safetensors"))) == 2


def test_merge_refuses_what_does_not_add_up(world, shards, tmp_path, capsys):
    def refused(change) -> str:
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        shutil.copytree(shards, tmp_path / "x")
        change(tmp_path / "x")
        assert merged(tmp_path / "x") == 1
        assert not list((tmp_path / "x").rglob("moments/*/*/train.safetensors"))
        return capsys.readouterr().err

    assert "there is no 2-of-3" in refused(lambda x: shutil.rmtree(x / "machine2"))
    assert "both part 2-of-3" in refused(lambda x: shutil.copytree(x / "machine2", x / "machine4"))
    other = [*FLAGS, "--shard", "2/3", "--overwrite", "--max_length", "20"]
    error = refused(lambda x: call(world, x / "machine2", *other))
    assert "max_length is 64 there, 20 here" in error and "machine2" in error
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "x").mkdir()
    assert merged(tmp_path / "x") == 1 and "no partial files" in capsys.readouterr().err
    whole = next((shards / "machine1").rglob("train.1-of-3.safetensors"))
    about = provenance.read(whole)
    about["identity"].pop("part")
    array_files.write(tmp_path / "train.1-of-3.safetensors", {}, about)
    with pytest.raises(UserError, match="no partial file"):
        merge([tmp_path / "train.1-of-3.safetensors"])


def test_merge_takes_partial_files_only_and_a_broken_one_stops_no_other_set(shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "x")
    first = tmp_path / "x" / "machine1"
    (moments,) = first.glob("moments/*/*/train.1-of-3.safetensors")
    for name in ("ntps/m/made-of-steel.curves.safetensors", "models/m/model-00001-of-00002.safetensors"):
        (first / name).parent.mkdir(parents=True)
        array_files.write(first / name, {}, provenance.of("scores", {}))
    other = moments.with_name("test.1-of-3.safetensors")
    other.write_bytes(b"cut short")
    assert merged(tmp_path / "x") == 1
    told = capsys.readouterr()
    assert told.out.count("3 parts") == 2 and told.err.count("error: ") == 1 and str(other) in told.err
    about = provenance.read(moments)
    about["identity"] |= {"part": 1, "split": "test"}  # as older files have it
    array_files.write(other, {}, about)
    assert merged(tmp_path / "x") == 1
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "no partial file of this version" in error


@pytest.mark.parametrize("flags", [["--shard", "0/2"], ["--shard", "3/2"], ["--shard", "two"],
                                   ["--shard", "1/2", "--partitions", "3"]])  # fmt: skip
def test_a_shard_that_is_none_is_refused(world, tmp_path, capsys, flags):
    assert call(world, tmp_path / "out", *flags) == 1
    assert "i/n" in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- launchers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found, said",
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT not set"),
        ({"RANK": "1"}, None),
        ({"WORLD_SIZE": "4(x2)"}, "the variable WORLD_SIZE is '4(x2)', not a number"),
        ({"WORLD_SIZE": "", "RANK": "0"}, None),
    ],
)
def test_half_a_launch_is_one_process_or_one_clear_error(monkeypatch, capsys, tmp_path, found, said):
    for name in processes.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert merged(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and (said or "no partial files") in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    ["torch.distributed.run --nproc_per_node 2 --master_port 0 --rdzv_backend c10d --rdzv_endpoint localhost:0",
     "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 "
     "--mixed_precision no --dynamo_backend no"],
)  # fmt: skip
def test_launchers_of_torch_and_accelerate(world, tmp_path, launcher):
    words = [
        sys.executable,
        "-m",
        *launcher.split(),
        str(ROOT / "cache.py"),
        *world_flags(world, "many", *FLAGS),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert call(world, tmp_path / "one", *FLAGS) == 0
    assert_same(tmp_path / "many", tmp_path / "one", 1e-10)
    record = provenance.read(files(tmp_path / "many")["moments/train.safetensors"])["record"]
    assert record["processes"] == 2


# --- trainers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(world):
    """Flags of short trainings without dropout, whose random numbers would be a process's own."""
    (world / "small.yaml").write_text("path: model\nlora_targets: [q_proj, k_proj, v_proj]\n")
    flags = ["--models", world / "small.yaml", "--datasets", world / "data" / "tiny.yaml", "--dropout", 0]
    shared = [*flags, "--max_steps", 6, "--learning_rate", 0.01, "--batch_size"]
    return {
        "linear_training": [*shared, 8],
        "lora_finetuning": [*shared, 2, "--eval_every", 3, "--lora_dropout", 0],
        "from_scratch": [*shared, 2, "--eval_every", 3],
    }


def one_training(script, flags, output) -> list[str]:
    return [script, *map(str, flags), "--output", str(output)]


def same_table(a: Path, b: Path, script: str) -> None:
    left, right = (
        pd.read_csv(folder / "accuracy" / script / "small" / "tiny.csv").drop(columns="seconds")
        for folder in (a, b)
    )
    pd.testing.assert_frame_equal(left, right, rtol=1e-4)
    assert not [path for path in (a / "accuracy").rglob(".*")]


@pytest.mark.slow
def test_trainers_of_two_processes_write_the_table_of_one(world, trained, tmp_path, capsys):
    two, one = tmp_path / "two", tmp_path / "one"
    found = launch(2, [one_training(name, flags, two) for name, flags in trained.items()], tmp_path)
    assert [code for code, _, _ in found] == [0, 0], found
    assert found[0][1].count("wrote") == 3 and not found[1][1]
    for name, flags in trained.items():  # in one process, half the texts at a time
        halves = [] if name == "linear_training" else ["--gradient_accumulation", 2]
        main = SCRIPTS[name].main
        assert cli.run(main, one_training(name, [*flags, *halves], one)[1:]) == 0
        same_table(two, one, name)
        capsys.readouterr()
        expected = 0 if name == "linear_training" else 1
        assert cli.run(main, one_training(name, flags, two)[1:]) == expected
        assert ("processes is 2 there" if expected else "already there") in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_training_that_loses_a_process_goes_on(world, trained, tmp_path):
    flags = trained["lora_finetuning"]
    found = launch(
        2, [one_training("lora_finetuning", flags, tmp_path / "killed")], tmp_path, training_killed
    )
    assert found[1][0] == -9 and found[0][0] not in (0, None, -9)
    where = [tmp_path / "killed", tmp_path / "whole"]
    again = launch(2, [one_training("lora_finetuning", flags, output) for output in where], tmp_path)
    assert [code for code, _, _ in again] == [0, 0] and "going on from" in again[0][1]
    same_table(*where, "lora_finetuning")


@pytest.mark.slow
def test_linear_training_shares_kept_states(world, trained, tmp_path):
    name, a, b = "linear_training", tmp_path / "a", tmp_path / "b"
    small = ["--models", world / "small.yaml", "--datasets", world / "data" / "tiny.yaml", "--keep_states"]
    found = launch(2, [one_training("cache", small, a), one_training(name, trained[name], a)], tmp_path)
    assert [code for code, _, _ in found] == [0, 0] and "states from" in found[0][1]
    assert cli.run(SCRIPTS[name].main, one_training(name, trained[name], b)[1:]) == 0
    same_table(a, b, name)
