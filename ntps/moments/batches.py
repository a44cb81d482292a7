"""Texts to tokens, and tokens to batches: longest texts first, the same plan again after a kill."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntps.errors import UserError
from ntps.models.loading import AT_ONCE
from ntps.moments.sums import Batch, permuted_rows, targets_of


def tokenize(
    texts: Sequence[str], tokenizer, max_length: int, vocabulary: int
) -> tuple[list[np.ndarray], int]:
    """Token ids of every text (special tokens as the tokenizer adds them, cut at max_length), and how many were cut.

    UserError for a text without tokens, and for a token beyond the `vocabulary` that the model embeds.
    """
    ids: list[np.ndarray] = []
    cut = 0
    for start in range(0, len(texts), AT_ONCE):
        some = list(texts[start : start + AT_ONCE])
        encoded = tokenizer(some, truncation=True, max_length=max_length, return_attention_mask=False)
        ids += [np.asarray(row, dtype=np.int64) for row in encoded["input_ids"]]
        full = [text for text, tokens in zip(some, ids[start:]) if len(tokens) == max_length]
        if full:
            whole = tokenizer(full, return_attention_mask=False, verbose=False)["input_ids"]
            cut += sum(len(tokens) > max_length for tokens in whole)
    for row, tokens in enumerate(ids):
        where = f"text {row} ({texts[row][:40]!r})"
        if not len(tokens):
            raise UserError(f"{where} has no tokens under this tokenizer: remove it")
        if len(tokens) > max_length:
            raise UserError(
                f"--max_length {max_length}: the tokenizer adds more special tokens to every text"
            )
        if (largest := tokens.max()) >= vocabulary:
            raise UserError(
                f"{where} has token {largest}, the model embeds {vocabulary} tokens only: its tokenizer is another "
                "model's, or was given tokens that the model was not"
            )
    return ids, cut


def plan_batches(lengths: Sequence[int] | np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Rows of every batch, longest texts first: as many as have tokens_per_batch tokens at most (one may have more).

    Longest first, so that memory runs out at once or never, the time left is not too hopeful, and texts of equal length
    are neighbours. The plan depends on lengths and budget alone: a resumed run, or rank r of N that takes every N-th
    batch, follows the same plan.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    cuts, tokens = [], 0
    for place, length in enumerate(lengths[order]):
        if tokens and tokens + length > tokens_per_batch:
            cuts.append(place)
            tokens = 0
        tokens += length
    return np.split(order, cuts)


@dataclass(frozen=True)
class Corpus:
    """The rows of one pass: token ids, labels as in a Split, pooling, and how often labels are permuted, from what seed."""

    ids: list[np.ndarray]
    labels: np.ndarray
    classes: int
    pooling: str = "mean"
    permutations: int = 0
    seed: int = 42

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(tokens) for tokens in self.ids])

    @cached_property
    def orders(self) -> np.ndarray:
        """(R, n): the rows whose labels each row gets."""
        return permuted_rows(len(self.ids), self.permutations, self.seed)

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Batch]:
        """The ids (N,) of some rows, one text after the other, and the batch description."""
        ids = torch.from_numpy(np.concatenate([self.ids[row] for row in rows])).to(device)
        home = torch.device("cpu" if device.type == "mps" else device)
        lengths = torch.from_numpy(self.lengths[rows]).to(device)
        targets = targets_of(self.labels[rows], self.classes).to(home)
        permuted = targets_of(self.labels[self.orders[:, rows].T], self.classes).flatten(1).to(home)
        return ids, Batch(lengths, targets, permuted, self.pooling)
