"""A model without its weights: modules on the meta device, and the operations and memory that follow from them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import (
    context_length,
    load_config,
    load_tokenizer,
    output_name,
    pick_dtype,
    without_weights,
)
from ntps.moments.encoder import find_blocks
from ntps.moments.source import parse_layers
from ntps.moments.sums import GAP, SCAN, STRIPS

Batches = Sequence[np.ndarray]  # the tokens of every batch's texts, with their padding if there is any


class Outline:
    """A model's numbers from its configuration, and in `notes` what had to be assumed. `flags` are a script's."""

    def __init__(self, name: str, flags: Mapping[str, Any], device: torch.device):
        self.spec, self.device = resolve_model(name), device
        self.notes: list[str] = []
        self.remembered: dict[str, tuple[int, int, int]] = {}  # of ntps.block.training_bytes
        self.name = output_name(self.spec, flags.get("adapter"))
        self.dtype = pick_dtype(flags.get("dtype"), self.spec, device)
        self.config = self._config()
        model = self.on_meta()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.blocks, self.width = find_blocks(model), int(self.config.hidden_size)
        layer, last = flags.get("layer"), len(self.blocks)
        wanted = flags.get("layers", str(last)) if layer is None else str(layer)
        self.layers = parse_layers(wanted, last)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        with contextlib.suppress(UserError):
            self.tokenizer = load_tokenizer(self.spec)
        self.max_length = context_length(
            self.tokenizer, self.config, flags.get("max_length"), self.spec.context
        )

    def _config(self) -> PreTrainedConfig:
        """config.json, else `architecture:` of the description."""
        try:
            return load_config(self.spec)
        except UserError as error:
            known = self.spec.described_config()
            if known is None:
                raise UserError(
                    f"{error}. (A plan is content with `architecture:` in the description)"
                ) from None
        self.notes.append(
            "config.json is not here and cannot be had: planned from `architecture:` in the description"
        )
        return known

    @property
    def weight_bytes(self) -> int:
        return self.parameters * self.dtype.itemsize

    @property
    def block_weights(self) -> list[int]:
        """Numbers in the matrices of every block."""
        return [sum(p.numel() for p in block.parameters() if p.dim() == 2) for block in self.blocks]

    @property
    def block_attention(self) -> list[int]:
        """heads x head_dim of every block."""
        config, count = self.config, len(self.blocks)
        heads = getattr(config, "num_query_heads", None) or [config.num_attention_heads] * count
        dim = getattr(config, "head_dim", None) or self.width // config.num_attention_heads
        return [number * dim for number in heads]

    @property
    def weights(self) -> int:
        """Numbers in the matrices of the blocks that are run: none above the highest layer is."""
        return sum(self.block_weights[: self.layers[-1]])

    @property
    def attention(self) -> int:
        return sum(self.block_attention[: self.layers[-1]])

    def on_meta(self) -> nn.Module:
        return without_weights(self.spec, self.config, self.dtype)

    def lora(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """What lora_finetuning.py's flags say of the adapter, with the description's lora_targets where they have none."""
        known = ("rank", "alpha", "lora_dropout", "start_layer")
        return {name: flags[name] for name in known} | {
            "lora_targets": self.spec.targets(flags["lora_targets"])
        }


# --- operations ----------------------------------------------------------------------------------------------------


def forward_flops(weights: int, attention: int, batches: Batches) -> float:
    """Sum over texts of n tokens of 2 P n + 4 A n^2; a multiply-add counts as two.

    P: numbers in the matrices of the blocks; A: their sum of heads x head_dim. Attention counts in full, as torch's
    FlopCounterMode has it, though only its causal half is needed; what is elementwise does not count.
    """
    return float(sum((n * (2.0 * weights + 4.0 * attention * n)).sum() for n in batches))


def moments_flops(width: int, targets: int, permutations: int, prefix: bool, batches: Batches) -> float:
    """What `Moments.add` multiplies for one layer, with d = width, C targets, R permutations: per batch of B texts, N tokens

    g(B) + 2 B d C (R + 1) for M and the labels, 2 d (N SCAN + b^2) for the prefix sums in b blocks, of which the last may
    be shorter, and with prefix moments g(N - 1) + 2 (N - 1) d^2; g(n) = n d^2 (1 + 1 / STRIPS).
    """
    step = -(-width // STRIPS)
    gram = sum(2 * min(step, width - start) * (width - start) for start in range(0, width, step))
    total = 0.0
    for n in batches:
        tokens = int(n.sum())
        whole, rest = divmod(tokens, SCAN)
        blocks = whole + (rest > 0)
        total += len(n) * (gram + 2 * width * targets * (permutations + 1))
        total += 2 * width * (whole * SCAN**2 + rest**2 + (blocks**2 if blocks > 1 else 0))
        total += float(tokens - 1) * (gram + 2 * width**2) if prefix else 0.0
    return total


# --- memory --------------------------------------------------------------------------------------------------------


def batch_bytes(outline: Outline) -> int:
    """Bound on what one token takes, in bytes, for d = width and s bytes a number: the sum of

    a block's temporaries, s (2 d + the outputs of its matrices + the widest of them), and of what the moments hold,
    max(4, s) (2 (d + GAP) + 2 SCAN): h_t and c_t by row, and the masks of the sums.
    """
    size, d = outline.dtype.itemsize, outline.width
    widths = [
        [
            weight.numel() // d if d in weight.shape else max(weight.shape)
            for weight in block.parameters()
            if weight.dim() == 2
        ]
        for block in outline.blocks
    ]  # numel / d is the output of a matrix that reads the states, or the input of one that makes them
    block = max(sum(found) + max(found) for found in widths)
    return size * (2 * d + block) + max(4, size) * (2 * (d + GAP) + 2 * SCAN)
