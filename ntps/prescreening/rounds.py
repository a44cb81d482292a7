"""A candidate in a race (ntps/evaluation/halving.py): passes over part after part of the rows, and its losses so far.

A part is a partition, with files of its own as `cache.py --shard i/n` makes them; all parts together are one full pass.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from ntps.accuracies.layer_probes import read_states
from ntps.evaluation.halving import Dropped
from ntps.flags import Prescreening
from ntps.moments.file import MomentsFile, StatesFile
from ntps.moments.lazy_model import LazyModel
from ntps.moments.merge import merge, part_name
from ntps.moments.pair import SPLITS, Pair
from ntps.moments.resumable_pass import CachedSplit, cache_splits
from ntps.prescreening.measure import Row, caching_of, ratio_error, source_of, squared_errors
from ntps.scores import probes
from ntps.scores.best_layer import best_place
from ntps.scores.layer_moments import LayerMoments
from ntps.system.threads import map_layers
from ntps.texts.dataset import Dataset


class Candidate:
    """A model on part after part of the rows. row: what the table says of it after its last round.

    others: whose token ids serve it where one of them has the same tokenizer.
    """

    def __init__(
        self, model: str, pair: Pair, data: Dataset, flags: Prescreening, others: Sequence["Candidate"] = ()
    ):
        self.model, self.pair, self.data, self.flags = model, pair, data, flags
        self.others = [one.source for one in others if one.source]
        self.source: LazyModel | None = None  # between rounds without its weights
        self.seconds, self.row = 0.0, Row()

    def forward(self, new: range) -> None:
        """Passes over these parts, counted from 0. UserError, before any pass, where results of other settings are there."""
        started, flags = time.monotonic(), self.flags
        source = self.source = self.source or source_of(self.model, flags, self.others)
        try:
            for split, own in caching_of(flags, self.data).items():
                rows = self.data.select(split, flags.limit, flags.seed)
                CachedSplit(source, self.data, rows, own).missing()
                for number in new:
                    shard = f"{number + 1}/{own.partitions}"
                    cache_splits(source, self.data, [split], replace(own, partitions=1, shard=shard))
        finally:
            source.unload()
        self.seconds += time.monotonic() - started

    def losses(self, parts: int) -> np.ndarray:
        """(n,): squared error of the ridge probe at the best layer on each held-out row of the first parts, fitted on as many
        of train, over the mean of those of guessing; so a difference of means is one of held-out skill."""
        train = [MomentsFile(path) for path in self.files("moments", "train")[:parts]]
        test = [StatesFile(path) for path in self.files("states", "test")[:parts]]

        def fit(place: int) -> tuple[probes.Probe, probes.Probe]:
            moments = reduce(LayerMoments.joined, (file.of_states(place) for file in train))
            return probes.ridge(moments), probes.constant_probe(moments)

        fitted = list(map_layers(fit, range(len(train[0].layers))))
        place = best_place(ridge.gcv_error for ridge, _ in fitted)
        states, labels = map(np.concatenate, zip(*(read_states(file, place) for file in test)))
        errors, guesses = (squared_errors(probe, states, labels) for probe in fitted[place])
        known = guesses.mean() > 0  # else all rows so far are of one class: any model is as good as guessing
        losses = errors / (guesses.mean() if known else 1)
        assert self.source is not None  # since `forward`
        self.row = {
            "model": self.pair.model,
            "layer": train[0].layers[place],
            "layers": self.source.config.num_hidden_layers,
            "heldout_skill": 1 - losses.mean() if known else math.nan,
            "heldout_skill_se": ratio_error(errors, guesses) if known else math.nan,
            "n_train": sum(file.text_count for file in train),
            "n_test": len(labels),
        }
        return losses

    def files(self, kind: str, split: str) -> list[Path]:
        """Those of all parts, in order."""
        count = caching_of(self.flags, self.data)[split].partitions
        return [self.pair.split(kind, f"{split}.{part_name(number + 1, count)}") for number in range(count)]

    def finish(self) -> bool:
        """Add up all parts; False where the sums were there."""
        fresh = self.flags.overwrite or not self.pair.split("states", "test").exists()
        for split in SPLITS:
            for kind in ("moments", "states"):
                merge(self.files(kind, split), self.flags.overwrite)
        return fresh


def dropped_row(row: Row, dropped: Dropped, leader: str) -> Row:
    """What the table says of a dropped candidate."""
    why = "" if dropped.significant else "the budget was spent; not significantly behind: "
    why += f"{dropped.behind:.3f} ± {dropped.error:.3f} behind {leader} after round {dropped.round}, "
    why += f"on {row['n_train']} train and {row['n_test']} test rows"
    why += " of one class" if math.isnan(row["heldout_skill"]) else ""
    return row | {
        "round": dropped.round,
        "behind": dropped.behind,
        "behind_se": dropped.error,
        "dropped": why,
    }
