"""The words and tables of docs/finetuning.md, from what report/gains.py measures and judges."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from ntps.evaluation.correlation import LEVEL, spearman
from ntps.evaluation.gain import Points
from ntps.results.tables import PAIR
from report import gain_confirmation, kernel_variants
from report.evidence import halves
from report.gains import (
    GAIN,
    MEASURED,
    NAMES,
    PROBE,
    SHORT,
    SPLITS,
    STATIC,
    TRAINING,
    WORTH,
    floors,
    groups_needed,
    optional,
)
from report.reproduction import filled
from report.words import markdown, p_text, points_of, three

TEMPLATE = Path(__file__).with_name("finetuning.template.md")
ANSWERS = (
    "gained",
    "verdict",
    "tested",
    "all",
    "of_second",
)  # what the page begins with, those that there are
AFTERWARDS = {"classes": "the number of classes", "n_texts": "the number of train rows"}


def page(
    table: pd.DataFrame, found: Points, judged: pd.DataFrame, left_out: list[str], more: Mapping[str, str]
) -> str:
    """more: of `sections`."""
    words = {**facts(table, found, judged, left_out), **more}
    words["answers"] = "\n".join(f"* {words[name]}" for name in ANSWERS if words[name])
    return filled(TEMPLATE.read_text(encoding="utf-8"), words)


def sections(
    folder: Path, table: pd.DataFrame, further: pd.DataFrame, outcome: gain_confirmation.Outcome | None, both: pd.DataFrame | None
) -> dict[str, str]:  # fmt: skip
    """Tables: `measured` of the discovery and of the confirmation half, whose test has the outcome; both: `over_both`."""
    variants = optional(folder / "kernel_variants.csv", [*PAIR, "part", "accuracy_gain"])
    return {
        "power": f"{gain_confirmation.POWER[13]:.0%}",
        "power_of_eight": f"{gain_confirmation.POWER[8]:.0%}",
        "variants": kernel_variants.summary(variants, table),
        "tested": gain_confirmation.headline(further, outcome),
        "next_test": gain_confirmation.result(further, outcome, halves()["confirmation"]),
        "afterwards_further": " and ".join(rho(further, name) for name in AFTERWARDS),
        "both": both_words(table, further, both),
        "all": "" if both is None else verdict(both, over(both)),
    }


def both_words(table: pd.DataFrame, further: pd.DataFrame, both: pd.DataFrame | None) -> str:
    """What `over_both` says, or how much of it is there."""
    if both is None:
        run, planned = further.dropna(subset=[*MEASURED])["dataset"].nunique(), len(halves()["confirmation"])
        return f"**Not made yet**: the kernel and the short runs are there on {run} of the {planned} data sets of the second half."
    known = pd.concat([table, further]).dropna(subset=[*STATIC, *MEASURED])
    share = gain_confirmation.reliability(known["test_error"], known.groupby("group")[GAIN].mean())
    return (
        f"{verdict(both, over(both))} As far as test rows go, these gains have a reliability of {share:.2f}.\n\n"
        f"{judgement_table(both)}"
    )


def facts(table: pd.DataFrame, found: Points, judged: pd.DataFrame, left_out: list[str]) -> dict[str, str]:
    floor, short = floors(table, found), table["own_gain"].dropna()
    half = math.sqrt(max(floor["reliability"], 0) / 2)
    needed = (
        f"roughly {groups_needed(half, len(judged) - 1)} groups"
        if 0 < half < 1
        else "more groups than can be said"
    )
    worth = int((found.gain > WORTH).sum())
    return {
        "state": state(table),
        "gained": gained(table, floor),
        "afterwards": ", ".join(f"{words} at {rho(table, name)}" for name, words in AFTERWARDS.items()),
        "short_above": f"{int((short > 0).sum())} of {len(short)}",
        "verdict": verdict(judged),
        "pairs": f"{', '.join(found.models)}; {len(table)} data sets, {len(found.groups)} groups of them judged",
        "gains": gains_table(table),
        "judgement": judgement_table(judged),
        "test": points_of(floor["test"]),
        "paired": paired_words(table, floor),
        "seeds": seeds_words(table, floor["seeds"]),
        "reliability": f"{floor['reliability']:.2f}",
        "worth": f"{worth} of {found.gain.size}",
        "needed": needed,
        "left_out": "; ".join(left_out) or "none of those that were run",
        "short": str(SHORT),
        "training": str(TRAINING),
    }  # fmt: skip


def rho(table: pd.DataFrame, name: str) -> str:
    return f"{float(spearman(*table[[name, GAIN]].to_numpy(float).T)):.2f}".replace("-", "−")


def state(table: pd.DataFrame) -> str:
    """Which data sets of the discovery half have no LoRA runs yet."""
    half = halves()["discovery"]
    missing = [name for name in half if name not in set(table["dataset"])]
    if not missing:
        return ""
    return (
        f"**Not complete: {len(half) - len(missing)} of the {len(half)} data sets of the discovery half are run** (not yet: {', '.join(missing)}), "
        f"{int((table['seeds'] > 1).sum())} of them with a second seed.\n\n"
    )


def gained(table: pd.DataFrame, floor: Mapping[str, float]) -> str:
    """How often LoRA is above the probe, by how much, and for how many passes."""
    gains, seeds = table[GAIN], table["seeds_error"].fillna(0)
    clear = int((gains > norm.ppf(0.95) * np.hypot(table["test_error"], seeds)).sum())
    return (
        f"**Once it has settled, LoRA is above the linear probe of the best layer on {int((gains > 0).sum())} of {len(table)} data sets** (gains from "
        f"{points_of(gains.min())} to {points_of(gains.max())} points), on {clear} by more than chance in test rows"
        f"{'' if math.isnan(floor['seeds']) else ' and seeds'} explains (each by itself, one-sided, 5 %). It takes {table['lora_passes'].min():.0f} "
        f"to {table['lora_passes'].max():.0f} forward passes over the train rows, those over the validation rows not counted."
    )


def paired_words(table: pd.DataFrame, floor: Mapping[str, float]) -> str:
    """How many errors are paired, and test-retest over halves of the test rows."""
    known = int(table["paired_error"].notna().sum())
    words = (
        "paired, row by row"
        if known == len(table)
        else f"paired, row by row, on {known} of {len(table)}; an upper limit elsewhere"
    )
    if math.isnan(floor["retest"]):
        return words
    return (
        f"{words}; gains on two random halves of the test rows correlate at {floor['retest']:.2f}, the mean of {SPLITS} splits, nine in ten of which give {floor['low']:.2f} to {floor['high']:.2f}: "
        f"a reliability of {floor['twice_as_many']:.2f} for all rows, by Spearman and Brown"
    )  # fmt: skip


def seeds_words(table: pd.DataFrame, error: float) -> str:
    """The error that seeds leave, with its interval by chi-squared, and the data set whose seeds are farthest apart."""
    free = int((table["seeds"] - 1).sum())
    if not free:
        return "not known, each has one seed"
    low, high = (error * math.sqrt(free / chi2.ppf(q, free)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    far = table.sort_values("seed_variance").dropna(subset="seed_variance").iloc[-1]
    return (
        f"{points_of(error)} points [{points_of(low)}, {points_of(high)}], from {int((table['seeds'] > 1).sum())} data sets of two seeds and more, as if all had one variance, "
        f"which they have not (the seeds of {far['dataset']} have a standard deviation of {points_of(far['seed_variance'] ** 0.5)}: patience may end one training long before another)"
    )


def over(both: pd.DataFrame) -> str:
    return f"Over both halves, {both['groups'][0]} groups of data sets,"


def verdict(judged: pd.DataFrame, where: str = "On these data sets") -> str:
    mean, better = judged["rmse"][0], judged[judged["better"]]
    spread = f"The mean gain of the other data sets is off by {points_of(mean)} points (root mean square)"
    if better.empty:
        near = judged.iloc[1:].sort_values("rmse").iloc[0]
        return (
            f"**{where} nothing was shown to predict the gain better than the mean gain.** {spread}; nearest is {NAMES[near['predictor']]}, "
            f"off by {points_of(near['rmse'])} (p {p_text(near['p'])} by itself, {p_text(near['p_holm'])} after Holm)."
        )
    named = "; ".join(
        f"{NAMES[name]}: {points_of(rmse)}" for name, rmse in better[["predictor", "rmse"]].to_numpy()
    )
    return f"**{where} significantly better than the mean gain: {named}.** {spread}."


def gains_table(table: pd.DataFrame) -> str:
    return markdown(pd.DataFrame([
        {
            "data set": row["dataset"], "probe": three(row[PROBE]), "LoRA": three(row["lora_accuracy"]), "gain": f"{three(row[GAIN])}",
            "error: seeds": three(row["seeds_error"]), "test rows": three(row["test_error"]), "seeds": row["seeds"], "passes": f"{row['lora_passes']:.0f}",
            "best step": f"{row['steps']:.0f}", "settled": f"{row['settled']:.0%}", "kernel": three(row["kernel_gain"]),
            f"{SHORT} steps": three(row["own_gain"]), "law": three(row["law_gain"]),
        }
        for row in table.sort_values(GAIN).to_dict("records")
    ]))  # fmt: skip


def judgement_table(judged: pd.DataFrame) -> str:
    return markdown(pd.DataFrame([
        {
            "predictor": NAMES[row["predictor"]], "passes": f"{row['passes']:.1f}", "RMSE": points_of(row["rmse"]), "MAE": points_of(row["mae"]),
            "p": p_text(row["p"]), "after Holm": p_text(row["p_holm"]), "90 % intervals hold": f"{row['covered'] * row['groups']:.0f} of {row['groups']}",
            "right on “worth it”": f"{row['sign'] * row['groups']:.0f} of {row['groups']}",
        }
        for row in judged.to_dict("records")
    ]))  # fmt: skip
