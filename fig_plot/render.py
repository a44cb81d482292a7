"""Every notebook on a results folder, to HTML pages; their figures are kept as PDF and PNG beside them.

python -m fig_plot.render results
python -m fig_plot.render results/released --notebooks fig2 fig3
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from ntps.errors import UserError
from ntps.run import cli
from ntps.system import console, storage

HERE = Path(__file__).resolve().parent
ALL = ("fig1", "fig2", "fig3", "table1", "layer_map", "kv_curves", "retention", "accuracy_mse")
TIMEOUT = 1800  # seconds for a cell


def main(results: str, notebooks: Sequence[str] = ALL) -> int:
    """Run notebooks and write RESULTS/figures/NOTEBOOK.html and the figures.

    Args:
        results: the folder that the scripts, or import_released.py, wrote to
        notebooks: names, see fig_plot (default: all)
    """
    folder = Path(results).resolve()
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    if unknown := [name for name in notebooks if name not in ALL]:
        raise UserError(f"--notebooks {' '.join(unknown)}: there are {' '.join(ALL)}")
    failed = 0
    for name in notebooks:
        page = folder / "figures" / f"{name}.html"
        try:
            storage.write_text(page, to_html(HERE / f"{name}.ipynb", folder))
            console.say(f"wrote {page}")
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return int(failed > 0)


def to_html(path: Path, folder: Path) -> str:
    """The page of one notebook, run in a process of its own with RESULTS set."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=where)
    client.extra_arguments = ["--log-level=40"]  # errors only
    try:
        client.execute(env={**os.environ, "RESULTS": str(folder)})
    except CellExecutionError as error:
        raise UserError(f"{path.name} on {folder}: {error.ename}: {error.evalue}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise UserError(f"{path.name} on {folder}: {str(error).splitlines()[0]}") from None
    page, _ = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(
        notebook, resources={"metadata": {"name": path.stem}}
    )
    return page


if __name__ == "__main__":
    sys.exit(cli.run(main))
