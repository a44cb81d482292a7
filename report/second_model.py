"""LoRA's gain of a second model: does that of the first on the same data set, or corrected retention, tell anything of it?

Predictors and rule were committed before one of its trainings was read.
"""

from pathlib import Path

import pandas as pd

from ntps.evaluation.correlation import Draws, spearman
from ntps.evaluation.gain import points
from report import gains
from report.confirmation import LEAST, defined
from report.gain_confirmation import SCORE
from report.gains import GAIN, PROBE, fit, measured
from report.words import markdown, p_text, points_of, three, two

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


def sections(table: pd.DataFrame, found: pd.DataFrame | None) -> dict[str, str]:
    """For the page: a sentence at its top and what the runs say; table: `both_gains`, found: `judged`."""
    return {"of_second": headline(table, found), "second": section(table, found)}


def section(table: pd.DataFrame, found: pd.DataFrame | None) -> str:
    if table.empty:
        return "**Not run yet.**"
    said = "\n\n".join(filter(None, [headline(table, found) or few(table), together(table)]))
    return f"{said}\n\n{gains_table(table)}"


def few(table: pd.DataFrame) -> str:
    return f"**Not measurable yet**: {len(table)} data sets are run; {LEAST} groups with both predictors are needed."


def headline(table: pd.DataFrame, found: pd.DataFrame | None) -> str:
    """A sentence for the top of the page; nothing before the test is made."""
    if found is None:
        return ""
    results = "; ".join(
        f"{PREDICTORS[row['predictor']]} {'is' if row['better'] else 'was not shown to be'} better than the mean gain "
        f"(off by {points_of(row['rmse'])} points, p {p_text(row['p_holm'])} after Holm)"
        for row in found.to_dict("records")
    )
    mean = points_of(found["rmse_of_mean"][0])
    return (
        f"**{NAME}, a second model**: LoRA is above its probe on {int((table[GAIN] > 0).sum())} of {len(table)} data sets, by {points_of(table[GAIN].mean())} points on average. "
        f"Of these gains, which the mean gain of the others misses by {mean} points: {results}."
    )


def together(table: pd.DataFrame) -> str:
    """Spearman's correlation of both models' gains; nothing of fewer than LEAST data sets."""
    both = table[[FIRST, GAIN]].dropna().to_numpy(float)
    if len(both) < LEAST:
        return ""
    return f"Over the {len(both)} data sets the gains of the two models go together at {two(float(spearman(*both.T)))} (Spearman)."


def gains_table(table: pd.DataFrame) -> str:
    return markdown(pd.DataFrame([
        {
            "data set": row["dataset"], "probe": three(row[PROBE]), "LoRA": three(row["lora_accuracy"]), "gain": three(row[GAIN]),
            "its error from test rows, at most": three(row["test_error"]), "SmolLM2's gain": three(row[FIRST]), "corrected retention": three(row[SCORE]),
            "best step": f"{row['steps']:.0f}", "settled": f"{row['settled']:.0%}",
        }
        for row in table.sort_values(GAIN).to_dict("records")
    ]))  # fmt: skip
