"""One model's tokens of one data set: rows to train on, to validate and to test on; the metrics of a prediction."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, recall_score

from ntps.errors import UserError
from ntps.moments.identity import of_training
from ntps.moments.lazy_model import LazyModel
from ntps.texts.dataset import Dataset

WATCH_EVERY = 10  # of the train rows, one in ten validates and is not trained on
EVALUATION_BATCH = 16  # rows in a forward pass that only scores, at least
Row = dict[str, Any]


def scores(logits: np.ndarray, labels: np.ndarray) -> Row:
    """accuracy, balanced_accuracy, macro_f1, loss (mean cross-entropy) and n, of logits (n, C) and labels (n,).

    Balanced accuracy averages recall over the classes among `labels`; macro F1 runs over those and the predicted.
    UserError for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise UserError("the logits are not finite: try a smaller --learning_rate, or --dtype float32")
    n, guessed = len(labels), logits.argmax(1)
    return {
        "accuracy": float(accuracy_score(labels, guessed)),
        "balanced_accuracy": float(recall_score(labels, guessed, labels=np.unique(labels), average="macro")),
        "macro_f1": float(f1_score(labels, guessed, average="macro")),
        "loss": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(n), labels].mean()),
        "n": n,
    }


def set_scores(guessed: np.ndarray, labels: np.ndarray) -> Row:
    """Of sets of labels (n, C), bool: accuracy (all labels of a row are right), macro_f1, micro_f1 and n.

    F1 = 2 hits / (labels + guesses); macro F1 runs over the labels that `labels` or the guesses have.
    """
    hits, sizes = (labels & guessed).sum(0), labels.sum(0) + guessed.sum(0)
    present = sizes > 0
    return {
        "accuracy": float((labels == guessed).all(1).mean()),
        "macro_f1": float((2 * hits[present] / sizes[present]).mean()) if present.any() else math.nan,
        "micro_f1": float(2 * hits.sum() / sizes.sum()) if present.any() else math.nan,
        "n": len(labels),
    }


def cut_validation(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate, both in order: a tenth of every class, by one seeded permutation.

    The first row of a class, by that permutation, is always trained on. UserError if none is left to validate.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first = np.unique(labels[order], return_index=True)
    chosen = np.arange(len(order)) % WATCH_EVERY == WATCH_EVERY // 2
    chosen[first] = False
    if not chosen.any():
        raise UserError(f"{len(labels)} train rows are too few to keep some for validation: take more")
    return np.sort(order[~chosen]), np.sort(order[chosen])


class Task:
    """One model's tokens of one data set: `ids` and `labels` of train and test, and what they are called."""

    def __init__(self, model: LazyModel, data: Dataset, limit: int | None, seed: int = 42):
        """seed: of the limit's permutation."""
        self.model, self.data, self.limit, self.seed = model, data, limit, seed
        self.splits = {name: data.select(name, limit, seed) for name in ("train", "test")}
        self.labels = {name: split.labels for name, split in self.splits.items()}
        if data.target != "classes":
            raise UserError(f"{data.name} has target: {data.target}: trainings are of classes, one a row")
        if len(np.unique(self.labels["train"])) < 2:
            raise UserError(
                f"the {len(self.labels['train'])} train rows have one and the same label: raise --limit"
            )

    @cached_property
    def tokens(self) -> dict[str, tuple[list[np.ndarray], int]]:
        """Token ids of each split, and how many of its rows were cut at the maximum length."""
        return {name: self.model.tokenize(split.texts) for name, split in self.splits.items()}

    def ids(self, split: str) -> list[np.ndarray]:
        return self.tokens[split][0]

    def parts(self, seed: int, released: bool) -> dict[str, tuple[str, np.ndarray]]:
        """(split, rows) of `train`, of `validation` unless the released protocol is followed, and of `test`."""
        parts = {name: (name, np.arange(len(labels))) for name, labels in self.labels.items()}
        if released:
            return parts
        trained, watched = cut_validation(self.labels["train"], seed)
        return {"train": ("train", trained), "validation": ("train", watched), "test": parts["test"]}

    def identity(self, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides a table but its seeds; `settings` are the method's own."""
        return of_training(method, self.model, self.data, self.splits, self.limit, settings)

    def record(self) -> dict[str, Any]:
        """What a reader of the table wants to know beside its identity."""
        return {
            **self.model.record,
            "data": self.data.provenance,
            "texts": {name: len(ids) for name, (ids, _) in self.tokens.items()},
            "tokens": {name: int(sum(map(len, ids))) for name, (ids, _) in self.tokens.items()},
            "texts_cut": {name: cut for name, (_, cut) in self.tokens.items()},
        }
