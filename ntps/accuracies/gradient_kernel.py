"""What the kernel of sketched LoRA gradients adds to that of the mean states, on test: from a file of features, no further pass."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ntps.accuracies.task import Task
from ntps.errors import UserError
from ntps.scores.kernel_ridge import compare, linear_kernel, states_kernel


class GradientKernel:
    """The rows of a task, train first, by the features that `ntps.accuracies.gradients.FeaturePass` wrote of them.

    seconds: what the features took; forward_passes: the same in units of a plain pass over all rows. UserError for a file that is
    not finished.
    """

    def __init__(self, features: Path, task: Task):
        self.labels, self.held_out = (torch.as_tensor(task.labels[split]) for split in ("train", "test"))
        self.classes = len(task.data.classes)
        with safe_open(features, "pt") as file:
            self.directions, tokens = file.get_slice("features").get_shape()[1], file.get_tensor("tokens")
            if not (tokens > 0).all():
                raise UserError(f"{features} is not finished: run ntps.finetune_probe again")
            self.states = states_kernel(file.get_tensor("states"), len(self.labels))
            self.seconds, timed, timed_tokens = file.get_tensor("cost").tolist()
        self.forward_passes = self.seconds * timed_tokens / (timed * int(tokens.sum()))

    def compare(self, directions: Iterable[Iterable[Tensor]], unit_norm: bool) -> dict[str, float]:
        """Row of `ntps.scores.kernel_ridge.compare`, with the sum of the directions' kernels; each has blocks of columns (rows, k)."""
        more = torch.zeros_like(self.states)
        for blocks in directions:
            more += linear_kernel(blocks, len(self.labels), unit_norm)
        return compare(self.states, more, self.labels, self.held_out, self.classes)
