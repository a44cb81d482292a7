"""Gradients of a few numbers of each row with respect to LoRA's B where it starts, sketched, in a file.

For a direction r among the states, f(x) = <r, m(x)> with the last layer's mean state m. LoRA adds B A x to a module's
output y = W x; with A random and B = 0, df/dB = sum_t g_t (A x_t)^T, g_t = df/dy_t, is (outputs, rank): one backward
pass for each direction, without gradients of weights. The sketch is P^T df/dB, P (outputs, sketch) random signs /
sqrt(sketch), which keeps inner products in expectation; A sketches the inputs. No label is used.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ntps.accuracies.attention import attention_for_gradients
from ntps.accuracies.lora import target_modules
from ntps.accuracies.task import Task
from ntps.errors import UserError, boundary, enough_memory
from ntps.moments.batches import plan_batches
from ntps.moments.encoder import Encoder, NotFinite
from ntps.moments.lazy_model import default_budget
from ntps.moments.packing import Packed, run_packed
from ntps.system import array_files, atomic_files, console, processes, provenance
from ntps.system.checkpoint_clock import CheckpointClock

PILOT = 64  # train rows whose states give the directions
TIMED = 8  # of so many batches one is also run forward alone, to time it
COLUMNS = 1024  # of features in memory at a time
KIND = "gradients"


class Gradients:
    """The gradients of rows along directions (R, d), sketched, as float32 or better.

    names: modules that LoRA would adapt. sketch None: all outputs, (outputs, rank) of each module.
    """

    def __init__(
        self, encoder: Encoder, names: Sequence[str], directions: Tensor, rank: int, sketch: int | None, seed: int
    ):  # fmt: skip
        self.encoder, self.names, kind = encoder, names, next(encoder.model.parameters()).dtype
        self.like = torch.empty(0, device=encoder.device, dtype=torch.promote_types(kind, torch.float32))
        self.directions = directions.to(self.like)
        self.rank, self.sketch, self.seed = rank, sketch, seed
        self.projections: dict[int, tuple] = {}
        self.lengths = torch.empty(0)
        self.leaves: list[Tensor] = []  # module outputs that nothing adapted comes before
        self.parts: list[Tensor | int] = []  # by module, of the direction at hand

    def of(self, ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Features (B, R, modules * sketch * rank) and mean states (B, d) of rows that may share a pass."""
        model, lengths = self.encoder.model, np.array([len(row) for row in ids])
        tokens = torch.from_numpy(np.concatenate(ids)).to(self.encoder.device)
        self.lengths = torch.from_numpy(lengths).to(tokens.device)
        modules = [model.get_submodule(name) for name in self.names]
        handles = [module.register_forward_hook(self._tap(place)) for place, module in enumerate(modules)]
        try:
            with attention_for_gradients(tokens.device, int(lengths.max())):
                if lengths.max() <= self.encoder.packs:
                    output = run_packed(model, tokens, Packed(lengths))
                else:
                    output = model(input_ids=tokens.view(len(ids), -1), use_cache=False)
            states, found = output.last_hidden_state, []
            share = (1 / self.lengths.to(self.like)).repeat_interleave(self.lengths)  # of a token in the mean
            for number, direction in enumerate(self.directions, 1):
                self.parts = [0] * len(modules)
                slope = torch.outer(share, direction).to(states.dtype).view_as(states)  # df/dh_t
                torch.autograd.grad(states, self.leaves, slope, retain_graph=number < len(self.directions))
                found.append(torch.cat(self.parts, 1))  # type: ignore[arg-type]
        finally:
            self.leaves = []
            for handle in handles:
                handle.remove()
        return torch.stack(found, 1), self._rows(states.detach().flatten(0, 1).to(self.like), "mean")

    def _tap(self, place: int):
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            A, P = self._projections(place, args[0].shape[-1], output.shape[-1])
            low = args[0].detach().flatten(0, -2).to(self.like) @ A.mT
            if not output.requires_grad:
                self.leaves.append(output.requires_grad_())

            def collect(gradient: Tensor) -> None:
                g = gradient.flatten(0, -2).to(self.like)
                g = g if P is None else g @ P
                self.parts[place] += self._rows((g[:, :, None] * low[:, None]).flatten(1), "sum")

            output.register_hook(collect)

        return hook

    def _rows(self, values: Tensor, reduce: str) -> Tensor:
        """Values (N, k) of tokens reduced to their rows (B, k)."""
        return torch.segment_reduce(values, reduce, lengths=self.lengths)

    def _projections(self, place: int, inputs: int, outputs: int) -> tuple:
        """A (rank, inputs), drawn as PEFT does, and P (outputs, sketch) or None of a module."""
        if place not in self.projections:
            draw = torch.Generator().manual_seed(self.seed * 2**20 + place)
            A, P = torch.empty(self.rank, inputs), None
            nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=draw)
            if self.sketch is not None:
                signs = 2 * torch.randint(0, 2, (outputs, self.sketch), generator=draw) - 1
                P = signs.to(self.like) / math.sqrt(self.sketch)
            self.projections[place] = A.to(self.like), P
        return self.projections[place]


