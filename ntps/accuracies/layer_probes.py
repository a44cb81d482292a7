"""Linear probes of every layer: scikit-learn's on the kept mean states, closed-form ones on the moments.

Every probe is fitted on train alone, its scaling included, and scored on train (as published) and on test.
"""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import mean_squared_error
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ntps.accuracies.table import COLUMNS as COMMON
from ntps.accuracies.task import Row, scores, set_scores
from ntps.errors import UserError
from ntps.flags import LayerProbes
from ntps.moments.file import StatesFile
from ntps.moments.identity import of_layer_probes
from ntps.moments.lazy_model import parse_layers
from ntps.moments.pair import SPLITS, Cached
from ntps.moments.sums import targets_of
from ntps.scores import probes
from ntps.scores.best_layer import best_place
from ntps.scores.layer_moments import LayerMoments
from ntps.system import atomic_files, console, provenance
from ntps.system.output import Output
from ntps.system.threads import map_layers

METHOD = "linear_sklearn"
COLUMNS = (*COMMON, "probe", "source", "n_iter", "converged", "penalty", "gcv_error")
FLOOR = np.log(np.finfo(np.float64).eps)  # of a log-probability, as in scikit-learn's log_loss
States = tuple[np.ndarray, np.ndarray]  # mean states (n, d), labels as in a Split


def probe_pair(cached: Cached, flags: LayerProbes) -> None:
    """Write the table of a pair, unless it is there; one that was made without states is made again with them."""
    started, pair, layers = time.monotonic(), cached.pair, requested_layers(cached, flags.layers)
    identity = of_layer_probes(METHOD, cached.rows, layers, flags.settings)
    table = pair.table(f"accuracy/{METHOD}")
    columns = (*COLUMNS, "micro_f1") if cached.train.multilabel else COLUMNS
    output = Output("accuracy", pair.stem(f"accuracy/{METHOD}"), identity, {table: columns})

    def there() -> bool:
        if not output.there(flags.overwrite):
            return False
        if cached.states and not provenance.read(output.beside)["record"].get("states"):
            return False
        console.say(f"already there: {table}")
        return True

    if there():
        return
    with output.alone():
        if there():
            return
        rows = measured(cached, layers, flags)
        with output.written(states=bool(cached.states), moments=cached.train.record):
            atomic_files.write_text(table, pd.DataFrame(rows, columns=list(columns)).to_csv(index=False))
    console.say(f"wrote {table}: {len(layers)} layers in {time.monotonic() - started:.0f} s")
    for line in conclusions(cached, rows, flags):
        console.say(line)


def measured(cached: Cached, layers: list[int], flags: LayerProbes) -> list[Row]:
    """The rows of all layers."""
    pair = cached.pair
    head = {"model": pair.model, "dataset": pair.dataset, "method": METHOD}
    jobs = min(flags.jobs or torch.get_num_threads(), len(layers))
    rows: list[Row] = []
    with console.progress(len(layers), "layer", str(pair)) as bar, fitting():
        for more in map_layers(lambda layer: layer_rows(cached, layer, flags.settings), layers, jobs):
            rows += [head | row for row in more]
            bar.update()
    return rows


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """On one thread, for many small products only lose time over several; without warnings that a table has."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # or none
        yield


def requested_layers(cached: Cached, layers: str) -> list[int]:
    """All cached layers, or those of a list; UserError for one that was not cached."""
    there = cached.train.layers
    chosen = there if layers == "all" else parse_layers(layers, max(there))
    if missing := [str(layer) for layer in chosen if layer not in there]:
        path = cached.train.path
        raise UserError(f"--layers {layers}: {path} has no layer {','.join(missing)}; it has {there}")
    return chosen


def layer_rows(cached: Cached, layer: int, settings: dict[str, Any]) -> list[Row]:
    """The table's rows of one layer; `settings` as for state_rows."""
    place = cached.train.layers.index(layer)
    rows = moment_rows(*(cached.files[split].of_states(place) for split in SPLITS))
    if cached.states:
        states = [read_states(cached.states[split], place) for split in SPLITS]
        rows += state_rows(*states, classes=cached.train.targets, **settings)
    return [row | {"layer": layer, "final": True} for row in rows]


def conclusions(cached: Cached, rows: list[Row], flags: LayerProbes) -> Iterator[str]:
    """What the table shows, warnings, and how to make what is missing."""
    ridge = [row for row in rows if row["probe"] == "ridge"]
    best = ridge[best_place(row["gcv_error"] for row in ridge)]["layer"]
    test = {row["probe"]: row for row in rows if row["split"] == "test" and row["layer"] == best}
    if cached.states and cached.train.multilabel:
        found = test["logistic_regression"]
        values = f"micro F1 {found['micro_f1']:.3f}, macro F1 {found['macro_f1']:.3f}, all labels right {found['accuracy']:.3f}"
    elif cached.states and cached.train.targets > 1:
        counts = cached.test.class_counts
        majority = float(counts[cached.train.class_counts.argmax()] / cached.test.text_count)
        values = f"accuracy {test['logistic_regression']['accuracy']:.3f}, majority class {majority:.3f}"
    else:
        train, unseen = (cached.files[split].of_states(0) for split in SPLITS)
        guess = probes.mse(probes.constant_probe(train), unseen)
        values = f"mse of ridge {test['ridge']['mse']:.4g}, of the mean {guess:.4g}"
    yield f"best layer by cross-validation on train: {best}; on test: {values}"
    fits = [row for row in rows if row["probe"] == "logistic_regression" and row["split"] == "train"]
    if stopped := [str(row["layer"]) for row in fits if not row["converged"]]:
        yield (
            f"not converged after {flags.max_iter} iterations: {len(stopped)} of {len(fits)} logistic "
            f"regressions (layers {','.join(stopped)}): raise --max_iter or --tol, or take --solver lbfgs"
        )
    if not cached.states:
        yield f"no states, so no logistic_regression and linear_regression: run {cached.cache_command()}"


