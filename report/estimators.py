"""docs/estimators.md: what each score says of a population whose value is known, by simulation.

    python -m report.estimators --moments results/mine/moments/smollm2-135m/trec6/train.safetensors   # goes on where it stopped
    python -m report.estimators                                              # the page and its picture, from the table

The states are those of a cached layer (report/known_truth.py has the model); finished cells are appended to the table,
so that a longer run is one with --trials 4 and another --docs.
"""

import gc
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fig_plot.panels import save
from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.system import atomic_files, console
from report import pages
from report.estimator_trials import PARTITIONS, TOLERANCES, Cell, judged, trial
from report.estimators_figure import estimators_figure
from report.words import markdown

# n / d at which corrected retention is to be within .02 (bias), .06 (RMSE), 85 to 95 % (coverage)
BARS = (2, 8, 32)
RATIOS = (1.25, 2, 4, 8, 16, 32, 64)
MAIN = Cell(8, 6, 0.3)
DRAWN, HEAVY, JACKKNIFED = (
    replace(MAIN, **change)
    for change in (
        {"directions": "drawn", "partitions": PARTITIONS},
        {"freedom": 5.0},
        {"partitions": PARTITIONS},
    )
)
KINDS = [replace(MAIN, targets=C, r2=r2) for C, r2 in ((1, 0.3), (2, 0.6), (1, 0.1), (6, 0.1), (1, 0.6))]
SHOWN = {
    "NTPS": "ntps", "NTPS above its null": "null_lift", "retention": "retention",
    "retention above its null": "retention_adjusted", "corrected retention": "retention_corrected",
    "corrected retention, PCA": "retention_corrected_pca", "their difference": "retention_corrected_minus_pca",
    "signal share": "signal_share",
}  # fmt: skip


def cells() -> dict[Cell, int]:
    """What is simulated, the most wanted first, and how many populations with a sample each."""
    counts = {replace(MAIN, ratio=ratio): 100 for ratio in BARS}
    counts |= {replace(DRAWN, ratio=ratio): count for ratio, count in ((8, 40), (2, 24), (32, 24))}
    counts |= {replace(kind, ratio=ratio): 30 for kind in (*KINDS, JACKKNIFED, HEAVY) for ratio in BARS}
    return counts | {replace(MAIN, ratio=ratio): 40 for ratio in RATIOS if ratio not in BARS}


def main(moments: str | None = None, layer: int = 16, trials: float = 1.0, docs: str = "docs") -> int:
    """Simulate what is missing in the table, and write the page and its picture.

    Args:
        moments: a train.safetensors of cache.py; without it the page is made from the table
        layer: whose states are the population's
        trials: a share of the usual number
        docs: where estimators.csv, estimators.md and estimators.png go
    """
    path = Path(docs) / "estimators.csv"
    if moments is not None:
        file = MomentsFile(Path(moments))
        if layer not in file.layers:
            raise UserError(f"{moments} has layers {file.layers}: give one of them as --layer")
        simulate(Layer(file.averages(file.layers.index(layer), permuted=False)), path, trials)
    if not path.exists():
        raise UserError(f"{path} is not there: give --moments")
    table = pd.read_csv(path)
    atomic_files.write_text(path.with_suffix(".md"), page(table))
    (picture,) = save(estimators_figure(table), path.with_suffix(""), ["png"])
    print(f"wrote {path.with_suffix('.md')} and {picture}")
    return 0


def simulate(base: Layer, path: Path, share: float) -> None:
    """Append every cell that the table lacks."""
    for cell, count in cells().items():
        old = pd.read_csv(path) if path.exists() else None
        if old is not None and len(of_cell(old, cell)):
            continue
        rng = np.random.default_rng(zlib.crc32(repr(tuple(asdict(cell).values())).encode()))
        found = []
        for _ in range(max(3, math.ceil(count * share))):
            found.append(trial(base, cell, rng))
            gc.collect()  # layers and their orders hold each other, 100 MB at a time
        rows = judged(cell, found)
        atomic_files.write_text(path, pd.concat([old, rows]).to_csv(index=False, float_format="%.4g"))
        console.say(f"{cell}: done")


