"""Identities: what decides that two outputs are the same thing, for every kind of output, in one place.

Everything else that a reader may want to know (versions, dates, devices, counts) is record. A key added here refuses
every results folder that users have: tests/test_identities.py holds the keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ntps.scores.registry import COLUMNS
from ntps.texts.dataset import Dataset, Split, texts_hash

Identity = dict[str, Any]
# of moments only: states do not depend on these
OF_MOMENTS = ("label_permutations", "partitions", "prefix_moments")


def of_states(
    model: Identity,
    data: Dataset,
    split: Split,
    *,
    limit: int | None,
    seed: int,
    max_length: int,
    dtype: torch.dtype,
    layers: Sequence[int],
    part: str | None = None,
) -> Identity:
    """Mean states of one split; `part` is that of a partial file."""
    return {
        "model": model,
        "data": {"name": data.name, "texts_sha256": texts_hash(split), "classes": data.classes},
        "split": split.name,
        "limit": limit,
        "seed": seed,
        "max_length": max_length,
        "dtype": dtype_name(dtype),
        "layers": list(layers),
        **({} if part is None else {"part": part}),
    }


def of_moments(states: Identity, label_permutations: int, partitions: int, prefix_moments: bool) -> Identity:
    """Moments of the same rows."""
    values = (label_permutations, partitions, prefix_moments)
    return states | dict(zip(OF_MOMENTS, values, strict=True))


def of_rows(moments: Identity) -> Identity:
    """What moments and states of the same rows share."""
    return {key: value for key, value in moments.items() if key not in OF_MOMENTS}


def of_scores(
    train: Identity, test: Identity | None, rtol: float, error_bars: str, tight_bounds: bool
) -> Identity:
    """Tables of scores from moments of train and test."""
    identity = {
        "train": train,
        "test": test,
        "rtol": rtol,
        "columns": list(COLUMNS),
        "error_bars": error_bars,
    }
    return identity | ({"tight_bounds": True} if tight_bounds else {})


def of_words(
    moments: Identity, layer: int, words: Mapping[str, Any], between: Sequence[str], dtype: torch.dtype
) -> Identity:
    """Words in the planes of two subspaces."""
    return {
        "moments": moments, "layer": layer, "words": dict(words), "between": list(between), "dtype": dtype_name(dtype)
    }  # fmt: skip


def of_layer_probes(
    method: str, rows: Mapping[str, Identity], layers: Sequence[int], settings: Mapping[str, Any]
) -> Identity:
    """Accuracies of probes on kept states and moments of train and test."""
    return {"method": method, **rows, "layers": list(layers), "settings": dict(settings)}


def of_training(
    method: str,
    model: Identity,
    data: Dataset,
    splits: Mapping[str, Split],
    *,
    limit: int | None,
    max_length: int,
    dtype: torch.dtype,
    settings: Mapping[str, Any],
) -> Identity:
    """Accuracies of a training, but for its seeds."""
    hashes = {name: texts_hash(split) for name, split in splits.items()}
    return {
        "method": method,
        "model": model,
        "data": {"name": data.name, "classes": data.classes, "texts_sha256": hashes},
        "limit": limit,
        "max_length": max_length,
        "dtype": dtype_name(dtype),
        "settings": dict(settings),
    }


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
