"""LoRA's gain of a second model: does that of the first on the same data set, or corrected retention, tell anything of it?

Predictors and rule were committed before one of its trainings was read.
"""

from pathlib import Path

import pandas as pd

from ntps.evaluation.correlation import Draws
from ntps.evaluation.gain import points
from report import gains
from report.confirmation import LEAST, defined
from report.evidence import FOLDER
from report.gain_confirmation import SCORE
from report.gains import GAIN, fit, measured

MODEL, NAME = "gemma3-270m", "Gemma 3 270M"
FIRST = "first_gain"
PREDICTORS = {FIRST: "SmolLM2-135M's gain on the same data set", SCORE: "its own corrected retention"}
TABLE = "second_model.csv"


def both_gains(folder: Path) -> pd.DataFrame:
    """A row a data set of the second model's trainings, with the gain of the first there."""
    first = measured(folder)[["dataset", GAIN]].rename(columns={GAIN: FIRST})
    return measured(folder, model=MODEL).merge(first, "left", "dataset")


def judged(table: pd.DataFrame, draws: Draws) -> pd.DataFrame | None:
    """gains.judged of the two predictors; None where fewer than LEAST groups have both."""
    known = table[defined(table, SCORE)].dropna(subset=[GAIN, *PREDICTORS])
    if known["group"].nunique() < LEAST:
        return None
    found, _ = points(known, list(PREDICTORS), GAIN)
    return gains.judged(found, {name: fit(name) for name in PREDICTORS}, draws)


def fact(_: object) -> dict[str, str]:
    """For report/reproduction.py: what it found, in a clause; empty where nothing was better than the mean gain or it is not measured."""
    path = FOLDER / TABLE
    row = pd.read_csv(path).set_index("predictor").loc[FIRST] if path.exists() else None
    if row is None or not row["better"]:
        return {"gain.second": ""}
    found = f"{PREDICTORS[FIRST]} did better than the mean gain for {NAME}, in a test fixed beforehand of {row['groups']} groups of data sets"
    return {"gain.second": f"; {found}"}
