"""The order in which rows are trained on: batches of similar length, shuffled, the same again after a kill."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


def pad(ids: Sequence[np.ndarray]) -> Tensor:
    """Right-padded (B, T). Causal attention never looks right, so any padding id will do."""
    return pad_sequence([torch.as_tensor(row, dtype=torch.int64) for row in ids], batch_first=True)


def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Ids padded on the right to the longest row of the batch, their mask, and the labels."""
    ids = [example["input_ids"] for example in batch]
    labels = torch.tensor([example["labels"] for example in batch])
    return {
        "input_ids": pad(ids),
        "attention_mask": pad([np.ones(len(row)) for row in ids]),
        "labels": labels,
    }


def grouped_order(lengths: list[int], batch_size: int, seed: int) -> list[int]:
    """Rows in an order whose batches are of similar length: Trainer's grouping, then the batches shuffled.

    The batch of the longest row stays first, so that memory runs out at once or never; a batch that is not full
    stays last. Batches of one row come in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = get_length_grouped_indices(lengths, batch_size, generator=generator)
    full = len(rows) // batch_size
    order = [0, *(1 + torch.randperm(full - 1, generator=generator)).tolist()] if full else []
    shuffled = [row for batch in order for row in rows[batch * batch_size : (batch + 1) * batch_size]]
    return shuffled + rows[full * batch_size :]


class GroupedOrder(Sampler):
    """The order of the epoch that the trainer is in: it depends on seed and epoch alone, whoever drew numbers before."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int, epoch: Callable[[], int]):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch()]).generate_state(1)[0])
        return iter(grouped_order(self.lengths, self.batch_size, seed))
