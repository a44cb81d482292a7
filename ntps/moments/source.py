"""One model as requested: description, device, dtype, tokenizer, layers; weights only when a pass is due."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ntps.errors import UserError
from ntps.flags import Caching, Forward
from ntps.models.description import resolve_model
from ntps.models.loading import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
    output_name,
    pick_device,
    pick_dtype,
)
from ntps.moments.batches import tokenize
from ntps.moments.encoder import Encoder

TOKENS_PER_BATCH = {"cpu": 2048}  # what a CPU's cache likes
TOKENS_PER_BATCH_ELSEWHERE = 16384


def default_budget(device: torch.device) -> int:
    """Tokens in a batch, unless the user says otherwise."""
    return TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ELSEWHERE)


class Source:
    """One model as requested; its weights are read only when a forward pass is due."""

    def __init__(
        self,
        name: str,
        adapter: str | None,
        device: str,
        dtype: str | None,
        max_length: int | None,
        layers: str,
    ):
        self.spec, self.adapter = resolve_model(name), adapter
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.spec, self.device)
        self.identity = model_identity(self.spec, adapter)
        self.name = output_name(self.spec, adapter)
        self.tokenizer = load_tokenizer(self.spec)
        self.config = load_config(self.spec)
        self.max_length = context_length(self.tokenizer, self.config, max_length)
        self.layers = parse_layers(layers, self.config.num_hidden_layers)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Token ids of every text, and how many texts were cut (see ntps.moments.batches)."""
        return tokenize(texts, self.tokenizer, self.max_length, self.config.get_text_config().vocab_size)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(load_model(self.spec, self.dtype, self.device, self.adapter), self.layers)


class Sources:
    """The models of a command by name; one is in memory at a time."""

    def __init__(self, flags: Forward, layer: int | None = None):
        """layer: the one layer of all models, for flags without `layers`; None: the last."""
        self.flags, self.layer = flags, layer
        self.last: tuple[str, Source] | None = None

    def __getitem__(self, name: str) -> Source:
        if self.last is None or self.last[0] != name:
            self.last = None
            self.last = name, self._source(name)
        return self.last[1]

    def _source(self, name: str) -> Source:
        flags = self.flags
        if isinstance(flags, Caching):
            return Source(name, flags.adapter, flags.device, flags.dtype, flags.max_length, flags.layers)
        layers = "all" if self.layer is None else str(self.layer)
        source = Source(name, None, flags.device, flags.dtype, flags.max_length, layers)
        source.layers = source.layers[-1:]
        return source


def parse_layers(layers: str, blocks: int) -> list[int]:
    """`all`, or a comma-separated list of layer numbers from 0 to the number of blocks."""
    if layers == "all":
        return list(range(blocks + 1))
    try:
        chosen = sorted({int(part) for part in layers.split(",")})
    except ValueError:
        raise UserError(f"--layers {layers}: give all, or numbers such as 0,8,16") from None
    if chosen[0] < 0 or chosen[-1] > blocks:
        raise UserError(f"--layers {layers}: this model has layers 0 to {blocks}")
    return chosen
