"""What a results folder shows: a table on the terminal, a figure, and a page with both.

python -m fig_plot.summary results
"""

import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from fig_plot.panels import save
from fig_plot.summary_figure import demo_figure
from fig_plot.tables import CONDITIONED, KEY, headlines, remedy
from ntps.errors import UserError
from ntps.results.tables import PAIR, best_layers, two_sided
from ntps.run import cli
from ntps.system import atomic_files, provenance
from ntps.system.console import escaped

PLACE = ("model", "data set", "best layer")
HEADINGS = (
    *PLACE,
    "corrected retention",
    "minus PCA",
    "conditioned NTPS lift",
    "p",
    "signal share",
    "n/d",
)
PAPERS = (*PLACE, "NTPS", "chance", "permutation null", "p", "retention", "its null", "n/d")
AS_PAPER = "The scores as in the paper:"
READING = """\
- **corrected retention** is the share of the label signal, centred and with the noise of a finite sample taken off, that the \
leading kv = d/10 of the directions that next-token prediction favours keep; **minus PCA**: less what as many principal \
components of the states keep. Above 0, next-token prediction favours the labels beyond what varies most anyway. ±: standard error.
- **conditioned NTPS** is NTPS without the smallest directions of the states, as many as cross-validation leaves out; its **lift** \
is the share of the way from shuffled labels to 1.
- **signal share** is the share of the probe's squared coefficients that is not noise.
- **NTPS** is the share of what the labels need (as many directions as the labels determine) that lies in the same directions, \
all counted by length; 1 is all of it. **chance** is the same for random directions. A score above it says little by itself: \
shuffled labels often score above it too.
- **permutation null** is the same score with shuffled labels, mean and standard deviation. **p** is two-sided: up to 0.05 the \
score is significantly above or below the null; otherwise it is indistinguishable from it, which is no proof that the labels do not matter.
- **retention** is the share of the linearly explained label signal that the same kv directions keep, **its null** the \
expectation for shuffled labels.
- The **best layer** has the lowest cross-validated error of a ridge probe on the training texts: chosen by the labels, \
not by any of these scores.
- **n/d** is texts per dimension. !: below 1, or a signal share below one half: at this number of rows NTPS describes the \
sample. *unstable*: a rank that depends on the tolerance chosen."""
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # its header and rows


def main(results: str) -> int:
    """Summarise all scores in a results folder.

    Args:
        results: the folder that cache.py and K_sweep.py wrote to; summary.md, .png and .pdf go there too
    """
    folder = Path(results)
    scores = best_headlines(folder)
    if scores.empty:
        raise UserError(f"{folder} has no scores at kv = d/10 in descending order: run python K_sweep.py")
    tables, notes = tables_of(folder, scores), notes_of(scores)
    print(f"\n\n{AS_PAPER}\n\n".join("\n".join(text_table([header, *rows])) for header, rows in tables))
    for note in notes:
        print(note)
    pictures = save(demo_figure(folder), folder / "summary")
    page = folder / "summary.md"
    atomic_files.write_text(page, markdown(tables, notes, model_notes(folder), pictures[0].name))
    print(f"wrote {page}, {', '.join(path.name for path in pictures)}")
    return 0


def best_headlines(folder: Path) -> pd.DataFrame:
    """A row for each model x data set: that of the best layer, kv = d/10, rule task_rank, descending; NaN without one."""
    scores, best = headlines(folder), best_layers(folder)
    pairs = product(sorted(set(scores["model"])), sorted(set(scores["dataset"])))
    places = pd.DataFrame([(*pair, best.get(pair)) for pair in pairs], columns=KEY).astype({"layer": float})
    return places.merge(scores.astype({"layer": float}), "left", KEY)


def tables_of(folder: Path, scores: pd.DataFrame) -> list[Table]:
    """The recommended scores, where the results have any, and those of the paper, as strings."""
    kinds = {HEADINGS: recommended_values, PAPERS: paper_values}
    if not two_sided(scores).any():
        del kinds[HEADINGS]
    tables = []
    for header, values_of in kinds.items():
        rows = []
        for _, row in scores.iterrows():
            pair = row["model"], row["dataset"]
            if pd.isna(row["kv"]):
                rows.append((*pair, *["-"] * (len(header) - 3), f"missing: {remedy(folder, *pair)}"))
            else:
                rows.append((*pair, str(int(row["layer"])), *values_of(row), rows_per_dimension(row)))
        tables.append((header, rows))
    return tables


def recommended_values(row: "pd.Series[Any]") -> tuple[str, ...]:
    names = ("retention_corrected", "retention_corrected_minus_pca")
    shares = (number(row[name], row[f"{name}_se"]) for name in names)
    return (*shares, *(number(row[name]) for name in (*CONDITIONED, "signal_share")))


def paper_values(row: "pd.Series[Any]") -> tuple[str, ...]:
    return (
        number(row["ntps"]), number(row["chance"]), number(row["null_mean"], row["null_std"]), number(row["p_value"]),
        number(row["retention"]), number(row["retention_null"]),
    )  # fmt: skip


def rows_per_dimension(row: "pd.Series[Any]") -> str:
    marks = ("!" if row["of_sample"] else "") + (" unstable" if row["rank_unstable"] else "")
    return f"{row['n_texts'] * row['chance'] / row['kv']:.1f}{marks}"


def notes_of(scores: pd.DataFrame) -> list[str]:
    """What stands below the tables."""
    refused = scores.dropna(subset="corrected_refusal")[[*PAIR, "corrected_refusal"]]
    notes = [f"no corrected retention of {m} x {d}: {why}" for m, d, why in refused.to_numpy()]
    if not two_sided(scores).any():
        notes.append("p is one-sided, small above the null: results of an earlier version")
    elif scores["conditioned_lift"].isna().all():
        notes.append(
            "no conditioned NTPS: its tolerances are cross-validated, which takes cache.py --partitions 5"
        )
    if few := int(scores["of_sample"].sum()):
        notes.append(
            f"! at this number of rows NTPS describes the sample ({few} of {scores['of_sample'].count()} pairs)"
        )
    return notes


def number(value: float, error: float = math.nan) -> str:
    """0.354 ± 0.012, or a dash."""
    return "-" if pd.isna(value) else f"{value:.3f}" + ("" if pd.isna(error) else f" ± {error:.3f}")


def text_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns padded to their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def model_notes(folder: Path) -> dict[str, str]:
    """What the models' descriptions say of them, from the provenance beside the tables."""
    notes: dict[str, str] = {}
    for path in sorted((folder / "ntps").glob("*/*.json")):
        moments = provenance.read(path, "scores").get("record", {}).get("moments") or {}
        if note := (moments.get("model") or {}).get("note"):
            notes[path.parent.name] = note
    return notes


def markdown(tables: list[Table], notes: list[str], models: dict[str, str], picture: str) -> str:
    """The page. Names come from files and users: they are escaped."""
    lines = ["# Next Token Perception Score: summary"]
    for number, (header, rows) in enumerate(tables):
        lines += ["", *[AS_PAPER, ""] * (number > 0)]
        lines += [f"| {' | '.join(map(escaped, row))} |" for row in [header, ("---",) * len(header), *rows]]
    lines += ["", *(f"- {escaped(note)}" for note in notes)]
    lines += ["", f"![scores over kv, and layer by kv]({picture})", "", "## How to read it", "", READING, ""]
    lines += [f"- **{escaped(model)}**: {escaped(note)}" for model, note in models.items()]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(cli.run(main))
