"""All layers of a pair scored from the files of their moments, one layer at a time from disk, into the results folder."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad

from ntps.errors import UserError
from ntps.flags import Scoring
from ntps.models.loading import pick_device
from ntps.moments.file import MomentsFile, StatesFile, check_together
from ntps.moments.identity import check_same_run, of_rows, of_scores
from ntps.moments.pair import Pair, partition_files
from ntps.moments.sums import targets_of
from ntps.scores.best_layer import best_place
from ntps.scores.conditioning import Tolerances
from ntps.scores.label_signal import residual_moment
from ntps.scores.layer import Layer
from ntps.scores.registry import COLUMNS, CONDITIONED_COLUMNS, LAYER_COLUMNS, headroom
from ntps.scores.table import LayerScores, Row, add_error_bars, conditioned_rows, layer_row, subspace_scores
from ntps.system import array_files, atomic_files, console
from ntps.system.output import Output
from ntps.system.threads import map_layers

CPU = torch.device("cpu")
Result = TypeVar("Result")
Work = Callable[[int, torch.device], Result]  # of a place among the layers, and where it is done


def score_pair(pair: Pair, flags: Scoring, device: torch.device) -> None:
    """Scores of one pair, all layers: both tables, the curves, and their provenance; nothing where they are there."""
    started, train, test = time.monotonic(), pair.train_moments(), pair.test_moments()
    check(pair, train, test)
    error_bars = flags.error_bars if train.identity["partitions"] > 1 else "none"
    parts = partition_files(train) if error_bars != "none" else []
    table, of_layers, path_table = (pair.table(kind) for kind in ("ntps", "scores", "conditioned"))
    stem, rtols, prefix_rtols = pair.stem("ntps"), flags.rtols, flags.prefix_rtols
    grid = [Tolerances(*both) for both in itertools.product(rtols, prefix_rtols)]
    curves_file = stem.with_name(f"{stem.name}.curves.safetensors")
    of_test = test.identity if test else None
    identity = of_scores(
        train.identity, of_test, rtols, prefix_rtols, flags.cross_validated, error_bars, flags.tight_bounds
    )
    tables = {table: COLUMNS, of_layers: LAYER_COLUMNS, path_table: CONDITIONED_COLUMNS}
    output = Output("scores", stem, identity, tables, [curves_file])
    if output.there(flags.overwrite):
        console.say(f"already there: {table}")
        return
    states = kept_states(pair, train)
    targets = targets_of(states.labels, train.targets) if states else torch.empty(0)
    if error_bars != "none" and not parts:
        console.say(f"warning: the partitions of {train.path} are not all there: no error bars")

    def layer_at(place: int, device: torch.device, residuals: bool = True) -> Layer:
        moments = train.averages(place).to(device)
        if states and residuals:
            found = torch.from_numpy(states.layer(place)).to(device), targets.to(device)
            moments = replace(moments, residual_second_moment=residual_moment(moments, *found))
        unseen = test.averages(place, prefix=False, permuted=False).to(device) if test else None
        return Layer(moments, unseen, rtols[0], flags.tight_bounds, prefix_rtols[0])

    def score(place: int, device: torch.device) -> tuple[LayerScores, Row, list[Row]]:
        layer = layer_at(place, device)
        of_layer = layer_row(layer)  # first: its eigen-solves need much memory, of which little is taken yet
        return subspace_scores(layer), of_layer, conditioned_rows(layer, grid)

    def jackknife(place: int, device: torch.device) -> None:
        layer = layer_at(place, device, residuals=False)
        shares = (part.averages(place, permuted=False).to(device) for part in parts)
        tolerances = add_error_bars(scores[place].rows, layer, shares)
        if flags.cross_validated:
            conditioned[place].extend(conditioned_rows(layer, tolerances))

    every = range(len(train.layers))
    scores, others, conditioned = zip(*each_layer(score, train.layers, every, device, str(pair)))
    if parts:
        best = best_place(row["gcv_error"] for row in others)
        chosen = sorted({best, every[-1]}) if error_bars == "best" else every
        each_layer(jackknife, train.layers, chosen, device, f"{pair}, error bars")
    heads = [{"model": pair.model, "dataset": pair.dataset, "layer": layer} for layer in train.layers]
    rows = [head | row for head, layer in zip(heads, scores) for row in layer.rows]
    path_rows = [head | row for head, layer in zip(heads, conditioned) for row in layer]
    more = {"n_texts": train.text_count, "headroom": headroom(others)}
    layer_rows = [head | row | more for head, row in zip(heads, others)]
    found = {table: rows, of_layers: layer_rows, path_table: path_rows}
    record = train.record | {"class_counts": train.class_counts.tolist()}
    with output.written(flags=asdict(flags), moments=record) as about:
        for path, columns in tables.items():
            atomic_files.write_text(path, pd.DataFrame(found[path])[list(columns)].to_csv(index=False))
        for path in (of_layers, path_table):
            atomic_files.write_text(path.with_suffix(".json"), atomic_files.to_json(about))
        array_files.write(curves_file, curves(train.layers, scores), about)
    seconds = time.monotonic() - started
    console.say(f"wrote {table}, {curves_file.name} and {of_layers}: {len(scores)} layers in {seconds:.0f} s")


def check(pair: Pair, train: MomentsFile, test: MomentsFile | None) -> None:
    """UserError where all labels are one, for nothing is explained, and for files of different runs."""
    common = float((train.class_counts / train.text_count).square().sum())
    if train.label_second_moment - common <= 1e-12 * common:
        raise UserError(f"{train.path}: all {train.text_count} rows are of one class: cache more of them")
    if test:
        check_same_run(train.identity, test.identity, train.path.parent)
    if train.text_count < train.width:
        console.say(
            f"warning: {pair} has {train.text_count} rows for {train.width} dimensions: "
            "scores describe this sample more than the task"
        )


def kept_states(pair: Pair, train: MomentsFile) -> StatesFile | None:
    """The mean states of the same rows, where cache.py kept them."""
    path = pair.split("states", "train")
    if not path.exists():
        return None
    states = StatesFile(path, pair.verify)
    check_same_run(of_rows(train.identity), states.identity, path.parent)
    check_together(train, states)
    return states


def each_layer(
    work: Work[Result], layers: list[int], places: Sequence[int], device: torch.device, title: str
) -> list[Result]:
    """work(place, device) for each place, several at a time on a CPU, with a bar in layers.

    A layer that is too large for a GPU's memory is done on the CPU, with a line that says so.
    """

    def one(place: int) -> Result:
        try:
            return work(place, device)
        except torch.OutOfMemoryError:
            console.say(f"layer {layers[place]} takes more memory than {device} has free: solved on the CPU")
            return work(place, CPU)
        except UserError as error:
            raise UserError(f"layer {layers[place]}: {error}") from None

    results = map_layers(one, places, 1 if device.type == "cuda" else None)
    return list(console.progress(len(places), "layer", title, over=results))


def curves(layers: Sequence[int], scores: Sequence[LayerScores]) -> dict[str, np.ndarray]:
    """ntps, retention, excess (layer, order, kv) and null (layer, order, quantiles, kv); NaN past a layer's rank."""
    longest = max(layer.rank_prefix for layer in scores)
    arrays = {"layers": np.array(layers)}
    for name in ("ntps", "retention", "excess", "null"):
        values = [getattr(layer, name).cpu() for layer in scores]
        arrays[name] = torch.stack(
            [pad(v, (0, longest - v.shape[-1]), value=math.nan) for v in values]
        ).numpy()
    return arrays


def solver_device(name: str) -> torch.device:
    """Where the eigen-solves run, in float64: cuda where it is requested and there; else the CPU, with a line that says so."""
    if name == "cuda" and not torch.cuda.is_available():
        console.say("--device cuda: there is no cuda here, solving on the CPU")
        return CPU
    device = pick_device(name)
    if device.type == "mps" and name != "auto":
        raise UserError("--device mps has no float64: use cpu")
    return CPU if device.type == "mps" else device
