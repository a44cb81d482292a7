"""Pre-screening: candidate models measured on one labelled text set and ranked by what a probe predicts unseen.

Everything is read from what cache.py's pass leaves: moments of train (in partitions) and test, and mean states.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import studentized_range
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from ntps.accuracies.layer_probes import read_states, state_rows
from ntps.errors import UserError
from ntps.evaluation.gain import Calibration, Prediction
from ntps.flags import Caching
from ntps.models.description import resolve_model
from ntps.models.loading import load_config, without_weights
from ntps.moments.file import MomentsFile
from ntps.moments.pair import SPLITS, Cached, Pair, partition_files
from ntps.moments.passes import Job
from ntps.moments.source import Source
from ntps.moments.sums import targets_of
from ntps.scores import probes
from ntps.scores.peers import h_score, logme, rankme
from ntps.scores.probes import gcv_skill
from ntps.scores.subspaces import ORDERS
from ntps.scores.table import LayerScores, add_error_bars, layer_scores
from ntps.sources.yaml_files import config_folders
from ntps.system import storage
from ntps.system.threads import map_layers
from ntps.texts.dataset import Dataset, left_out

SMALL = 0.05  # a p-value up to this counts as told apart from shuffled labels
CONFIDENT = 1.96  # standard errors within which a skill is not told apart from 0
FEWEST_SHUFFLES = 19  # with fewer no p-value can reach SMALL, for 1 / (1 + 19) is the least
NULLS = {
    "ntps": ("p_value", "null_mean"),
    "retention": ("retention_p_value", "retention_null"),
}  # of shuffled labels
ROUNDING = 1e-9
PROBE: dict[str, Any] = {"solver": "saga", "max_iter": 1000, "tol": 0.01}  # linear_sklearn.py's defaults
SPREAD = 9  # layers measured unless asked otherwise: moments of all cost a fifth of the forward pass
MANY_NUMBERS = 20  # more classes than this that are all numbers look like a numeric target
SCORES = (
    "kv ntps ntps_se chance null_mean null_std null_lift p_value retention retention_se retention_null "
    "retention_adjusted retention_p_value heldout_retention n_over_d rank_unstable tie"
).split()
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One model: its figures by name, what to doubt in them, and what the figures of the page are drawn from."""

    row: Row
    warnings: list[str]
    skills: dict[int, float]  # cross-validated skill of each measured layer's ridge probe, on train
    scores: LayerScores  # of the best layer
    errors: np.ndarray  # squared error of the ridge probe on each test text
    guesses: np.ndarray  # the same of train's class frequencies, or of its mean


# --- the texts -----------------------------------------------------------------------------------------------------


def description_path(train: str, output: str) -> Path:
    """OUTPUT/data/NAME.yaml, NAME being that of the train file."""
    return Path(output) / "data" / f"{Path(train).stem}.yaml"


