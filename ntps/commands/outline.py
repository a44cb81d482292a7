"""A model without its weights: modules on the meta device, the operations and bytes that follow, and its speed here."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ntps.accuracies.lora import target_modules
from ntps.errors import UserError, enough_memory
from ntps.models import loading
from ntps.models.description import resolve_model
from ntps.moments.encoder import find_blocks
from ntps.moments.source import parse_layers
from ntps.moments.sums import GAP, SCAN, STRIPS

Batches = Sequence[np.ndarray]  # the tokens of every batch's texts, with their padding if there is any
MOST = {"cpu": 1e10}  # operations that are timed: well under a second
MOST_ELSEWHERE = 1e12


class Outline:
    """A model's numbers from its configuration, and in `notes` what had to be assumed. `flags` are a script's."""

    def __init__(self, name: str, flags: Mapping[str, Any], device: torch.device):
        self.spec, self.device = resolve_model(name), device
        self.notes: list[str] = []
        self.name = loading.output_name(self.spec, flags.get("adapter"))
        self.dtype = loading.pick_dtype(flags.get("dtype"), self.spec, device)
        self.config = self._config()
        self.model = loading.without_weights(self.spec, self.config, self.dtype)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.weight_bytes = self.parameters * self.dtype.itemsize
        self.blocks, self.width = find_blocks(self.model), int(self.config.hidden_size)
        last, layer = len(self.blocks), flags.get("layer")
        self.layers = parse_layers(flags.get("layers", str(last)) if layer is None else str(layer), last)
        matrices = [[p.shape for p in block.parameters() if p.dim() == 2] for block in self.blocks]
        self.block_weights = [sum(map(math.prod, shapes)) for shapes in matrices]
        self.block_ends = [sum(map(sum, shapes)) for shapes in matrices]  # inputs and outputs of the matrices
        heads = getattr(self.config, "num_query_heads", None) or [self.config.num_attention_heads] * last
        dim = getattr(self.config, "head_dim", None) or self.width // self.config.num_attention_heads
        self.block_attention = [count * dim for count in heads]
        self.tokenizer: PreTrainedTokenizerBase | None = None
        with contextlib.suppress(UserError):
            self.tokenizer = loading.load_tokenizer(self.spec)
        limits = flags.get("max_length"), self.spec.context
        self.max_length = loading.context_length(self.tokenizer, self.config, *limits)

    def _config(self) -> PreTrainedConfig:
        """config.json, else `architecture:` of the description."""
        try:
            return loading.load_config(self.spec)
        except UserError as error:
            if (known := self.spec.described_config()) is None:
                hint = "(A plan is content with `architecture:` in the description)"
                raise UserError(f"{error}. {hint}") from None
        self.notes.append("config.json cannot be had: planned from `architecture:` in the description")
        return known

    def trained_shapes(self, flags: Mapping[str, Any], lora: bool) -> list[Sequence[int]]:
        """Shapes of what is trained: all parameters, or A (r, inputs) and B (outputs, r) of every LoRA target."""
        if not lora:
            return [parameter.shape for parameter in self.model.parameters()]
        targets = self.spec.targets(flags["lora_targets"])
        names = target_modules(self.model, targets, flags["start_layer"])
        ends = [end for name in names for end in self.model.get_parameter(f"{name}.weight").shape]
        return [(flags["rank"], end) for end in ends]

    def forward_flops(self, batches: Batches, blocks: int | None = None) -> float:
        """Sum over texts of n tokens of 2 P n + 4 A n^2, of the blocks that are run or the first few.

        P: numbers in the blocks' matrices; A: their sum of heads x head_dim; a multiply-add counts as two. Attention counts
        in full, as torch's FlopCounterMode has it, though only its causal half is needed; what is elementwise does not.
        """
        run = slice(self.layers[-1] if blocks is None else blocks)  # none above the highest layer
        weights, attention = sum(self.block_weights[run]), sum(self.block_attention[run])
        return float(sum((n * (2.0 * weights + 4.0 * attention * n)).sum() for n in batches))

    @property
    def batch_bytes(self) -> int:
        """Bound on the bytes that one token takes in a forward pass with moments.

        For d = width, s bytes a number and e the inputs and outputs of a block's matrices: s (2 d + e) in the widest
        block, and max(4, s) (2 (d + GAP) + 2 SCAN) for h_t, c_t and the masks of the sums.
        """
        size, d = self.dtype.itemsize, self.width
        return size * (2 * d + max(self.block_ends)) + max(4, size) * (2 * (d + GAP) + 2 * SCAN)

    @property
    def training_bytes(self) -> int:
        """Bound on the bytes that a backward pass needs of one token: s e (as above) of every block's matrices, and
        7 d float32 numbers of its norms and sums, as of the last norm. Attention keeps no scores."""
        return self.dtype.itemsize * sum(self.block_ends) + 28 * self.width * (len(self.blocks) + 1)

    def measured(self, batches: Batches) -> float:
        """Operations a second of a forward pass here, by one block with random weights on a batch of average size.

        Of a larger batch as many texts as take well under a second. UserError where one block does not fit.
        """
        texts, tokens = sum(map(len, batches)), sum(int(n.sum()) for n in batches)
        rows, length = -(-texts // len(batches)), -(-tokens // texts)
        work = self.forward_flops([np.array([length])], blocks=1)
        rows = max(1, min(rows, int(MOST.get(self.device.type, MOST_ELSEWHERE) / work)))
        with enough_memory(f"{self.name}: not even one block fits on {self.device}"), torch.inference_mode():
            ids = torch.zeros(rows, length, dtype=torch.int64, device=self.device)
            run, threads = {"model": one_block(self), "ids": ids}, torch.get_num_threads()
            timer = Timer("model(input_ids=ids, use_cache=False)", globals=run, num_threads=threads)
            return rows * work / min(timer.blocked_autorange(min_run_time=0.3).times)


def one_block(outline: Outline) -> torch.nn.Module:
    """The model with its first block alone and 8 token embeddings, small random numbers in all of it."""
    config = copy.deepcopy(outline.config)
    config.vocab_size, config.pad_token_id = 8, None
    model = loading.without_weights(outline.spec, config, outline.dtype)
    del find_blocks(model)[1:]
    config.num_hidden_layers = 1
    model.to_empty(device=outline.device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(-0.02, 0.02)
    return model.eval()


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
