"""The gain by LoRA on each data set with what is known of its error, its predictors with their costs, and how well each predicts it.

Predictors, targets and the verdict's rule were committed before the LoRA runs that judge them were read; p was two-sided then.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from ntps.accuracies.task import WATCH_EVERY
from ntps.evaluation.correlation import ALPHA, LEVEL, Array, Draws, pearson
from ntps.evaluation.gain import Points, design, held_out, nested, points, shuffled_gains
from ntps.evaluation.learning_curve import extrapolate
from ntps.results.tables import PAIR
from report.confirmation import rows_of
from report.evidence import final_tests, halves, read_csv

MODEL, SEED = "smollm2-135m", 0  # SEED: of the confirmation half's tests and of the second model's
SECOND_MODEL = "the second model"
PLAN_OF_BOTH = (
    "a489918"  # committed before a predictor but corrected retention was set against the second half's gains
)
AGAIN = 1  # the seed that these are repeated with
GAIN, PROBE = "lora_gain", "probe_accuracy"
KERNEL = [*PAIR, "unit_norm", "accuracy_gain", "forward_passes", "n_train"]
# the best layer's ridge on train: what the plan called headroom in words, not judged
TRAIN_ERROR = "train_error"
WORTH = 0.01  # a gain of one point: LoRA is worth it
TRAINING = 5.0  # forward passes of a token that a token of LoRA takes: benchmarks/training_speed.py --dtype bfloat16 --steps 60, on a CPU
SPLITS = 1000  # of the test rows, for test-retest
SHORT = 100  # steps of the short run
LONG = 2000  # steps that its curve is extrapolated to: the most that the long runs may take
STATIC = {  # column: what it is; all of them from the one pass that caches moments
    "probe_errors": "errors of the probe on test (1 − accuracy)",
    "headroom": "headroom: the probe's cross-validated skill at the best layer less that at the last",
    "ntps": "NTPS",
    "conditioned_lift": "conditioned NTPS above its null",
    "retention_corrected": "corrected retention",
    "gcv_skill": "cross-validated skill of the ridge probe",
    "skill_slope": "its rise from half of the rows to all",
}
MEASURED = {  # these take passes of their own
    "kernel_gain": "gradient kernel: gain of the joint ridge",
    "short_gain": f"the long run's first {SHORT} steps, its warm-up: validation accuracy − probe's accuracy",
    "own_gain": f"{SHORT} steps of LoRA with five of warm-up: validation accuracy − probe's accuracy",
    "law_gain": f"the same, by a power law through its curve at {LONG} steps",
}
MEAN, STACK = "mean gain", "best one or two of all, chosen without the left-out group"
NAMES = STATIC | MEASURED | {MEAN: MEAN, STACK: STACK}
# points, gains (b, M, G) -> (b, M, G): prediction - gain of each group, from the others
Way = Callable[[Points, Array], Array]

# --- what was measured ---------------------------------------------------------------------------------------------


def measured(
    folder: Path, half: str = "discovery", model: str = MODEL, seed: int | None = SEED
) -> pd.DataFrame:
    """A row a data set of the model's LoRA runs: the gain on test, what is known of its error, and every predictor.

    half: confirmation, or discovery, which is all else. Of the first model all seeds there; elsewhere one seed alone, or
    with None all.
    """
    runs = pd.read_csv(folder / "lora.csv")
    runs = runs[runs["model"] == model]
    further = runs["dataset"].isin(halves()["confirmation"])
    runs = runs[further if half == "confirmation" else ~further]
    if seed is not None and (half == "confirmation" or model != MODEL):
        runs = runs[runs["seed"] == seed]
    tests = final_tests(runs).groupby(PAIR)
    lora = tests.agg(
        lora_accuracy=("accuracy", "mean"), seeds=("seed", "nunique"), seed_variance=("accuracy", "var"), n_test=("n", "first"),
        settled=("settled", "mean"), steps=("step", "mean"), tokens=("tokens", "mean"),
    )  # fmt: skip
    best = rows_of(folder)
    best = best[best["which"] == "best"].rename(columns={"accuracy": PROBE})
    scores = (name for name in (*STATIC, "retention_corrected_se") if name in best)
    kept = [*PAIR, PROBE, *scores, "corrected_refusal", "ridge_train_mse"]
    best = best[kept]
    facts = pd.read_csv(folder / "facts.csv")[[*PAIR, "group", "n_texts", "tokens_per_text", "classes"]]
    table = lora.reset_index().merge(best, "left", PAIR).merge(facts, "left", PAIR)
    # one variance for all: they have few seeds
    table["seeds_error"] = np.sqrt(table["seed_variance"].mean() / table["seeds"])
    for part in (slopes(folder), kernel(folder), short(runs), own(folder), paired(folder, runs)):
        table = table.merge(part, "left", PAIR)
    table[GAIN], table["probe_errors"] = table["lora_accuracy"] - table[PROBE], 1 - table[PROBE]
    table[TRAIN_ERROR] = table["ridge_train_mse"] * table["classes"]  # a mean over the classes
    for name in ("short", "own", "law"):
        table[f"{name}_gain"] = table.pop(f"{name}_accuracy") - table[PROBE]
    table["lora_passes"] = TRAINING * table["tokens"] / (table["n_texts"] * table["tokens_per_text"])
    apart = sum(table[a] * (1 - table[a]) for a in ("lora_accuracy", PROBE)) / table["n_test"]
    table["test_error"] = table["paired_error"].fillna(apart**0.5)
    return table


def more_seeds(folder: Path) -> list[dict[str, Any]]:
    """Of what is tested with one seed, by half and model: on how many data sets there are more, and the standard deviation
    between seeds, the median and the largest with its data set; the mean variance of a seed."""
    runs = final_tests(pd.read_csv(folder / "lora.csv"))
    first, further = runs["model"] == MODEL, runs["dataset"].isin(halves()["confirmation"])
    found = []
    for name, here in (("the second half", first & further), (SECOND_MODEL, ~first)):
        apart = runs[here].groupby("dataset")["accuracy"].std().dropna()
        if len(apart):
            among = {"of": name, "count": len(apart), "all": runs[here]["dataset"].nunique()}
            spread = {"median": apart.median(), "most": apart.max(), "variance": (apart**2).mean()}
            found.append(among | spread | {"dataset": apart.idxmax()})
    return found


def of_all_seeds(folder: Path) -> pd.DataFrame:
    """`measured` of both halves, the first model's mean over all seeds that are there."""
    return pd.concat([measured(folder), measured(folder, "confirmation", seed=None)], ignore_index=True)


