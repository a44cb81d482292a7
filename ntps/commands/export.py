"""A results folder to keep or to send: its tables, without moments, states, adapters and most of the curves.

    python -m ntps.export results/mini-run results/mini
    python -m ntps.export results/mini-run/after_lora results/mini/after_lora --brief
    python -m ntps.export results/mini cards --format model-card
    python -m ntps.export results/mini harness --format lm-eval

What K_sweep.py, the trainers, alignment_vis.py, ntps.selection and ntps.gain read or wrote stays where it is in the folder,
with its provenance; numbers are rounded to seven digits. Of the curves over kv the best layer and the last remain, in
float32. --brief keeps of the scores only those at kv = d/10 with rule task_rank, and no curves. Figures, ntps.selection and
ntps.gain read the copy like the folder itself; what needs moments or states does not.

--format model-card writes OUTPUT/MODEL.md, a Hugging Face model card with `model-index` metadata, and --format lm-eval
OUTPUT/MODEL/results_DATE.json as lm_eval does: scores at the best layer and kv = d/10, and test accuracies.
"""

import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load_file

from ntps.errors import UserError
from ntps.results import export_formats
from ntps.results.tables import CURVES, METHODS, best_layers, read_table
from ntps.run import cli
from ntps.system import array_files, atomic_files, console, provenance

KINDS = ("ntps", "scores", "conditioned", "words", *(f"accuracy/{method}" for method in METHODS))
DIGITS = 7


def main(
    results: str,
    output: str,
    brief: bool = False,
    format: Literal["tables", "model-card", "lm-eval"] = "tables",
) -> int:
    """Copy the tables of a results folder.

    Args:
        results: the folder that the scripts wrote to
        output: the folder of the copy; tables of the same names are replaced
        brief: of the scores only those at kv = d/10, no curves
        format: tables, or a file a model for a model card or in lm_eval's form
    """
    source, target = Path(results), Path(output)
    if format != "tables":
        if brief:
            raise UserError(f"--brief: only with --format tables, not {format}")
        print(*(f"wrote {path}" for path in export_formats.write(source, target, format)), sep="\n")
        return 0
    if source.resolve() == target.resolve():
        raise UserError(f"{output} is the folder itself")
    tables = sorted(path for kind in KINDS for path in (source / kind).glob("*/[!.]*.csv"))
    if not tables:
        raise UserError(f"no tables in {source}: run cache.py and K_sweep.py, or a trainer, first")
    layers = best_layers(source)
    for path in (source / "gain.json", *sorted((source / "selection").glob("[!.]*.*"))):
        if path.suffix in (".csv", ".json") and path.exists():
            atomic_files.write_text(target / path.relative_to(source), path.read_text(encoding="utf-8"))
    for path in console.progress(len(tables), "table", str(source), over=tables):
        copied = target / path.relative_to(source)
        copy_table(path, copied, brief and path.parent.parent.name == "ntps")
        curves = path.with_suffix(CURVES)
        copied.with_suffix(CURVES).unlink(missing_ok=True)  # of an earlier copy
        if curves.exists() and not brief:
            copy_curves(curves, copied.with_suffix(CURVES), layers.get((path.parent.name, path.stem)))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"wrote {len(tables)} tables: {target} now has {size / 1e6:.1f} MB")
    return 0


def copy_table(path: Path, target: Path, brief: bool) -> None:
    """One table, and the provenance beside it."""
    table = read_table(path).assign(model=path.parent.name, dataset=path.stem)  # "007" stays so
    if brief:
        table = table[(table["rule"] == "task_rank") & table["fraction"].isna()]
        if table.empty:
            raise UserError(f"{path} has no row of rule task_rank at kv = d/10: leave out --brief")
    atomic_files.write_text(target, table.to_csv(index=False, float_format=f"%.{DIGITS}g"))
    beside, copied = path.with_suffix(".json"), target.with_suffix(".json")
    if beside.exists():
        shutil.copyfile(beside, copied)
    else:
        copied.unlink(missing_ok=True)  # of an earlier copy


def copy_curves(path: Path, target: Path, best: int | None) -> None:
    """The best layer's curves and the last layer's."""
    about = provenance.read(path, "scores")
    array_files.verify(path)
    arrays = load_file(path)
    keep = np.isin(arrays["layers"], [arrays["layers"][-1], best])
    curves = {name: value[keep].astype(np.float32) for name, value in arrays.items()}
    array_files.write(target, curves | {"layers": arrays["layers"][keep]}, about)


if __name__ == "__main__":
    sys.exit(cli.run(main))
