"""The committed tables of docs/finetuning.md, and its page with some of them replaced by made ones."""

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.evaluation.correlation import Draws
from report import finetuning, finetuning_page, gain_confirmation, gains, second_model
from report.evidence import halves

TABLES = Path(__file__).resolve().parent.parent / "results/evidence"


@cache
def committed() -> dict[str, Any]:
    both, of_second, second_again = (
        pd.read_csv(path) if (path := TABLES / name).exists() else None
        for name in (finetuning.BOTH, second_model.TABLE, second_model.TABLE_AGAIN)
    )
    outcome, outcome_again = (
        gain_confirmation.read(TABLES / name)
        for name in (gain_confirmation.TABLE, gain_confirmation.TABLE_AGAIN)
    )
    table = gains.measured(TABLES)
    return {
        "table": table, "as_planned": gains.train_error(table, Draws(10_000)), "judged": pd.read_csv(TABLES / "finetuning.csv"), "further": gains.measured(TABLES, "confirmation"), "every": gains.of_all_seeds(TABLES),
        "planned": halves()["confirmation"], "outcome": outcome, "both": both,
        "second": second_model.both_gains(TABLES), "of_second": of_second,
        "again": finetuning_page.Again(outcome_again, second_again),
    }  # fmt: skip


def page_with(**made: Any) -> str:
    return finetuning_page.page(TABLES, **(committed() | made))