def hours(folder: Path) -> dict[str, float]:
    """By model: what all of its trainings took together, their scorings of validation and test rows included."""
    runs = pd.read_csv(folder / "lora.csv")
    last = runs.groupby([*PAIR, "seed"])["seconds"].max()
    return {str(model): float(total) / 3600 for model, total in last.groupby("model").sum().items()}


def slopes(folder: Path) -> pd.DataFrame:
    """skill_slope: cross-validated skill of all ten partitions less that of five, at the best layer."""
    rows = pd.read_csv(folder / "rows.csv")
    wide = rows[rows["which"] == "best"].pivot_table("gcv_skill", PAIR, "partitions")
    return (wide[10] - wide[5]).rename("skill_slope").reset_index()


def optional(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table that need not be there: then it has no rows."""
    return read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def kernel(folder: Path) -> pd.DataFrame:
    """The gradient kernel's gain with gradients of unit length, its rows and its cost in passes over them."""
    table = optional(folder / "finetune_probe.csv", KERNEL)
    table = table[table["unit_norm"] == True]  # noqa: E712  (an empty column is of no type)
    return (
        table[KERNEL]
        .rename(columns={"accuracy_gain": "kernel_gain", "n_train": "n_kernel"})
        .drop(columns="unit_norm")
    )


def short(runs: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy of the lowest seed's run at SHORT steps, and the tokens that it had seen."""
    at = runs[(runs["split"] == "validation") & (runs["step"] == SHORT)].sort_values("seed")
    at = at.drop_duplicates(PAIR)[[*PAIR, "accuracy", "tokens"]]
    return at.rename(columns={"accuracy": "short_accuracy", "tokens": "short_tokens"})


def own(folder: Path) -> pd.DataFrame:
    """Of the runs of SHORT steps: the last validation accuracy, that of the power law at LONG, tokens and scores of validation.

    Where no law is fitted (ntps.evaluation.learning_curve) it is the last accuracy; above 1 it is 1.
    """
    names = [*PAIR, "own_accuracy", "law_accuracy", "own_tokens", "scored"]
    runs = optional(folder / "short.csv", [*PAIR, "split"])
    rows = []
    for pair, curve in runs[runs["split"] == "validation"].groupby(PAIR):
        steps, accuracy = curve["step"].to_list(), curve["accuracy"].to_list()
        law = extrapolate(steps, accuracy, LONG).value
        further = min(1.0, accuracy[-1] if math.isnan(law) else law)
        rows.append([*pair, accuracy[-1], further, curve["tokens"].iloc[-1], len(steps)])
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[2:], float))


