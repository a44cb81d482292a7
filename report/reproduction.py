"""docs/reproduction.md, its details and their figures, and the same few sentences in README.md, from results/mini and results/evidence.

    python -m report.reproduction
    python -m report.reproduction --published results/released     # first: statistics of an import of the published values

Every number comes from a table: the templates of PAGES hold the words, and {{name}} in them is an entry of `all_facts`.
The first lines of the report, between <!-- short --> and <!-- /short -->, are put between the same marks in README.md.
A verdict is ntps.selection's: two-sided permutation tests with Holm's correction for the scores compared.
"""

import re
import sys
from pathlib import Path

from fig_plot.panels import save
from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files
from report import all_rows, facts, gain_confirmation, second_model
from report.all_rows_figure import all_rows_figure
from report.published import published, words, write_published
from report.reproduction_figure import report_figure
from report.tables import Facts, Tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "reproduction.md": "reproduction.template.md",
    "reproduction-details.md": "reproduction_details.template.md",
}
SHORT = re.compile(r"(<!-- short -->\n).*?(<!-- /short -->)", re.DOTALL)
PARTS = (
    facts.correlations, facts.datasets, facts.compared, facts.checked, facts.released, facts.gains, facts.random_model, facts.sizes,
    facts.bounds, facts.label_length, facts.run_again, facts.lora_again, facts.after_lora, facts.from_scratch, facts.settings,
    words, published, gain_confirmation.fact, second_model.fact, all_rows.facts,
)  # fmt: skip


def main(folder: str = "results/mini", published: str | None = None, docs: str = "docs") -> int:
    """Write the report.

    Args:
        folder: the tables that `make mini` leaves, and those of its controls below it
        published: of fig_plot/import_released.py, with ntps.selection and ntps.gain run on its folders: only write
            their statistics beside FOLDER, into published/
        docs: where the pages and their pictures go
    """
    tables = Path(folder)
    if published is not None:
        write_published(Path(published), tables.with_name("published"))
        return 0
    made = pages(tables)
    for name, text in made.items():
        atomic_files.write_text(Path(docs) / name, text)
    for name, figure in (
        ("reproduction", all_rows_figure()),
        ("reproduction-few-rows", report_figure(tables)),
    ):
        save(figure, Path(docs) / name, ["png"])
    readme = ROOT / "README.md"
    atomic_files.write_text(readme, with_short(readme.read_text(encoding="utf-8"), made["reproduction.md"]))
    print(f"wrote {' and '.join(made)} and their figures in {docs}, and the short version in {readme.name}")
    return 0


def pages(folder: Path) -> dict[str, str]:
    """The text of every page, by file name."""
    known = all_facts(folder)
    return {name: filled(template(name), known) for name in PAGES}


def template(page: str) -> str:
    return Path(__file__).with_name(PAGES[page]).read_text(encoding="utf-8")


def all_facts(folder: Path) -> Facts:
    """Everything that the report says in numbers, by name."""
    tables = Tables(folder)
    return {name: value for part in PARTS for name, value in part(tables).items()}


def filled(template: str, known: Facts) -> str:
    """The template with every {{name}} replaced; UserError for a name that is not known."""
    if unknown := {name for name in re.findall(r"\{\{(.*?)\}\}", template) if name not in known}:
        raise UserError(f"the template names what no table supplies: no fact {', '.join(sorted(unknown))}")
    return re.sub(r"\{\{(.*?)\}\}", lambda match: known[match[1]], template)


def with_short(readme: str, report: str) -> str:
    """README with the report's short version, its links made those of the top folder."""
    short = SHORT.search(report)
    if short is None or not SHORT.search(readme):
        raise UserError("<!-- short --> ... <!-- /short --> is missing in README.md or the template")
    return SHORT.sub(lambda _: short[0].replace("](", "](docs/"), readme)


if __name__ == "__main__":
    sys.exit(cli.run(main))
