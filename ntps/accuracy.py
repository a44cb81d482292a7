"""The measurements that scores are compared with: the texts they train on, their metrics, and their tables.

A table is OUTPUT/accuracy/METHOD/MODEL/DATASET.csv, with its provenance in DATASET.json beside it. Train texts are
parted into those trained on and a validation part that is only watched; test is scored once, at the end.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from ntps import cli, processes, storage
from ntps.caching import Source
from ntps.data import Dataset, load_dataset, texts_hash
from ntps.errors import UserError
from ntps.models import tokenizer_facts

COLUMNS = (
    "model", "dataset", "method", "layer", "seed", "step", "split", "final",
    "accuracy", "balanced_accuracy", "macro_f1", "loss", "mse", "n", "seconds", "tokens",
)  # fmt: skip
WATCH_EVERY = 10  # of the train texts, one in ten is watched and not trained on
Row = dict[str, Any]


def scores(logits: np.ndarray, labels: np.ndarray) -> Row:
    """accuracy, balanced_accuracy, macro_f1, loss (mean cross-entropy) and n, of logits (n, C) and labels (n,).

    Balanced accuracy averages recall over the classes among `labels`; macro F1 runs over those and the predicted.
    UserError for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise UserError("the logits are not finite: try a smaller --learning_rate, or --dtype float32")
    n, classes = logits.shape
    pairs = np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
    hits, true, guessed = pairs.diagonal(), pairs.sum(1), pairs.sum(0)
    seen = true + guessed > 0
    return {
        "accuracy": float(hits.sum() / n),
        "balanced_accuracy": float((hits[true > 0] / true[true > 0]).mean()),
        "macro_f1": float((2 * hits[seen] / (true + guessed)[seen]).mean()),
        "loss": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(n), labels].mean()),
        "n": n,
    }


