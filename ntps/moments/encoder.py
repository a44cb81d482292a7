"""Text to hidden states to moments: tokens, batches, each layer reduced as it appears."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ntps.errors import UserError, boundary, enough_memory, lacks_memory, one_line
from ntps.moments.batches import Corpus, plan_batches, tokenize
from ntps.moments.packing import NotPlain, Packed, equal_runs, run_packed
from ntps.moments.sums import Batch, Moments, pooled
from ntps.system import console

Sink = Callable[[int, Tensor], None]  # place in the list of layers, states (N, d)
# what the code of a model may say to texts in one row: that it does not take them
SAID = (NotPlain, TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)


class _Enough(Exception):
    """Ends a forward pass once the last wanted layer has appeared."""


def rounding(
    model: nn.Module, states_of: Callable[[], Sequence[Tensor]], states: Sequence[Tensor]
) -> list[float]:
    """The largest relative difference that a text's company in a batch may make to each of its `states`, which `states_of` gives.

    In 16 bits at least twice what they change where the embeddings move by a unit in the last place: a large state beside
    small ones can take much of their digits, on CPUs without instructions for the type above all.
    """
    if states[0].dtype in (torch.float32, torch.float64):
        return [1e-4] * len(states)
    draw = torch.Generator().manual_seed(0)

    def move(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        signs = 2 * torch.randint(0, 2, output.shape, generator=draw) - 1
        return output * (1 + torch.finfo(output.dtype).eps * signs.to(output))

    inner: Any = model
    handle = inner.get_input_embeddings().register_forward_hook(move)
    try:
        moved = states_of()
    finally:
        handle.remove()
    return [max(5e-2, 2 * difference(other, own)) for other, own in zip(moved, states)]


class Encoder:
    """Runs a base model and hands over each wanted layer's states the moment they appear; none are kept.

    layers: indices in the convention of `hidden_states` (0 = embeddings, K = last block after the final norm), or
    None for all K+1. Blocks above the highest wanted layer are not computed. packs: texts of up to so many tokens share a
    pass, in one row without padding (packing.py), as all do of most models; longer ones only if they are equally long.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int] | None = None):
        self.model: Any = model
        self.blocks = find_blocks(model)
        top = len(self.blocks)
        self.layers = list(range(top + 1)) if layers is None else sorted(set(layers))
        if not self.layers or self.layers[0] < 0 or self.layers[-1] > top:
            raise UserError(f"--layers {','.join(map(str, self.layers))}: this model has layers 0 to {top}")
        self.packs = math.inf
        words = f"{type(model).__name__}: its forward pass fails on four short texts"
        with boundary(words, "check config.json, or take another version of transformers"):
            self._verify()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def passes(self, lengths: np.ndarray) -> list[slice]:
        """The texts of a batch, longest first, that share a forward pass: those up to `packs`, and of equal length."""
        longer = int((lengths > self.packs).sum())
        parts = [*equal_runs(lengths[:longer]), slice(longer, len(lengths))]
        return [part for part in parts if part.start < part.stop]

    @torch.inference_mode()
    def run(self, ids: Tensor, lengths: np.ndarray, sink: Sink) -> Packed | None:
        """One forward pass of texts that may share one (`passes`), their ids (N,) one after the other.

        `sink(place, states)` for each wanted layer, in order, with states (N, d) as the ids. How they shared a row.
        """
        packed = Packed(lengths) if max(lengths) <= self.packs else None
        handles = [
            self.blocks[layer].register_forward_pre_hook(self._tap(place, layer, sink), with_kwargs=True)
            for place, layer in enumerate(self.layers)
            if layer < len(self.blocks)
        ]
        try:
            if packed:
                output = run_packed(self.model, ids, packed)
            else:
                output = self.model(input_ids=ids.view(len(lengths), -1), use_cache=False)
            sink(len(self.layers) - 1, output.last_hidden_state.flatten(0, 1))
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return packed

    def _tap(self, place: int, layer: int, sink: Sink):
        def hook(block, args, kwargs):  # what enters block i is hidden_states[i]
            sink(place, entering(args, kwargs).flatten(0, 1))
            if layer == self.layers[-1]:
                raise _Enough

        return hook

    @torch.inference_mode()
    def _verify(self) -> None:
        """Set `packs`: 0 where no texts may share a row. UserError unless what is caught are the model's own
        hidden_states of a text's beginning, whatever stands to its right."""
        name = type(self.model).__name__
        ids, seen = torch.arange(3, 11, device=self.device) % self.model.config.vocab_size, 4
        texts = [ids, ids[2:], ids[2:], ids[:5]]
        starts = [text[:seen] for text in texts]
        alone = self._own_states(torch.stack(starts))
        if any(alone[layer].shape != (len(texts), seen, self.width) for layer in self.layers):
            raise UserError(f"{name}: not every layer has {self.width} numbers a token")
        allowed = rounding(self.model, lambda: self._own_states(torch.stack(starts)), alone)
        try:
            gap, _, packed = self._gap(texts, alone, allowed)
            if packed and gap <= 1 and packed.attentions == self.layers[-1]:
                self.packs = packed.window
                if packed.window < math.inf:
                    console.say(
                        f"{name}: its attention or positions change after {packed.window} tokens: longer texts go one "
                        "length at a time"
                    )
                return
            why = "in one row their states change" if gap > 1 else "its attention is its own"
        except SAID as error:
            if lacks_memory(error):
                raise
            why = one_line(error)
        self.packs = 0
        for run in equal_runs([len(text) for text in texts]):
            gap, layer, _ = self._gap(texts[run], [states[run] for states in alone], allowed)
            if gap > 1:
                found = f"{name}: layer {layer} does not match the model's own hidden_states (relative difference {gap * allowed[layer]:.1e})"
                if self._gap(starts, alone, allowed)[0] > 1:
                    raise UserError(f"{found}: they are not what enters its blocks, one after the other")
                raise UserError(f"{found} once a text goes on: it looks ahead, only causal models will do")
        console.say(f"{name}: texts go one length at a time, which is slower: {why}")

    def _gap(
        self, texts: list[Tensor], own: list[Tensor], allowed: list[float]
    ) -> tuple[float, int, Packed | None]:
        """Of texts in one pass: the largest relative difference of a layer from the model's own states of their beginning,
        K+1 times (B, seen, d), over what is allowed there, which layer that is, and how they shared a row."""
        caught: dict[int, Tensor] = {}
        lengths = [len(text) for text in texts]
        packed = self.run(torch.cat(texts), np.array(lengths), caught.__setitem__)
        gap, layer = max(
            (difference(one[: len(theirs)], theirs) / allowed[layer], layer)
            for place, layer in enumerate(self.layers)
            for one, theirs in zip(caught[place].split(lengths), own[layer])
        )
        return gap, layer, packed

    def _own_states(self, ids: Tensor) -> list[Tensor]:
        """The model's own hidden_states, after what enters its first block: those of Mamba and RWKV lack it."""
        entered: list[Tensor] = []
        handle = self.blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: entered.append(entering(args, kwargs)), with_kwargs=True
        )
        try:
            output = self.model(input_ids=ids, use_cache=False, output_hidden_states=True, return_dict=True)
        finally:
            handle.remove()
        own = list(output.hidden_states)
        return own if torch.equal(own[0], entered[0]) else [entered[0], *own[:-2], own[-1]]


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The states that a block is called with."""
    return args[0] if args else kwargs["hidden_states"]


def difference(found: Tensor, own: Tensor) -> float:
    """Relative difference of states; 0 where the model's own are not finite, which encode() tells of text and layer."""
    found, own = found.float(), own.float()
    if not own.isfinite().all():
        return 0.0
    return float(((found - own).norm() / own.norm()).nan_to_num(math.inf))


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's list of transformer blocks: its one ModuleList of config.num_hidden_layers modules."""
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():  # outermost first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(model).__name__}: no list of {count} transformer blocks found; this architecture is not supported"
    )


