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
    both, of_second = (
        pd.read_csv(path) if (path := TABLES / name).exists() else None
        for name in (finetuning.BOTH, second_model.TABLE)
    )
    table = gains.measured(TABLES)
    return {
        "table": table, "as_planned": gains.train_error(table, Draws(10_000)), "judged": pd.read_csv(TABLES / "finetuning.csv"), "further": gains.measured(TABLES, "confirmation"),
        "planned": halves()["confirmation"], "outcome": gain_confirmation.read(TABLES), "both": both,
        "second": second_model.both_gains(TABLES), "of_second": of_second,
    }  # fmt: skip


def page_with(**made: Any) -> str:
    return finetuning_page.page(TABLES, **(committed() | made))
