"""One block of a model with random weights: how fast this device runs it, and what training it would keep."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from ntps.accuracies import lora as adapters
from ntps.commands.outline import Outline, forward_flops, moments_flops
from ntps.errors import enough_memory
from ntps.models.loading import without_weights
from ntps.moments.encoder import find_blocks
from ntps.moments.sums import Batch, Moments

MOST = {"cpu": 1e11}  # operations of the forward pass that is timed: about a second
MOST_ELSEWHERE = 1e13
LONG_ENOUGH = 1.0  # seconds of timing
TOKENS = 31  # of the text whose training is watched: a length that no weight has


@dataclass(frozen=True)
class Speed:
    """Operations a second of forward (and backward) passes and of the moments, as ntps.outline counts them."""

    forward: float
    moments: float = math.inf
    updates: float = math.inf  # parameters that Adafactor updates a second

    def __str__(self) -> str:
        parts = [f"forward pass {self.forward / 1e9:.3g} GFLOP/s"]
        parts += [f"moments {self.moments / 1e9:.3g} GFLOP/s"] if self.moments < math.inf else []
        parts += [f"optimizer {self.updates / 1e6:.3g} M parameters/s"] if self.updates < math.inf else []
        return ", ".join(parts)


def measured(script: str, outline: Outline, batch: tuple[int, int], targets: int, permutations: int) -> Speed:
    """Time the middle block on a batch of (texts, tokens each), or on as much of it as takes about a second.

    A backward pass is taken to run at the forward pass's speed. UserError where one block does not fit.
    """
    middle = len(outline.blocks) // 2
    weights, attention = outline.block_weights[middle], outline.block_attention[middle]
    rows, length = batch
    most = MOST.get(outline.device.type, MOST_ELSEWHERE)
    rows = max(1, min(rows, int(most / forward_flops(weights, attention, [np.array([length])]))))
    lengths = [np.full(rows, length)]
    with enough_memory(f"{outline.name}: not even one block fits on {outline.device}"):
        model, device = one_block(outline, outline.device, outline.dtype), outline.device
        ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
        with torch.inference_mode():
            states = model(input_ids=ids, use_cache=False).last_hidden_state
            seconds = timed(lambda: model(input_ids=ids, use_cache=False), device)
            forward = forward_flops(weights, attention, lengths) / seconds
            if script == "cache":
                seconds = timed(_moments(states, targets, permutations), device)
                work = moments_flops(outline.width, targets, permutations, True, lengths)
                return Speed(forward, moments=work / seconds)
        if script == "linear_training":
            return Speed(forward)
        matrix = nn.Parameter(torch.zeros(4 * outline.width, outline.width, device=device))
        matrix.grad = torch.ones_like(matrix)
        step = Adafactor([matrix], lr=1e-4, relative_step=False, scale_parameter=False).step
        return Speed(forward, updates=matrix.numel() / timed(step, device))


def one_block(
    outline: Outline, device: torch.device | str, dtype: torch.dtype, fill: bool = True
) -> nn.Module:
    """The model with its middle block alone and 8 token embeddings, with `fill` small random numbers in all of it."""
    config = copy.deepcopy(outline.config)
    config.vocab_size, config.pad_token_id = 8, None
    model = without_weights(outline.spec, config, dtype)
    blocks, middle = find_blocks(model), len(outline.blocks) // 2
    del blocks[middle + 1 :], blocks[:middle]
    config.num_hidden_layers = 1
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()) if fill else ():
        if tensor.is_floating_point():
            tensor.data.uniform_(-0.02, 0.02)
    return model.eval()


def training_bytes(outline: Outline, lora: Mapping[str, Any] | None) -> tuple[int, int, int]:
    """Numbers that are trained, bytes of all that stays for them, and bytes that one token adds; remembered.

    lora: settings of the adapter (None: all is trained).
    """
    known = outline.remembered
    key = repr(lora)
    if key not in known:
        model = outline.on_meta()
        model = model if lora is None else adapters.add_lora(model, "", dict(lora))
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        known[key] = trained, trained_bytes(model, outline.dtype), saved_bytes(outline, lora)
    return known[key]


def trained_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """float32 weights and gradients of what is trained, Adafactor's means of squares (by row and by column), and
    the copies of weights that a 16-bit forward pass keeps."""
    shapes = [parameter.shape for parameter in model.parameters() if parameter.requires_grad]
    means = sum(sum(shape) if len(shape) == 2 else shape.numel() for shape in shapes)
    copies = 2 if dtype.itemsize == 2 else 0
    return (8 + copies) * sum(shape.numel() for shape in shapes) + 4 * means


def saved_bytes(outline: Outline, lora: Mapping[str, Any] | None) -> int:
    """What autograd keeps of one token in all blocks, in bytes, from what it keeps of a text in the middle block.

    Each storage counts once; weights do not count. Linear in the tokens, as attention keeps no scores.
    """
    # not filled: numbers do not matter here, and memory that nobody writes to is not taken
    model: Any = one_block(outline, "cpu", torch.float32 if lora is None else outline.dtype, fill=False)
    embeddings, block = model.get_input_embeddings(), find_blocks(model)[0]
    if lora is not None:
        model = adapters.add_lora(model, "", {**lora, "start_layer": 0})
    embeddings.requires_grad_(True)  # as below a middle block
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()  # a graph that keeps its own outputs is a circle that is never collected
        if TOKENS in tensor.shape:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    watch = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    block.register_forward_pre_hook(lambda *_: watch.__enter__())
    block.register_forward_hook(lambda *_: watch.__exit__())
    with torch.autocast("cpu", outline.dtype, enabled=outline.dtype.itemsize == 2):
        model.train()(input_ids=torch.zeros(1, TOKENS, dtype=torch.int64), use_cache=False)
    return len(outline.blocks) * sum(t.untyped_storage().nbytes() for t in kept.values()) // TOKENS


def _moments(states: Tensor, targets: int, permutations: int) -> Callable[[], Tensor]:
    (rows, length, width), states = states.shape, states.flatten(0, 1)
    home = torch.device("cpu" if states.device.type == "mps" else states.device)
    true, permuted = (
        torch.ones(rows, n, dtype=torch.float64, device=home) for n in (targets, targets * permutations)
    )
    batch = Batch(torch.full((rows,), length, device=states.device), true, permuted)
    sums = Moments([0], width, targets, permutations, device=states.device)
    return lambda: sums.add(0, states, batch)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, the best of a few after a first that warms up."""
    best, total = math.inf, 0.0
    run()
    while total < LONG_ENOUGH:
        started = time.perf_counter()
        run()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        best = min(best, time.perf_counter() - started)
        total += time.perf_counter() - started
    return best