@contextmanager
def undone_if_refused(path: Path) -> Iterator[None]:
    """On a UserError inside, the file is again what it was before, or is not there."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        yield
    except UserError:
        if before is not None:
            storage.write_text(path, before)
        else:
            path.unlink(missing_ok=True)
            storage.remove_empty(path.parent, 2)
        raise


def describe(
    train: str, test: str | None, text: str, label: str, target: str, output: str, overwrite: bool = False
) -> Path:
    """Write the description of the user's files at `description_path`.

    Without a test file a part of train is held out, stratified where there are classes. UserError if the description of an
    earlier run is there and says something else, unless `overwrite`: results beside it rest on it.
    """
    files = {name: file for name, file in zip(SPLITS, (train, test)) if file}
    for name, file in files.items():
        if not Path(file).is_file():
            raise UserError(f"--{name} {file}: there is no such file")
    spec: dict[str, Any] = {"files": {name: str(Path(file).resolve()) for name, file in files.items()}}
    spec |= {"text": text, "label": label, "target": target}
    if not test and target == "classes":
        spec["stratify"] = label
    where = description_path(train, output)
    content = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    if where.exists() and not overwrite and where.read_text(encoding="utf-8") != content:
        raise UserError(
            f"{where}: an earlier run read other files or columns under this name: give another --output, "
            "or --overwrite to replace its results"
        )
    storage.write_text(where, content)
    return where


def check_texts(data: Dataset, limit: int, seed: int) -> list[str]:
    """What to doubt in the texts themselves; UserError for labels that cannot be learnt from."""
    train, test = (data.select(name, limit, seed) for name in SPLITS)
    n, doubts = len(train.labels), []
    if len(set(train.labels)) < 2:
        raise UserError(f"{data.name}: the {n} train texts are all of one class: raise --limit")
    for name, part in zip(SPLITS, (train, test)):
        if len(part.texts) < (rows := data.provenance["rows"][name]):
            doubts.append(f"{len(part.texts)} of {rows} {name} texts were used: --limit {rows} takes all")
    if len(test.texts) < 2:
        raise UserError(
            f"{data.name}: {len(test.texts)} test text of {n + len(test.texts)}: a score on unseen texts needs at "
            "least 2, and some hundreds to mean much; give more texts"
        )
    if data.numeric and len(set(test.labels)) < 2:
        raise UserError(
            f"{data.name}: the {len(test.texts)} test texts all have one number: nothing can be scored on them"
        )
    if any(data.provenance["dropped"].values()):
        doubts.append(f"rows left out: {left_out(data.provenance['dropped'])}")
    if shared := data.provenance["shared_with_train"].get("test"):
        doubts.append(f"{shared} test texts are in train too: held-out figures are too good")
    if len(test.texts) < 100:
        doubts.append(f"only {len(test.texts)} held-out texts: look at the errors beside each figure")
    if data.numeric:
        return doubts
    counts = np.bincount(train.labels, minlength=data.targets)
    if data.targets > n / 2:
        raise UserError(
            f"{data.name}: {data.targets} classes in {n} train texts: nothing can be learnt from classes this "
            "small. Is it the right --label? For numbers to predict add --target numeric"
        )
    if data.targets > MANY_NUMBERS and all(map(is_number, data.classes)):
        doubts.append(f"the {data.targets} classes are all numbers: is it --target numeric?")
    if counts.max() > 0.8 * n:
        doubts.append(f"{counts.max() / n:.0%} of the train texts are {data.classes[counts.argmax()]!r}")
    if few := int(((counts > 0) & (counts < 10)).sum()):
        doubts.append(f"classes with fewer than 10 train texts: {few} of {data.targets}")
    if unseen := int((counts[test.labels] == 0).sum()):
        doubts.append(f"{unseen} test texts are of classes that train lacks")
    return doubts


def is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


# --- one model -----------------------------------------------------------------------------------------------------


def measure(model: str, where: str, data: Dataset, flags: Mapping[str, Any]) -> Measured:
    """One forward pass over train and test, unless they are there, and every figure from what it left.

    where: the description of `data`; flags: prescreen.py's.
    """
    row = forward(model, data, flags)
    kept = Cached(Pair.of(model, where, flags["output"]))
    train, test, paths = kept.train, kept.test, kept.states or {}
    places = range(len(train.layers))
    skills = dict(zip(train.layers, map_layers(lambda place: cross_validated(train, place), places)))
    best = max(skills, key=lambda layer: skills[layer])
    place = train.layers.index(best)
    fitted, unseen = train.averages(place), test.averages(place, prefix=False, permuted=False)
    states = {split: read_states(paths[split], place) for split in SPLITS}
    probe, knows_nothing = probes.ridge(fitted), probes.constant_probe(fitted)
    errors, guesses = (text_errors(which, *states["test"]) for which in (probe, knows_nothing))
    scores = layer_scores(fitted, test=unseen, orders=ORDERS[:1])
    if parts := partition_files(train):
        kept_apart = (part.averages(place, permuted=False) for part in parts)
        add_error_bars(scores.rows, fitted, kept_apart)
    row |= {
        "layer": best,
        "layers": train.layers[-1],
        "heldout_skill": probes.skill(probe, fitted, unseen),
        "heldout_skill_se": ratio_error(errors, guesses),
        "heldout_mse": probes.mse(probe, unseen),
        "gcv_skill": skills[best],
        "headroom": skills[best] - skills[train.layers[-1]],
    }
    row |= accuracy_of(states, train.targets, flags["seed"]) | tenth(scores)
    row |= {
        name: score(fitted) for name, score in (("h_score", h_score), ("logme", logme), ("rankme", rankme))
    }
    row |= {"n_train": train.text_count, "n_test": test.text_count, "shuffles": flags["label_permutations"]}
    row |= expected_gain(row, flags["gain"])
    return Measured(row, doubts_of(row, train), skills, scores, errors, guesses)


def forward(model: str, data: Dataset, flags: Mapping[str, Any]) -> Row:
    """Moments and mean states of train and test, made where they are missing; the model's name and its cost.

    seconds are those of the run that made them, as NAME.json remembers them; NaN where none did.
    """
    layers = flags["layers"]
    if layers == "spread":
        layers = spread(load_config(resolve_model(model)).num_hidden_layers)
    source = Source(model, None, flags["device"], flags["dtype"], flags["max_length"], layers)
    seconds = sum(run_pass(source, data, split, flags) for split in SPLITS)
    if math.isnan(seconds):
        seconds = earlier_seconds(result_path(flags["output"], data.name, "json"), source.name)
    # a pass that is there already loads no weights
    parameters = sum(weight.numel() for weight in without_weights(source.spec, source.config).parameters())
    return {
        "model": source.name,
        "parameters": parameters,
        "weights_gb": parameters * source.dtype.itemsize / 1e9,
        "device": str(source.device),
        "seconds": seconds,
    }


def spread(blocks: int) -> str:
    """SPREAD layers from the embeddings to the last as evenly as can be: neighbours are much alike."""
    return ",".join(map(str, sorted({round(step * blocks / (SPREAD - 1)) for step in range(SPREAD)})))


def result_path(output: str, name: str, kind: str) -> Path:
    return Path(output) / f"{name}.{kind}"


def earlier_seconds(path: Path, model: str) -> float:
    """What an earlier result says of a model's passes; NaN where it says nothing."""
    try:
        models = storage.read_provenance(path, "prescreen")["record"]["models"]
    except (UserError, KeyError):
        return math.nan
    known = [row["seconds"] for row in models if row["model"] == model and row["seconds"] is not None]
    return known[0] if known else math.nan


