"""Moments: the per-layer sums over texts that every score is computed from, and how they add up.

For text i with hidden states h_1..h_n (rows, n tokens, d wide) and target y_i (C numbers: one-hot for a class, 0 and 1
for a set of labels):

    mean state    m_i = (1/n) sum_t h_t                      prefix sum    c_t = h_1 + .. + h_t,  t = 1..n-1
    mean_second_moment   M  = E_i[m_i m_i^T]                 (d, d) symmetric
    mean_label_moment    S  = E_i[m_i y_i^T]                 (d, C)
    mean_state           mu = E_i[m_i]                       (d,)
    prefix_second_moment P0 = E_i[sum_t c_t c_t^T]           (d, d) symmetric
    prefix_next_moment   P1 = E_i[sum_t c_t h_{t+1}^T]       (d, d)
    label_moment_permuted   = S with the targets shuffled    (R, d, C)
    label_products       Y  = E_i[y_i y_i^T]                 (C, C), of sets of labels: of classes it is diagonal

E_i is the plain average over texts; nothing is centred; padding never counts. Source: arXiv 2505.17169.
Pooling `mean` is the above. `last` has m_i = h_n; P0 and P1 stay. `mean_without_first` has all of it of h_2..h_n, for the
first token is an attention sink, with a large state that says little of the text; a text of one token keeps it.
Sums are kept while texts are added and divided by the number of texts on reading, so shards of the data,
partitions for error bars and resumed runs are one thing: sums that add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from ntps.errors import UserError
from ntps.flags import POOLINGS
from ntps.scores.layer_moments import LayerMoments
from ntps.system import processes

SYMMETRIC = ("mean_second_moment", "prefix_second_moment")
PREFIX = ("prefix_second_moment", "prefix_next_moment")
STRIPS = 4  # of a symmetric product: more would save little and make the products too narrow to be fast
SCAN = 32  # prefixes summed by one triangular product
TOKENS_AT_ONCE = 16384  # of arrays, with their padding
GAP = 16  # numbers between prefixes: rows at multiples of 256 bytes would compete for the same cache lines


class Batch:
    """What all layers share of one batch: where its texts lie among its tokens, and its targets.

    lengths (B,) of its texts, whose tokens follow each other without padding; targets (B, C) and permuted (B, R*C) are
    float64. The tokens are summed in blocks of SCAN, the last one filled up; `lengths` and all else are of those that
    the pooling keeps.
    """

    def __init__(
        self, lengths: Tensor, targets: Tensor, permuted: Tensor | None = None, pooling: str = "mean"
    ):
        if pooling not in POOLINGS:
            raise UserError(f"pooling {pooling!r}: must be {' or '.join(POOLINGS)}")
        self.kept: Tensor | None = None  # places of the tokens that are kept; None: all
        if pooling == "mean_without_first":
            several, kept = lengths > 1, lengths.new_ones(int(lengths.sum()), dtype=torch.bool)
            kept[(lengths.cumsum(0) - lengths)[several]] = False
            self.kept, lengths = kept.nonzero()[:, 0], lengths - several.long()
        self.lengths, self.targets, self.permuted, self.pooling = lengths, targets, permuted, pooling
        self.last = lengths.cumsum(0) - 1  # places of the texts' last tokens
        text = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        text = pad(text, (0, -len(text) % SCAN), value=-1).view(-1, SCAN)
        head, tail = text[:, :1], text[:, -1]
        self.within = (text[:, :, None] == text[:, None]).tril()  # sums in a block
        self.open = (text == head)[:, :, None]  # rows of a block that go on with the text before
        self.before = (head == tail).tril(-1)  # earlier blocks that end in that text
        self.room: tuple[Tensor, Tensor] | None = None  # of the first layer, for all

    def workspace(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Room for what comes of the states of a layer (N, d): c_t (rows, d + GAP), 0 for the last token of a text, and a
        product (d, d). The first layer also brings the masks into the type of its states."""
        if self.room is None:
            width = states.shape[1]
            masks = (self.within, self.open, self.before)
            self.within, self.open, self.before = (mask.to(states.dtype) for mask in masks)
            self.room = states.new_zeros(self.open.numel(), width + GAP), states.new_empty(width, width)
        return self.room

    def tokens(self, states: Tensor) -> Tensor:
        """Of states (N, d) those of the tokens that are kept, in float32 or better."""
        states = states if self.kept is None else states[self.kept]
        return states.to(torch.promote_types(states.dtype, torch.float32))


