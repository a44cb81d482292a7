"""Attention of short rows that gradients go through: by its formula where that is faster than the fused kernel."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 128  # tokens up to which a CPU takes it: torch's fused backward pass is slow there, the formula keeps T x T weights


def by_formula(device: torch.device, longest: int) -> bool:
    return device.type == "cpu" and longest <= SHORT


def attention_for_gradients(device: torch.device, longest: int) -> contextlib.AbstractContextManager[None]:
    """The context of a forward pass over rows of at most `longest` tokens."""
    return sdpa_kernel(SDPBackend.MATH) if by_formula(device, longest) else contextlib.nullcontext()