def read_states(file: StatesFile, place: int) -> States:
    """One layer's mean states (n, d) in float64, and the labels."""
    return file.layer(place).astype(np.float64), file.labels


def moment_rows(train: LayerMoments, test: LayerMoments) -> list[Row]:
    """mse (mean over rows and classes) of least squares with and without intercept, and of ridge; no states needed.

    Where rows are fewer than directions, least squares is the shortest coefficients that fit.
    ridge: with intercept, on coordinates of unit variance, its penalty alpha / n from generalized
    cross-validation on train; gcv_error is that estimate of mse, by which the best layer is chosen.
    """
    fits: dict[str, Callable[[LayerMoments], probes.Probe]] = {
        "least_squares": probes.least_squares,
        "least_squares_no_intercept": functools.partial(probes.least_squares, intercept=False),
        "ridge": probes.ridge,
    }
    rows = []
    for name, fit in fits.items():
        started = time.monotonic()
        probe = fit(train)
        fixed: Row = {"probe": name, "source": "moments", "seconds": time.monotonic() - started}
        if name == "ridge":
            fixed |= {"penalty": probe.penalty, "gcv_error": probe.gcv_error}
        for split, moments in zip(SPLITS, (train, test)):
            rows.append(fixed | {"split": split, "mse": probes.mse(probe, moments), "n": moments.text_count})
    return rows


def state_rows(
    train: States, test: States, *, classes: int, solver: str, max_iter: int, tol: float, seed: int
) -> list[Row]:
    """StandardScaler with LinearRegression on one-hot labels (mse), and with LogisticRegression (the other metrics).

    classes: C of the data set; one that train lacks has probability 0 (the log loss takes it as 2^-52, as
    scikit-learn does). The logistic rows hold n_iter, whether the solver reached `tol` before max_iter, and `right`, a bool
    for each row of the split.
    A numeric target, labels of floats, has the linear rows only. Sets of labels have a LogisticRegression a label, and
    micro_f1.
    """
    labels = {"train": train[1], "test": test[1]}
    targets = {split: targets_of(numbers, classes).numpy() for split, numbers in labels.items()}
    scaler = StandardScaler().fit(train[0])
    scaled = {"train": scaler.transform(train[0]), "test": scaler.transform(test[0])}

    started = time.monotonic()
    linear = LinearRegression().fit(scaled["train"], targets["train"])
    fixed: Row = {"probe": "linear_regression", "source": "states", "seconds": time.monotonic() - started}
    errors = {split: mean_squared_error(targets[split], linear.predict(scaled[split])) for split in SPLITS}
    rows = [fixed | {"split": split, "mse": errors[split], "n": len(scaled[split])} for split in SPLITS]

    if train[1].dtype.kind == "f":
        return rows
    started = time.monotonic()
    logistic: Any = new_logistic(train[1], solver, max_iter, tol, seed).fit(scaled["train"], train[1])
    fixed |= {"probe": "logistic_regression", "seconds": time.monotonic() - started, "seed": seed}
    # a label that all rows have, or none, has no iterations
    each = getattr(logistic, "estimators_", [logistic])
    fixed["n_iter"] = max(int(np.max(getattr(one, "n_iter_", 0))) for one in each)
    fixed["converged"] = fixed["n_iter"] < max_iter
    for split in SPLITS:
        if train[1].ndim == 2:
            guessed = logistic.decision_function(scaled[split]) > 0
            found = set_scores(guessed, labels[split])
        else:
            logits = class_logits(logistic, scaled[split], classes)
            guessed, found = logits.argmax(1), scores(logits, labels[split])
        right = (guessed == labels[split]).reshape(len(guessed), -1).all(1).tolist()
        rows.append(fixed | {"split": split, "right": right} | found)
    return rows


def new_logistic(
    labels: np.ndarray, solver: str, max_iter: int, tol: float, seed: int
) -> LogisticRegression | OneVsRestClassifier:
    """For labels as in a Split: of sets of labels, one regression a label."""
    one = LogisticRegression(solver=solver, max_iter=max_iter, tol=tol, random_state=seed)
    return OneVsRestClassifier(one) if labels.ndim == 2 else one


def class_logits(probe: LogisticRegression, states: np.ndarray, classes: int) -> np.ndarray:
    """Log-probabilities (n, C), at least FLOOR: that of the classes which the probe has never seen."""
    values = probe.decision_function(states)
    if values.ndim == 1:  # two classes: the second one's log-odds
        values = np.stack([np.zeros_like(values), values], axis=1)
    logits = np.full((len(states), classes), FLOOR)
    logits[:, probe.classes_] = np.maximum(log_softmax(values, axis=1), FLOOR)
    return logits