def cut_validation(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to watch, both in order: a tenth of every class, by one seeded permutation.

    The first row of a class, by that permutation, is always trained on. UserError if nothing is left to watch.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first = np.unique(labels[order], return_index=True)
    chosen = np.arange(len(order)) % WATCH_EVERY == WATCH_EVERY // 2
    chosen[first] = False
    if not chosen.any():
        raise UserError(f"{len(labels)} train texts are too few to keep some for validation: take more")
    return np.sort(order[~chosen]), np.sort(order[chosen])


class Task:
    """One model's tokens of one data set: `ids` and `labels` of train and test, and what they are called."""

    def __init__(self, source: Source, data: Dataset, limit: int | None):
        self.source, self.data, self.limit = source, data, limit
        self.splits = {name: data.select(name, limit) for name in ("train", "test")}
        self.labels = {name: split.labels for name, split in self.splits.items()}
        if data.numeric:
            raise UserError(f"{data.name} has target: numeric: accuracies are of classes")
        if len(np.unique(self.labels["train"])) < 2:
            raise UserError(
                f"the {len(self.labels['train'])} train texts are all of one class: raise --limit"
            )

    @cached_property
    def tokens(self) -> dict[str, tuple[list[np.ndarray], int]]:
        """Token ids of each split, and how many of its texts were cut at the maximum length."""
        return {name: self.source.tokenize(split.texts) for name, split in self.splits.items()}

    def ids(self, split: str) -> list[np.ndarray]:
        return self.tokens[split][0]

    def parts(self, seed: int, released: bool) -> dict[str, tuple[str, np.ndarray]]:
        """(split, rows) of `train`, of `validation` unless the released protocol is followed, and of `test`."""
        test = {"test": ("test", np.arange(len(self.labels["test"])))}
        if released:
            return {"train": ("train", np.arange(len(self.labels["train"])))} | test
        trained, watched = cut_validation(self.labels["train"], seed)
        return {"train": ("train", trained), "validation": ("train", watched)} | test

    def identity(self, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides a table but its seeds; `settings` are the method's own."""
        return {
            "method": method,
            "model": self.source.identity,
            "data": {
                "name": self.data.name,
                "classes": self.data.classes,
                "texts_sha256": {name: texts_hash(split) for name, split in self.splits.items()},
            },
            "limit": self.limit,
            "max_length": self.source.max_length,
            "dtype": str(self.source.dtype).removeprefix("torch."),
            "settings": dict(settings),
        }

    def record(self) -> dict[str, Any]:
        """What a reader of the table wants to know beside its identity."""
        return {
            "model": self.source.spec.provenance,
            "tokenizer": tokenizer_facts(self.source.tokenizer),
            "data": self.data.provenance,
            "device": str(self.source.device),
            "texts": {name: len(ids) for name, (ids, _) in self.tokens.items()},
            "tokens": {name: int(sum(map(len, ids))) for name, (ids, _) in self.tokens.items()},
            "texts_cut": {name: cut for name, (_, cut) in self.tokens.items()},
        }


def each_task(
    models: Sequence[str],
    datasets: Sequence[str],
    limit: int | None,
    device: str,
    dtype: str | None,
    max_length: int | None,
    layer: int | None,
    work: Callable[[Task], None],
) -> int:
    """Call `work` with every model and data set, the model set to one layer (None: the last); the exit code."""
    cli.at_least("limit", limit, 1)
    cli.at_least("max_length", max_length, 1)
    sources: dict[str, Source] = {}

    def pair(model: str, dataset: str) -> None:
        if model not in sources:
            sources.clear()  # one model in memory at a time
            source = Source(model, None, device, dtype, max_length, "all" if layer is None else str(layer))
            source.layers = source.layers[-1:]
            sources[model] = source
        work(Task(sources[model], load_dataset(dataset), limit))

    return cli.for_each_pair(models, datasets, pair)


def check(settings: Mapping[str, Any]) -> None:
    """UserError for a setting out of its range."""
    for name, value in settings.items():
        if name in ("epochs", "max_steps", "batch_size", "gradient_accumulation", "eval_every", "rank"):
            cli.at_least(name, value, 1)
        elif name in ("dropout", "lora_dropout") and not 0 <= value < 1:
            raise UserError(f"--{name} {value}: must be at least 0 and below 1")
        elif name in ("learning_rate", "alpha") and not 0 < value < math.inf:
            raise UserError(f"--{name} {value}: must be above 0")


def private_folder(output: str, method: str, task: Task, seed: int) -> Path:
    """Where one training keeps its progress until its table is written."""
    folder = Path(output) / "accuracy" / method / task.source.name
    return folder / f".{task.data.name}-seed{seed}.checkpoints"


def measure(
    task: Task,
    method: str,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    output: str,
    overwrite: bool,
    fit: Callable[[int, dict[str, Any]], list[Row]],
) -> None:
    """Write the table of one model, data set and method: the rows of `fit(seed, identity)` for every seed.

    A table of the same identity keeps the seeds that it has and is given those that it lacks; one of another identity
    is refused unless `overwrite`.
    """
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: must be different numbers from 0 up")
    folder = Path(output) / "accuracy" / method / task.source.name
    with storage.alone(folder / f".{task.data.name}.lock", folder):
        table, about = folder / f"{task.data.name}.csv", folder / f"{task.data.name}.json"
        base = task.identity(method, settings)
        found = _kept(table, about, base) if processes.first() and not overwrite else {}
        (there,) = processes.meet(set(seeds) <= found.keys())
        if there:
            cli.say(f"already there: {table}")
            return
        fixed = {"model": task.source.name, "dataset": task.data.name, "method": method}
        for seed in seeds:
            (known,) = processes.meet(seed in found)
            if not known:
                found[seed] = [fixed | row for row in fit(seed, base | {"seed": seed})]
        if not processes.first():
            return
        identity = base | {"seeds": sorted(found)}
        rows = [row for seed in sorted(found) for row in found[seed]]
        write_table(table, rows, storage.provenance("accuracy", identity, **task.record()))
        for seed in seeds:
            shutil.rmtree(private_folder(output, method, task, seed), ignore_errors=True)
        tests = [row for row in rows if row["split"] == "test" and row["final"]]
        accuracy = ", ".join(f"{row['accuracy']:.3f}" for row in tests)
        seconds = ", ".join(f"{row['seconds']:.0f}" for row in tests)
        cli.say(f"wrote {table}: test accuracy {accuracy}; {seconds} s of training")


def _kept(table: Path, about: Path, identity: dict[str, Any]) -> dict[int, list[Row]]:
    """The rows by seed of the table that is there, of this identity whatever its seeds; another is refused."""
    if not about.exists():
        return {}
    seeds: list[int] = []
    with contextlib.suppress(UserError):  # of a file that cannot be read: told below
        seeds = storage.read_provenance(about, "accuracy")["identity"].get("seeds", [])
    storage.same_output(about, "accuracy", identity | {"seeds": seeds})
    if not table.exists():
        return {}
    rows: list[Any] = pd.read_csv(table, float_precision="round_trip").to_dict("records")
    return {seed: [row for row in rows if row["seed"] == seed] for seed in seeds}


def write_table(table: Path, rows: Sequence[Row], about: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Write rows under COLUMNS, and after them the method's own columns `more`, with the provenance beside."""
    beside = table.with_suffix(".json")
    beside.unlink(missing_ok=True)  # it is written last: where it is, the table is whole
    storage.write_text(table, pd.DataFrame(rows, columns=[*COLUMNS, *more]).to_csv(index=False))
    storage.write_text(beside, storage.to_json(about))
