"""Figures 2 and 3 and table 1 of the paper, from a results folder or from the published values (import_released.py).

from fig_plot import paper
for name, figure in paper.figure2("results", "accuracy"): ...
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fig_plot.figures import (
    ACROSS,
    ROOT,
    STYLE,
    caption,
    headed,
    missing_panel,
    model_order,
    number_list,
    numbered,
    panels_of,
)
from fig_plot.relations import INTERVAL, LEAST, SCORES, Read, Relation, relation

PROBES = ("cache.py --keep_states", "linear_sklearn.py")
NEEDS = {  # what makes a score or a measurement
    **dict.fromkeys(SCORES, ("cache.py", "K_sweep.py")),
    **dict.fromkeys(("probe_accuracy", "probe_mse", "probe_train_accuracy", "probe_train_mse"), PROBES),
    "lora_gain_linear": ("linear_training.py", "lora_finetuning.py"),
    "linear_accuracy": ("linear_training.py",),
    "scratch_accuracy": ("from_scratch.py",),
}
NAMES = {
    **SCORES,
    "probe_accuracy": "probe accuracy",
    "probe_mse": "probe MSE",
    "probe_train_accuracy": "probe accuracy on train",
    "probe_train_mse": "probe MSE on train",
    "lora_gain_linear": "LoRA gain",
    "linear_accuracy": "linear probe",
    "scratch_accuracy": "training from scratch",
}
NOTHING = "no results: run {}, see README"
AXES = {  # what an axis of values and one of ranks is called
    "probe_accuracy": ("probe accuracy (test)", "rank of probe accuracy (test)"),
    "probe_train_accuracy": ("probe accuracy (train)", "rank of probe accuracy (train)"),
    "probe_mse": ("probe MSE (test)", "rank of probe MSE (test),\nreversed: 1 = largest MSE"),
    "probe_train_mse": ("probe MSE (train)", "rank of probe MSE (train),\nreversed: 1 = largest MSE"),
    "lora_gain_linear": ("LoRA gain (test accuracy)", "rank of LoRA gain,\nreversed: 1 = largest gain"),
}


def figure2(folder: str | Path, metric: str, score: str = "ntps") -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each rule: rank of the score against rank of the linear probe's accuracy or mse.

    The probe is scored on test; on train, as published, where there is nothing else.
    """
    read = Read(folder, f"fig2_{metric}")
    target = read.first_measured(f"probe_{metric}", f"probe_train_{metric}")
    for rule in read.rules:
        yield (
            f"fig2_{metric}_{rule.replace(' ', '_')}",
            rank_figure(relation(read, target, rule, score), read.folder),
        )


def figure3(folder: str | Path, score: str = "ntps") -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each rule: rank of the score against rank of what LoRA adds to the linear head's accuracy."""
    read = Read(folder, "fig3")
    for rule in read.rules:
        found = relation(read, "lora_gain_linear", rule, score)
        yield f"fig3_{rule.replace(' ', '_')}", rank_figure(found, read.folder)


def rank_figure(found: Relation, folder: Path) -> Figure:
    """A panel a model: rank against rank, a number for each data set, rho with its interval and n."""
    across, up = (f"rank of {SCORES[s]}" if s in SCORES else AXES[s][1] for s in (found.score, found.target))
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = panels_of(found.models)
        for place, (model, (axes,)) in enumerate(zip(found.models, panels)):
            ranks = found.ranks(model)
            axes.set(xlabel=across, ylabel="" if place % ACROSS else up)
            if ranks.isna().all(axis=None):
                headed(axes, model)
                missing_panel(axes, why_empty(found, model))
            else:
                headed(axes, model, str(found.rho[model]), found.where[model], missing_numbers(found, model))
                rank_panel(axes, ranks)
        if not found.models:
            missing_panel(figure.subplots(), NOTHING.format(commands("ntps")))
        caption(figure, number_list(found.datasets), found.caption, INTERVAL, *gaps(found, folder))
    return figure


def rank_panel(axes: Axes, ranks: pd.DataFrame) -> None:
    n = int(ranks["x"].notna().sum())
    axes.plot([1, n], [1, n], color="0.7", linewidth=0.5, linestyle="-", zorder=0)
    for number, (x, y) in enumerate(zip(ranks["x"], ranks["y"]), 1):
        if math.isfinite(x) and math.isfinite(y):
            numbered(axes, x, y, number)
    axes.set(xlim=(0.2, n + 0.8), ylim=(0.2, n + 0.8))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def commands(what: str, flags: str = "") -> str:
    return " and ".join(f"python {script}" for script in NEEDS[what]) + flags


def flags_of(models: Sequence[str], datasets: Sequence[str], folder: Path) -> str:
    """Flags for the scripts, which are run in the project's folder: a results folder inside it is named from there."""
    texts = [name for group in datasets for name in group.split(",")]
    whole = folder.resolve()
    where = whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else folder
    return f" --models {' '.join(models)} --datasets {' '.join(texts)} --output {where}"


def missing_numbers(found: Relation, model: str) -> str:
    """The numbers of the data sets that a panel lacks."""
    gone = found.of(model).isna().any(axis=1)
    numbers = [str(number) for number, missing in enumerate(gone, 1) if missing]
    return f"missing: {' '.join(numbers)}" if numbers else ""


