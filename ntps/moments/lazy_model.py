"""One model as requested: description, device, dtype, tokenizer, layers; its weights are read when a pass is due."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntps.errors import UserError, boundary
from ntps.flags import Caching, Forward
from ntps.models import loading
from ntps.models.description import resolve_model
from ntps.models.loading import load_model
from ntps.moments.batches import Corpus, plan_batches, tokenize
from ntps.moments.encoder import Encoder, encode


def default_budget(device: torch.device) -> int:
    """Tokens in a batch, unless the user says otherwise: 2048 is what a CPU's cache likes."""
    return 2048 if device.type == "cpu" else 16384


class LazyModel:
    """One model as requested; its weights are read only when a forward pass is due.

    others: models whose token ids are taken over where one of them has the same tokenizer.
    """

    def __init__(
        self, name: str, adapter: str | None, device: str, dtype: str | None, max_length: int | None, layers: str,
        others: Sequence["LazyModel"] = (),
    ):  # fmt: skip
        self.spec, self.adapter = resolve_model(name), adapter
        self.device = loading.pick_device(device)
        self.dtype = loading.pick_dtype(dtype, self.spec, self.device)
        self.identity = loading.model_identity(self.spec, adapter)
        self.name = loading.output_name(self.spec, adapter)
        self.config = loading.load_config(self.spec)
        self.layers = parse_layers(layers, self.config.num_hidden_layers)
        text, spec = self.config.get_text_config(), self.spec
        sizes = [getattr(text, name, None) for name in ("vocab_size", "max_position_embeddings")]
        # what decides the ids of a text; a folder named for its tokenizer has a config.json that is in no hash
        self.tokenization_key = [
            self.identity["tokenizer"],
            spec.tokenizer,
            self.config.model_type,
            spec.trust_remote_code,
        ]
        self.tokenization_key += [max_length, spec.context, *sizes]
        self.tokenized: list[tuple[Sequence[str], tuple[list[np.ndarray], int]]] = []
        self.facts: dict[str, Any]
        self.max_length: int
        same = next((other for other in others if other.tokenization_key == self.tokenization_key), None)
        if same and not spec.trust_remote_code:  # its code is in no hash
            self.facts, self.max_length, self.tokenized = same.facts, same.max_length, same.tokenized
        else:
            self.facts = loading.tokenizer_facts(self.tokenizer)
            self.max_length = loading.context_length(self.tokenizer, self.config, max_length)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return loading.load_tokenizer(self.spec)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Token ids of every text, and how many texts were cut (see ntps.moments.batches).

        Those of the last two calls are kept, for passes over part after part of train and test.
        """
        if (known := next((ids for those, ids in self.tokenized if those == texts), None)) is not None:
            return known
        with boundary(f"{self.spec.name}: its tokenizer fails"):
            self.tokenizer = loading.truer_tokenizer(self.spec, self.tokenizer, self.file_tokenizer, texts)
            self.facts = loading.tokenizer_facts(self.tokenizer)
            vocabulary = self.config.get_text_config().vocab_size
            ids = tokenize(texts, self.tokenizer, self.max_length, vocabulary)
        self.tokenized = [*self.tokenized[-1:], (texts, ids)]
        return ids

    @functools.cached_property
    def file_tokenizer(self) -> Any:
        """The folder's tokenizer.json, which a large tokenizer takes a second to read."""
        return loading.tokenizer_file(self.spec, self.tokenizer)

    @property
    def record(self) -> dict[str, Any]:
        """What provenance keeps of it beside its identity."""
        return {"model": self.spec.provenance, "tokenizer": self.facts, "device": str(self.device)}

    @functools.cached_property
    def encoder(self) -> Encoder:
        """UserError where the files are no longer those of `identity`: sums of two models must not go by one name."""
        model = load_model(self.spec, self.dtype, self.device, self.adapter)
        if loading.model_identity(self.spec, self.adapter) != self.identity:
            raise UserError(f"{self.name}: its files were changed while it was in use: run the command again")
        return Encoder(model, self.layers)

    def unload(self) -> None:
        """Forget weights and tokenizers, which are read again when they are due; token ids stay."""
        for name in ("encoder", "tokenizer", "file_tokenizer"):
            self.__dict__.pop(name, None)

    def pooled(
        self, ids: list[np.ndarray], pooling: str = "mean", share: slice = slice(None)
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows (B,) and their pooled states (B, d) of the highest layer, of this share of the batches, one by one."""
        corpus = Corpus(ids, np.zeros(len(ids), int), 1, pooling)  # no labels
        batches = plan_batches(corpus.lengths, default_budget(self.device))
        yield from ((rows, states[-1].cpu()) for rows, states in encode(self.encoder, corpus, batches[share]))

    def states(self, ids: list[np.ndarray], pooling: str = "mean") -> np.ndarray:
        """Pooled states (n, d) of the highest layer, a row for each token sequence."""
        states = np.empty((len(ids), self.encoder.width))
        for rows, some in self.pooled(ids, pooling):
            states[rows] = some
        return states


def lazy_models(flags: Forward, layer: int | None = None) -> Callable[[str], LazyModel]:
    """The models of a command by name; the last one is kept, so one is in memory at a time.

    layer: the one layer of all models, for flags without `layers`; None: the last.
    """

    @functools.lru_cache(maxsize=1)
    def model(name: str) -> LazyModel:
        given = flags.device, flags.dtype, flags.max_length
        if isinstance(flags, Caching):
            return LazyModel(name, flags.adapter, *given, flags.layers)
        one = LazyModel(name, None, *given, "all" if layer is None else str(layer))
        one.layers = one.layers[-1:]
        return one

    return model


def parse_layers(layers: str, blocks: int) -> list[int]:
    """`all`, or a comma-separated list of layer numbers from 0 to the number of blocks."""
    if layers == "all":
        return list(range(blocks + 1))
    try:
        chosen = sorted({int(part) for part in layers.split(",")})
    except ValueError:
        raise UserError(
            f"--layers {layers}: give all, or numbers such as 0,8,16 (prescreen.py takes spread, too)"
        ) from None
    if chosen[0] < 0 or chosen[-1] > blocks:
        raise UserError(f"layers {layers}: this model has layers 0 to {blocks}")
    return chosen