def of_cell(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    return table[
        np.logical_and.reduce([table[name] == value for name, value in asdict(cell).items()])
    ].set_index("estimator")


# --- the page --------------------------------------------------------------------------------------------------------


def page(table: pd.DataFrame) -> str:
    kinds = {"known": MAIN, "drawn": DRAWN, "jackknife": JACKKNIFED, "weak": KINDS[2]}
    within, missed = bars(table)
    return pages.filled("estimators", {
        **{name: partial(number, table, cell) for name, cell in kinds.items()},
        "uncovered": uncovered(table), "samples": table.drop_duplicates(list(asdict(MAIN)))["trials"].sum(), "within": within, "missed": missed,
        "covered": covered(table), "retention": retention_table(table), "estimators": estimator_table(table), "conditioned": conditioned_table(table),
    })  # fmt: skip


def number(table: pd.DataFrame, kind: Cell, ratio: float, estimator: str, column: str) -> str:
    return numbers(of_cell(table, replace(kind, ratio=float(ratio))), estimator, column)


def numbers(rows: pd.DataFrame, estimator: str, *columns: str) -> str:
    """bias +.001, coverage 90 %, other columns .01; "-" where there is none."""
    if estimator not in rows.index or rows.loc[estimator, list(columns)].isna().any():
        return "-"
    shown = {"bias": "{:+.3f}", "rmse": "{:.3f}", "coverage": "{:.0%}"}
    text = " / ".join(shown.get(name, "{:.2f}").format(rows.loc[estimator, name]) for name in columns)
    return text.replace("-", "−").replace("%", " %")


def named(cell: Cell) -> str:
    labels = "a number" if cell.targets == 1 else f"{cell.targets} classes"
    rest = "; V estimated" * (cell.directions == "drawn") + "; t states" * (cell.freedom < math.inf)
    return f"{labels}, R2 {cell.r2:.1f}{rest}"


def retention_table(table: pd.DataFrame) -> str:
    """Bias, RMSE and coverage of corrected retention, by what the labels are and n / d."""
    name = "retention_corrected"
    lines = [(named(cell), cell, name) for cell in (MAIN, *KINDS, HEAVY)]
    lines += [
        (f"{named(HEAVY)}, unequal variance", HEAVY, f"{name}_unequal"),
        (f"{named(MAIN)}; jackknife", JACKKNIFED, f"{name}, jackknife"),
        (named(DRAWN), DRAWN, name),
        (f"{named(DRAWN)}, truth of that V", DRAWN, f"{name}, of the V estimated"),
    ]

    def value(cell: Cell, ratio: float, estimator: str) -> str:
        rows = of_cell(table, replace(cell, ratio=ratio))
        columns = ["bias", "rmse"] if estimator.endswith("unequal") else ["bias", "rmse", "coverage"]
        refused = int(rows.loc[rows.index == estimator, "refused"].sum())
        return numbers(rows, estimator, *columns) + (f" ({refused} refused)" if refused else "")

    head = ["bias / RMSE / coverage", *(f"n/d = {ratio}" for ratio in BARS)]
    rows = [[label, *(value(cell, ratio, one) for ratio in BARS)] for label, cell, one in lines]
    return markdown(pd.DataFrame(rows, columns=head))


def bars(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The cells with known V and normal states, by name: those within the bars of bias and RMSE, and those outside."""
    within: list[str] = []
    missed: list[str] = []
    for kind in (MAIN, *KINDS):
        for ratio in BARS:
            if len(rows := of_cell(table, replace(kind, ratio=ratio))):
                bias, rmse = rows.loc["retention_corrected", ["bias", "rmse"]].to_numpy(float)
                side = missed if abs(bias) > 0.02 or rmse > 0.06 else within
                side.append(f"{named(kind)}, n/d = {ratio}")
    return within, missed


def covered(table: pd.DataFrame) -> list[int]:
    """Of how many samples each coverage is: those that are not refused."""
    known = table.dropna(subset="coverage")
    return list(known["trials"] - known["refused"])


def uncovered(table: pd.DataFrame) -> str:
    """Of the same cells, those whose 90 % intervals hold fewer than 85 % or more than 95 % of the truths."""
    rows = [of_cell(table, replace(kind, ratio=ratio)) for kind in (MAIN, *KINDS) for ratio in BARS]
    held = [float(found["coverage"]["retention_corrected"]) for found in rows if len(found)]
    return f"{sum(not 0.85 <= share <= 0.95 for share in held)} of {len(held)}"


def over_ratios(
    table: pd.DataFrame,
    cell: Cell,
    ratios: Sequence[float],
    head: tuple[str, str],
    lines: Mapping[str, str],
    columns: Sequence[str],
) -> str:
    """A line an estimator, by its label, and a column a ratio that the table has; head: of the labels and of each ratio."""
    found = {ratio: of_cell(table, replace(cell, ratio=ratio)) for ratio in ratios}
    texts = {
        head[1].format(ratio): [numbers(rows, name, *columns) for name in lines.values()]
        for ratio, rows in found.items()
        if len(rows)
    }
    return markdown(pd.DataFrame({head[0]: list(lines), **texts}))


def estimator_table(table: pd.DataFrame) -> str:
    return over_ratios(table, MAIN, RATIOS, ("n/d", "{:g}"), SHOWN, ["bias", "rmse", "rank"])


def conditioned_table(table: pd.DataFrame) -> str:
    lines = {"NTPS, tolerance 1e-12 (the paper's)": "ntps"}
    for choice in ("cv", "cv_1se", "cv of M alone", *(f"{tau:.0e}" for tau in TOLERANCES[1:])):
        lines[f"conditioned NTPS, {choice}"] = f"conditioned_ntps {choice}"
        lines[f"its lift, {choice}"] = f"conditioned_lift {choice}"
        if choice.startswith("cv"):
            lines[f"its permutation null alone, {choice} (knows no labels)"] = f"conditioned_null {choice}"
    lines["corrected retention"] = "retention_corrected"
    return over_ratios(table, DRAWN, BARS, ("own value / NTPS", "n/d = {}"), lines, ["rank", "rank_ntps"])


if __name__ == "__main__":
    sys.exit(cli.run(main))