def why_empty(found: Relation, model: str) -> str:
    """What a panel without any point says; the flags are in the caption."""
    texts = found.lacking(model)
    parts = [
        f"no {NAMES[what]}: run {commands(what)}"
        for what, gone in texts.items()
        if len(gone) == len(found.datasets)
    ]
    if not parts and set().union(*texts.values()) >= set(found.datasets):
        parts = [f"no data set has both {' and '.join(NAMES[what] for what in texts)}"]
    return "; ".join(parts) or f"too few data sets: to choose takes {LEAST}, held out {LEAST + 1}"


def gaps(found: Relation, folder: Path) -> list[str]:
    """For the caption: what is missing, and the commands that make all of it (they skip what is there)."""
    lines = []
    for what in (found.score, found.target):
        pairs = [(model, text) for model in found.models for text in found.lacking(model)[what]]
        if pairs:
            models, texts = (list(dict.fromkeys(names)) for names in zip(*pairs))
            flags = flags_of(models, sorted(texts), folder)
            each = ", each with" if len(NEEDS[what]) > 1 else ""
            lines.append(f"Missing: {NAMES[what]} of {len(pairs)} pairs: run {commands(what, each + flags)}")
    return lines


# --- table 1 -------------------------------------------------------------------------------------------------------

TABLE1 = (
    "Test accuracy, mean over seeds: a linear head on the frozen model's last layer, and the same architecture trained from "
    "random weights."
)
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch_accuracy": ("from scratch", {"marker": "o", "markerfacecolor": "white", "color": "C1"}),
    "linear_accuracy": ("linear probe on the frozen model", {"marker": "o", "color": "C0"}),
}


def table1(folder: str | Path) -> pd.DataFrame:
    """Test accuracy of linear_training and from_scratch: a row a data set, columns (model, method); NaN: missing."""
    read = Read(folder)
    table = read.pairs.set_index(["dataset", "model"])[list(ENDS)].astype(float)
    table = table[table.notna().any(axis=1)].rename(
        columns={what: label for what, (label, _) in ENDS.items()}
    )
    models = sorted(table.index.unique("model"), key=model_order)
    wide = {(m, label): table[label].xs(m, level="model") for m in models for label, _ in ENDS.values()}
    return pd.DataFrame(wide, index=sorted(table.index.unique("dataset")))


def table1_figure(folder: str | Path) -> Figure:
    """The same as lines from one accuracy to the other."""
    table, folder = table1(folder), Path(folder)
    models = list(dict.fromkeys(table.columns.get_level_values(0)))
    datasets = list(table.index)
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = panels_of(models, height=max(1.4, 0.75 + 0.14 * len(datasets)))
        for place, (model, (axes,)) in enumerate(zip(models, panels)):
            axes.set_title(model, parse_math=False)
            if table[model].isna().all(axis=None):
                missing_panel(axes, f"no accuracies: run {' and '.join(map(commands, ENDS))}")
                continue
            for row, dataset in enumerate(datasets):
                values = [table.loc[dataset, (model, label)] for label, _ in ENDS.values()]
                axes.plot(values, [row, row], color="0.6", linewidth=0.8, linestyle="-", zorder=1)
                for value, (_, style) in zip(values, ENDS.values()):
                    axes.plot(value, row, linestyle="", markersize=3.5, zorder=2, **style)
                gone = [
                    style["color"] for value, (_, style) in zip(values, ENDS.values()) if math.isnan(value)
                ]
                for number, color in enumerate(gone):
                    axes.plot(-0.15 + 0.08 * number, row, "x", color=color, markersize=3.5)
            axes.set(
                xticks=[0, 0.5, 1],
                xlim=(-0.2, 1.02),
                ylim=(len(datasets) - 0.5, -0.5),
                xlabel="test accuracy",
            )
            first = place % ACROSS == 0
            axes.set_yticks(range(len(datasets)), datasets if first else [], parse_math=False)
            axes.grid(axis="y", color="0.9", linewidth=0.4, linestyle="-")
        if not models:
            missing_panel(figure.subplots(), NOTHING.format(commands("linear_accuracy")))
        shown = [
            Line2D([], [], linestyle="", markersize=3.5, label=label, **style)
            for label, style in ENDS.values()
        ]
        shown.append(
            Line2D(
                [], [], marker="x", linestyle="", markersize=3.5, color="0", label="missing, in its colour"
            )
        )
        figure.legend(handles=shown, loc="outside upper center", ncols=3 if len(models) > 1 else 1)
        lines = []
        for what, (label, _) in ENDS.items():
            missing = [
                (model, text)
                for model in models
                for text in datasets
                if math.isnan(table.loc[text, (model, label)])
            ]
            if missing:
                who, texts = (list(dict.fromkeys(names)) for names in zip(*missing))
                flags = flags_of(who, sorted(texts), folder)
                lines.append(f"Missing: {NAMES[what]} of {len(missing)} pairs: run {commands(what, flags)}")
        caption(figure, TABLE1, *lines)
    return figure
