"""What every notebook does: find the results folder, show a figure, and keep it as PDF and PNG in RESULTS/figures."""

from collections.abc import Iterable
from pathlib import Path

from IPython.display import Image, display
from matplotlib.figure import Figure

from fig_plot.figures import save
from ntps.errors import UserError


def results(folder: str) -> Path:
    """The results folder; UserError if there is none."""
    if not Path(folder).is_dir():
        raise UserError(
            f"no folder {Path(folder).resolve()}: set RESULTS to the folder that the scripts wrote to"
        )
    return Path(folder)


def show(figures: Iterable[tuple[str, Figure]], folder: Path) -> None:
    """Save each (name, figure) and display it, a quarter larger than on paper."""
    for name, figure in figures:
        picture, _ = save(figure, folder / "figures" / name)
        display(Image(str(picture), embed=True, width=round(120 * figure.get_figwidth())))
