"""The page's pictures: skill over layers, and scores over the share of directions kept at one layer."""

import base64
import io
from collections.abc import Sequence

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntps.prescreening.curve_panel import STYLE, corrected_curves, curve_panel, legend_of
from ntps.prescreening.measure import Measured, tenth


def layers_picture(ranked: Sequence[Measured]) -> Figure:
    """Cross-validated skill of every layer's probe over relative depth, one line a model, its best layer marked."""
    figure = Figure(figsize=(4.2, 2.6))
    axes = figure.add_subplot()
    for row in (one.row for one in ranked):
        skills, best = row["layer_skills"], row["layer"]
        depth = np.array(list(skills)) / max(*skills, 1)
        (line,) = axes.plot(depth, [*skills.values()], label=row["model"], marker=".", markersize=2.5)
        axes.plot(best / max(*skills, 1), skills[best], "o", color=line.get_color(), markersize=5)
    low = min(min(one.row["layer_skills"].values()) for one in ranked)
    axes.set(xlabel="depth (0 = embeddings, 1 = last layer)", ylabel="cross-validated skill on train",
             xlim=(-0.01, 1.01), ylim=(max(low, -0.5) - 0.02, None))  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=0.5)
    for text in axes.legend(loc="best").get_texts():
        text.set_parse_math(False)
    return figure


def curves_picture(one: Measured) -> Figure:
    """Scores, shuffled labels and chance over the share of directions kept, at a model's best layer."""
    scores, layer, corrected = one.scores, one.row["layer"], corrected_curves(pd.DataFrame(one.scores.rows))
    curves = {name: getattr(scores, name).cpu().numpy()[None] for name in ("ntps", "retention", "null")}
    figure = Figure(figsize=(3.8, 2.9))
    axes = figure.add_subplot()
    curve_panel(axes, curves | {"layers": np.array([layer])}, tenth(scores) | {"layer": layer}, corrected)
    axes.set_title(f"{one.row['model']}, layer {layer}", parse_math=False)
    axes.set(xlabel="kv / d: share of the directions kept", ylabel="score")
    figure.legend(handles=legend_of(not corrected.empty), loc="outside lower center", ncols=2)
    return figure


def svg_base64(figure: Figure) -> str:
    """SVG for a data URL, letters as shapes so that it looks the same everywhere, the same bytes for the same values."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ntps"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return base64.b64encode(file.getvalue()).decode()


def draw(ranked: Sequence[Measured]) -> tuple[str, list[str]]:
    """The picture of all models' layers, and one of each model's curves, as `svg_base64` gives them."""
    with matplotlib.style.context(STYLE, after_reset=True):
        return svg_base64(layers_picture(ranked)), [svg_base64(curves_picture(one)) for one in ranked]
