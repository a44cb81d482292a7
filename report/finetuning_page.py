"""What docs/finetuning.md says in numbers and tables, from what report/gains.py measures and judges; its words are in finetuning.template.md."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from ntps.evaluation.correlation import ALPHA, LEVEL, Array, holm, spearman
from ntps.evaluation.gain import Points, points
from ntps.prescreening.page import SETTLED
from ntps.results.tables import PAIR
from report import baselines, gain_confirmation, kernel_variants, pages, second_model
from report.confirmation import LEAST_SETS, defined
from report.evidence import halves
from report.gain_confirmation import SCORE, Outcome
from report.gains import (
    GAIN,
    MEASURED,
    NAMES,
    PROBE,
    SECOND_MODEL,
    SHORT,
    SPLITS,
    STATIC,
    TRAINING,
    WORTH,
    floors,
    groups_needed,
    hours,
    more_seeds,
    optional,
)
from report.second_model import FIRST
from report.words import Columns, p_text, percent, points_of, tenths, three, two, whole, written

ACCURACIES: Columns = {
    "majority": ("majority", two), "words alone": ("words", two), "probe": (PROBE, three), "LoRA": ("lora_accuracy", three), "gain": (GAIN, three),
}  # fmt: skip
ENDS: Columns = {"best step": ("steps", whole), "settled": ("settled", percent)}
PASSES: Columns = {"passes": ("lora_passes", whole)}
RETENTION: Columns = {"corrected retention": (SCORE, three)}
OF_DISCOVERY: Columns = {
    **ACCURACIES, "error: seeds, pooled": ("seeds_error", three), "test rows": ("test_error", three), "seeds": ("seeds", str), **PASSES, **ENDS,
    "kernel": ("kernel_gain", three), f"{SHORT} steps": ("own_gain", three), "law": ("law_gain", three),
}  # fmt: skip
OF_CONFIRMATION: Columns = {
    **ACCURACIES, "its error from test rows": ("error_text", str), **RETENTION, **PASSES, **ENDS,
}  # fmt: skip
OF_SECOND: Columns = {
    **ACCURACIES, "its error from test rows, at most": ("test_error", three), "SmolLM2's gain": (FIRST, three), **RETENTION, **ENDS,
}  # fmt: skip
JUDGEMENT: Columns = {
    "passes": ("passes", tenths), "RMSE": ("rmse", points_of), "MAE": ("mae", points_of), "p": ("p", p_text), "after Holm": ("p_holm", p_text),
    "90 % intervals hold": ("covered_text", str), "right on “worth it”": ("sign_text", str),
}  # fmt: skip


class Again(NamedTuple):
    """The tests of one seed with the second seeds; None until all data sets have one."""

    outcome: Outcome | None
    of_second: pd.DataFrame | None


def page(
    folder: Path, table: pd.DataFrame, judged: pd.DataFrame, further: pd.DataFrame, every: pd.DataFrame, planned: Sequence[str], outcome: Outcome | None,
    both: pd.DataFrame | None, second: pd.DataFrame, of_second: pd.DataFrame | None, as_planned: Mapping[str, float],
    again: Again,
) -> str:  # fmt: skip
    """table, further: `measured` of the discovery and of the confirmation half, of which data sets are planned, every: of both with all
    seeds; judged, both: on the
    first, on both; outcome: the confirmation half's test; second, of_second: of report/second_model.py; as_planned: of `train_error`."""
    variants = optional(folder / "kernel_variants.csv", [*PAIR, "part", "accuracy_gain"])
    further_seeds = more_seeds(folder)
    own = next(
        (
            one["variance"]
            for one in further_seeds
            if one["of"] == SECOND_MODEL and one["count"] == one["all"]
        ),
        None,
    )
    values = of_discovery(table, judged) | of_confirmation(further, planned, outcome, seed_variance(table))
    return pages.filled("finetuning", {
        **values, "variants": kernel_variants.summary(variants, table), "both": None if both is None else of_both(table, further, both),
        "second": of_model(second, seed_variance(table), own), "alpha": ALPHA, "expect": expected(every, [judged, both], outcome), "hours": hours(folder), "second_test": of_second, "predictors": second_model.PREDICTORS, "second_name": second_model.NAME, "again": again, "again_missed": again.outcome and gain_confirmation.missed(again.outcome),
        "over_words": over_words(every), "as_planned": as_planned, "settled": SETTLED, "more_seeds": further_seeds, "short": SHORT, "training": TRAINING, "splits": SPLITS, "level": LEVEL, "least": LEAST_SETS,
    })  # fmt: skip


