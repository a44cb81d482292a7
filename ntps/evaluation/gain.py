"""How much accuracy LoRA will add: a linear fit to measured gains, its held-out error, and predictions from its file.

Gain is the final test accuracy of lora_finetuning minus that of a probe (ntps.results.TARGETS). It is regressed on at
most two predictors, chosen by leave-one-group-out error. Errors are roots of mean squares over points that no part of
the fit has seen: a group of data sets is left out with the choice of predictors nested inside, and, from three models
on, the model is left out too. One point is a model and a group (means over the group's data sets). The fit is usable
where its held-out error is below that of the mean gain and p (one-sided, permuting the groups' gains) is at most ALPHA.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, LEAST, LEVEL, Array, Draws, Family, Positions
from ntps.results.tables import TARGETS
from ntps.system import provenance

PROBE = {"lora_gain": "probe_accuracy", "lora_gain_linear": "linear_accuracy"}  # what the gain is over
PREDICTORS = ("ntps", "retention", "headroom")  # and that probe's accuracy
POINT = {"order": "descending", "rule": "task_rank"}  # of the scores that predictions are made from
ACROSS = 3  # models from which a prediction for another one can be checked


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
    names = list(dict.fromkeys([target, PROBE[target], *predictors]))
    means = table.groupby(["model", "group"])[names].mean().dropna(axis=1, how="all")
    known = [name for name in predictors if name in means]
    if target not in means:
        raise UserError(f"no {target} ({TARGETS[target][1]}): run lora_finetuning.py and the probe's script")
    if not known:
        raise UserError(f"none of the predictors {' '.join(predictors)} is in the results")
    wide = pd.DataFrame(means.unstack("model"))
    grid, models = wide.dropna(), sorted(set(table["model"]))
    notes = [f"{name}: in no results" for name in names if name not in means]
    partly = wide.index.difference(grid.index)
    notes += [f"{group}: not known for every model and predictor" for group in partly]
    gain, probe, *x = (grid[name][models].to_numpy(float).T for name in (target, PROBE[target], *known))
    return Points(models, list(grid.index), known, np.stack(x, -1), gain, probe), notes


def reliability(gain: Array, variance: Array) -> dict[str, float]:
    """Test-retest over seeds, of measured gains and the variances s^2 / k of their means over k seeds.

    error: root of the mean variance, below which no predictor's held-out error can be expected. reliability:
    1 - error^2 / Var(gain), the intraclass correlation ICC(1, k) (Shrout and Fleiss 1979) where all have k seeds: of two,
    Spearman-Brown's of one. The error of a finite test split, which seeds share, is in neither. Nothing where a variance is
    NaN or all gains are equal.
    """
    if not np.isfinite(variance).all() or not np.ptp(gain):
        return {}
    error = float(variance.mean())
    return {"error": math.sqrt(error), "reliability": 1 - error / float(gain.var(ddof=1))}


# --- held-out error ------------------------------------------------------------------------------------------------


def design(found: Points, predictors: Sequence[str]) -> Array:
    """(M, G, coefficients) of a fit: a column of ones, then the predictors'; of none it is the mean gain."""
    places = [found.predictors.index(name) for name in predictors]
    return np.append(np.ones_like(found.gain)[..., None], found.x[..., places], -1)


def designs(found: Points) -> dict[tuple[str, ...], Array]:
    """`design` of every fit with one or two predictors."""
    return {part: design(found, part) for size in (1, 2) for part in combinations(found.predictors, size)}


def held_out(design: Array, gains: Array, across: bool) -> Array:
    """(b, M, G): errors of least squares without the group and, if `across`, the model; design (M, G, p), gains (b, M, G)."""
    model, group = (place.ravel() for place in np.indices(gains.shape[1:]))
    others = group != group[:, None]  # (M G, M G): the points that a point is predicted from
    if across:
        others &= model != model[:, None]
    points = design.reshape(len(group), -1)
    solve = np.linalg.pinv(others[..., None] * points, rcond=1e-10)  # a row of zeros has no weight
    weights = np.einsum("ip,ipj->ij", points, solve)
    return (gains.reshape(len(gains), -1) @ weights.T).reshape(gains.shape) - gains


def mean_square(errors: Array) -> Array:
    return np.square(errors).mean((1, 2))


def rmse(found: Points, design: Array) -> float:
    """Root of the mean square held-out error of a fit."""
    return math.sqrt(mean_square(held_out(design, found.gain[None], found.across))[0])


def shuffled_gains(found: Points, ways: Sequence[Callable[[Array], Array]], draws: Draws) -> Family:
    """One-sided p of each way's held-out error, a function of gains (b, M, G): how often it is as small where the groups' gains
    change places; Holm's correction is over the ways."""

    def accuracy(at: Positions) -> Array:
        gains = found.gain[:, np.atleast_2d(at)].transpose(1, 0, 2)
        less = np.stack([-mean_square(way(gains)) for way in ways], -1)
        return less[0] if at.ndim == 1 else less

    return draws.permuted(accuracy, len(found.groups), "greater")


