"""Text to hidden states to moments: tokens, batches of similar length, each layer reduced as it appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntps.errors import UserError
from ntps.moments import Batch, Moments, mean_states, permuted_rows, targets_of

Sink = Callable[[int, Tensor], None]  # place in the list of layers, states (B, T, d)


# --- tokens and batches --------------------------------------------------------------------------------------------


def tokenize(texts: Sequence[str], tokenizer, max_length: int) -> tuple[list[np.ndarray], int]:
    """Token ids of every text (special tokens as the tokenizer adds them, cut at max_length), and how many were cut."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)[
        "input_ids"
    ]
    ids = [np.asarray(row, dtype=np.int64) for row in encoded]
    for row, tokens in enumerate(ids):
        if not len(tokens):
            raise UserError(f"text {row} ({texts[row][:40]!r}) has no tokens under this tokenizer: remove it")
    full = [
        row for row, tokens in enumerate(ids) if len(tokens) == max_length
    ]  # the only ones that may be cut
    whole = (
        tokenizer([texts[row] for row in full], return_attention_mask=False, verbose=False)["input_ids"]
        if full
        else []
    )
    return ids, sum(len(tokens) > max_length for tokens in whole)


def plan_batches(lengths: Sequence[int] | np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Rows of every batch, longest texts first: rows x longest <= tokens_per_batch (one row may exceed it).

    Of all ways to cut the sorted texts, the one with the smallest sum of rows x longest + c, where c = tokens_per_batch / 16
    stands for what a batch costs by itself (on a CPU half of it for the forward pass alone, benchmarks/batch_cost.py): texts
    much shorter than a batch's longest are worth their own.
    Longest first, so that memory runs out at once or never and the time left is not too hopeful. The plan depends
    on lengths and budget alone: a resumed run, or rank r of N that takes every N-th batch, follows the same plan.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    count = len(order)
    least, ends = (
        np.zeros(count + 1),
        np.zeros(count, int),
    )  # of the texts from each place on; where its batch ends
    for start in range(count - 1, -1, -1):
        longest = int(lengths[order[start]])
        rows = min(max(1, tokens_per_batch // longest), count - start)
        costs = np.arange(1, rows + 1) * longest + least[start + 1 : start + 1 + rows]
        ends[start] = start + 1 + costs.argmin()
        least[start] = costs.min() + tokens_per_batch / 16
    batches, start = [], 0
    while start < count:
        batches.append(order[start : ends[start]])
        start = ends[start]
    return batches


def pad(ids: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
    """Right-padded (B, T). Causal attention never looks right, so any padding id will do and no mask is needed."""
    padded = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
    for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = tokens
    return torch.from_numpy(padded).to(device)


# --- hidden states -------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """Ends a forward pass once the last wanted layer has appeared."""


class Encoder:
    """Runs a base model and hands over each wanted layer's states the moment they appear; none are kept.

    layers: indices in the convention of `hidden_states` (0 = embeddings, K = last block after the final norm), or
    None for all K+1. Blocks above the highest wanted layer are not computed.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int] | None = None):
        self.model: Any = model
        self.blocks = find_blocks(model)
        top = len(self.blocks)
        self.layers = list(range(top + 1)) if layers is None else sorted(set(layers))
        if not self.layers or self.layers[0] < 0 or self.layers[-1] > top:
            raise UserError(f"--layers {','.join(map(str, self.layers))}: this model has layers 0 to {top}")
        self._verify()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def run(self, input_ids: Tensor, sink: Sink) -> None:
        """One forward pass of right-padded ids (B, T); `sink(place, states)` for each wanted layer, in order."""
        handles = [
            self.blocks[layer].register_forward_pre_hook(self._tap(place, layer, sink), with_kwargs=True)
            for place, layer in enumerate(self.layers)
            if layer < len(self.blocks)
        ]
        try:
            final = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
            sink(len(self.layers) - 1, final)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _tap(self, place: int, layer: int, sink: Sink):
        def hook(block, args, kwargs):  # what enters block i is hidden_states[i]
            sink(place, args[0] if args else kwargs["hidden_states"])
            if layer == self.layers[-1]:
                raise _Enough

        return hook

    @torch.inference_mode()
    def _verify(self) -> None:
        """The states caught must be the model's own hidden_states, and must not depend on what stands to their right."""
        ids = torch.arange(3, 11, device=self.device)[None] % self.model.config.vocab_size
        caught: dict[int, Tensor] = {}
        self.run(ids, lambda place, states: caught.update({place: states[:, :5]}))
        expected = self.model(input_ids=ids[:, :5], use_cache=False, output_hidden_states=True).hidden_states
        tolerance = 1e-4 if expected[0].dtype in (torch.float32, torch.float64) else 5e-2
        for place, layer in enumerate(self.layers):
            gap = (caught[place].float() - expected[layer].float()).norm() / expected[layer].float().norm()
            if gap > tolerance:  # NaN passes: encode() names the text and the layer
                raise UserError(
                    f"{type(self.model).__name__}: layer {layer} does not match the model's own hidden_states "
                    f"(relative difference {gap:.1e}); only causal language models are supported"
                )


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's list of transformer blocks: its one ModuleList of config.num_hidden_layers modules."""
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():  # outermost first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(model).__name__}: no list of {count} transformer blocks found; this architecture is not supported"
    )


# --- one pass over texts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """The rows of one pass: token ids, class indices or numbers (n,), row orders of the shuffled labels (R, n).

    parts (n,): which of the sums that share batches each row goes to (ascending within a batch); without it there is one.
    """

    ids: list[np.ndarray]
    labels: np.ndarray
    classes: int
    orders: np.ndarray
    parts: np.ndarray | None = None

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(tokens) for tokens in self.ids])

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Batch]:
        """Padded ids and the batch description of some rows."""
        ids = pad([self.ids[row] for row in rows], device)
        home = torch.device("cpu" if device.type == "mps" else device)
        lengths = torch.tensor([len(self.ids[row]) for row in rows], device=device)
        targets = targets_of(self.labels[rows], self.classes).to(home)
        permuted = targets_of(self.labels[self.orders[:, rows]].T, self.classes).flatten(1).to(home)
        parts = None if self.parts is None else self.parts[rows]
        return ids, Batch(lengths, ids.shape[1], targets, permuted, parts)


class NotFinite(UserError):
    """A state that is NaN or infinite, with the row of its text and its layer."""

    def __init__(self, row: int, layer: int):
        super().__init__(
            f"states that are not finite: text {row}, layer {layer}. 16-bit forward passes can overflow: try --dtype float32"
        )
        self.row, self.layer = row, layer


def encode(
    encoder: Encoder,
    corpus: Corpus,
    batches: Sequence[np.ndarray],
    moments: Moments | None = None,
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
    last: bool = False,
) -> Iterator[int]:
    """One forward pass over the batches, adding to `moments` and passing rows (B,) with their mean states (L, B, d)
    to `keep`; with `last`, which has no moments, the states of their last tokens.

    Yields the real tokens of each batch, so that the caller shows progress and saves checkpoints.
    UserError for a state that is not finite (names text and layer) and for a batch too large for the memory.
    """
    for rows in batches:
        ids, batch = corpus.batch(rows, encoder.device)
        kept = torch.promote_types(encoder.dtype, torch.float32)
        # taken before the pass: what outlives a layer, scattered among its buffers, would fragment the memory
        mean = torch.empty(len(encoder.layers), len(rows), encoder.width, dtype=kept, device=ids.device)

        def reduce(place: int, hidden: Tensor, batch=batch, mean=mean) -> None:
            if last:
                mean[place] = hidden.flatten(0, 1)[batch.last]
            else:
                mean[place] = moments.add(place, hidden, batch) if moments else mean_states(hidden, batch)

        try:
            encoder.run(ids, reduce)
        except torch.OutOfMemoryError:
            raise UserError(
                f"out of memory with {ids.numel()} tokens in a batch: use a smaller --tokens_per_batch or --max_length"
            ) from None
        finite = mean.isfinite().all(2)
        if not finite.all():
            place, row = not_finite(encoder, ids, batch) or (~finite).nonzero()[0].tolist()
            raise NotFinite(int(rows[row]), encoder.layers[place])
        if moments:
            moments.count(batch.lengths, batch.targets)
        if keep:
            keep(rows, mean.cpu().numpy())
        yield sum(len(corpus.ids[row]) for row in rows)


def not_finite(encoder: Encoder, ids: Tensor, batch: Batch) -> tuple[int, int] | None:
    """Place of the first layer with such a token and the first of its texts (their sums spoil others' of the batch)."""
    real = torch.arange(ids.shape[1], device=ids.device) < batch.lengths[:, None]
    found: list[tuple[int, int]] = []

    def look(place: int, hidden: Tensor) -> None:
        spoiled = (real & ~hidden.isfinite().all(2)).any(1)
        found.extend((place, int(row)) for row in spoiled.nonzero()[:1])

    encoder.run(ids, look)
    return found[0] if found else None


def moments_of_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence,
    layers: Sequence[int] | None = None,
    max_length: int = 512,
    tokens_per_batch: int = 2048,
    permutations: int = 0,
    seed: int = 42,
) -> Moments:
    """Moments of a loaded transformers model (with or without head) over labelled texts, all layers by default.

    Classes are the sorted distinct labels. For many texts use cache.py: it checkpoints.
    """
    if len(texts) != len(labels) or not len(texts):
        raise UserError(
            f"{len(texts)} texts and {len(labels)} labels: give one label a text, and at least one text"
        )
    classes, indices = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"all labels are {classes[0]!r}: at least two classes are needed")
    if hasattr(model, "get_base_model"):  # a PEFT model: its layers lie in the model it wraps
        model = model.get_base_model()
    base = getattr(model, "base_model", model)
    limit = getattr(base.config, "max_position_embeddings", None) or max_length
    ids, _ = tokenize(texts, tokenizer, min(max_length, limit))
    training = base.training
    encoder = Encoder(base.eval(), layers)
    corpus = Corpus(ids, indices, len(classes), permuted_rows(len(ids), permutations, seed))
    moments = Moments(encoder.layers, encoder.width, len(classes), permutations, device=encoder.device)
    for _ in encode(encoder, corpus, plan_batches(corpus.lengths, tokens_per_batch), moments):
        pass
    base.train(training)
    return moments
