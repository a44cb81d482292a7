"""Two models beside each other on the same data sets: whose probe is better, and do the scores say so?"""

from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import sem

from ntps.evaluation.correlation import spearman
from ntps.results.tables import lowest_error
from report import second_model
from report.confirmation import defined
from report.evidence import FOLDER, groups_of, with_accuracy
from report.tables import MODEL

SCORES = ("ntps", "conditioned_lift", "retention_corrected", "gcv_skill")


def compared(folder: Path = FOLDER) -> dict[str, Any]:
    """The second model less the first, each at its own best layer. gap: of the probe's test accuracy, a value a data set; error:
    standard error of its mean; count: data sets; scores: of each score, how often it is higher, of how many data sets that have
    it with both, and rho, Spearman's correlation of its difference with the accuracy's, over groups."""
    rows = lowest_error(with_accuracy(folder))
    groups = groups_of(folder)

    def apart(column: str) -> pd.Series:
        values = rows[defined(rows, column)].pivot(index="dataset", columns="model", values=column)
        return (values[second_model.MODEL] - values[MODEL]).dropna()

    gap, scores = apart("accuracy"), {}
    for name in SCORES:
        lead = apart(name)
        both = pd.concat({"score": lead, "accuracy": gap}, axis=1, join="inner").groupby(groups).mean()
        scores[name] = {
            "higher": int((lead > 0).sum()), "count": len(lead), "groups": len(both), "rho": float(spearman(*both.to_numpy(float).T)),
        }  # fmt: skip
    return {
        "gap": gap,
        "error": float(sem(gap)),
        "count": len(gap),
        "above": int((gap > 0).sum()),
        "scores": scores,
    }
