"""The registry of figures: a new one is a function and an entry of ENTRIES; its notebook and page are built from the entry."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fig_plot import kv_curves, layer_map, scatter, table1, tolerances, words


@dataclass(frozen=True)
class Entry:
    """One notebook and page: RESULTS/figures/NAME.html, and its figures beside it.

    draw(folder): the figures, each with its file's name. table(folder): shown above them.
    """

    name: str
    title: str
    text: str
    draw: Callable[[Path], Iterable[tuple[str, Figure]]]
    table: Callable[[Path], pd.DataFrame] | None = None


ENTRIES = (
    Entry(
        "retention",
        "The recommended scores against accuracy",
        "Corrected retention is the share of the label signal, its noise taken off, that the leading next-token directions keep; "
        "principal components of the states are what it has to beat. Older results: retention.",
        scatter.retention,
    ),
    Entry(
        "kv_curves",
        "Scores over kv, against principal components, chance and shuffled labels",
        "A score above chance says little by itself: what counts is the difference to principal components, and to shuffled labels.",
        kv_curves.kv_curves,
    ),
    Entry(
        "tolerances",
        "NTPS above its null over the tolerances of M and P0",
        "The smallest directions of the states are mostly noise: does NTPS rise above its null where they are left out?",
        lambda folder: [("tolerances", tolerances.tolerances(folder))],
    ),
    Entry(
        "layer_map",
        "Where the correlation lies: layer and share of the directions",
        "Spearman's correlation with the probe's accuracy at every layer and kv that the paper's rule may choose from. Look for a "
        "region: one blue cell among red ones is luck.",
        layer_map.layer_maps,
    ),
    Entry(
        "fig1",
        "Figure 1: words in the two subspaces",
        "Words on the top-2 directions of perception (U) and of autoregression (V), as `alignment_vis.py` placed them.",
        lambda folder: [("fig1", words.word_figure(words.load_words(folder)))],
    ),
    Entry(
        "fig2",
        "Figure 2: NTPS against the linear probe",
        "One panel a model, one number a data set. Three figures each for accuracy and MSE: layer and kv chosen as in the paper "
        "(on the same data sets), fixed beforehand, and held out. Published values come with one choice, made in an unknown way.",
        scatter.figure2,
    ),
    Entry(
        "fig3",
        "Figure 3: NTPS against what LoRA adds",
        "Gain: test accuracy of `lora_finetuning.py` minus that of `linear_training.py`. Its rank is reversed, as in the paper: "
        "the claim is that a high score goes with a small gain.",
        scatter.figure3,
    ),
    Entry(
        "table1",
        "Table 1: a linear probe on the frozen model against training from scratch",
        "Test accuracies, means over seeds.",
        lambda folder: [("table1", table1.figure(folder))],
        table1.table1,
    ),
    Entry(
        "accuracy_mse",
        "The probe's accuracy against its MSE",
        "Figure 2 has one panel for each of the two; do they order the data sets alike?",
        lambda folder: [("accuracy_mse", scatter.accuracy_mse(folder))],
    ),
)
FIGURES = {entry.name: entry for entry in ENTRIES}
