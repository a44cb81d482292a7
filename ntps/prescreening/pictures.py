"""The page's pictures: skill over rows and LoRA over its steps, skill over layers, scores over the share of directions kept."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntps.evaluation.learning_curve import extrapolate
from ntps.evaluation.paired import LEVEL
from ntps.prescreening.curve_panel import STYLE, corrected_curves, curve_panel, legend_of
from ntps.prescreening.measure import Measured, Row, tenth
from ntps.prescreening.verdicts import ENDS


def layers_picture(ranked: Sequence[Measured]) -> Figure:
    """Cross-validated skill of every layer's probe over relative depth, one line a model, its best layer marked."""
    figure = Figure(figsize=(4.2, 2.6))
    axes = figure.add_subplot()
    for row in (one.row for one in ranked):
        skills, best = row["layer_skills"], row["layer"]
        blocks = max(row["layers"], 1)
        (line,) = axes.plot(
            np.array(list(skills)) / blocks,
            [*skills.values()],
            label=legend_name(row),
            marker=".",
            markersize=2.5,
        )
        axes.plot(best / blocks, skills[best], "o", color=line.get_color(), markersize=5)
    low = min(min(one.row["layer_skills"].values()) for one in ranked)
    axes.set(xlabel="depth (0 = embeddings, 1 = last layer)", ylabel="cross-validated skill on train",
             xlim=(-0.01, 1.01), ylim=(max(low, -0.5) - 0.02, None))  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=0.5)
    without_math(axes)
    return figure


def labels_picture(ranked: Sequence[Measured]) -> Figure:
    """Skill on test over train rows, a dot a part of them, with the fitted law up to twice as many rows and its 95 % interval.

    Below it, where LoRA was trained, its accuracy over the steps.
    """
    trained = [one.row for one in ranked if "lora_curve" in one.row]
    figure = Figure(figsize=(4.2, 2.6 * (1 + len(trained))))
    axes, *below = figure.subplots(1 + len(trained), squeeze=False)[:, 0]
    for panel, row in zip(below, trained):
        steps_panel(panel, row)
    sizes: set[int] = set()
    for place, row in enumerate(one.row for one in ranked):
        rows, skill = row["learning_curve"]["rows"], row["learning_curve"]["skill"]
        color, sizes = f"C{place % 8}", sizes | set(rows)
        axes.plot(rows, skill, "o", alpha=0.7, markersize=2.5, label=legend_name(row), color=color)
        if not math.isnan(row["doubling_gain"]):
            sizes |= {2 * rows[-1]}
            at = np.geomspace(min(rows), 2 * rows[-1], 30)
            law = [extrapolate(rows, skill, x, LEVEL) for x in at]
            axes.plot(at, [one.value for one in law], color=color)
            axes.fill_between(
                at, [one.low for one in law], [one.high for one in law], alpha=0.15, linewidth=0, color=color
            )
    axes.set_xscale("log")
    axes.set(xlabel="train rows", ylabel="skill on test rows")
    axes.set_xticks(sorted(sizes), map(str, sorted(sizes)), minor=False)
    axes.set_xticks([], minor=True)
    without_math(axes)
    return figure


def steps_panel(axes: Axes, row: Row) -> None:
    """LoRA's accuracy over its steps on validation rows, and after the last one on test with its interval beside the probe's."""
    right, low, high = (row[f"lora_accuracy{end}"] for end in ENDS)
    curve = row["lora_curve"]
    axes.plot(curve["steps"], curve["accuracy"], "C0-o", linewidth=0.7, label="LoRA, validation rows")
    reach = [[right - low], [high - right]]
    axes.errorbar(curve["steps"][-1], right, reach, fmt="C1s", capsize=3, label="LoRA, test rows")
    axes.axhline(row["accuracy"], color="0", linestyle="--", linewidth=0.9, label="linear probe, test rows")
    axes.set(xlabel="steps", ylabel="share of rows right")
    axes.legend(loc="best")


def legend_name(row: Row) -> str:
    """The model's name; matplotlib leaves out of a legend what begins with _."""
    return f" {row['model']}" if row["model"].startswith("_") else row["model"]


def without_math(axes: Axes) -> None:
    """A legend in which $ in a model's name is a $."""
    for text in axes.legend(loc="best").get_texts():
        text.set_parse_math(False)


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


def draw(ranked: Sequence[Measured]) -> dict[str, Any]:
    """The pictures of all models' rows and layers, and a list of each model's curves, as `svg_base64` gives them."""
    with matplotlib.style.context(STYLE, after_reset=True):
        return {
            "labels": svg_base64(labels_picture(ranked)),
            "layers": svg_base64(layers_picture(ranked)),
            "curves": [svg_base64(curves_picture(one)) for one in ranked],
        }
