"""Linear probes of one layer: scikit-learn's on the kept mean states, closed-form ones on the moments.

Every probe is fitted on train alone, its scaling included, and scored on train (as published) and on test.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from scipy.special import log_softmax
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import mean_squared_error
from sklearn.preprocessing import StandardScaler

from ntps.accuracies.task import Row, scores
from ntps.moments.file import MomentsFile
from ntps.moments.pair import SPLITS
from ntps.moments.sums import targets_of
from ntps.scores import probes

NEEDED = {"mean_second_moment", "mean_label_moment", "mean_state"}
FLOOR = np.log(np.finfo(np.float64).eps)  # of a log-probability, as in scikit-learn's log_loss
States = tuple[np.ndarray, np.ndarray]  # mean states (n, d), class indices or numbers (n,)


def layer_rows(
    moments: Mapping[str, Path], states: Mapping[str, Path] | None, place: int, **settings: Any
) -> list[Row]:
    """The table's rows of the layer at `place`, from the files of train and test; `settings` as for state_rows."""
    files = {split: MomentsFile(moments[split]) for split in SPLITS}
    train, test = (files[split].averages(place, NEEDED) for split in SPLITS)
    rows = moment_rows(train, test)
    if states:
        kept = [read_states(states[split], place) for split in SPLITS]
        rows += state_rows(*kept, classes=files["train"].targets, **settings)
    return [row | {"layer": files["train"].layers[place], "final": True} for row in rows]


def read_states(path: Path, place: int) -> States:
    """One layer's mean states (n, d) in float64, and the labels (n,)."""
    with safe_open(path, "numpy") as file:
        states = file.get_slice("states")[place : place + 1][0]
        return states.astype(np.float64), file.get_tensor("labels")


def moment_rows(train: Mapping[str, Any], test: Mapping[str, Any]) -> list[Row]:
    """mse (mean over texts and classes) of least squares with and without intercept, and of ridge; no states needed.

    Where texts are too few to tell directions apart, least squares is the shortest coefficients that fit.
    ridge: with intercept, on coordinates of unit variance, its penalty alpha / n from generalized
    cross-validation on train; gcv_error is that estimate of mse, by which the best layer is chosen.
    """
    fits = {
        "least_squares": lambda: probes.least_squares(train),
        "least_squares_no_intercept": lambda: probes.least_squares(train, intercept=False),
        "ridge": lambda: probes.ridge(train),
    }
    rows = []
    for name, fit in fits.items():
        started = time.monotonic()
        probe = fit()
        fixed: Row = {"probe": name, "source": "moments", "seconds": time.monotonic() - started}
        if name == "ridge":
            fixed |= {"penalty": probe.penalty, "gcv_error": probe.gcv_error}
        for split, moments in zip(SPLITS, (train, test)):
            rows.append(
                fixed | {"split": split, "mse": probes.mse(probe, moments), "n": moments["text_count"]}
            )
    return rows


def state_rows(
    train: States, test: States, *, classes: int, solver: str, max_iter: int, tol: float, seed: int
) -> list[Row]:
    """StandardScaler with LinearRegression on one-hot labels (mse), and with LogisticRegression (the other metrics).

    classes: C of the data set; one that train lacks has probability 0 (the log loss takes it as 2^-52, as
    scikit-learn does). The logistic rows tell n_iter, and whether the solver reached `tol` before max_iter.
    A numeric target, labels of floats, has the linear rows only.
    """
    parts = dict(zip(SPLITS, (train, test)))
    scaler = StandardScaler().fit(train[0])
    scaled = {split: scaler.transform(states) for split, (states, _) in parts.items()}
    targets = {split: targets_of(labels, classes).numpy() for split, (_, labels) in parts.items()}

    started = time.monotonic()
    linear = LinearRegression().fit(scaled["train"], targets["train"])
    fixed: Row = {"probe": "linear_regression", "source": "states", "seconds": time.monotonic() - started}
    errors = {split: mean_squared_error(targets[split], linear.predict(scaled[split])) for split in SPLITS}
    rows = [fixed | {"split": split, "mse": errors[split], "n": len(scaled[split])} for split in SPLITS]

    if train[1].dtype.kind == "f":
        return rows
    started = time.monotonic()
    logistic = LogisticRegression(solver=solver, max_iter=max_iter, tol=tol, random_state=seed)
    logistic.fit(scaled["train"], train[1])
    fixed = {"probe": "logistic_regression", "source": "states", "seconds": time.monotonic() - started}
    n_iter = int(logistic.n_iter_.max())
    fixed |= {"seed": seed, "n_iter": n_iter, "converged": n_iter < max_iter}
    for split in SPLITS:
        logits = class_logits(logistic, scaled[split], classes)
        rows.append(fixed | {"split": split} | scores(logits, parts[split][1]))
    return rows


def class_logits(probe: LogisticRegression, states: np.ndarray, classes: int) -> np.ndarray:
    """Log-probabilities (n, C), at least FLOOR: that of the classes which the probe has never seen."""
    found = probe.decision_function(states)
    if found.ndim == 1:  # two classes: the second one's log-odds
        found = np.stack([np.zeros_like(found), found], axis=1)
    logits = np.full((len(states), classes), FLOOR)
    logits[:, probe.classes_] = np.maximum(log_softmax(found, axis=1), FLOOR)
    return logits
