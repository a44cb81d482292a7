"""Every script killed at a file operation and started again ends as if it had not been killed, with nothing left over.

An operation is an open for writing, a rename, a removal or a new folder below the output, seen by an audit hook. A kill
comes before it, or while the file that it opens is half written. KILLS=all takes every operation; else a sample.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import peft  # noqa: F401 -- imported before the fork, as all that the scripts import later
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from safetensors import safe_open
from tqdm import tqdm

import alignment_vis
import cache
import from_scratch
import K_sweep
import linear_sklearn
import linear_training
import lora_finetuning
import prescreen
from ntps.accuracies import finetuning, gradients, layer_probes, lora  # noqa: F401
from ntps.commands import finetune_probe
from ntps.prescreening import page, user_files  # noqa: F401
from ntps.results import scoring  # noqa: F401
from ntps.run import cli
from ntps.system import array_files, checkpoint_clock
from tests.tiny import tiny_world

pytestmark = pytest.mark.slow
CONTEXT = multiprocessing.get_context("forkserver")  # imports once, not once a kill
CONTEXT.set_forkserver_preload(
    ["tests.launch", "tests.test_kills", "transformers.models.llama.modeling_llama"]
)
SCRIPTS = (
    alignment_vis,
    cache,
    K_sweep,
    linear_sklearn,
    linear_training,
    lora_finetuning,
    from_scratch,
    prescreen,
    finetune_probe,
)
SAMPLE = 8  # kills of each command
CACHE = ["cache", "--label_permutations", "1", "--tokens_per_batch", "300"]
STATES = [*CACHE, "--keep_states", "--partitions", "2"]
TRAINING = ["--max_steps", "4", "--eval_every", "2", "--batch_size", "4", "--learning_rate", "0.01"]
LORA = ["lora_finetuning", *TRAINING, "--rank", "2"]
COMMANDS = {  # what comes before the kill, and the command that is killed
    "cache": ([], CACHE),
    "cache_states": ([], STATES),
    "cache_shard": ([], [*CACHE, "--keep_states", "--shard", "1/2"]),
    "K_sweep": ([STATES], ["K_sweep", "--error_bars", "all"]),
    "alignment_vis": ([STATES], ["alignment_vis", "--layer", "1"]),
    "linear_sklearn": ([STATES], ["linear_sklearn"]),
    "linear_training": ([], ["linear_training", "--epochs", "2", "--seeds", "0", "1"]),
    "lora_finetuning": ([], [*LORA, "--seeds", "0", "1"]),
    "lora_overwritten": ([[*LORA, "--dropout", "0.2"]], [*LORA, "--overwrite"]),
    "from_scratch": ([], ["from_scratch", *TRAINING]),
    "finetune_probe": ([], [finetune_probe.__name__, "--tokens_per_batch", "300"]),
    "prescreen": ([], ["prescreen", "--layers", "all", "--tokens_per_batch", "600"]),
    "prescreen_lora": (
        [],
        ["prescreen", "--layers", "1", "--label_permutations", "0", "--finetune_probe", "4"],
    ),
}
OF_LORA = ("lora_seconds", "lora_passes")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PLACES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}  # of dir_fd


def watch(folder: Path, kill: tuple[int, bool] | None, log: Path | None) -> None:
    """Log operations below a folder, and die at one: (its number, whether its file is to be left half written)."""
    count, opened, last = [0], [""], [()]

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not flags & WRITING or isinstance(path, int):
                return
        elif event in PLACES:
            path, where, flags = arguments[0], arguments[PLACES[event]], 0
            if where != -1:
                path = os.path.join(os.readlink(f"/proc/self/fd/{where}"), path)
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(f"{folder}{os.sep}"):
            return
        creating = event == "open" and flags & (os.O_CREAT | os.O_TRUNC)
        if not creating and last[0] == (event, path):  # the maps of a file that is being filled
            return
        last[0] = (event, path)
        if opened[0]:
            if os.path.isfile(opened[0]):
                size, opened[0] = os.path.getsize(name := opened[0]), ""
                os.truncate(name, size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
        if log:
            os.write(descriptor, f"{int(bool(flags & os.O_TRUNC))} {event} {path}\n".encode())
        if kill and count[0] == kill[0]:
            if not kill[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            opened[0] = path

    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(hook)


def telling(inner, place: int):
    """A function of a library that opens a file out of Python's sight, made to tell the audit hook."""

    def function(*arguments, **options):
        path = arguments[place] if len(arguments) > place else options["filename"]
        sys.audit("open", str(path), "wb", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        return inner(*arguments, **options)

    return function


def script_of(command: list[str]):
    return next(module for module in SCRIPTS if module.__name__ == command[0])


def work(command: list[str], folder: Path, kill=None, log=None, often=False) -> None:
    """The command of a fresh process in a folder, its output in `results`; `often`: a checkpoint whenever there can be one."""
    os.chdir(folder)
    text = os.open(folder.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(text, 1), os.dup2(text, 2)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # one of several processes would be left by a kill
    for module in (safetensors.torch, safetensors.numpy):
        module.serialize_file = telling(module.serialize_file, 1)
    torch.save = telling(torch.save, 1)
    if often:
        checkpoint_clock.SECONDS = checkpoint_clock.WORK = 0.0
    watch(folder / "results", kill, log)
    code = cli.run(script_of(command).main, [*command[1:], "--output", "results"])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def call(command: list[str], folders: list[Path], options: list[dict] | None = None) -> list[int]:
    """Exit codes of a command in each folder, with options of `work` for each; two at a time."""
    each = zip(folders, options or [{}] * len(folders))
    processes = [CONTEXT.Process(target=work, args=(command, folder), kwargs=own) for folder, own in each]
    for start in range(0, len(processes), 2):
        for process in processes[start : start + 2]:
            process.start()
        for process in processes[start : start + 2]:
            process.join(120)
            process.kill()
    return [process.exitcode for process in processes]


# --- what is compared ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict:
    """All that lies in a folder, without dates and seconds."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


def content(path: Path):
    if path.is_dir():
        return "folder"
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            about |= {"ntps": json.loads(about.get("ntps", "null"))}
            about.pop(array_files.HASH, None)  # it is of the date, too
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != "cost"}
            return {"about": timeless(about), "arrays": arrays}
    if path.suffix == ".csv":
        table = pd.read_csv(path, float_precision="round_trip")
        return table.drop(columns=["seconds", "forward_passes", *OF_LORA], errors="ignore").to_dict("list")
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    return (
        re.sub(r"\d+ s\b|–|, [\d.]+ times its forward pass", "", path.read_text())
        if path.suffix == ".html"
        else path.read_bytes()
    )


def timeless(value):
    if isinstance(value, dict):
        return {
            key: timeless(item) for key, item in value.items() if key not in ("date", "seconds", *OF_LORA)
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


def unequal(found, wanted, where: str = "") -> list[str]:
    """Where two contents differ, numbers by more than 1e-12; those kept in float32 may have been rounded to its next number."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        odd, both = found.keys() ^ wanted.keys(), found.keys() & wanted.keys()
        lines = [f"{where}/{key}: {'left over' if key in found else 'missing'}" for key in odd]
        return sum((unequal(found[key], wanted[key], f"{where}/{key}") for key in both), lines)
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return [line for i, pair in enumerate(zip(found, wanted)) for line in unequal(*pair, f"{where}[{i}]")]
    if isinstance(found, float | np.ndarray) and np.shape(found) == np.shape(wanted):
        scale = max(1.0, np.abs(np.nan_to_num(wanted)).max(initial=0))
        step = np.spacing(np.abs(wanted)) if getattr(wanted, "dtype", None) == np.float32 else 0.0
        same = np.allclose(found, wanted, rtol=0, atol=1e-12 * scale + step, equal_nan=True)
        return [] if same else [f"{where}: differs by {np.abs(np.subtract(found, wanted)).max()}"]
    return [] if found == wanted else [f"{where}: {str(found)[:60]} for {str(wanted)[:60]}"]


# --- the kills -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tiny_world(tmp_path_factory.mktemp("world"), n=40)
    description = {"path": "model", "lora_targets": ["q_proj", "v_proj"]}
    (folder / "small.yaml").write_text(yaml.safe_dump(description))
    return folder


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_ends_as_an_uninterrupted_one(world, tmp_path, monkeypatch, one_thread, name):
    def whole(command: list[str]) -> list[str]:
        data = ["--dataset" if command[0] == "prescreen" else "--datasets", str(world / "data" / "tiny.yaml")]
        return [*command, "--models", str(world / "small.yaml"), *data]

    before, command = COMMANDS[name][0], whole(COMMANDS[name][1])
    start, plain, often, log = (tmp_path / name for name in ("start", "plain", "often", "log"))
    start.mkdir()
    for earlier in before:
        assert call(whole(earlier), [start]) == [0]
    for folder in (plain, often):
        shutil.copytree(start, folder)
    assert call(command, [often], [{"often": True, "log": log}]) == [0]
    # this process has an order of sets of its own; the forkserver that has begun above imports from the folder before
    monkeypatch.chdir(plain)
    assert cli.run(script_of(command).main, [*command[1:], "--output", "results"]) == 0
    wanted = contents(plain)
    assert not unequal(contents(often), wanted)
    lines = log.read_text().splitlines()
    every = [(i, half) for i, line in enumerate(lines, 1) for half in (False, True)[: 1 + int(line[0])]]
    kills = every if os.environ.get("KILLS") == "all" else sorted(random.Random(name).sample(every, SAMPLE))
    folders = [tmp_path / f"{number}{'half' * half}" for number, half in kills]
    for folder in folders:
        shutil.copytree(start, folder)
    assert set(call(command, folders, [{"often": True, "kill": kill} for kill in kills])) == {-signal.SIGKILL}
    again = [{"often": random.Random(str(kill)).random() < 0.5} for kill in kills]
    codes = call(command, folders, again)
    found = []
    for (number, half), folder, code in zip(kills, folders, codes):
        failed = (
            unequal(contents(folder), wanted)
            if code == 0
            else [folder.with_suffix(".txt").read_text()[-300:]]
        )
        place = f"{'half of' if half else 'before'} {number}, {lines[number - 1][2:].replace(str(often), '')}"
        found += [f"{place}: {line}" for line in failed[:3]]
        shutil.rmtree(folder)
    print(f"{name}: {len(lines)} operations, {len(kills)} kills")
    assert not found, "\n".join(found)
