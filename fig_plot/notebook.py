"""The notebooks, one for each entry of the registry, and what they call.

python -m fig_plot.notebook          # writes fig_plot/NAME.ipynb
"""

import sys
from pathlib import Path

import nbformat
from IPython.display import Image, Markdown, display
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fig_plot import registry
from fig_plot.panels import save
from fig_plot.tables import sample_warning
from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files

HERE = Path(__file__).resolve().parent
SETUP = """\
import os
import sys

sys.path.insert(0, "..")  # the notebook runs in fig_plot/
from fig_plot import notebook"""
PARAMETERS = 'RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to'


def main() -> int:
    """Write the notebook of every entry."""
    for entry in registry.ENTRIES:
        atomic_files.write_text(HERE / f"{entry.name}.ipynb", nbformat.writes(build(entry)) + "\n")
    print(f"wrote {len(registry.ENTRIES)} notebooks in {HERE}")
    return 0


def build(entry: registry.Entry) -> nbformat.NotebookNode:
    """The notebook of an entry, without outputs."""
    cells = [
        new_markdown_cell(f"# {entry.title}\n{entry.text}"),
        new_code_cell(SETUP),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(f'notebook.show("{entry.name}", RESULTS)'),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"{entry.name}-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def show(name: str, results: str) -> None:
    """Display a warning where NTPS describes the sample, the table and the figures of an entry, a quarter larger than on paper; keep them in RESULTS/figures."""
    folder, entry = Path(results), registry.FIGURES[name]
    if not folder.is_dir():
        raise UserError(f"no folder {folder.resolve()}: set RESULTS to the folder that the scripts wrote to")
    if warning := sample_warning(folder):
        display(Markdown(warning))
    if entry.table:
        shown = entry.table(folder).style.format("{:.3f}", na_rep="missing")
        display(shown.format_index(escape="html", axis=0).format_index(escape="html", axis=1))
    for title, figure in entry.draw(folder):
        picture, _ = save(figure, folder / "figures" / title)
        display(Image(str(picture), embed=True, width=round(120 * figure.get_figwidth())))


if __name__ == "__main__":
    sys.exit(cli.run(main))
