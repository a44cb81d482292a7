"""docs/finetuning.md: how well the gain by LoRA is predicted on data sets that are left out, and at which cost.

    python -m report.finetuning        # from the tables of report/evidence.py

What is measured and judged is in report/gains.py, the page's words are in report/finetuning_page.py.
"""

import sys
from pathlib import Path

from fig_plot.panels import save
from ntps.errors import UserError
from ntps.evaluation.correlation import LEAST, Draws
from ntps.evaluation.gain import points
from ntps.run import cli
from ntps.system import atomic_files
from report import gain_confirmation, second_model
from report.evidence import FOLDER, halves, to_csv, write_or_remove
from report.finetuning_figure import finetuning_figure, retention_figure
from report.finetuning_page import Again, page
from report.gains import (
    GAIN,
    MEASURED,
    STATIC,
    costs,
    floors,
    judgement,
    measured,
    of_all_seeds,
    over_both,
    train_error,
)

BOTH = "finetuning_both.csv"


def main(folder: str = str(FOLDER), docs: str = "docs", permutations: int = 10_000) -> int:
    """Judge the predictors and write the page.

    Args:
        folder: where the tables are
        docs: the folder of the page
        permutations: of the gains, for p
    """
    table, draws = measured(Path(folder)), Draws(permutations)
    found, _ = points(table, [*STATIC, *MEASURED], GAIN)
    if len(found.groups) < LEAST:
        raise UserError(
            f"{folder}: {len(found.groups)} groups of data sets have LoRA runs; at least {LEAST} are needed"
        )
    cost = costs(table[table["group"].isin(found.groups)])
    floor, judged = floors(table, found), judgement(found, cost, draws)
    to_csv(judged, Path(folder) / "finetuning.csv")
    further, planned, outcome = measured(Path(folder), "confirmation"), halves()["confirmation"], None
    if gain_confirmation.complete(further, planned):
        outcome = gain_confirmation.judged(further, table, Draws())
        picture = retention_figure({"discovery": table, "confirmation": further})
        save(picture, Path(docs) / "finetuning-retention", ["png"])
    gain_confirmation.write(outcome, Path(folder) / gain_confirmation.TABLE)
    outcome_again = gain_confirmation.again(Path(folder), table, planned, Draws())
    gain_confirmation.write(outcome_again, Path(folder) / gain_confirmation.TABLE_AGAIN)
    both = over_both(table, further, draws)
    write_or_remove(both, Path(folder) / BOTH)
    save(finetuning_figure(table, judged, floor), Path(docs) / "finetuning", ["png"])
    second = second_model.both_gains(Path(folder))
    of_second = second_model.judged(second, draws)
    write_or_remove(of_second, Path(folder) / second_model.TABLE)
    second_again = second_model.again(Path(folder), draws)
    write_or_remove(second_again, Path(folder) / second_model.TABLE_AGAIN)
    as_planned = train_error(table, draws)
    again = Again(outcome_again, second_again)
    text = page(
        Path(folder),
        table,
        judged,
        further,
        of_all_seeds(Path(folder)),
        planned,
        outcome,
        both,
        second,
        of_second,
        as_planned,
        again,
    )
    atomic_files.write_text(Path(docs) / "finetuning.md", text)
    print(judged.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
