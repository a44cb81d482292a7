"""Identities: what decides that two outputs are the same thing, for every kind of output, in one place.

They are compared by ntps.system.provenance.same_output.

Everything else that a reader may want to know (versions, dates, devices, counts) is record. A key added here refuses
every results folder that users have: tests/test_identities.py holds the keys and values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ntps.moments.lazy_model import LazyModel
from ntps.scores.registry import COLUMNS, CONDITIONED_COLUMNS
from ntps.system.provenance import UNSAID, check_same
from ntps.texts.dataset import Dataset, Split, texts_hash

Identity = dict[str, Any]
OF_MOMENTS = ("label_permutations", "partitions", "prefix_moments")  # states do not depend on these


def of_states(
    model: LazyModel, data: Dataset, split: Split, limit: int | None, seed: int, layers: Sequence[int],
    pooling: str,
) -> Identity:  # fmt: skip
    """Pooled states of one split; a partial file's has its `part` too."""
    return {
        "model": model.identity,
        "data": {"name": data.name, "texts_sha256": texts_hash(split), "classes": data.classes}
        | ({"multilabel": True} if data.multilabel else {}),
        "split": split.name,
        "limit": limit,
        "seed": seed,
        "max_length": model.max_length,
        "dtype": dtype_name(model.dtype),
        "layers": list(layers),
        **({} if pooling == UNSAID["pooling"] else {"pooling": pooling}),
    }


def of_moments(states: Identity, label_permutations: int, partitions: int, prefix_moments: bool) -> Identity:
    """Moments of the same rows."""
    values = (label_permutations, partitions, prefix_moments)
    return states | dict(zip(OF_MOMENTS, values, strict=True))


def of_rows(moments: Identity) -> Identity:
    """What moments and states of the same rows share."""
    return {key: value for key, value in moments.items() if key not in OF_MOMENTS}


def of_scores(
    train: Identity, test: Identity | None, rtols: Sequence[float], prefix_rtols: Sequence[float], cross_validated: bool,
    error_bars: str, tight_bounds: bool,
) -> Identity:  # fmt: skip
    """Tables of scores from moments of train and test."""
    return {
        "train": train,
        "test": test,
        "rtol": rtols[0],
        "path": {
            "rtols": list(rtols),
            "prefix_rtols": list(prefix_rtols),
            "cross_validated": cross_validated,
        },
        "error_bars": error_bars,
        "columns": list(COLUMNS),
        "conditioned_columns": list(CONDITIONED_COLUMNS),
        **({"tight_bounds": True} if tight_bounds else {}),
    }


def of_words(
    moments: Identity, layer: int, words: Mapping[str, Any], between: Sequence[str], dtype: torch.dtype
) -> Identity:
    """Words in the planes of two subspaces."""
    own = {"layer": layer, "words": dict(words), "between": list(between), "dtype": dtype_name(dtype)}
    return {"moments": moments, **own}


def of_layer_probes(
    method: str, rows: Mapping[str, Identity], layers: Sequence[int], settings: Mapping[str, Any]
) -> Identity:
    """Accuracies of probes on kept states and moments of train and test."""
    return {"method": method, **rows, "layers": list(layers), "settings": dict(settings)}


def of_training(
    method: str, model: LazyModel, data: Dataset, splits: Mapping[str, Split], limit: int | None,
    settings: Mapping[str, Any],
) -> Identity:  # fmt: skip
    """Accuracies of a training, but for its seeds."""
    hashes = {name: texts_hash(split) for name, split in splits.items()}
    return {
        "method": method,
        "model": model.identity,
        "data": {"name": data.name, "classes": data.classes, "texts_sha256": hashes},
        "limit": limit,
        "max_length": model.max_length,
        "dtype": dtype_name(model.dtype),
        "settings": dict(settings),
        # before, a short last pass of a step counted as much as a whole one
        **({"loss": "mean of a step's rows"} if settings.get("gradient_accumulation", 1) > 1 else {}),
    }


def check_same_run(train: Identity, test: Identity, where: Path) -> None:
    """UserError unless the identities of a train and a test file differ in nothing but split, limit and texts."""

    def shared(identity: Identity) -> Identity:
        data = {key: value for key, value in identity["data"].items() if key != "texts_sha256"}
        return {key: value for key, value in of_rows(identity).items() if key not in ("split", "limit")} | {
            "data": data
        }

    what = f"train and test in {where} are of different runs (train there, test here)"
    check_same(what, shared(train), shared(test), "Run cache.py on both with --overwrite")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
