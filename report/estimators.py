"""docs/estimators.md: what each score says of a population whose value is known, by simulation.

    python -m report.estimators --moments results/mine/moments/smollm2-135m/trec6/train.safetensors   # goes on where it stopped
    python -m report.estimators                                              # the page and its picture, from the table

The states are those of a cached layer (report/known_truth.py has the model); finished cells are appended to the table,
so that a longer run is one with --trials 4 and another --docs.
"""

import gc
import math
import re
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fig_plot.panels import save
from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.system import atomic_files, console
from report.estimator_trials import PARTITIONS, TOLERANCES, Cell, judged, trial
from report.estimators_figure import estimators_figure
from report.words import markdown

TEMPLATE = Path(__file__).with_name("estimators.template.md")
BARS = (
    2,
    8,
    32,
)  # n / d at which corrected retention is to be within .02 (bias), .06 (RMSE), 85 to 95 % (coverage)
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
    "ntps": "NTPS", "null_lift": "NTPS above its null", "retention": "retention",
    "retention_adjusted": "retention above its null", "retention_corrected": "corrected retention",
    "retention_corrected_pca": "corrected retention, PCA", "retention_corrected_minus_pca": "their difference",
    "signal_share": "signal share",
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
    facts = {
        "samples": f"{table.drop_duplicates(list(asdict(MAIN)))['trials'].sum()}",
        "retention": retention_table(table),
        "verdict": verdict(table),
        "estimators": estimator_table(table),
        "conditioned": conditioned_table(table),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(
        r"\{\{(.+?)\}\}", lambda match: facts.get(match[1]) or number(table, *match[1].split("|")), text
    )


def number(table: pd.DataFrame, cell: str, ratio: str, estimator: str, column: str) -> str:
    kind = {"known": MAIN, "drawn": DRAWN, "jackknife": JACKKNIFED, "weak": KINDS[2]}[cell]
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


def verdict(table: pd.DataFrame) -> str:
    """Which of the cells with known V and normal states are within the bars."""
    places = [(cell, replace(cell, ratio=ratio)) for cell in (MAIN, *KINDS) for ratio in BARS]
    found = {
        f"{named(kind)}, n/d = {cell.ratio}": rows.loc["retention_corrected", ["bias", "rmse"]].to_numpy(
            float
        )
        for kind, cell in places
        if len(rows := of_cell(table, cell))
    }
    missed = [label for label, (bias, rmse) in found.items() if abs(bias) > 0.02 or rmse > 0.06]
    text = f"Bias within .02 and RMSE within .06: {len(found) - len(missed)} of {len(found)} rows and n/d with V known and normal states"
    return f"{text}; outside: {'; '.join(missed)}." if missed else f"{text}."


def estimator_table(table: pd.DataFrame) -> str:
    found = {ratio: of_cell(table, replace(MAIN, ratio=ratio)) for ratio in RATIOS}
    found = {ratio: rows for ratio, rows in found.items() if len(rows)}
    head = ["n/d", *(f"{ratio:g}" for ratio in found)]
    lines = [
        [label, *(numbers(rows, name, "bias", "rmse", "rank") for rows in found.values())]
        for name, label in SHOWN.items()
    ]
    return markdown(pd.DataFrame(lines, columns=head))


def conditioned_table(table: pd.DataFrame) -> str:
    found = {ratio: of_cell(table, replace(DRAWN, ratio=ratio)) for ratio in BARS}
    found = {ratio: rows for ratio, rows in found.items() if len(rows)}
    lines = [("NTPS, tolerance 1e-12 (the paper's)", "ntps")]
    for choice in ("cv", "cv_1se", "cv of M alone", *(f"{tau:.0e}" for tau in TOLERANCES[1:])):
        lines += [
            (f"conditioned NTPS, {choice}", f"conditioned_ntps {choice}"),
            (f"its lift, {choice}", f"conditioned_lift {choice}"),
        ]
        if choice.startswith("cv"):
            lines.append(
                (f"its permutation null alone, {choice} (knows no labels)", f"conditioned_null {choice}")
            )
    lines += [("corrected retention", "retention_corrected")]
    head = ["own value / NTPS", *(f"n/d = {ratio}" for ratio in found)]
    rows = [
        [label, *(numbers(rows, name, "rank", "rank_ntps") for rows in found.values())]
        for label, name in lines
    ]
    return markdown(pd.DataFrame(rows, columns=head))


if __name__ == "__main__":
    sys.exit(cli.run(main))
