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
from ntps.moments.identity import of_scores
from ntps.moments.pair import Pair, check_split, check_states, partition_files
from ntps.moments.sums import targets_of
from ntps.results.tables import CURVES
from ntps.scores.best_layer import best_place
from ntps.scores.conditioning import Tolerances
from ntps.scores.label_signal import residual_moment
from ntps.scores.layer import Layer
from ntps.scores.registry import COLUMNS, CONDITIONED_COLUMNS, LAYER_COLUMNS, headroom
from ntps.scores.table import LayerScores, Row, add_error_bars, conditioned_rows, layer_row, subspace_scores
from ntps.system import array_files, atomic_files, console, provenance
from ntps.system.output import Output
from ntps.system.threads import map_layers

CPU = torch.device("cpu")
Result = TypeVar("Result")
Work = Callable[[int, torch.device], Result]  # of a place among the layers, and where it is done
# of one layer: its subspaces, itself, and each pair of tolerances
Scored = tuple[LayerScores, Row, list[Row]]


def score_pair(pair: Pair, flags: Scoring, device: torch.device) -> None:
    """Scores of one pair, all layers: the tables, the curves, and their provenance.

    Nothing where they are there; those that were made without states are made again with them.
    """
    started, scoring = time.monotonic(), PairScoring(pair, flags, device)
    if scoring.there():
        return
    with scoring.output.alone():
        if scoring.there():
            return
        scores = scoring.run()
    of_pair, of_layers, of_path = scoring.tables
    seconds = time.monotonic() - started
    console.say(
        f"wrote {of_pair}, {scoring.curves_file.name}, {of_layers} and {of_path}: {len(scores)} layers in {seconds:.0f} s"
    )


class PairScoring:
    """The files that one pair is scored from, and those that it is scored into. UserError where they do not belong together."""

    def __init__(self, pair: Pair, flags: Scoring, device: torch.device):
        self.pair, self.flags, self.device = pair, flags, device
        self.train, self.test = pair.train_moments(), pair.test_moments()
        check_moments(pair, self.train, self.test)
        self.error_bars = flags.error_bars if self.train.identity["partitions"] > 1 else "none"
        self.parts = partition_files(self.train) if self.error_bars != "none" else []
        self.tolerances = [Tolerances(*both) for both in itertools.product(flags.rtols, flags.prefix_rtols)]
        stem = pair.stem("ntps")
        self.curves_file = stem.with_name(f"{stem.name}{CURVES}")
        self.tables = [pair.table(kind) for kind in ("ntps", "scores", "conditioned")]
        columns = dict(zip(self.tables, (COLUMNS, LAYER_COLUMNS, CONDITIONED_COLUMNS)))
        settings = flags.rtols, flags.prefix_rtols, flags.cross_validated, self.error_bars, flags.tight_bounds
        identity = of_scores(self.train.identity, self.test.identity if self.test else None, *settings)
        self.output = Output("scores", stem, identity, columns, [self.curves_file])

    def there(self) -> bool:
        """Says so, if the tables are there."""
        if not self.output.there(self.flags.overwrite):
            return False
        made = provenance.read(self.output.beside)["record"]
        if not made.get("states", True) and self.pair.split("states", "train").exists():
            return False
        console.say(f"already there: {self.tables[0]}")
        return True

    def run(self) -> Sequence[LayerScores]:
        """Score all layers, then those that have error bars, and write the tables."""
        self.states = kept_states(self.pair, self.train)
        self.targets = targets_of(self.states.labels, self.train.targets) if self.states else torch.empty(0)
        if self.error_bars != "none" and not self.parts:
            console.say(f"warning: the partitions of {self.train.path} are not all there: no error bars")
        every, name = range(len(self.train.layers)), str(self.pair)
        found = self.each(self.score, every, name)
        if self.parts:
            best = best_place(of_layer["gcv_error"] for _, of_layer, _ in found)
            chosen = sorted({best, every[-1]}) if self.error_bars == "best" else every
            self.each(lambda place, device: self.jackknife(found[place], place, device), chosen, f"{name}, error bars")  # fmt: skip
        self.write(found)
        return [scores for scores, _, _ in found]

    def each(self, work: Work[Result], places: Sequence[int], title: str) -> list[Result]:
        return each_layer(work, self.train.layers, places, self.device, title)

    def layer_at(self, place: int, device: torch.device, residuals: bool = True) -> Layer:
        moments = self.train.averages(place).to(device)
        if self.states and residuals:
            found = torch.from_numpy(self.states.layer(place)).to(device), self.targets.to(device)
            moments = replace(moments, residual_second_moment=residual_moment(moments, *found))
        unseen = self.test.of_states(place).to(device) if self.test else None
        return Layer(
            moments, unseen, self.flags.rtols[0], self.flags.tight_bounds, self.flags.prefix_rtols[0]
        )

    def score(self, place: int, device: torch.device) -> Scored:
        layer = self.layer_at(place, device)
        of_layer = layer_row(layer)  # first: its eigen-solves need much memory, of which little is taken yet
        return subspace_scores(layer), of_layer, conditioned_rows(layer, self.tolerances)

    def jackknife(self, scored: Scored, place: int, device: torch.device) -> None:
        """Error bars into a layer's rows, and rows at the tolerances of cross-validation."""
        scores, _, conditioned = scored
        layer = self.layer_at(place, device, residuals=False)
        shares = (part.averages(place, permuted=False).to(device) for part in self.parts)
        tolerances = add_error_bars(scores.rows, layer, shares)
        if self.flags.cross_validated:
            conditioned.extend(conditioned_rows(layer, tolerances))

    def write(self, found: Sequence[Scored]) -> None:
        train, more = self.train, {"headroom": headroom([of_layer for _, of_layer, _ in found])}
        kinds: list[list[Row]] = [[], [], []]
        for layer, (scores, of_layer, conditioned) in zip(train.layers, found):
            head = {"model": self.pair.model, "dataset": self.pair.dataset, "layer": layer}
            of_layer = of_layer | more | {"n_texts": train.text_count}
            for rows, own in zip(kinds, (scores.rows, [of_layer], conditioned)):
                rows += [head | row for row in own]
        record = train.record | {"class_counts": train.class_counts.tolist()}
        with self.output.written(flags=asdict(self.flags), moments=record, states=bool(self.states)) as about:
            for (path, columns), rows in zip(self.output.tables.items(), kinds):
                atomic_files.write_text(path, pd.DataFrame(rows)[list(columns)].to_csv(index=False))
            for path in self.tables[1:]:
                atomic_files.write_text(path.with_suffix(".json"), atomic_files.to_json(about))
            array_files.write(self.curves_file, curves(train.layers, [one for one, _, _ in found]), about)


def check_moments(pair: Pair, train: MomentsFile, test: MomentsFile | None) -> None:
    """UserError where all labels are one, for nothing is explained, and for files of different runs."""
    common = float((train.class_counts / train.text_count).square().sum())
    if train.label_second_moment - common <= 1e-12 * common:
        raise UserError(
            f"{train.path}: all {train.text_count} rows have one and the same label: cache more of them"
        )
    if test:
        check_split(train, test)
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
    check_states(states, train, "Delete it, or run cache.py with --keep_states --overwrite")
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
