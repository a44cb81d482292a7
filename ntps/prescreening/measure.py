"""One candidate model measured on one data set: the skill of a ridge probe on held-out texts, and all else that its row shows.

Everything is read from what cache.py's pass leaves: moments of train (in partitions) and test, and mean states.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, sem, t

from ntps.accuracies.layer_probes import States, fitting, read_states, state_rows
from ntps.errors import UserError
from ntps.evaluation.gain import Calibration, Prediction
from ntps.evaluation.learning_curve import skill_curve
from ntps.evaluation.paired import LEVEL, Difference, mean_difference, share_difference, t_of
from ntps.flags import SMALL, Caching, LayerProbes, Prescreening
from ntps.models.description import output_name, resolve_model
from ntps.models.loading import load_config, without_weights
from ntps.moments.file import MomentsFile, StatesFile
from ntps.moments.lazy_model import LazyModel
from ntps.moments.pair import SPLITS, Cached, Pair, partition_files
from ntps.moments.resumable_pass import cache_splits
from ntps.moments.sums import targets_of
from ntps.prescreening.user_files import seen
from ntps.results.tables import HALF
from ntps.scores import probes
from ntps.scores.best_layer import best_place
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.registry import CONDITIONED_SCORES
from ntps.scores.subspaces import ORDERS
from ntps.scores.table import LayerScores, add_error_bars, conditioned_rows, layer_row, subspace_scores
from ntps.sources.yaml_files import shipped_file
from ntps.system import provenance
from ntps.system.threads import map_layers
from ntps.texts.dataset import Dataset

NULLS = {
    "ntps": ("p_value", "null_mean"), "retention": ("retention_p_value", "retention_null"),
    "conditioned_ntps": ("conditioned_p_value", "conditioned_null_mean"),
}  # fmt: skip
ROUNDING = 1e-9
SPREAD = 9  # layers measured by default: moments of all cost a fifth of the forward pass
# with a 90 % interval, NAME_low to NAME_high
ESTIMATED = ("retention_corrected", "retention_corrected_minus_pca")
# columns of K_sweep.py's tables under OUTPUT/conditioned (by cross-validation), OUTPUT/ntps and OUTPUT/scores
OF_CONDITIONED = ("rtol", "prefix_rtol", *(score.name for score in CONDITIONED_SCORES))
OF_SCORES = (
    "kv rank_mean retention_corrected retention_corrected_se retention_corrected_pca retention_corrected_minus_pca "
    "retention_corrected_minus_pca_se ntps ntps_se chance null_mean null_std null_lift p_value ntps_pca rotated_p_value "
    "retention retention_se retention_null retention_adjusted retention_p_value heldout_retention n_over_d rank_unstable tie"
).split()
OF_LAYERS = "adjusted_r2 signal_share signal_p_value h_score logme rankme".split()
OF_GAIN = "lora_gain lora_gain_low lora_gain_high lora_gain_note".split()
Row = dict[str, Any]  # a model's columns in the CSV and the JSON; scores at its best layer, kv = d/10


@dataclass(frozen=True)
class Measured:
    """One model: its row, and what the pictures and the comparison of models need."""

    row: Row
    scores: LayerScores  # of the best layer
    errors: np.ndarray  # squared error of the ridge probe on each test text
    guesses: np.ndarray  # the same of train's class frequencies, or of its mean
    right: Any = None  # bool (n,): the test texts that the logistic probe has right; None of numbers


def measure(model: str, where: str, data: Dataset, flags: Prescreening) -> Measured:
    """One forward pass over train and test, unless its results are there, and every value from these results."""
    pair = pair_of(model, where, data, flags)
    row = forward(model, pair, data, flags)
    cached = Cached(pair)
    train, test, files = cached.train, cached.test, cached.states
    found = map_layers(lambda place: gcv_skill(train, place), range(len(train.layers)))
    skills = dict(zip(train.layers, found))
    place = best_place(-skill for skill in skills.values())  # skill falls as gcv_error grows
    best = train.layers[place]
    unseen = test.of_states(place)
    layer = Layer(train.averages(place), unseen)
    states = [read_states(files[split], place) for split in SPLITS]
    errors = squared_errors(layer.ridge, *states[1])
    guesses = squared_errors(probes.constant_probe(layer.moments), *states[1])
    scores = subspace_scores(layer, ORDERS[:1])
    parts = partition_files(train)
    tolerances = add_error_bars(scores.rows, layer, (part.averages(place, permuted=False) for part in parts))
    conditioned = conditioned_rows(layer, tolerances[:1])[0] if tolerances else {}
    whole, point = layer_row(layer), tenth(scores)
    row |= {
        "pooling": flags.pooling,
        "layer": best,
        "heldout_skill": whole["ridge_test_skill"],
        "heldout_skill_se": ratio_error(errors, guesses),
        "heldout_mse": whole["ridge_test_mse"],
        "gcv_skill": skills[best],
        **last_layer_loss(row["layers"], skills, train, files["test"], errors, guesses),
        **doubling((part.of_states(place) for part in parts), unseen),
    }
    if not data.numeric:
        row |= accuracies(states[0], states[1], data.targets, flags.seed)
    right = row.pop("right", None)
    row |= estimates(point, len(parts)) | {name: conditioned.get(name, math.nan) for name in OF_CONDITIONED}
    row |= {name: point[name] for name in OF_SCORES} | {name: whole[name] for name in OF_LAYERS}
    row |= {"seen": seen(data, flags) / test.text_count}
    row |= {"n_train": train.text_count, "n_test": test.text_count, "shuffles": flags.label_permutations}
    row |= expected_gain(row, flags.gain)
    row |= {"warnings": warnings_of(row, train), "layer_skills": skills}
    return Measured(row, scores, errors, guesses, right)


def pair_of(model: str, where: str, data: Dataset, flags: Prescreening) -> Pair:
    """The results of a model on `data`, whose description `where` need not be written yet."""
    pair = Pair.named(Path(flags.output), model, where)
    return replace(pair, model=output_name(resolve_model(model)), dataset=data.name)


def forward(model: str, pair: Pair, data: Dataset, flags: Prescreening) -> Row:
    """cache.py's pass over train and test, where it is missing; the model's name and its cost.

    seconds: of the run that made the files, as NAME.json remembers them; NaN where none did.
    """
    source = source_of(model, flags)
    there = any(all(pair.split(kind, split).exists() for kind in ("moments", "states")) for split in SPLITS)
    started = time.monotonic()
    for split, own in caching_of(flags, data).items():
        cache_splits(source, data, [split], own)
    seconds = time.monotonic() - started
    # a pass that is there already loads no weights
    parameters = sum(weight.numel() for weight in without_weights(source.spec, source.config).parameters())
    return {
        "model": source.name,
        "layers": source.config.num_hidden_layers,
        "parameters": parameters,
        "weights_gb": parameters * source.dtype.itemsize / 1e9,
        "device": str(source.device),
        "seconds": earlier_seconds(pair) if there and not flags.overwrite else seconds,
    }


def source_of(model: str, flags: Prescreening, others: Sequence[LazyModel] = ()) -> LazyModel:
    layers = flags.layers
    if layers == "spread":
        layers = spread(load_config(resolve_model(model)).num_hidden_layers)
    return LazyModel(model, None, flags.device, flags.dtype, flags.max_length, layers, others)


def caching_of(flags: Prescreening, data: Dataset) -> dict[str, Caching]:
    """cache.py's flags for each split. On test there are no permuted labels, for nothing is fitted on it, and partitions in a
    race only, where both have as many, of two test rows at least."""
    rows = {split: min(flags.limit, len(data.splits[split].texts)) for split in SPLITS}
    parts = min(flags.partitions, rows["train"])
    if flags.budget:
        parts = min(parts, max(1, rows["test"] // 2))
    train = replace(flags.caching, partitions=parts)
    test = replace(train, partitions=parts if flags.budget else 1, label_permutations=0)
    return dict(zip(SPLITS, (train, test)))


def spread(blocks: int) -> str:
    """SPREAD layers from the embeddings to the last as evenly as can be: neighbours are much alike."""
    return ",".join(map(str, sorted({round(step * blocks / (SPREAD - 1)) for step in range(SPREAD)})))


def earlier_seconds(pair: Pair) -> float:
    """What an earlier result says of a model's passes; NaN where it says nothing."""
    try:
        about = provenance.read(pair.output / f"{pair.dataset}.json", "prescreen")
        return float(
            {row["model"]: row["seconds"] for row in about["record"]["models"]}[pair.model] or math.nan
        )
    except (UserError, KeyError, TypeError, ValueError):
        return math.nan


