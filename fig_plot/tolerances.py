"""NTPS above its null over the tolerances at which M and P0 are cut: a panel a data set, a line a model, at the best layer."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.kv_curves import BEST, Look, small_multiples
from fig_plot.labels import commands
from fig_plot.relations import Read
from fig_plot.tables import KEY
from ntps.flags import SMALL
from ntps.results.tables import PAIR, best_layers, read_tables
from ntps.scores.registry import CONDITIONED_COLUMNS

TEXT = (
    f"{BEST} kv = d/10, or all that is left of P0 where that is less; M and P0 keep eigenvalues above the tolerance times the largest. Dots: p up to {SMALL} among shuffled "
    "labels. Diamond: the tolerances of cross-validation, that of M on the axis. A tolerance that looks best here was not chosen "
    "beforehand."
)


def tolerances(folder: str | Path) -> Figure:
    """conditioned_lift where both tolerances are equal, and at those of cross-validation."""
    table, best = read_tables(folder, "conditioned", CONDITIONED_COLUMNS), best_layers(folder)
    grid = np.unique(table.loc[table["choice"] == "grid", "rtol"].astype(float))
    at_best = {
        pair: own
        for pair, layer in best.items()
        if len(own := table[(table[KEY] == [*pair, layer]).all(axis=1)])
    }

    def draw(axes: Axes, own: pd.DataFrame, look: Look) -> None:
        place = np.interp(np.log10(own["rtol"]), np.log10(grid), np.arange(len(grid)))
        own = own.assign(place=place)
        path = own[(own["choice"] == "grid") & (own["rtol"] == own["prefix_rtol"])].sort_values("place")
        chosen, significant = own[own["choice"] == "cv"], path[path["conditioned_p_value"] <= SMALL]
        axes.axhline(0, color="0", linestyle=":", linewidth=1)
        axes.plot(path["place"], path["conditioned_lift"], **look)
        for points, marker in ((significant, "o"), (chosen, "D")):
            axes.plot(
                points["place"], points["conditioned_lift"], **(look | {"linestyle": "", "marker": marker})
            )

    ticks = {
        "xlim": (-0.3, len(grid) - 0.7),
        "xticks": range(len(grid)),
        "xticklabels": [f"{tau:.0e}".replace("e-0", "e-") for tau in grid],
    }
    empty = f"no scores over tolerances: run {commands('conditioned_lift')}"
    axis = {"ylabel": "NTPS above its null", "xlabel": "tolerance of M and P0"} | ticks
    return small_multiples(Read(folder).pairs[PAIR], at_best, draw, TEXT, empty, axis)
