"""Texts of different lengths in one row, without padding, each by itself.

A batch is one sequence of all its tokens (1, N) whose positions start again with every text. A decoder treats tokens one
by one, but for its attention, which transformers lets be replaced (AttentionInterface); here it is the model's own SDPA, on
the texts of each length together. Texts come sorted by length, so that a pass over a data set has about as many calls more
as there are different lengths.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ATTENTION = "ntps_packed"
# what a model may pass to its attention
UNDERSTOOD = {"dropout", "scaling", "is_causal", "position_ids", "use_cache", "sliding_window"}
PLAIN = {"full_attention", "sliding_attention"}  # of the kinds of layers a configuration may list


class NotPlain(Exception):
    """The attention is more than causal: chunks, caps or sinks, which texts in one row are not to be trusted with."""


def equal_runs(lengths: Sequence[int] | np.ndarray) -> list[slice]:
    """The texts in runs of equal length, as slices."""
    cuts = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    return [slice(start, stop) for start, stop in zip(cuts, cuts[1:])]


class Packed:
    """The lengths of the texts in a row, how many attentions have kept them apart, and the model's shortest window."""

    def __init__(self, lengths: np.ndarray):
        self.lengths, self.attentions = lengths, 0
        self.window = math.inf  # tokens: of texts up to that length it says nothing
        ends = lengths.cumsum()
        self.starts = ends - lengths
        self.runs = [  # first token, end, texts
            (int(self.starts[run.start]), int(ends[run.stop - 1]), run.stop - run.start)
            for run in equal_runs(lengths)
        ]

    def narrow(self, window: int | None) -> None:
        """Take note of a window that the model has; NotPlain where a text is longer."""
        if window:  # some configurations say 0 for none
            self.window = min(self.window, window)
        if self.lengths.max() > self.window:
            raise NotPlain(f"a window of {window} tokens")

    def positions(self, device: torch.device) -> Tensor:
        """(1, N): of every token in its text."""
        positions = np.arange(self.lengths.sum()) - self.starts.repeat(self.lengths)
        return torch.from_numpy(positions).to(device)[None]


def attend_apart(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, packed: Packed, **more: Any
) -> tuple[Tensor, None]:  # fmt: skip
    """(1, N, heads, head_dim) of query (1, heads, N, head_dim), key and value: causal attention within each text."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    foreign = {name for name, what in more.items() if what is not None} - UNDERSTOOD
    if mask is not None or foreign:
        raise NotPlain(f"its attention has {' and '.join(sorted(foreign)) or 'a mask of its own'}")
    packed.narrow(more.get("sliding_window"))
    states = []
    for start, end, texts in packed.runs:
        parts = (whole[0, :, start:end].unflatten(1, (texts, -1)) for whole in (query, key, value))
        q, k, v = (part.transpose(0, 1) for part in parts)
        states.append(sdpa_attention_forward(module, q, k, v, None, **more)[0].flatten(0, 1))
    packed.attentions += 1
    return torch.cat(states)[None], None


def windows(config: Any) -> Iterator[int | None]:
    """Lengths up to which a text is treated as it is in a row of longer ones: of a sliding window, and of positions."""
    yield getattr(config, "sliding_window", None)
    yield from rotary_windows(config)


def rotary_windows(config: Any) -> Iterator[int]:
    """Lengths beyond which the longest text of a pass changes the rotary positions of all (`dynamic` ones change beyond
    max_position_embeddings only, where texts are cut)."""
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):  # of all layers, or by kind of layer
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            yield rope.get("original_max_position_embeddings") or config.max_position_embeddings


def run_packed(model: Any, ids: Tensor, packed: Packed) -> Any:
    """The model's output on ids (N,) of packed texts."""
    from transformers import AttentionInterface

    if more := set(getattr(model.config, "layer_types", None) or ()) - PLAIN:
        raise NotPlain(f"it has {', '.join(sorted(more))}")
    for window in windows(model.config):
        packed.narrow(window)
    AttentionInterface.register(ATTENTION, attend_apart)
    usual = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION  # models look it up at every call, and make no mask for it
    positions = packed.positions(ids.device)
    try:
        return model(input_ids=ids[None], position_ids=positions, use_cache=False, packed=packed)
    finally:
        model.config._attn_implementation = usual
