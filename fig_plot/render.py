"""Every figure of a results folder, its notebook as an HTML page; the figures as PDF and PNG beside it.

python -m fig_plot.render results
python -m fig_plot.render results/released --notebooks fig2 fig3
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from fig_plot import notebook, registry
from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files, console

TIMEOUT = 1800  # seconds for a cell


def main(results: str, notebooks: Sequence[str] = ()) -> int:
    """Run notebooks and write RESULTS/figures/NOTEBOOK.html and the figures.

    Args:
        results: the folder that the scripts, or import_released.py, wrote to
        notebooks: retention, kv_curves, tolerances, layer_map, fig1, fig2, fig3, table1, accuracy_mse (default: all)
    """
    folder = Path(results).resolve()
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    if unknown := [name for name in notebooks if name not in registry.FIGURES]:
        raise UserError(f"--notebooks {' '.join(unknown)}: there are {' '.join(registry.FIGURES)}")
    failed = 0
    for name in notebooks or registry.FIGURES:
        page = folder / "figures" / f"{name}.html"
        try:
            atomic_files.write_text(page, to_html(registry.FIGURES[name], folder))
            console.say(f"wrote {page}")
        except (UserError, OSError) as error:
            failed += 1
            print(console.visible(f"error: {error}"), file=sys.stderr)
    return int(failed > 0)


def to_html(entry: registry.Entry, folder: Path) -> str:
    """The page of one entry's notebook, run in a process of its own with RESULTS set."""
    page = notebook.build(entry)
    where = {"metadata": {"path": str(notebook.HERE)}}
    client = NotebookClient(page, timeout=TIMEOUT, kernel_name="python3", resources=where)
    client.extra_arguments = ["--log-level=40"]  # errors only
    try:
        client.execute(env={**os.environ, "RESULTS": str(folder)})
    except CellExecutionError as error:
        raise UserError(f"{entry.name} on {folder}: {error.ename}: {error.evalue}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise UserError(f"{entry.name} on {folder}: {str(error).splitlines()[0]}") from None
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    return exporter.from_notebook_node(page, resources={"metadata": {"name": entry.name}})[0]


if __name__ == "__main__":
    sys.exit(cli.run(main))
