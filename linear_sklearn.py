"""Linear probes of every layer by scikit-learn, on the mean states that cache.py kept, scored on train and on test.

    python cache.py --models smollm2-135m --datasets trec6 sms_spam_pypi --keep_states
    python linear_sklearn.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python linear_sklearn.py --models smollm2-135m --datasets trec6 --layers 0,15,30 --solver lbfgs --tol 1e-4

Reads OUTPUT/moments (and OUTPUT/states) of MODEL/DATASET; texts, their --limit and --max_length are those that
were cached. Writes OUTPUT/accuracy/linear_sklearn/MODEL/DATASET.csv; its column `probe` is one of
    logistic_regression, linear_regression                from the states, scaled to unit variance
    least_squares, least_squares_no_intercept, ridge      from the moments alone, also where no states were kept
"""

import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from ntps.accuracies.layer_probes import layer_rows
from ntps.accuracies.table import write_table
from ntps.accuracies.task import Row
from ntps.errors import UserError, at_least
from ntps.moments.pair import Kept
from ntps.moments.source import parse_layers
from ntps.run import cli
from ntps.scores import probes
from ntps.scores.layer import map_layers
from ntps.system import console, storage

METHOD = "linear_sklearn"
COLUMNS = ("probe", "source", "n_iter", "converged", "penalty", "gcv_error")  # after the common ones


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    layers: str = "all",
    solver: str = "saga",
    max_iter: int = 1000,
    tol: float = 0.01,
    jobs: int | None = None,
    adapter: str | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> int:
    """Probe every layer of every model x data set that is in OUTPUT.

    Args:
        models: as for cache.py
        datasets: as for cache.py
        output: the folder that cache.py wrote to
        layers: all that were cached, or a list such as 0,8,16
        solver: of the logistic regression: saga, or lbfgs (which converges further in less time)
        max_iter: iterations of the solver
        tol: at which the solver stops
        jobs: layers at a time (default: as many as there are cores); fewer take less memory
        adapter: as for cache.py
        seed: of the order in which saga takes the texts
        overwrite: replace results of other settings
    """
    if solver not in ("saga", "lbfgs"):
        raise UserError(f"--solver {solver}: must be saga or lbfgs")
    if not tol > 0:
        raise UserError(f"--tol {tol}: must be above 0")
    for name, value, least in (("max_iter", max_iter, 1), ("jobs", jobs, 1), ("seed", seed, 0)):
        at_least(name, value, least)
    settings = {"solver": solver, "max_iter": max_iter, "tol": tol, "seed": seed}

    def work(model: str, dataset: str) -> None:
        probe(Kept(model, dataset, output, adapter), output, layers, settings, jobs, overwrite)

    return cli.for_each_pair(models, datasets, work)


def probe(
    kept: Kept, output: str, layers: str, settings: dict[str, Any], jobs: int | None, overwrite: bool
) -> None:
    """Write the table, unless it is there; one that was made without states is made again with them."""
    started, cached = time.monotonic(), kept.train.layers
    table = storage.output_path(output, f"accuracy/{METHOD}", kept.model, kept.dataset, ".csv")
    chosen = cached if layers == "all" else parse_layers(layers, max(cached))
    if missing := [str(layer) for layer in chosen if layer not in cached]:
        raise UserError(
            f"--layers {layers}: {kept.train.path} has no layer {','.join(missing)}; it has {cached}"
        )
    identity = {"method": METHOD, **kept.texts, "layers": chosen, "settings": settings}
    about = table.with_suffix(".json")
    if storage.same_output(about, "accuracy", identity, overwrite) and table.exists():
        if storage.read_provenance(about)["record"]["states"] or not kept.states:
            console.say(f"already there: {table}")
            return
    head = {"model": kept.model, "dataset": kept.dataset, "method": METHOD}
    jobs = min(jobs or torch.get_num_threads(), len(chosen))
    rows: list[Row] = []
    with (
        console.progress(len(chosen), "layer", f"{kept.model} x {kept.dataset}") as bar,
        threadpool_limits(1),  # LinearRegression's many small products only lose time over several threads
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the table and the last lines tell it
        for found in map_layers(
            lambda layer: layer_rows(kept.moments, kept.states, cached.index(layer), **settings), chosen, jobs
        ):
            rows += [head | row for row in found]
            bar.update()
    record = {"states": bool(kept.states), "moments": kept.train.about["record"]}
    write_table(table, rows, storage.provenance("accuracy", identity, **record), COLUMNS)
    console.say(f"wrote {table}: {len(chosen)} layers in {time.monotonic() - started:.0f} s")
    conclude(kept, rows, settings)


def conclude(kept: Kept, rows: list[Row], settings: dict[str, Any]) -> None:
    """Say what the table says, what to doubt in it, and how to make what is missing."""
    best = min((row for row in rows if row["probe"] == "ridge"), key=lambda row: row["gcv_error"])["layer"]
    test = {row["probe"]: row for row in rows if row["split"] == "test" and row["layer"] == best}
    if kept.states and kept.train.targets > 1:
        majority = float(kept.test.class_counts[kept.train.class_counts.argmax()] / kept.test.text_count)
        figures = f"accuracy {test['logistic_regression']['accuracy']:.3f}, majority class {majority:.3f}"
    else:
        constant = probes.constant_probe(kept.train.averages(0))
        guess = probes.mse(constant, kept.test.averages(0))
        figures = f"mse of ridge {test['ridge']['mse']:.4g}, of knowing nothing {guess:.4g}"
    console.say(f"best layer by cross-validation on train: {best}; on test: {figures}")
    fits = [row for row in rows if row["probe"] == "logistic_regression" and row["split"] == "train"]
    if stopped := [str(row["layer"]) for row in fits if not row["converged"]]:
        console.say(
            f"not converged after {settings['max_iter']} iterations: {len(stopped)} of {len(fits)} logistic "
            f"regressions (layers {','.join(stopped)}): raise --max_iter or --tol, or take --solver lbfgs"
        )
    if not kept.states:
        console.say(f"no states, so no logistic_regression and linear_regression: run {kept.cache_command()}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
