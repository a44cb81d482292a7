"""How much accuracy LoRA will add: a calibration file made from a results folder, and predictions from it.

    python -m ntps.gain --results results
    python -m ntps.gain --results results --predictors ntps retention probe_accuracy --output my-gain.json

Gain is the final test accuracy of lora_finetuning minus that of a probe (ntps.results.TARGETS). It is regressed on at
most two predictors, chosen by leave-one-group-out error. Errors are roots of mean squares over points that no part of
the fit has seen: a group of data sets is left out with the choice of predictors nested inside, and, from three models on,
the model is left out too. One point is a model and a group (means over the group's data sets). Baselines: the mean gain;
a fixed share of the probe's errors, gain = c (1 - probe accuracy); and each predictor alone.

The file (RESULTS/gain.json) is small and holds its own points. A prediction is refused, with the reason in words,
outside their range or that of texts per dimension, where the scores are of another order, rule or k than
prescreen.py's, for another model where fewer than three were seen, and where the held-out error is not below that of
the mean gain by more than chance would have it (p > 0.1, permuting the groups' gains).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from ntps.errors import UserError
from ntps.evaluation.correlation import LEAST, LEVEL, Array, orders, p_value
from ntps.results.tables import ON_TEST, SUBSPACE, TARGETS
from ntps.system import storage

PROBE = {"lora_gain": "probe_accuracy", "lora_gain_linear": "linear_accuracy"}  # what the gain is over
PREDICTORS = ("ntps", "retention", "headroom")  # and that probe's accuracy
FED = {"order": "descending", "rule": "task_rank", "k": "d/10"}  # where prescreen.py takes scores
ACROSS = 3  # models from which a prediction for another one can be checked
CHANCE = 0.1  # p above which held-out error does not count as lower than the mean gain's


# --- points --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Gains of M models on G groups, and P predictors of each."""

    models: list[str]
    groups: list[str]
    predictors: list[str]
    x: Array  # (M, G, P)
    gain: Array  # (M, G)
    probe: Array  # (M, G): accuracy that the gain is over

    @property
    def across(self) -> bool:
        return len(self.models) >= ACROSS


def points(table: pd.DataFrame, predictors: Sequence[str], target: str) -> tuple[Points, list[str]]:
    """Points of a table with model, group, target, its probe and predictors; and what had to be left out."""
    wanted = list(dict.fromkeys([target, PROBE[target], *predictors]))
    means = table.groupby(["model", "group"])[wanted].mean()
    absent = [name for name in wanted if means[name].isna().all()]
    if target in absent:
        raise UserError(f"no {target} ({TARGETS[target][1]}): run lora_finetuning.py and the probe's script")
    notes = [f"{name}: in no results" for name in absent]
    kept = [name for name in predictors if name not in absent]
    if not kept:
        raise UserError(f"none of the predictors {' '.join(predictors)} is in the results")
    wide = pd.DataFrame(means.drop(columns=absent).unstack("model"))
    whole = wide.notna().all(axis=1)
    notes += [f"{group}: not known for every model and predictor" for group in wide.index[~whole]]
    grid = wide[whole]
    models = sorted(set(table["model"]))

    def values(name: str) -> Array:
        return grid[name][models].to_numpy(float).T

    x = np.stack([values(name) for name in kept], -1)
    return Points(models, list(grid.index), kept, x, values(target), values(PROBE[target])), notes


# --- held-out error ------------------------------------------------------------------------------------------------


def designs(found: Points) -> dict[tuple[str, ...], Array]:
    """(M, G, coefficients) of every model of the gain with one or two predictors: a column of ones, then theirs."""
    ones, names = np.ones_like(found.gain), range(len(found.predictors))
    subsets = [pick for size in (1, 2) for pick in combinations(names, size)]
    return {
        tuple(found.predictors[i] for i in pick): np.stack([ones, *(found.x[..., i] for i in pick)], -1)
        for pick in subsets
    }


def predicted(design: Array, gains: Array, out: tuple[int, ...], across: bool) -> Array:
    """(b, M): least squares on what is not left out, at the first group of `out`.

    design (M, G, p), gains (b, M, G). The groups `out` are left out and, if `across`, of each model all that is its own.
    """
    groups = [g for g in range(design.shape[1]) if g not in out]
    found = []
    for model in range(len(design)):
        rows = [m for m in range(len(design)) if not (across and m == model)]
        solve = np.linalg.pinv(design[np.ix_(rows, groups)].reshape(-1, design.shape[2]), rcond=1e-10)
        seen = gains[:, rows][:, :, groups].reshape(len(gains), -1)
        found.append(seen @ solve.T @ design[model, out[0]])
    return np.stack(found, 1)


def left_out(design: Array, gains: Array, across: bool, without: tuple[int, ...] = ()) -> Array:
    """(b,): mean square error of leave-one-group-out predictions, over the groups not in `without`."""
    groups = [g for g in range(design.shape[1]) if g not in without]
    errors = [predicted(design, gains, (g, *without), across) - gains[:, :, g] for g in groups]
    return np.mean(np.square(errors), axis=(0, 2))


def nested_error(found: Points, gains: Array) -> Array:
    """(b,): mean square held-out error of choosing the predictors too, for each of gains (b, M, G)."""
    ways, errors = list(designs(found).values()), []
    for g in range(gains.shape[2]):
        inner = np.stack([left_out(way, gains, found.across, (g,)) for way in ways])  # (ways, b)
        outer = np.stack([predicted(way, gains, (g,), found.across) for way in ways])  # (ways, b, M)
        best = inner.argmin(0)
        errors.append(outer[best, np.arange(len(gains))] - gains[:, :, g])
    return np.mean(np.square(errors), axis=(0, 2))


