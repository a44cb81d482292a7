"""What a results folder shows: a table on the terminal, a figure, and a page with both.

python -m fig_plot.summary results
"""

import html
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from fig_plot.figures import save
from fig_plot.summary_figure import demo_figure
from fig_plot.tables import at_tenth, best_layers, load_scores, remedy
from ntps.run import cli
from ntps.system import storage

HEADER = tuple("model,data set,best layer,NTPS,chance,permutation null,p,retention,its null,n/d".split(","))
READING = """\
- **NTPS** is the share of what the labels need (as many directions as the labels determine) that lies in the leading \
kv = d/10 of the directions that next-token prediction favours; 1 is all of it.
- **chance** is the same for random directions. A score above it says little by itself: shuffled labels often score \
above it too.
- **permutation null** is the same score with shuffled labels, mean and standard deviation. Where NTPS is no higher, it is \
there without the labels and says nothing about them. **p** is (1 + shuffles that score as high) / (1 + shuffles): small \
where NTPS is significantly above the null.
- **retention** is the share of the linearly explained label signal that the same kv directions keep, **its null** the \
expectation for shuffled labels.
- The **best layer** has the lowest cross-validated error of a ridge probe on the training texts: chosen by the labels, \
not by NTPS.
- **n/d** is texts per dimension: below 1 (marked !) the score describes the sample. *unstable*: a rank that \
depends on the tolerance chosen."""


def main(results: str) -> int:
    """Summarise all scores in a results folder.

    Args:
        results: the folder that cache.py and K_sweep.py wrote to; summary.md, .png and .pdf go there too
    """
    folder = Path(results)
    rows = table_rows(folder)
    for line in text_table([HEADER, *rows]):
        print(line)
    pictures = save(demo_figure(folder), folder / "summary")
    page = folder / "summary.md"
    storage.write_text(page, markdown(rows, model_notes(folder), pictures[0].name))
    print(f"wrote {page}, {', '.join(path.name for path in pictures)}")
    return 0


def table_rows(folder: Path) -> list[tuple[str, ...]]:
    """One row of strings a pair, all from the files: the best layer at kv = d/10, rule task_rank, descending."""
    scores, best = at_tenth(load_scores(folder)), best_layers(folder)
    by_layer = scores.set_index(["model", "dataset", "layer"], drop=False)
    rows = []
    for pair in product(sorted(set(scores["model"])), sorted(set(scores["dataset"]))):
        place = (*pair, best.get(pair))
        if place in by_layer.index:
            rows.append((*pair, *values_of(by_layer.loc[[place]].iloc[0])))
        else:
            rows.append((*pair, *["-"] * (len(HEADER) - 3), f"missing: {remedy(folder, *pair)}"))
    return rows


def values_of(row: "pd.Series[Any]") -> tuple[str, ...]:
    """The columns after model and data set."""
    ratio = row["n_texts"] / (row["kv"] / row["chance"])
    marks = ("!" if ratio < 1 else "") + (" unstable" if row["rank_unstable"] else "")
    null = "-" if pd.isna(row["null_mean"]) else f"{number(row['null_mean'])} ± {number(row['null_std'])}"
    return (
        str(int(row["layer"])), number(row["ntps"]), number(row["chance"]), null, number(row["p_value"]),
        number(row["retention"]), number(row["retention_null"]), f"{ratio:.1f}{marks}",
    )  # fmt: skip


def number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


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
        moments = storage.read_provenance(path, "scores").get("record", {}).get("moments") or {}
        if note := (moments.get("model") or {}).get("note"):
            notes[path.parent.name] = note
    return notes


def markdown(rows: list[tuple[str, ...]], notes: dict[str, str], picture: str) -> str:
    """The page. Names come from files and users: they are escaped."""
    lines = ["# Next Token Perception Score: summary", ""]
    lines += [f"| {' | '.join(map(escaped, row))} |" for row in [HEADER, ("---",) * len(HEADER), *rows]]
    lines += ["", f"![scores over kv, and layer by kv]({picture})", "", "## How to read it", "", READING, ""]
    lines += [f"- **{escaped(model)}**: {escaped(note)}" for model, note in notes.items()]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Plain text as Markdown shows it, in one line."""
    return re.sub(r"([\\`*|\[\]]|\b_|_\b)", r"\\\1", html.escape(" ".join(text.split()), quote=False))


if __name__ == "__main__":
    sys.exit(cli.run(main))
