"""What every column of the tables of scores means, as Markdown: python -m ntps.columns

docs/columns.md holds what this prints, between its marks; both come from ntps/scores/registry.py.
"""

import sys
from pathlib import Path

from ntps.errors import UserError, boundary
from ntps.run import cli

MARKS = "<!-- columns -->", "<!-- /columns -->"
DIRECTIONS = {1: "better", -1: "worse", 0: ""}


def main(page: str | None = None) -> int:
    """Print the columns, or write them between the marks of a page.

    Args:
        page: a Markdown file with the marks, such as docs/columns.md
    """
    if page is None:
        print(markdown())
        return 0
    from ntps.system.atomic_files import write_text

    path = Path(page)
    with boundary(f"{page} cannot be read"):
        text = path.read_text(encoding="utf-8")
    write_text(path, filled(text))
    print(f"wrote {path}")
    return 0


def filled(page: str) -> str:
    """A page with what stands between the marks made anew."""
    before, opened, rest = page.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not opened or not closed:
        raise UserError(f"the page lacks {' ... '.join(MARKS)}, between which the tables go")
    return f"{before}{MARKS[0]}\n\n{markdown()}\n\n{MARKS[1]}{after}"


def markdown() -> str:
    """One table for the scores of subspaces, one for those of whole layers, one for the tolerances."""
    from ntps.scores.registry import CONDITIONED_SCORES, HEADROOM, LAYER_SCORES, SUBSPACE_SCORES

    sections = {
        "`ntps/MODEL/DATASET.csv`: a row a layer, order, rule and k": SUBSPACE_SCORES,
        "`scores/MODEL/DATASET.csv`: a row a layer": (*LAYER_SCORES, HEADROOM),
        "`conditioned/MODEL/DATASET.csv`: a row a layer and pair of tolerances": CONDITIONED_SCORES,
    }
    tables = []
    for title, scores in sections.items():
        lines = [f"### {title}", "", "| column | meaning | higher is |", "|---|---|---|"]
        for score in scores:
            meaning, labels = score.meaning.replace("|", r"\|"), " (test labels)" if score.on_test else ""
            lines.append(f"| `{score.name}` | {meaning} | {DIRECTIONS[score.direction]}{labels} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


if __name__ == "__main__":
    sys.exit(cli.run(main))
