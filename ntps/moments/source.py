"""One model as requested: description, device, dtype, tokenizer, layers; weights only when a pass is due."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ntps.errors import UserError, boundary
from ntps.flags import Caching, Forward
from ntps.models import loading
from ntps.models.description import resolve_model
from ntps.models.loading import load_model
from ntps.moments.batches import Corpus, plan_batches, tokenize
from ntps.moments.encoder import Encoder, encode
from ntps.moments.sums import permuted_rows

TOKENS_PER_BATCH = {"cpu": 2048}  # what a CPU's cache likes
TOKENS_PER_BATCH_ELSEWHERE = 16384


def default_budget(device: torch.device) -> int:
    """Tokens in a batch, unless the user says otherwise."""
    return TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ELSEWHERE)


class Source:
    """One model as requested; its weights are read only when a forward pass is due."""

    def __init__(
        self, name: str, adapter: str | None, device: str, dtype: str | None, max_length: int | None, layers: str
    ):  # fmt: skip
        self.spec, self.adapter = resolve_model(name), adapter
        self.device = loading.pick_device(device)
        self.dtype = loading.pick_dtype(dtype, self.spec, self.device)
        self.identity = loading.model_identity(self.spec, adapter)
        self.name = loading.output_name(self.spec, adapter)
        self.tokenizer = loading.load_tokenizer(self.spec)
        self.config = loading.load_config(self.spec)
        self.max_length = loading.context_length(self.tokenizer, self.config, max_length)
        self.layers = parse_layers(layers, self.config.num_hidden_layers)
        self.tokenized: tuple[Sequence[str], tuple[list[np.ndarray], int]] | None = None

    def tokenize(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Token ids of every text, and how many texts were cut (see ntps.moments.batches).

        Those of the last call are kept, for passes over one part of a split after the other.
        """
        if self.tokenized is None or self.tokenized[0] != texts:
            with boundary(f"{self.spec.name}: its tokenizer fails"):
                self.tokenizer = loading.tokenizer_of_file(self.spec, self.tokenizer, texts)
                vocabulary = self.config.get_text_config().vocab_size
                self.tokenized = texts, tokenize(texts, self.tokenizer, self.max_length, vocabulary)
        return self.tokenized[1]

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(load_model(self.spec, self.dtype, self.device, self.adapter), self.layers)

    def states(self, ids: list[np.ndarray], pooling: str = "mean") -> np.ndarray:
        """Pooled states (n, d) of the highest layer, a row for each token sequence."""
        corpus = Corpus(ids, np.zeros(len(ids), int), 1, permuted_rows(len(ids), 0, 0), pooling)  # no labels
        states = np.empty((len(ids), self.encoder.width))

        def keep(rows: np.ndarray, mean: np.ndarray) -> None:
            states[rows] = mean[-1]

        for _ in encode(
            self.encoder, corpus, plan_batches(corpus.lengths, default_budget(self.device)), keep=keep
        ):
            pass
        return states


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
        flags, given = self.flags, (self.flags.device, self.flags.dtype, self.flags.max_length)
        if isinstance(flags, Caching):
            return Source(name, flags.adapter, *given, flags.layers)
        source = Source(name, None, *given, "all" if self.layer is None else str(self.layer))
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