def paired(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Of pairs whose runs kept their rows (report/hits.py): the gain of each test row, and the standard error of their mean; of the
    seeds of these runs alone.

    A row's gain is the share of seeds that have it right less 1 if the probe has; the error is its standard deviation / sqrt(n).
    """
    names = [*PAIR, "paired_error", "row_gains"]
    hits = optional(folder / "hits.csv", PAIR)
    seeds, rows = set(map(tuple, runs[[*PAIR, "seed"]].to_numpy())), []
    for pair, found in hits.groupby(PAIR):
        lora = (found["method"] == "lora_finetuning").to_numpy()
        kept = [not trained or (*pair, seed) in seeds for trained, seed in zip(lora, found["seed"])]
        found, lora = found[kept], lora[kept]
        if not lora.any():
            continue
        right = np.array([list(map(int, digits)) for digits in found["right"]])
        gains = right[lora].mean(0) - right[~lora].mean(0)
        rows.append([*pair, gains.std(ddof=1) / math.sqrt(len(gains)), gains])
    return pd.DataFrame(rows, columns=names).astype({"paired_error": float})


def retest(row_gains: Iterable[Array], splits: int = SPLITS) -> Array:
    """(splits,): correlation over the data sets of the gains on two random halves of their test rows; none with fewer than three."""
    rng, data_sets = np.random.default_rng(0), [gains for gains in row_gains if isinstance(gains, np.ndarray)]
    if len(data_sets) < 3:
        return np.empty(0)

    def halved() -> Array:
        orders = (rng.permutation(gains) for gains in data_sets)
        return np.array([(one[: len(one) // 2].mean(), one[len(one) // 2 :].mean()) for one in orders])

    means = np.array([halved().T for _ in range(splits)])
    return pearson(*np.moveaxis(means - means.mean(-1, keepdims=True), 1, 0))


def costs(table: pd.DataFrame) -> dict[str, float]:
    """Mean over the pairs, in forward passes over the train rows; the probe's own pass is in each of them."""
    pass_tokens = table["n_texts"] * table["tokens_per_text"]
    own = {
        "kernel_gain": float((table["forward_passes"] * table["n_kernel"] / table["n_texts"]).mean()),
        "short_gain": float((TRAINING * table["short_tokens"] / pass_tokens + 1 / WATCH_EVERY).mean()),
        "own_gain": float(
            (TRAINING * table["own_tokens"] / pass_tokens + table["scored"] / WATCH_EVERY).mean()
        ),
    }
    all_of_them = 1 + sum(passes for passes in own.values() if math.isfinite(passes))
    own["law_gain"] = own["own_gain"]
    costs = dict.fromkeys(STATIC, 1.0) | {name: 1 + passes for name, passes in own.items()}
    return {MEAN: 0.0, **costs, STACK: all_of_them}


def floors(table: pd.DataFrame, found: Points) -> dict[str, float]:
    """Roots of mean squared standard errors of the gain (seeds, test rows, both) and the reliability that they leave.

    Seeds: s^2 / k of the mean of k, s^2 the mean variance over the pairs of two seeds and more; NaN where there are none. Test
    rows: of the rows' gains (`paired`); where they were not kept the variances of two independent accuracies, a (1 - a) / n each,
    an upper limit. reliability: 1 - both^2 / Var(gain) over the groups. retest: the mean of `retest` and, low and high, what nine
    in ten of its splits lie between; twice_as_many, Spearman-Brown's 2 r / (1 + r), of all test rows; seeds and train rows are the
    same in both halves.
    """
    here = table[table["group"].isin(found.groups)]
    seeds, tests = (float(np.square(here[name]).mean()) for name in ("seeds_error", "test_error"))
    both = tests + (0 if math.isnan(seeds) else seeds)
    variance = float(found.gain.var(ddof=1))
    split = retest(here["row_gains"])
    r, low, high = (split.mean(), *np.quantile(split, (0.05, 0.95))) if len(split) else [math.nan] * 3
    return {
        "seeds": math.sqrt(seeds), "test": math.sqrt(tests), "both": math.sqrt(both), "deviation": math.sqrt(variance),
        "reliability": 1 - both / variance, "retest": r, "low": low, "high": high, "twice_as_many": 2 * max(r, 0) / (1 + max(r, 0)),
    }  # fmt: skip


# --- judgement -----------------------------------------------------------------------------------------------------


def fit(*predictors: str) -> Way:
    """Least squares on predictors; on none it is the mean gain."""
    return lambda found, gains: held_out(design(found, predictors), gains, found.across)


def judged(found: Points, ways: Mapping[str, Way], draws: Draws) -> pd.DataFrame:
    """A row a way of predicting: its held-out error (root mean square) beside the mean gain's, and whether it is better.

    p: one-sided, of a held-out error as small when the gains change places among the groups; p_holm: Holm's over the ways.
    """
    tests = shuffled_gains(found, [partial(way, found) for way in ways.values()], draws)
    mean = root_mean_square(off(found, fit()))
    table = pd.DataFrame({
        "predictor": list(ways), "groups": len(found.groups), "rmse_of_mean": mean,
        "rmse": [root_mean_square(off(found, way)) for way in ways.values()], "p": tests.p, "p_holm": tests.holm,
    })  # fmt: skip
    return table.assign(better=(table["rmse"] < mean) & (table["p_holm"] <= ALPHA))


def off(found: Points, way: Way) -> Array:
    """(M, G): held-out errors of the gains as they are."""
    return way(found, found.gain[None])[0]


def root_mean_square(errors: Array) -> float:
    return math.sqrt(np.square(errors).mean())


def judgement(found: Points, cost: Mapping[str, float], draws: Draws) -> pd.DataFrame:
    """A row the mean gain, each predictor and the stack: `judged`, and what `row` says of them."""
    ways = {**{name: fit(name) for name in found.predictors}, STACK: nested}
    table = pd.DataFrame([row(name, way, found, cost[name]) for name, way in ({MEAN: fit()} | ways).items()])
    tests = judged(found, ways, draws)
    return table.assign(
        p=[math.nan, *tests["p"]], p_holm=[math.nan, *tests["p_holm"]], better=[False, *tests["better"]]
    )


def over_both(discovery: pd.DataFrame, confirmation: pd.DataFrame, draws: Draws) -> pd.DataFrame | None:
    """`judgement` on the data sets of both halves, and the commit that fixed it; None until every predictor has been measured on the second."""
    planned, run = halves()["confirmation"], confirmation.dropna(subset=[*MEASURED])
    if set(run["dataset"]) != set(planned):
        return None
    table = pd.concat([discovery, confirmation], ignore_index=True)
    found, _ = points(table, [*STATIC, *MEASURED], GAIN)
    return judgement(found, costs(table[table["group"].isin(found.groups)]), draws).assign(plan=PLAN_OF_BOTH)


def train_error(table: pd.DataFrame, draws: Draws) -> dict[str, Any]:
    """`judged` of TRAIN_ERROR alone, on the groups of the other predictors."""
    found, _ = points(table, [*STATIC, *MEASURED, TRAIN_ERROR], GAIN)
    return dict(judged(found, {TRAIN_ERROR: fit(TRAIN_ERROR)}, draws).iloc[0])


def row(name: str, way: Way, found: Points, cost: float) -> dict[str, object]:
    """RMSE and MAE in accuracy, the share of 90 % intervals that hold the gain, and of right answers on whether it is above WORTH."""
    errors = off(found, way)
    halves = np.array([half_width(name, way, without(found, g)) for g in range(len(found.groups))])
    right = (found.gain + errors > WORTH) == (found.gain > WORTH)
    return {
        "predictor": name, "passes": cost, "rmse": root_mean_square(errors), "mae": float(np.abs(errors).mean()),
        "covered": float((np.abs(errors) <= halves).mean()), "sign": float(right.mean()), "groups": len(found.groups),
    }  # fmt: skip


def half_width(name: str, way: Way, found: Points) -> float:
    """t_{0.95, G - 1 - p} times the held-out error among these groups, p predictors (two of the stack's)."""
    parameters = {MEAN: 0, STACK: 2}.get(name, 1)
    quantile = t.ppf((1 + LEVEL) / 2, len(found.groups) - 1 - parameters)
    return float(quantile * root_mean_square(off(found, way)))


def without(found: Points, g: int) -> Points:
    x, gain, probe = (np.delete(part, g, axis=1) for part in (found.x, found.gain, found.probe))
    return replace(found, groups=[*found.groups[:g], *found.groups[g + 1 :]], x=x, gain=gain, probe=probe)


def groups_needed(r: float, tests: int) -> int:
    """Groups for a power of .8 to see a correlation r, one-sided at ALPHA / tests: Fisher's z."""
    reach = norm.ppf(1 - ALPHA / tests) + norm.ppf(0.8)
    return math.ceil(3 + (reach / math.atanh(r)) ** 2)
