"""A linear head on states of a frozen model: every row is encoded once, the epochs run on the states."""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntps.accuracies.table import Fit
from ntps.accuracies.task import Row, Task, scores
from ntps.errors import UserError
from ntps.flags import LinearHead
from ntps.moments.file import StatesFile
from ntps.moments.identity import of_states
from ntps.system import console, processes, provenance

Watch = Callable[[int, bool], None]  # of a step and whether it is the last


def new_head(width: int, classes: int, dropout: float) -> nn.Sequential:
    """Dropout and a linear map: pooled states (B, d) to logits (B, C)."""
    return nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), linear=nn.Linear(width, classes)))


def fitter(task: Task, flags: LinearHead) -> Fit:
    """The function of `ntps.accuracies.table.measure` that trains a head.

    Its rows follow every epoch; train, validation and test are scored at the end. seconds include the forward pass
    that the seeds share.
    """
    states: dict[str, Tensor] = {}
    device, encoding = task.model.device, 0.0

    def fit(seed: int, folder: Path, identity: dict) -> list[Row]:
        nonlocal encoding
        started = time.monotonic()
        if not states:
            for split in task.labels:
                states[split] = pooled_states(task, split, flags.pooling, flags.output)
            encoding = time.monotonic() - started
        started, measured = time.monotonic(), []
        parts = task.parts(seed, flags.released_protocol)
        watched = "validation" if "validation" in parts else "test"
        labels = {name: task.labels[split][rows] for name, (split, rows) in parts.items()}
        places = {name: torch.as_tensor(rows, device=device) for name, (_, rows) in parts.items()}
        inputs = {name: states[split][places[name]] for name, (split, _) in parts.items()}
        tokens = sum(len(task.ids("train")[row]) for row in parts["train"][1])
        torch.manual_seed(seed)
        head = new_head(inputs["train"].shape[1], len(task.data.classes), flags.dropout).to(device)

        def watch(step: int, final: bool) -> None:
            seconds = encoding + time.monotonic() - started
            for name in parts if final else [watched]:
                with torch.inference_mode():
                    logits = head(inputs[name])
                row = {"layer": task.model.layers[0], "seed": seed, "step": step, "split": name}
                row |= {"final": final, "seconds": seconds, "tokens": tokens}
                measured.append(row | scores(logits.cpu().numpy(), labels[name]))

        train_head(inputs["train"], torch.as_tensor(labels["train"], device=device), head, flags, seed, watch)
        return measured

    return fit


def pooled_states(task: Task, split: str, pooling: str, output: str) -> Tensor:
    """(n, d) float32 on the model's device: the states of model.layers[0], as `cache.py --keep_states` wrote them
    into `output`, or else from one forward pass.

    pooling: as in ntps/moments/sums.py.
    """
    cached = processes.from_first(lambda: cached_states(task, split, pooling, output))
    if cached is not None:
        states = torch.from_numpy(cached).float()
    else:
        model, ids = task.model, task.ids(split)
        states = torch.zeros(len(ids), model.config.hidden_size)
        total, count = sum(map(len, ids)), processes.count()
        share = slice(processes.rank(), None, count)  # several processes share the batches
        with console.progress(total, "token", f"{model.name} x {task.data.name} {split}") as bar:
            for rows, some in model.pooled(ids, pooling, share):
                states[rows] = some.float()
                bar.update(count * sum(len(ids[row]) for row in rows))
        processes.add_up(states)
    return states.to(task.model.device)


def cached_states(task: Task, split: str, pooling: str, output: str) -> np.ndarray | None:
    """The states of model.layers[0] from OUTPUT/states, if the same rows and settings made them.

    UserError where they are damaged.
    """
    model, layer = task.model, task.model.layers[0]
    path = Path(output) / "states" / model.name / task.data.name / f"{split}.safetensors"
    wanted = of_states(model, task.data, task.splits[split], task.limit, task.seed, [layer], pooling)
    if not path.exists():
        return None
    file = StatesFile(path)
    if layer not in file.layers or provenance.differences(file.identity | {"layers": [layer]}, wanted):
        return None
    if file.labels.tolist() != task.labels[split].tolist() or file.width != model.config.hidden_size:
        raise UserError(f"{path} is damaged: it has other rows than {split}. {provenance.REMEDY}")
    console.say(f"states from {path}")
    return file.layer(file.layers.index(layer))


def train_head(
    states: Any, labels: Tensor, head: nn.Module, flags: LinearHead, seed: int, watch: Watch
) -> None:
    """Minimise the cross-entropy of head(states[rows]) by AdamW, in shuffled batches; `watch(step, final)` an epoch.

    states: (n, d), or anything that rows (a 1-d tensor) index into (B, d). labels: (n,) class indices.
    UserError for a loss that is not finite.
    """
    torch.manual_seed(seed)  # of the dropout
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=flags.learning_rate)
    steps = flags.epochs * -(-len(labels) // flags.batch_size)
    steps = min(steps, flags.max_steps or steps)
    step = 0
    with console.progress(steps, "step", "linear head") as bar:
        while step < steps:
            head.train()
            order = torch.randperm(len(labels), generator=shuffle)
            for rows in order.split(flags.batch_size)[: steps - step]:
                rows = rows.to(labels.device)
                loss = nn.functional.cross_entropy(head(states[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                bar.update()
            if not loss.isfinite():
                raise UserError(f"the loss is not finite at step {step}: try a smaller --learning_rate")
            head.eval()
            watch(step, step >= steps)