class Moments:
    """Sums over texts, in float64, for a list of layers; `averages` divides them by the number of texts.

    layers: indices in the convention of `hidden_states` (0 = token embeddings). width d, targets C,
    permutations R. prefix=False leaves out the two token moments (a test split does not need them). label_sets: a row has
    any number of labels.
    """

    def __init__(
        self, layers: Sequence[int], width: int, targets: int, permutations: int = 0, prefix: bool = True,
        device: torch.device | str = "cpu", label_sets: bool = False,
    ):  # fmt: skip
        self.layers, self.permutations, self.prefix = list(layers), permutations, prefix
        self.text_count = self.token_count = 0
        self.class_counts = torch.zeros(targets, dtype=torch.float64)
        self.label_second_moment = 0.0
        shapes: dict[str, tuple[int, ...]] = {
            "mean_second_moment": (width, width),
            "mean_label_moment": (width, targets),
            "mean_state": (width,),
            "label_moment_permuted": (width, permutations * targets),
            **({name: (width, width) for name in PREFIX} if prefix else {}),
            **({"label_products": (targets, targets)} if label_sets else {}),
        }
        # mps has no float64: there the sums live on the CPU
        self.device = torch.device("cpu" if torch.device(device).type == "mps" else device)
        self.sums = {
            name: torch.zeros(len(self.layers), *shape, dtype=torch.float64, device=self.device)
            for name, shape in shapes.items()
        }

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.sums.values())

    def count(self, lengths: Tensor, targets: Tensor) -> None:
        """Count texts by their tokens (n,) and targets (n, C), once, before or after their layers."""
        targets = targets.cpu()
        self.text_count += len(targets)
        self.token_count += int(lengths.sum())
        self.class_counts += targets.sum(0)
        self.label_second_moment += float((targets**2).sum())

    def add(self, index: int, states: Tensor, batch: Batch) -> Tensor:
        """Add one layer's states (N, d), the tokens of a batch one after the other; return the pooled states (B, d).

        `index` is the layer's place among these. Token products run in float32, or in float64 for float64 states;
        those of pooled states in float64, from states rounded as they are returned (and stored).
        """
        states = batch.tokens(states)
        mean = pooled(states, batch)
        wide, sums = mean.to(self.device).to(torch.float64), self.sums  # in this order: mps has no float64
        sums["mean_label_moment"][index].addmm_(wide.T, batch.targets)
        if batch.permuted is not None and batch.permuted.shape[1]:
            sums["label_moment_permuted"][index].addmm_(wide.T, batch.permuted)
        if "label_products" in sums:
            sums["label_products"][index].addmm_(batch.targets.T, batch.targets)
        sums["mean_state"][index] += wide.sum(0)
        add_gram(sums["mean_second_moment"][index], wide)
        if self.prefix:
            room, product = batch.workspace(states)
            prefix = room[: len(states) - 1, : wide.shape[1]]
            add_gram(sums["prefix_second_moment"][index], prefix, product)
            add_product(sums["prefix_next_moment"][index], prefix, states[1:], product)
        return mean

    def merge(self, other: Moments) -> Moments:
        """Add another shard's sums to these, in place."""
        if self.layers != other.layers or self.sums.keys() != other.sums.keys():
            raise ValueError("moments of different layers or kinds do not add up")
        for name, value in other.sums.items():
            self.sums[name] += value.to(self.device)
        self.text_count += other.text_count
        self.token_count += other.token_count
        self.class_counts += other.class_counts
        self.label_second_moment += other.label_second_moment
        return self

    def gather(self) -> None:
        """Bring the sums of all processes of a launch to the first; the others' begin again at nothing."""
        numbers = [self.text_count, self.token_count, self.label_second_moment]
        counts = torch.tensor(numbers, dtype=torch.float64)
        for total in (counts, self.class_counts, *self.sums.values()):
            for part in total if total.ndim > 1 else [total]:  # a layer at a time
                processes.add_up_in_first(part)
        texts, tokens, self.label_second_moment = counts.tolist()
        self.text_count, self.token_count = int(texts), int(tokens)

    def average(self, name: str, index: int) -> Tensor:
        """One moment of one layer, divided by the number of texts; the permuted one as (R, d, C)."""
        value = self.sums[name][index] / max(self.text_count, 1)
        if name == "label_moment_permuted":
            value = value.unflatten(1, (self.permutations, len(self.class_counts))).transpose(0, 1)
        if name in SYMMETRIC:  # only strips from the diagonal on are accumulated
            value = value.triu()
            value += value.triu(1).T
        return value

    def averages(self, index: int) -> LayerMoments:
        """The moments of the layer at place `index`: what ntps/scores/ computes scores from."""
        return LayerMoments(
            **{name: self.average(name, index) for name in self.sums},
            class_counts=self.class_counts,
            label_second_moment=self.label_second_moment / max(self.text_count, 1),
            text_count=self.text_count,
            token_count=self.token_count,
        )


