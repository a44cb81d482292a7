"""The measurements that scores are compared with: the texts they train on, their metrics, and their tables.

A table is OUTPUT/accuracy/METHOD/MODEL/DATASET.csv, with its provenance in DATASET.json beside it. Train texts are
parted into those trained on and a validation part that is only watched; test is scored once, at the end.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.accuracies.task import Row, Task
from ntps.errors import UserError
from ntps.system import console, processes, storage

COLUMNS = (
    "model", "dataset", "method", "layer", "seed", "step", "split", "final",
    "accuracy", "balanced_accuracy", "macro_f1", "loss", "mse", "n", "seconds", "tokens",
)  # fmt: skip


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
            console.say(f"already there: {table}")
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
        console.say(f"wrote {table}: test accuracy {accuracy}; {seconds} s of training")


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