class NotFinite(UserError):
    """A state that is NaN or infinite, with the row of its text and its layer."""

    def __init__(self, row: int, layer: int):
        why = "16-bit forward passes can overflow: try --dtype float32"
        super().__init__(f"states that are not finite: text {row}, layer {layer}. {why}")
        self.row, self.layer = row, layer


def encode(
    encoder: Encoder, corpus: Corpus, batches: Sequence[np.ndarray], moments: Moments | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows (B,) and pooled states (L, B, d) of one forward pass after the other, of which a batch takes one or more.

    They are added to `moments`. UserError for a state that is not finite (names text and layer) and for a batch too
    large for the memory.
    """
    kept = torch.promote_types(next(encoder.model.parameters()).dtype, torch.float32)
    for rows in (whole[some] for whole in batches for some in encoder.passes(corpus.lengths[whole])):
        ids, batch = corpus.batch(rows, encoder.device)
        lengths = corpus.lengths[rows]
        # taken before the pass: what outlives a layer, scattered among its buffers, would fragment the memory
        states = torch.empty(len(encoder.layers), len(rows), encoder.width, dtype=kept, device=ids.device)

        def reduce(place: int, hidden: Tensor, states: Tensor = states, batch: Batch = batch) -> None:
            states[place] = (
                moments.add(place, hidden, batch) if moments else pooled(batch.tokens(hidden), batch)
            )

        remedy = (
            "use a smaller --tokens_per_batch (linear_training.py: of cache.py --keep_states) or --max_length"
        )
        with enough_memory(f"out of memory with {len(ids)} tokens in a batch: {remedy}"):
            encoder.run(ids, lengths, reduce)
        finite = states.isfinite().all(2)
        if not finite.all():
            place, row = not_finite(encoder, ids, lengths) or (~finite).nonzero()[0].tolist()
            raise NotFinite(int(rows[row]), encoder.layers[place])
        if moments:
            moments.count(batch.lengths, batch.targets)
        yield rows, states


def not_finite(encoder: Encoder, ids: Tensor, lengths: np.ndarray) -> tuple[int, int] | None:
    """Place of the first layer with such a token and the first of its texts (their sums spoil others' of the batch)."""
    found: list[tuple[int, int]] = []

    def look(place: int, hidden: Tensor) -> None:
        spoiled = (~hidden.isfinite().all(1)).nonzero()[:1, 0].tolist()
        found.extend((place, int(np.searchsorted(lengths.cumsum(), token, "right"))) for token in spoiled)

    encoder.run(ids, lengths, look)
    return found[0] if found else None


def moments_of_texts(
    model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence, layers: Sequence[int] | None = None,
    max_length: int = 512, tokens_per_batch: int = 2048, permutations: int = 0, seed: int = 42, pooling: str = "mean",
) -> Moments:  # fmt: skip
    """Moments of a loaded transformers model (with or without head) over labelled texts, all layers by default.

    Classes are the sorted distinct labels. For many texts use cache.py: it checkpoints.
    """
    if (
        any(isinstance(label, (list, tuple, dict, set)) for label in labels)
        or pd.isna(pd.Series(list(labels))).any()
    ):
        raise UserError("labels: some are missing, or several to a text: give one label a text")
    if len({type(label) for label in labels}) > 1 and any(isinstance(label, str) for label in labels):
        raise UserError(
            "labels: some are texts, others numbers, so that 1 and '1' would be one class: make them alike"
        )
    classes, indices = np.unique(np.asarray(labels), return_inverse=True)
    if len(texts) != len(labels) or len(classes) < 2:
        raise UserError(
            f"{len(texts)} texts and {len(labels)} labels of {len(classes)} classes: give one label a text, and at "
            "least two classes"
        )
    if hasattr(model, "get_base_model"):  # a PEFT model: its layers lie in the model it wraps
        model = model.get_base_model()
    base = getattr(model, "base_model", model)
    limit = getattr(base.config, "max_position_embeddings", None) or max_length
    ids, _ = tokenize(texts, tokenizer, min(max_length, limit), len(base.get_input_embeddings().weight))
    corpus = Corpus(ids, indices, len(classes), pooling, permutations, seed)
    modes = {module: module.training for module in base.modules()}
    try:
        encoder = Encoder(base.eval(), layers)
        moments = Moments(encoder.layers, encoder.width, len(classes), permutations, device=encoder.device)
        for _ in encode(encoder, corpus, plan_batches(corpus.lengths, tokens_per_batch), moments):
            pass
    finally:
        for module, mode in modes.items():
            module.training = mode
    return moments