# --- the calibration file ------------------------------------------------------------------------------------------


def calibrate(found: Points, permutations: int = 200, seed: int = 42) -> dict[str, Any]:
    """Coefficients, held-out errors, half-width of the prediction interval, and whether it may be used.

    half_width = t_{0.95, G - 1 - p} * held-out error, p predictors: a left-out point's error has the variance of a
    new point's to order 1 / G^2.
    """
    G, gains = len(found.groups), found.gain[None]
    if G < LEAST:
        few = f"{G} independent groups of data sets were measured; at least {LEAST} are needed"
        return {"usable": False, "why": few, "groups": G}
    ways = designs(found)
    errors = {name: float(left_out(way, gains, found.across)[0]) for name, way in ways.items()}
    best = min(errors, key=lambda name: errors[name])
    constant, share = np.ones((*found.gain.shape, 1)), (1 - found.probe)[..., None]
    shuffled = found.gain[:, orders(G, permutations, seed)].transpose(1, 0, 2)
    null = nested_error(found, shuffled)
    held_out = math.sqrt(null[0])  # the first order is the given one
    baseline = math.sqrt(left_out(constant, gains, found.across)[0])
    p = p_value(-float(null[0]), -null)
    coefficients = np.linalg.lstsq(ways[best].reshape(-1, len(best) + 1), found.gain.ravel())[0]
    usable = held_out < baseline and p <= CHANCE
    return {
        "usable": usable,
        "why": "" if usable else (
            f"held-out error {held_out:.3f} is not below that of the mean gain, {baseline:.3f}"
            + (f", by more than chance (p = {p:.2f})" if held_out < baseline else "")
        ),
        "predictors": list(best),
        "intercept": float(coefficients[0]),
        "coefficients": dict(zip(best, coefficients[1:].tolist())),
        "range": {
            name: [float(ways[best][..., 1 + i].min()), float(ways[best][..., 1 + i].max())]
            for i, name in enumerate(best)
        },
        "level": LEVEL,
        "half_width": float(t.ppf((1 + LEVEL) / 2, G - 1 - len(best)) * held_out),
        "groups": G,
        "held_out_error": held_out,
        "p": p,
        "errors_of_baselines": {
            "mean gain": baseline,
            "share of the probe's errors": math.sqrt(left_out(share, gains, found.across)[0]),
            **{name[0]: math.sqrt(error) for name, error in errors.items() if len(name) == 1},
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """An expected gain in accuracy with its interval, or, where `reason` says why not, NaN."""

    gain: float
    low: float
    high: float
    reason: str = ""


class Calibration:
    """A calibration file. UserError if it cannot be read or is none."""

    def __init__(self, path: str | Path):
        self.about = storage.read_provenance(Path(path), "gain calibration")
        try:
            self.fit, self.target = self.about["fit"], self.about["identity"]["target"]
            self.models, self.points = self.about["identity"]["models"], pd.DataFrame(self.about["points"])
            flags = self.about["identity"].get("flags", {})
            self.at = {name: (flags | self.about["identity"]).get(name) for name in FED}
            self.predictors: list[str] = self.fit.get("predictors", [])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no whole calibration ({error} is missing): run python -m ntps.gain"
            ) from None

    def predict(self, values: Mapping[str, float], model: str) -> Prediction:
        """The gain of a model (its folder name in results) on texts with these predictors.

        values: at the best layer, those of subspaces in FED's order, rule and k; and n_over_d, texts per dimension.
        NaN and a reason: where the calibration is not usable or takes scores at another point, a predictor or n_over_d
        is missing or beyond the points it was made from (each alone, and predictors together: no further out than the
        outermost point by leverage), or the model is another one than the one or two that were seen.
        """
        if reason := self.refusal(values, model):
            return Prediction(math.nan, math.nan, math.nan, f"not calibrated for this: {reason}")
        fit = self.fit
        gain = fit["intercept"] + sum(fit["coefficients"][name] * values[name] for name in self.predictors)
        return Prediction(gain, gain - fit["half_width"], gain + fit["half_width"])

    def refusal(self, values: Mapping[str, float], model: str) -> str:
        if not self.fit["usable"]:
            return self.fit["why"]
        if len(self.models) < ACROSS and model not in self.models:
            return f"it was made from {' and '.join(self.models)} alone"
        if self.at != FED and set(self.predictors) & {*SUBSPACE, *ON_TEST}:
            made, wanted = (" ".join(str(at[name]) for name in FED) for at in (self.at, FED))
            return f"it takes scores at {made}, and these are at {wanted}"
        slack = {"n_over_d": 1e-9}  # a quotient, rounded differently in the tables
        for name, (low, high) in {**self.fit["range"], **self.fit.get("sizes", {})}.items():
            value, rounding = values.get(name, math.nan), slack.get(name, 0) * high
            if not math.isfinite(value):
                return f"{name} is not known"
            if not low - rounding <= value <= high + rounding:
                return f"{name} is {value:.3f}, outside {low:.3f} to {high:.3f}"
        seen = self.points[self.predictors].to_numpy(float)
        centre, spread = seen.mean(0), np.linalg.pinv(np.atleast_2d(np.cov(seen.T)))
        out = [
            (row - centre) @ spread @ (row - centre) for row in [*seen, [values[n] for n in self.predictors]]
        ]
        if out[-1] > max(out[:-1]) * (1 + 1e-9):
            return f"{' and '.join(self.predictors)} are together unlike any texts it was made from"
        return ""