def gcv_skill(train: MomentsFile, place: int) -> float:
    """The ridge probe's generalized cross-validation skill at one layer, from train alone."""
    moments = train.of_states(place)
    return probes.gcv_skill(probes.ridge(moments), moments)


def last_layer_loss(
    last: int,
    skills: dict[int, float],
    train: MomentsFile,
    test: StatesFile,
    errors: np.ndarray,
    guesses: np.ndarray,
) -> Row:
    """Skill on test of the probe with these errors minus that of the last layer's, with its interval over the same texts.

    headroom: the same of skills, cross-validated on train. All NaN where --layers has left out the model's last layer.
    """
    if last not in skills:
        return Difference(*[math.nan] * 3).columns("last_layer_loss") | {"headroom": math.nan}
    place = train.layers.index(last)
    probe = probes.ridge(train.of_states(place))
    lost = squared_errors(probe, *read_states(test, place)) - errors
    return mean_difference(lost / guesses.mean()).columns("last_layer_loss") | {
        "headroom": max(skills.values()) - skills[last]
    }


def doubling(parts: Iterable[LayerMoments], test: LayerMoments) -> Row:
    """The probe's skill over rows, from the partitions, and what twice as many are expected to add to it, with its interval.

    Skill is at most 1: no gain is above what is left to that.
    """
    curve = skill_curve(parts, test, LEVEL)
    room = 1 - curve.skill[-1] if curve.skill else math.nan
    expected = (min(value, room) for value in (curve.gain.value, curve.gain.low, curve.gain.high))
    gain = Difference(*expected).columns("doubling_gain")
    return gain | {"learning_curve": {"rows": curve.rows, "skill": curve.skill, "refusal": curve.gain.reason}}


