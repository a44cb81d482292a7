"""LoRA's gain of a second model: is it predicted by that of the first on the same data set, or by corrected retention?

Predictors and rule were committed before one of its trainings was read.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from ntps.evaluation.correlation import ALPHA, Draws
from ntps.evaluation.gain import Points, points
from report import gains
from report.confirmation import LEAST_SETS, defined
from report.evidence import FOLDER
from report.gain_confirmation import SCORE
from report.gains import AGAIN, GAIN, SEED, fit, measured, off
from report.words import p_text

MODEL, NAME = "gemma3-270m", "Gemma 3 270M"
FIRST = "first_gain"
PREDICTORS = {FIRST: "SmolLM2-135M's gain on the same data set", SCORE: "its own corrected retention"}
TABLE, TABLE_AGAIN = "second_model.csv", "second_model_again.csv"


def both_gains(folder: Path, seed: int = SEED) -> pd.DataFrame:
    """A row a data set of the second model's trainings of a seed, with the gain of the first there."""
    first = measured(folder)[["dataset", GAIN]].rename(columns={GAIN: FIRST})
    return measured(folder, model=MODEL, seed=seed).merge(first, "left", "dataset")


def known(table: pd.DataFrame) -> Points | None:
    """The groups that have both predictors; None where these are fewer than LEAST_SETS."""
    rows = table[defined(table, SCORE)].dropna(subset=[GAIN, *PREDICTORS])
    return None if rows["group"].nunique() < LEAST_SETS else points(rows, list(PREDICTORS), GAIN)[0]


def judged(table: pd.DataFrame, draws: Draws) -> pd.DataFrame | None:
    """gains.judged of the two predictors; None where too few groups have both."""
    found = known(table)
    return None if found is None else gains.judged(found, {name: fit(name) for name in PREDICTORS}, draws)


def again(folder: Path, draws: Draws) -> pd.DataFrame | None:
    """`judged` with the second seeds; None until all data sets have one."""
    table = both_gains(folder, AGAIN)
    return judged(table, draws) if set(table["dataset"]) == set(both_gains(folder)["dataset"]) else None


def against_mean(table: pd.DataFrame) -> float:
    """One-sided p of the first model's gain having a smaller squared held-out error than the mean gain: the groups' differences
    change sign. Not part of the plan. NaN where too few groups have both predictors."""
    if (found := known(table)) is None:
        return math.nan
    apart = np.square(off(found, fit(FIRST))[0]) - np.square(off(found, fit())[0])
    return float(permutation_test((apart,), np.mean, permutation_type="samples", alternative="less").pvalue)


def fact(_: object) -> dict[str, str]:
    """For report/reproduction.py: what it found, in sentences; empty where nothing was better than the mean gain or it is not measured."""
    path = FOLDER / TABLE
    row = pd.read_csv(path).set_index("predictor").loc[FIRST] if path.exists() else None
    if row is None or not row["better"]:
        return {"gain.second": ""}
    p = against_mean(both_gains(FOLDER))
    found = f"For {NAME}, {PREDICTORS[FIRST]} met the rule of *better than the mean gain* on {row['groups']} groups of data sets"
    error = f"its error is {'' if p <= ALPHA else 'not '}significantly smaller than that of the mean gain (p {p_text(p)})"
    return {"gain.second": f"{found}; {error}, and both gains are of the same test rows."}