def runs(table: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """Of a table of trainings: how many there are, how many above the probe, and a line each, the smallest gain first."""
    table = table.merge(baselines.of_words(), "left", "dataset").sort_values(GAIN)
    lines = written(table.set_index("dataset"), columns)
    return {"count": len(table), "above": int((table[GAIN] > 0).sum()), "gain": table[GAIN], "table": lines}


def of_discovery(table: pd.DataFrame, judged: pd.DataFrame) -> dict[str, Any]:
    found, left_out = points(table, [*STATIC, *MEASURED], GAIN)
    floor, own, half = floors(table, found), table["own_gain"].dropna(), halves()["discovery"]
    return {
        "planned": half,
        "missing": [name for name in half if name not in set(table["dataset"])],
        "twice": int((table["seeds"] > 1).sum()),
        "first": runs(table, OF_DISCOVERY) | {"passes": table["lora_passes"]},
        **significant("clear", p_values(table, table["seeds_error"].fillna(0))),
        "verdict": verdict(judged),
        "found": found,
        "floor": floor,
        "paired": int(table["paired_error"].notna().sum()),
        "seeds": seeds(table, floor["seeds"]),
        "above_short": [int((own > 0).sum()), len(own)],
        "worth": int((found.gain > WORTH).sum()),
        "judgement": judgement_table(judged),
        "left_out": left_out,
        "needed": needed(floor, found, judged),
        "judged_count": int(judged["p_holm"].notna().sum()),
        "rho": rho(table),
    }


def expected(
    table: pd.DataFrame, judgements: Sequence[pd.DataFrame | None], outcome: Outcome | None
) -> dict[str, Any]:
    """How large the gains are over all data sets, and whether anything was shown to predict them."""
    gain, known = table[GAIN], [judged for judged in judgements if judged is not None]
    low, median, high = gain.quantile([0.25, 0.5, 0.75])
    confirmed = outcome is not None and not gain_confirmation.missed(outcome)
    return {
        "count": len(gain), "twice": int((table["seeds"] > 1).sum()), "above": int((gain > 0).sum()), "worth": int((gain > WORTH).sum()), "median": median, "mean": gain.mean(),
        "low": low, "high": high, "least": gain.min(), "most": gain.max(), "predicted": confirmed or any(judged["better"].any() for judged in known),
    }  # fmt: skip


def p_values(table: pd.DataFrame, seeds_error: Any) -> Array:
    """One-sided, of each gain by its normal errors of test rows and seeds."""
    return norm.sf(table[GAIN] / np.hypot(table["test_error"], seeds_error))


def significant(name: str, p: Array) -> dict[str, int]:
    """How many tests are, each by itself, and NAME_holm, after Holm's correction."""
    p = np.asarray(p)
    return {name: int((p <= ALPHA).sum()), f"{name}_holm": int((holm(p) <= ALPHA).sum())}


def seed_variance(table: pd.DataFrame) -> float:
    """Of one seed's accuracy, the mean over the data sets that have two and more; 0 where none has."""
    known = table["seed_variance"].dropna()
    return float(known.mean()) if len(known) else 0.0


def over_words(table: pd.DataFrame) -> dict[str, Any]:
    """Mean gains over the data sets: over the probe, and over the better of it and words alone."""
    known = table.merge(baselines.of_words(), on="dataset")
    better = known[[PROBE, "words"]].max(axis=1)
    return {
        "count": len(known), "words_better": int((known["words"] > known[PROBE]).sum()),
        "gain": known[GAIN].mean(), "less": (known["lora_accuracy"] - better).mean(),
    }  # fmt: skip


def of_confirmation(
    table: pd.DataFrame, planned: Sequence[str], outcome: Outcome | None, of_seeds: float
) -> dict[str, Any]:
    """of_seeds: the variance of one seed, of the other half; here each has one."""
    paired, variance = table["paired_error"].notna(), float(table[GAIN].var())
    with_seeds = 1 - (float(np.square(table["test_error"]).mean()) + of_seeds) / variance
    errors = [
        three(error) + ("" if known else " at most") for error, known in zip(table["test_error"], paired)
    ]
    return {
        "further": runs(table.assign(error_text=errors), OF_CONFIRMATION) | {"passes": table["lora_passes"]},
        "further_planned": planned,
        **significant("further_clear", p_values(table, math.sqrt(of_seeds))),
        "further_with_seeds": with_seeds,
        "further_complete": gain_confirmation.complete(table, planned),
        "further_measured": table.dropna(subset=[*MEASURED])["dataset"].nunique(),
        "refused": table.loc[~defined(table, SCORE), "dataset"].tolist(),
        "tested": outcome,
        "tested_verdict": outcome and gain_confirmation.verdict(outcome),
        "missed": gain_confirmation.missed(outcome) if outcome else [],
        "power": gain_confirmation.POWER,
        "further_rho": rho(table),
    }


def of_both(table: pd.DataFrame, further: pd.DataFrame, both: pd.DataFrame) -> dict[str, Any]:
    known = pd.concat([table, further]).dropna(subset=[*STATIC, *MEASURED])
    return {
        "verdict": verdict(both, f"Over both halves, {both['groups'][0]} groups of data sets,"),
        "reliability": gain_confirmation.reliability(
            known["test_error"], known.groupby("group")[GAIN].mean()
        ),
        "table": judgement_table(both),
    }


def of_model(second: pd.DataFrame, of_seeds: float, own: float | None) -> dict[str, Any]:
    """Trainings of the second model; by_rows, with_seeds: gains of more than chance in test rows, and in seeds of the first model's variance;
    own_seeds: of its own variance, where known;
    together: Spearman's correlation of both models' gains over groups, NaN of fewer than LEAST_SETS."""
    pairs = second.dropna(subset=[FIRST, GAIN]).groupby("group")[[FIRST, GAIN]].mean().to_numpy(float)
    together = float(spearman(*pairs.T)) if len(pairs) >= LEAST_SETS else math.nan
    found = {"pairs": len(pairs), "together": together, "against_mean": second_model.against_mean(second)}
    variances = {"by_rows": 0.0, "with_seeds": of_seeds}
    variances |= {} if own is None else {"own_seeds": own}
    for name, variance in variances.items():
        found |= significant(name, p_values(second, math.sqrt(variance)))
    return runs(second, OF_SECOND) | found


def rho(table: pd.DataFrame) -> dict[str, float]:
    """Spearman's correlation of the gain with what was looked at afterwards."""
    return {name: float(spearman(*table[[name, GAIN]].to_numpy(float).T)) for name in ("classes", "n_texts")}


def needed(floor: Mapping[str, float], found: Points, judged: pd.DataFrame) -> int | None:
    """Groups to find a predictor that explains half of the true differences; None where that cannot be said."""
    half = math.sqrt(max(floor["reliability"], 0) / 2)
    return groups_needed(half, len(judged) - 1) if 0 < half < 1 else None


def seeds(table: pd.DataFrame, error: float) -> dict[str, Any] | None:
    """The error that they leave, and the standard deviations between those of a data set: the median, and the two largest by name."""
    known = table.dropna(subset="seed_variance").sort_values("seed_variance")
    if known.empty:
        return None
    apart = known["seed_variance"] ** 0.5
    far = zip(known["dataset"].iloc[:-3:-1], apart.iloc[:-3:-1])
    return {"error": error, "median": apart.median(), "far": list(far)}


def verdict(judged: pd.DataFrame, where: str = "On these data sets") -> str:
    mean, better = judged["rmse"][0], judged[judged["better"]]
    spread = f"The mean gain of the other data sets is off by {points_of(mean)} points (root mean square)"
    if better.empty:
        near = judged.iloc[1:].sort_values("rmse").iloc[0]
        return (
            f"**{where} nothing was shown to predict the gain better than the mean gain.** {spread}; nearest is {NAMES[near['predictor']]}, "
            f"off by {points_of(near['rmse'])} (one-sided p {p_text(near['p'])} by itself, {p_text(near['p_holm'])} after Holm)."
        )
    named = "; ".join(
        f"{NAMES[name]}: {points_of(rmse)}" for name, rmse in better[["predictor", "rmse"]].to_numpy()
    )
    return f"**{where} significantly better than the mean gain: {named}.** {spread}."


def judgement_table(judged: pd.DataFrame) -> str:
    groups = judged["groups"]
    counts = {
        f"{name}_text": (judged[name] * groups).map(whole) + " of " + groups.map(str)
        for name in ("covered", "sign")
    }
    return written(judged.assign(**counts).set_index(judged["predictor"].map(NAMES)), JUDGEMENT, "predictor")