def squared_errors(probe: probes.Probe, states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """||y_i - B^T m_i - b||^2 of each text, (n,)."""
    y = targets_of(labels, len(probe.intercept)).numpy()
    return np.square(y - states @ probe.coefficients.numpy() - probe.intercept.numpy()).sum(1)


def ratio_error(errors: np.ndarray, guesses: np.ndarray) -> float:
    """Standard error over texts of 1 - mean(errors) / mean(guesses), the ratio linearised."""
    return float(sem((errors - errors.mean() / guesses.mean() * guesses) / guesses.mean()))


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n, sqrt(q (1 - q) / (n + 4)) with q = (n share + 2) / (n + 4).

    Agresti and Coull 1998: as if two more of n were right and two wrong, so that it is not 0 where all are right.
    """
    q = (n * share + 2) / (n + 4)
    return math.sqrt(q * (1 - q) / (n + 4))


def accuracies(train: States, test: States, classes: int, seed: int) -> Row:
    """linear_sklearn.py's logistic probe on test, and the accuracy of predicting train's majority class (or set of labels).

    right: bool (n,), the rows that the probe has right.
    """
    settings = LayerProbes(models=[], datasets=[], seed=seed).settings
    with fitting():
        *_, logistic = state_rows(train, test, classes=classes, **settings)
    kinds, counts = np.unique(train[1], axis=0, return_counts=True)
    guessed = (test[1] == kinds[counts.argmax()]).reshape(len(test[1]), -1).all(1)
    return {
        "accuracy": logistic["accuracy"],
        "accuracy_se": share_error(logistic["accuracy"], logistic["n"]),
        **{
            name: logistic[name] for name in ("balanced_accuracy", "macro_f1", "micro_f1") if name in logistic
        },
        "majority_accuracy": float(guessed.mean()),
        **share_difference(right := np.array(logistic["right"]), guessed).columns("over_guessing"),
        "right": right,
        "probe_converged": logistic["converged"],
    }


def tenth(scores: LayerScores) -> Row:
    """The scores at the headline's point: as many label directions as there are, kv = d/10."""
    return next(row for row in scores.rows if row["rule"] == "task_rank" and math.isnan(row["fraction"]))


def estimates(point: Row, partitions: int) -> Row:
    """Ends of 90 % intervals, score -+ standard errors: normal for the one in closed form, t for that over partitions.

    And why there is no score.
    """
    errors = dict(zip(ESTIMATED, (norm.isf(0.05), t.isf(0.05, partitions - 1)), strict=True))
    found = {
        f"{name}_{end}": point[name] + sign * reach * point[f"{name}_se"]
        for name, reach in errors.items()
        for end, sign in (("low", -1), ("high", 1))
    }
    return found | {"corrected_refusal": point["corrected_refusal"]}


def expected_gain(row: Row, calibration: str | None) -> Row:
    """What LoRA would add to the probe's accuracy, with its interval, or NaN and why not.

    calibration: a file of python -m ntps.gain; None takes the shipped configs/gain.json, if there is one.
    """
    path = calibration or shipped_file("gain.json")
    lacks = {
        "no calibration file": path is None,
        "it predicts accuracies, and the labels are numbers": "accuracy" not in row,
        "it predicts accuracies, and the labels are sets": "micro_f1" in row,
        "it is of mean states": row["pooling"] != "mean",
    }
    if path is None or any(lacks.values()):
        lack = next(why for why, holds in lacks.items() if holds)
        gain = Prediction(math.nan, math.nan, math.nan, f"not calibrated for this: {lack}")
    else:
        gain = Calibration(path).predict(row | {"probe_accuracy": row["accuracy"]}, row["model"])
    return dict(zip(OF_GAIN, astuple(gain)))


# --- what a row shows ----------------------------------------------------------------------------------------------


def learns_nothing(row: Row) -> bool:
    """Is held-out skill within its 95 % interval of 0, or below?"""
    return not row["heldout_skill"] > t_of(row["n_test"]) * row["heldout_skill_se"]


def is_worse(row: Row) -> bool:
    """Is held-out skill significantly below 0?"""
    return bool(row["heldout_skill"] < -t_of(row["n_test"]) * row["heldout_skill_se"])


def near_rank(row: Row) -> bool:
    """Is corrected retention given with fewer residual degrees of freedom than half of the directions? (tests/test_label_signal.py)"""
    return (
        math.isfinite(row["retention_corrected"])
        and row["n_train"] - row["rank_mean"] - 1 < row["rank_mean"] / 2
    )


def side_of(row: Row, score: str) -> str:
    """Where a score lies: significantly (two-sided p up to SMALL) above or below shuffled labels, or among them; "" without."""
    p, null = (row[name] for name in NULLS[score])
    if math.isnan(p):
        return ""
    if p > SMALL + ROUNDING:
        return "among"
    return "above" if row[score] > null else "below"


def warnings_of(row: Row, train: MomentsFile) -> list[str]:
    """What limits the reading of a model's row."""
    where = {
        "below": "significantly below the label-permutation null: the labels matter to it; corrected retention says where they lie",
        "among": "indistinguishable from the label-permutation null",
    }
    named = {"conditioned_ntps": "conditioned NTPS", "ntps": "NTPS", "retention": "retention"}
    sides = {name: where.get(side_of(row, score)) for score, name in named.items()}
    share = "" if math.isnan(row["signal_share"]) else f", signal share {row['signal_share']:.2f}"
    worse = is_worse(row)
    cut, note = train.record.get("texts_cut"), (train.record.get("model") or {}).get("note")
    found = {
        f"at this number of rows NTPS describes the sample: {row['n_train']} for {train.width} dimensions{share}":
            row["n_over_d"] < 1 or row["signal_share"] < HALF,
        f"no corrected retention: {row['corrected_refusal']}": row["corrected_refusal"],
        "corrected retention rests on few rows beyond the directions that they span: where the signal is weak it is far too low, "
        "and its interval too narrow": near_rank(row),
        "held-out skill is indistinguishable from 0: do not read the other scores": learns_nothing(row) and not worse,
        "held-out skill is significantly below 0, worse than guessing: are the test rows and their labels of the same kind as train's?": worse,
        "without shuffled labels nothing shows what NTPS and retention owe to the labels": not row["shuffles"],
        **{f"{name} is {side}": side for name, side in sides.items()},
        f"{cut} train texts were cut at {train.identity['max_length']} tokens": cut,
        "a numerical rank or a tie among eigenvalues decides part of NTPS: do not read its last digits":
            row["rank_unstable"] or row["tie"],
        "the logistic probe stopped before it converged: its accuracy may be too low":
            not row.get("probe_converged", True),
        str(note): note,
    }  # fmt: skip
    return [text for text, holds in found.items() if holds]