def add_product(total: Tensor, left: Tensor, right: Tensor, product: Tensor | None = None) -> None:
    """total += left^T right; through `product` where the sums are of another type or on another device."""
    if left.dtype == total.dtype and left.device == total.device:
        total.addmm_(left.T, right)
    else:
        total += torch.mm(left.T, right, out=product).to(total.device)


def add_gram(total: Tensor, rows: Tensor, product: Tensor | None = None) -> None:
    """Add rows^T rows to `total` in strips that start at the diagonal: 3/8 of the product is never computed."""
    step = -(-rows.shape[1] // STRIPS)
    for start in range(0, rows.shape[1], step):
        strip = slice(start, start + step), slice(start, None)
        by_way = None if product is None else product[strip]
        add_product(total[strip], rows[:, strip[0]], rows[:, strip[1]], by_way)


def pooled(states: Tensor, batch: Batch) -> Tensor:
    """The m_i (B, d) of the tokens (N, d) that a batch keeps; the c_t into the batch's workspace.

    Tokens are summed by small triangular products, several times faster than a scan: each block of rows by itself,
    then what earlier blocks hold of the text that goes on.
    """
    count, width = states.shape
    sums = batch.workspace(states)[0][:, :width]
    blocks, whole = sums.unflatten(0, (-1, SCAN)), count // SCAN
    cut = whole * SCAN
    torch.bmm(batch.within[:whole], states[:cut].view(whole, SCAN, width), out=blocks[:whole])
    if cut < count:
        sums[cut:count] = batch.within[-1, : count - cut, : count - cut] @ states[cut:]
    if len(blocks) > 1:
        blocks.addcmul_(batch.open, (batch.before @ blocks[:, -1])[:, None])
    mean = sums[batch.last] / batch.lengths[:, None]
    sums[batch.last] = 0  # they are no prefix: nothing follows
    if batch.pooling == "last":  # not finite where any token is not
        return torch.where(mean.isfinite(), states[batch.last], mean)
    return mean


def targets_of(labels: np.ndarray, classes: int) -> Tensor:
    """y as (..., C) float64: one-hot of class indices; numbers (floats) are themselves, one column, as are label sets (bool)."""
    values = torch.as_tensor(np.asarray(labels))
    if values.is_floating_point():
        return values[..., None]
    return (values if values.dtype == torch.bool else one_hot(values, classes)).double()


def from_arrays(
    states: Tensor | np.ndarray | Iterable, lengths: Sequence[int] | np.ndarray, labels: np.ndarray | Sequence[int],
    classes: int | None = None, permutations: int = 0, seed: int = 42, pooling: str = "mean",
) -> Moments:  # fmt: skip
    """Moments of states that are already there: (L, n, T, d), right-padded, with n lengths and n class indices.

    A single layer may be given as (n, T, d). float64 states stay float64 throughout. UserError for lengths or
    labels that do not fit, and for states that are not finite.
    """
    states = torch.as_tensor(states).detach().cpu()
    states = states[None] if states.ndim == 3 else states
    if states.ndim != 4 or not states.shape[1]:
        raise UserError(f"states of shape {tuple(states.shape)}: give (layers, texts, tokens, width)")
    layers, count, longest, width = states.shape
    labels, lengths = np.asarray(labels), np.asarray(lengths)
    numbers = (
        ("lengths", lengths, 1, longest),
        ("labels", labels, 0, np.inf if classes is None else classes - 1),
    )
    for name, values, least, most in numbers:
        whole = values.shape == (count,) and np.issubdtype(values.dtype, np.integer)
        if not whole or values.min() < least or values.max() > most:
            raise UserError(f"{name}: give {count} whole numbers, one a text, from {least} to {most}")
    classes = int(labels.max()) + 1 if classes is None else classes
    order = permuted_rows(count, permutations, seed)
    targets, permuted = targets_of(labels, classes), targets_of(labels[order].T, classes).flatten(1)
    counts = torch.as_tensor(lengths)
    moments = Moments(range(layers), width, classes, permutations)
    real = torch.arange(longest) < counts[:, None]
    for rows in torch.arange(count).split(max(1, TOKENS_AT_ONCE // longest)):
        batch = Batch(counts[rows], targets[rows], permuted[rows], pooling)
        moments.count(batch.lengths, batch.targets)
        for index, layer in enumerate(states):
            moments.add(index, layer[rows][real[rows]], batch)
    if not moments.sums["mean_state"].isfinite().all():
        raise UserError("states that are not finite")
    return moments


def permuted_rows(count: int, permutations: int, seed: int) -> np.ndarray:
    """(R, n) row orders for shuffled labels: the same for every model, layer, batch and shard."""
    generator = np.random.default_rng(seed)
    orders = np.empty((permutations, count), np.int64)
    for order in orders:
        order[:] = generator.permutation(count)
    return orders