def nested(found: Points, gains: Array) -> Array:
    """(b, M, G): held-out errors of choosing the predictors too, without the group, for each of gains (b, M, G)."""
    ways = list(designs(found).values())
    errors = np.stack([held_out(way, gains, found.across) for way in ways])  # (ways, b, M, G)
    chosen = np.empty_like(gains)
    for g in range(gains.shape[2]):
        others = np.delete(gains, g, axis=2)
        inner = [mean_square(held_out(np.delete(way, g, axis=1), others, found.across)) for way in ways]
        chosen[..., g] = errors[np.argmin(inner, axis=0), np.arange(len(gains)), :, g]
    return chosen


# --- the calibration file ------------------------------------------------------------------------------------------


def calibrate(found: Points, permutations: int = 10_000, seed: int = 42) -> dict[str, Any]:
    """Coefficients, held-out errors, half-width of the prediction interval, and whether it may be used.

    half_width = t_{0.95, G - 1 - p} * held-out error, p predictors: a left-out point's error has the variance of a
    new point's to order 1 / G^2.
    """
    G = len(found.groups)
    if G < LEAST:
        few = f"{G} independent groups of data sets were measured; at least {LEAST} are needed"
        return {"usable": False, "why": few, "groups": G}

    ways = designs(found)
    errors = {names: rmse(found, way) for names, way in ways.items()}
    best = min(errors, key=lambda names: errors[names])
    chosen = math.sqrt(mean_square(nested(found, found.gain[None]))[0])
    baseline = rmse(found, np.ones_like(found.gain)[..., None])
    p = float(shuffled_gains(found, [partial(nested, found)], Draws(permutations, seed=seed)).p[0])
    flat = ways[best].reshape(-1, 1 + len(best))
    intercept, *slopes = np.linalg.lstsq(flat, found.gain.ravel())[0].tolist()
    usable = chosen < baseline and p <= ALPHA
    why = f"held-out error {chosen:.3f} is not below that of the mean gain, {baseline:.3f}"
    why += f", by more than chance (p = {p:.2f})" if chosen < baseline else ""
    return {
        "usable": usable,
        "why": "" if usable else why,
        "predictors": list(best),
        "intercept": intercept,
        "coefficients": dict(zip(best, slopes)),
        "range": {name: [min(values), max(values)] for name, values in zip(best, flat[:, 1:].T.tolist())},
        "level": LEVEL,
        "half_width": float(t.ppf((1 + LEVEL) / 2, G - 1 - len(best)) * chosen),
        "groups": G,
        "held_out_error": chosen,
        "p": p,
        "errors_of_baselines": {
            "mean gain": baseline,
            "share of the probe's errors": rmse(found, (1 - found.probe)[..., None]),
            **{names[0]: errors[names] for names in errors if len(names) == 1},
        },
    }


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
        about = provenance.read(Path(path), "gain calibration")
        try:
            self.fit, self.models = about["fit"], about["identity"]["models"]
            self.point, self.why = POINT | about["identity"].get("flags", {}), str(self.fit.get("why", ""))
            if self.fit["usable"]:
                self.slopes = {name: float(slope) for name, slope in self.fit["coefficients"].items()}
                self.intercept, self.reach = float(self.fit["intercept"]), float(self.fit["half_width"])
                self.ranges = {name: tuple(map(float, self.fit["range"][name])) for name in self.slopes}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{path} is no whole calibration ({error} is missing, or no number)"
            raise UserError(f"{why}: run python -m ntps.gain") from None

    def predict(self, values: Mapping[str, float], model: str) -> Prediction:
        """The gain of a model (its folder name in results) on a data set with these predictors at the best layer.

        NaN and a reason where the calibration is not usable or takes scores of another order or rule, a predictor is
        missing or outside the range it was made from, or the model is another one than the one or two that were seen.
        """
        if reason := self.refusal(values, model):
            return Prediction(math.nan, math.nan, math.nan, f"not calibrated for this: {reason}")
        gain = self.intercept + sum(slope * values[name] for name, slope in self.slopes.items())
        return Prediction(gain, gain - self.reach, gain + self.reach)

    def refusal(self, values: Mapping[str, float], model: str) -> str:
        if not self.fit["usable"]:
            return self.why or "its file says so"
        if len(self.models) < ACROSS and model not in self.models:
            return f"it was made from {' and '.join(self.models)} alone"
        made, wanted = (" ".join(point[name] for name in POINT) for point in (self.point, POINT))
        if made != wanted:
            return f"it takes scores of {made}, and these are of {wanted}"
        for name, (low, high) in self.ranges.items():
            if not low <= (value := values.get(name, math.nan)) <= high:
                shown = f"is {value:.3f}, outside {low:.3f} to {high:.3f}"
                return f"{name} {shown if math.isfinite(value) else 'is not known'}"
        return ""