def directions_among(states: Tensor, count: int, kind: str, seed: int) -> Tensor:
    """(count, d): principal components, or random ones, of states (n, d) whose coordinates have unit variance; scaled
    so that <r, m> has unit variance, too."""
    states = states.double()
    deviation, mean = torch.std_mean(states, 0)
    inverse = torch.where(deviation > 0, 1 / deviation, 0.0)
    if kind == "principal":
        chosen = torch.linalg.svd((states - mean) * inverse, full_matrices=False).Vh[:count]
    else:
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randn(count, states.shape[1], generator=draw, dtype=states.dtype)
    chosen = chosen * inverse
    return chosen / (states @ chosen.mT).std(0)[:, None]


class FeaturePass:
    """The gradients of all rows of a task, train first, into one file; after a kill it goes on with the missing rows.

    The file grows as `.NAME.partial`: `features` (n, R, D), `states` (n, d), `tokens` (n,), 0 for rows to be done,
    `directions` (R, d), and `cost` (3,): seconds of this work, added up over processes, and what a forward pass takes:
    seconds of plain ones over some of the batches, and their tokens. Memory: the activations of a batch.
    """

    def __init__(self, task: Task, path: Path, identity: Mapping[str, Any], budget: int | None):
        self.task, self.path, self.identity = task, path, identity
        self.partial = path.with_name(f".{path.name}.partial")
        self.settings: dict[str, Any] = identity["settings"]
        self.budget = budget or default_budget(task.model.device) // 4  # activations are kept
        self.ids = [*task.ids("train"), *task.ids("test")]
        self.lengths = np.array([len(row) for row in self.ids])
        self.names = target_modules(task.model.encoder.model, self.settings["lora_targets"], 0)

    def run(self) -> None:
        encoder, lengths, fresh = self.task.model.encoder, self.lengths, list[np.ndarray]()
        directions, done = processes.from_first(self._begun)
        sketch = [self.settings[name] for name in ("rank", "sketch", "seed")]
        gradients = Gradients(encoder, self.names, directions, *sketch)
        batches = (rows for rows in plan_batches(lengths, self.budget) if not done[rows].all())
        left = [rows[some] for rows in batches for some in encoder.passes(lengths[rows])]
        self.clock, self.counted, self.cost = CheckpointClock(), time.monotonic(), np.zeros(3)
        title = f"{self.task.model.name} x {self.task.data.name}"
        with console.progress(int(lengths.sum()), "token", title, int(lengths[done].sum())) as bar:
            for start in range(0, len(left), processes.count()):
                shares = left[start : start + processes.count()]
                mine = shares[processes.rank() :][:1]
                if start % (TIMED * processes.count()) == 0:
                    self._time_forward(mine)
                own = [(rows, *self._batch(gradients, rows)) for rows in mine]
                for rows, features, states in sum(processes.gather(own), []):
                    arrays = array_files.maps(self.partial)
                    arrays["features"][rows], arrays["states"][rows] = features, states
                fresh += shares
                bar.update(int(sum(lengths[rows].sum() for rows in shares)))
                if processes.first() and (self.clock.due() or start + len(shares) == len(left)):
                    self._checkpoint(np.concatenate(fresh))
                    fresh = []
        if processes.first():
            array_files.finish(self.partial, self.path)

    def _batch(self, gradients: Gradients, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        told = f"out of memory with {self.lengths[rows].sum()} tokens in a batch: use a smaller --tokens_per_batch"
        what = f"no gradients of {self.names[0]} and others"
        remedy = "take --lora_targets that see every token"
        with enough_memory(told), boundary(what, remedy):
            features, states = gradients.of([self.ids[row] for row in rows])
        if not features.isfinite().all():
            raise UserError("gradients that are not finite: 16-bit passes can overflow: try --dtype float32")
        return features.float().cpu().numpy(), states.float().cpu().numpy()

    def _begun(self) -> tuple[Tensor, np.ndarray]:
        """Directions, and which rows are done, of an interrupted pass or of a new one."""
        try:
            about = provenance.read(self.partial, KIND)
            provenance.check_same("it is of another run", about["identity"], self.identity)
        except UserError as error:
            if self.partial.exists():
                console.say(f"{self.partial} cannot be used, starting over: {error}")
            self._begin()
        arrays = array_files.maps(self.partial)
        return torch.from_numpy(np.array(arrays["directions"])), np.array(arrays["tokens"] > 0)

    def _begin(self) -> None:
        """Directions from a pilot: a forward pass over some train rows."""
        started, settings, n = time.monotonic(), self.settings, len(self.ids)
        ids = self.task.ids("train")
        found = [settings[name] for name in ("directions", "directions_of", "seed")]
        directions = directions_among(self._states(ids[:: -(-len(ids) // PILOT)]), *found)
        width = len(self.names) * settings["rank"] * settings["sketch"]
        layout = {
            "features": ("F32", (n, len(directions), width)), "states": ("F32", (n, directions.shape[1])),
            "tokens": ("I64", (n,)), "directions": ("F64", tuple(directions.shape)), "cost": ("F64", (3,)),
        }  # fmt: skip
        self.partial.unlink(missing_ok=True)
        atomic_files.check_space(self.path.parent, array_files.layout_bytes(layout))
        with atomic_files.written(self.partial) as temporary:
            array_files.create(temporary, layout, provenance.of(KIND, self.identity, **self.task.record()))
            arrays = array_files.maps(temporary)
            arrays["directions"][...] = directions
            arrays["cost"][0] = time.monotonic() - started

    def _states(self, ids: Sequence[np.ndarray]) -> Tensor:
        """Mean states (n, d) of a plain forward pass."""
        try:
            return torch.from_numpy(self.task.model.states(list(ids)))
        except NotFinite:  # its row is one of these
            raise UserError("states that are not finite: try --dtype float32") from None

    def _time_forward(self, batches: Sequence[np.ndarray]) -> None:
        for rows in batches:
            began = time.monotonic()
            self._states([self.ids[row] for row in rows])
            spent = time.monotonic() - began
            self.cost += -spent, spent, self.lengths[rows].sum()  # that is no part of the work

    def _checkpoint(self, rows: np.ndarray) -> None:
        """Features first, so that no row counts as done that is not on the disk."""
        now = time.monotonic()
        atomic_files.sync(self.partial)
        arrays = array_files.maps(self.partial)
        arrays["tokens"][rows] = self.lengths[rows]
        arrays["cost"] += (self.cost + (now - self.counted, 0, 0)) * (processes.count(), 1, 1)
        atomic_files.sync(self.partial)
        self.counted, self.cost = now, np.zeros(3)
        self.clock.wrote(now)


def feature_blocks(path: Path, direction: int, whole: int = 1) -> Iterator[Tensor]:
    """The features of one direction in blocks of columns (rows, up to COLUMNS), a multiple of `whole` in each."""
    size = max(COLUMNS // whole, 1) * whole
    with safe_open(path, "pt") as file:
        features = file.get_slice("features")
        for start in range(0, features.get_shape()[2], size):
            yield features[:, direction : direction + 1, start : start + size][:, 0]
