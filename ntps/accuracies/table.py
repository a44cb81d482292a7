"""The table of a training's accuracies, seed by seed: OUTPUT/accuracy/METHOD/MODEL/DATASET.csv, provenance beside it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.accuracies.task import Row, Task
from ntps.errors import UserError
from ntps.flags import LinearHead, Training
from ntps.system import atomic_files, console, processes, provenance
from ntps.system.output import Output

COLUMNS = (
    "model", "dataset", "method", "layer", "seed", "step", "split", "final",
    "accuracy", "balanced_accuracy", "macro_f1", "loss", "mse", "n", "seconds", "tokens",
)  # fmt: skip
# of a seed, the folder of this training's progress and its identity: rows of the table
Fit = Callable[[int, Path, dict[str, Any]], list[Row]]


def measure(
    task: Task, method: str, settings: Mapping[str, Any], flags: Training | LinearHead, fit: Fit
) -> None:
    """Write the table of one model, data set and method: the rows of `fit(seed, folder, identity)`, seed by seed.

    A table of the same identity keeps the seeds that it has and is given those that it lacks; one of another identity
    is refused unless `overwrite`. The folder of a training's progress vanishes when its rows are in the table.
    """
    seeds, base = flags.seeds, task.identity(method, settings)
    columns = (*COLUMNS, "settled") if "patience" in settings else COLUMNS
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: must be different numbers from 0 up")
    folder = Path(flags.output) / "accuracy" / method / task.model.name
    table = folder / f"{task.data.name}.csv"

    def output_of(seeds: Sequence[int]) -> Output:
        return Output("accuracy", folder / task.data.name, base | {"seeds": list(seeds)}, {table: columns})

    with output_of(seeds).alone():
        known = processes.from_first(lambda: {} if flags.overwrite else rows_by_seed(table, output_of))
        missing = set(seeds) - known.keys()
        head = {"model": task.model.name, "dataset": task.data.name, "method": method}
        for seed in seeds:
            progress = folder / f".{task.data.name}-seed{seed}.checkpoints"
            if seed in missing:
                known[seed] = [head | row for row in fit(seed, progress, base | {"seed": seed})]
            if seed in missing and processes.first():
                rows = [row for seed in sorted(known) for row in known[seed]]
                # what the provenance says of other seeds is true of the new table: they outlive a write that fails
                with output_of(sorted(known)).written(keep=len(known) > 1, **task.record()):
                    atomic_files.write_text(
                        table, pd.DataFrame(rows, columns=list(columns)).to_csv(index=False)
                    )
            if processes.first():  # also what a run left that was killed after it wrote the table
                atomic_files.remove(progress)
    tests = [row for seed in seeds for row in known[seed] if row["split"] == "test" and row["final"]]
    accuracy = ", ".join(f"{row['accuracy']:.3f}" for row in tests)
    seconds = ", ".join(f"{row['seconds']:.0f}" for row in tests)
    written = f"wrote {table}: test accuracy {accuracy}; {seconds} s of training"
    console.say(written if missing else f"already there: {table}")


def rows_by_seed(table: Path, output_of: Callable[[Sequence[int]], Output]) -> dict[int, list[Row]]:
    """The rows of the table that is there, of this identity whatever its seeds; another is refused."""
    seeds: list[int] = []
    with contextlib.suppress(UserError):  # a file that cannot be read is refused below
        seeds = provenance.read(output_of([]).beside, "accuracy")["identity"].get("seeds", [])
    if not output_of(seeds).there():
        return {}
    found = pd.read_csv(table, float_precision="round_trip")
    found = found.assign(model=table.parent.name, dataset=table.stem)  # as texts, such as 007 or NA
    rows: list[Any] = found.to_dict("records")
    return {seed: [row for row in rows if row["seed"] == seed] for seed in seeds}