def run_pass(source: Source, data: Dataset, name: str, flags: Mapping[str, Any]) -> float:
    """The seconds of one split's pass; NaN where nothing had to be done."""
    split = data.select(name, flags["limit"], flags["seed"])
    own: dict[str, Any] = {"keep_states": True}
    taken = (
        "limit",
        "max_length",
        "device",
        "dtype",
        "tokens_per_batch",
        "label_permutations",
        "seed",
        "output",
    )
    own |= {name: flags[name] for name in (*taken, "overwrite")}
    if name == "train":
        own["partitions"] = min(flags["partitions"], len(split.texts))
    else:  # nothing is fitted on test: no label null, no error bars from partitions
        own |= {"label_permutations": 0, "partitions": 1}
    job = Job(source, data, split, Caching(**own))
    missing = flags["overwrite"] or not (job.target.exists() and job.states_target.exists())
    started = time.monotonic()
    job.run()
    return time.monotonic() - started if missing else math.nan


def cross_validated(train: MomentsFile, place: int) -> float:
    """The ridge probe's generalized cross-validation skill at one layer, from train alone."""
    moments = train.averages(place, prefix=False, permuted=False)
    return gcv_skill(probes.ridge(moments), moments)


def text_errors(probe: probes.Probe, states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """||y_i - B^T m_i - b||^2 of each text, (n,)."""
    y = targets_of(labels, len(probe.intercept)).numpy()
    return np.square(y - states @ probe.coefficients.numpy() - probe.intercept.numpy()).sum(1)


def ratio_error(errors: np.ndarray, guesses: np.ndarray) -> float:
    """Standard error over texts of 1 - mean(errors) / mean(guesses), the ratio linearised; NaN for one text."""
    if len(errors) < 2:
        return math.nan
    spread = np.std(errors - errors.mean() / guesses.mean() * guesses, ddof=1)
    return float(spread / guesses.mean() / math.sqrt(len(errors)))


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n, sqrt(q (1 - q) / (n + 4)) with q = (n share + 2) / (n + 4).

    Agresti and Coull 1998: as if two more of n were right and two wrong, so that it is not 0 where all are right.
    """
    q = (n * share + 2) / (n + 4)
    return math.sqrt(q * (1 - q) / (n + 4))


def accuracy_of(states: Mapping[str, Any], targets: int, seed: int) -> Row:
    """The logistic probe's figures on test, its standard error, and that of always naming train's largest class."""
    train, test = states["train"][1], states["test"][1]
    if targets == 1:
        return {}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the row tells it
        rows = state_rows(states["train"], states["test"], classes=targets, seed=seed, **PROBE)
    found = next(row for row in rows if row["probe"] == "logistic_regression" and row["split"] == "test")
    return {
        "accuracy": found["accuracy"],
        "accuracy_se": share_error(found["accuracy"], len(test)),
        "balanced_accuracy": found["balanced_accuracy"],
        "macro_f1": found["macro_f1"],
        "majority_accuracy": float(np.mean(test == np.bincount(train).argmax())),
        "probe_converged": found["converged"],
    }


def tenth(scores: LayerScores) -> Row:
    """The scores at the headline's point: as many label directions as there are, kv = d/10, the paper's order."""
    row = next(
        row for row in scores.rows
        if row["rule"] == "task_rank" and row["order"] == "descending" and math.isnan(row["fraction"])
    )  # fmt: skip
    return {name: row[name] for name in SCORES}


def doubts_of(row: Row, train: MomentsFile) -> list[str]:
    """What to doubt in a model's figures."""
    doubts = []
    record = train.about["record"]
    if row["n_over_d"] < 1:
        doubts.append(
            f"{row['n_train']} texts for {train.width} dimensions: NTPS and retention describe this sample "
            "more than the task"
        )
    if learns_nothing(row):
        doubts.append(
            "the probe is not told apart from guessing on unseen texts: do not read the other scores"
        )
    if not row["shuffles"]:
        doubts.append(
            "without shuffled labels nothing can be said of what NTPS and retention owe to the labels"
        )
    for score, name in (("ntps", "NTPS"), ("retention", "retention")):
        side = side_of(row, score)
        if side == "below":
            doubts.append(f"{name} is below shuffled labels: the labels matter, but lie elsewhere")
        elif side == "among":
            doubts.append(f"{name} is not told apart from shuffled labels")
    if cut := record.get("texts_cut"):
        doubts.append(f"{cut} train texts were cut at {train.about['identity']['max_length']} tokens")
    if row["rank_unstable"] or row["tie"]:
        doubts.append(
            "a numerical rank or a tie among eigenvalues decides part of NTPS: do not read its last digits"
        )
    if not row.get("probe_converged", True):
        doubts.append("the logistic probe stopped before it converged: its accuracy may be too low")
    if note := (record.get("model") or {}).get("note"):
        doubts.append(note)
    return doubts


def side_of(row: Row, score: str) -> str:
    """Where ntps or retention lies: above or below shuffled labels at level SMALL each, among them; "" without any.

    p = (1 + shuffles at or above it) / (1 + shuffles), so (1 + shuffles below it) / (1 + shuffles) is
    1 - p + 1 / (1 + shuffles). Where all score the same, as with fewer texts than directions kept, p is 1 too: not below.
    """
    p, null = (row[name] for name in NULLS[score])
    if not row["shuffles"] or math.isnan(p):
        return ""
    level = SMALL + ROUNDING
    if p <= level:
        return "above"
    below = 1 - p + 1 / (row["shuffles"] + 1) <= level and row[score] < null - ROUNDING
    return "below" if below else "among"


def expected_gain(row: Row, calibration: str | None) -> Row:
    """What LoRA would add to the probe's accuracy, with its interval, or NaN and why not.

    calibration: a file of python -m ntps.gain; None takes configs/gain.json, if there is one.
    """
    shipped = (folder / "gain.json" for folder in config_folders(""))
    path = calibration or next((file for file in shipped if file.exists()), None)
    if path is None or "accuracy" not in row:
        lack = "no calibration file" if path is None else "it predicts accuracies, and the labels are numbers"
        found = Prediction(math.nan, math.nan, math.nan, f"not calibrated for this: {lack}")
    else:
        known = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        found = Calibration(path).predict(known | {"probe_accuracy": row["accuracy"]}, row["model"])
    return {
        "lora_gain": found.gain,
        "lora_gain_low": found.low,
        "lora_gain_high": found.high,
        "lora_gain_note": found.reason,
    }


def learns_nothing(row: Row) -> bool:
    """Is held-out skill within its error of 0, or below?"""
    return not row["heldout_skill"] > CONFIDENT * row["heldout_skill_se"]


# --- all models ----------------------------------------------------------------------------------------------------


@cache
def reach(models: int) -> float:
    """Standard errors behind the first from which one of K models is not tied: 1.96 for two, 2.73 for five.

    Of K equal models the first is the luckiest, so that it is not enough to correct for K - 1 comparisons. The 95 %
    point of the range of K standard normals over sqrt(2) (Tukey 1949): in at most 5 % of cases any is not tied.
    """
    return float(studentized_range.ppf(0.95, max(models, 2), math.inf)) / math.sqrt(2)


def rank(found: list[Measured]) -> list[Measured]:
    """Sorted by held-out skill; each row says how far it is behind the first, and whether that can be told.

    The same test texts are paired: difference of skill = mean(e - e_first) / mean(guesses), its standard
    error from the differences. `tied`: within `reach` of them, so that test texts decide the order.
    """
    ranked = sorted(found, key=lambda one: -one.row["heldout_skill"])
    first, far = ranked[0], reach(len(ranked))
    for place, one in enumerate(ranked, 1):
        gaps = (one.errors - first.errors) / first.guesses.mean()
        error = float(gaps.std(ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else math.nan
        behind = float(gaps.mean())
        one.row.update(rank=place, behind=behind, behind_se=error, tied=not behind > far * error)
    return ranked


def facts(data: Dataset, flags: Mapping[str, Any]) -> Row:
    """What was measured on, for the page and the JSON."""
    train, test = (data.select(name, flags["limit"], flags["seed"]) for name in SPLITS)
    about: Row = {
        "name": data.name,
        "target": "numeric" if data.numeric else "classes",
        "texts": {"train": len(train.texts), "test": len(test.texts)},
        "split_rule": data.provenance["split_rule"],
        "source": data.provenance["source"],
        "example": train.texts[0],
        "flags": dict(flags),
    }
    if data.numeric:
        y = train.labels + data.provenance["label_mean"]  # as in the file
        return about | {"label": {"mean": y.mean(), "std": y.std(), "least": y.min(), "most": y.max()}}
    count = {
        name: np.bincount(split.labels, minlength=data.targets).tolist()
        for name, split in (("train", train), ("test", test))
    }
    return about | {"classes": data.classes, "class_counts": count}
