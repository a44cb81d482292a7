"""What a run will take, before it runs: memory, disk, operations and time, from a model's outline and its texts."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ntps.accuracies.registry import METHOD
from ntps.commands.outline import Batches, Outline, moments_flops
from ntps.errors import UserError
from ntps.flags import Caching
from ntps.models.loading import pick_device
from ntps.moments.batches import plan_batches, tokenize
from ntps.moments.file import moments_layout
from ntps.moments.passes import check_parts
from ntps.moments.source import default_budget
from ntps.moments.sums import Moments
from ntps.run.cli import for_each_pair
from ntps.system import storage
from ntps.texts.dataset import Dataset, find_description, load_dataset
from ntps.texts.description import read_description

Flags = Mapping[str, Any]  # of a script, by name
ASSUMED = {"train": 10_000, "test": 10_000, "tokens": 32, "classes": 10}  # of texts that are not here
CHARACTERS_PER_TOKEN = 4  # where the texts are here but the tokenizer is not
EVALUATION_BATCH = 16  # as in ntps.accuracies.finetuning, which takes seconds to import
UPDATES = {"cpu": 1e8}  # numbers that Adafactor updates a second, about
UPDATES_ELSEWHERE = 3e9
VALIDATION = 0.1  # of the train texts, as in ntps.accuracies.task


@dataclass
class Texts:
    """Lengths in tokens of every split's texts, columns of the target, and what had to be assumed."""

    name: str
    lengths: dict[str, np.ndarray]
    targets: int
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        every = np.concatenate(list(self.lengths.values()))
        self.count, self.tokens, self.longest = len(every), int(every.sum()), int(every.max())


@functools.cache
def texts_of(dataset: str) -> Dataset | None:
    """The data set, if its texts are here."""
    with contextlib.suppress(UserError):
        return load_dataset(dataset)
    return None


def planned_texts(
    dataset: str, outline: Outline, splits: Sequence[str], flags: Flags, read: bool = True
) -> Texts:
    """The texts of some splits, or what their description says of them; read=False does not look for them."""
    data, limit, where = texts_of(dataset) if read else None, flags.get("limit"), find_description(dataset)
    if data:
        texts = {split: data.select(split, limit, flags.get("seed", 42)).texts for split in splits}
        lengths = {split: in_tokens(rows, outline) for split, rows in texts.items()}
        assumed = f"its tokenizer is not here: {CHARACTERS_PER_TOKEN} characters a token"
        return Texts(where.stem, lengths, data.targets, [] if outline.tokenizer else [assumed])
    described = read_description(where)[1].get("size", {})
    size = ASSUMED | described
    tokens = min(size["tokens"], outline.max_length)
    rows = {split: size.get(split, size["test"]) for split in splits}  # validation: about as many as test
    lengths = {split: np.full(min(limit or count, count), tokens) for split, count in rows.items()}
    counts = " and ".join(f"{len(n)} {split}" for split, n in lengths.items())
    counts += f" texts of {tokens} tokens, {size['classes']} classes"
    source = "its description's size" if described else "no size in its description"
    notes = [f"its texts are not here: {counts} ({source})"]
    notes += [f"no size of {split}: that of test" for split in splits if split not in size]
    return Texts(where.stem, lengths, size["classes"], notes)


def in_tokens(texts: Sequence[str], outline: Outline) -> np.ndarray:
    """Lengths of texts in tokens, by the tokenizer if it is here, else from their characters."""
    if outline.tokenizer is None:
        return np.array([2 + len(t) // CHARACTERS_PER_TOKEN for t in texts]).clip(max=outline.max_length)
    vocabulary = outline.config.get_text_config().vocab_size
    ids, _ = tokenize(texts, outline.tokenizer, outline.max_length, vocabulary)
    return np.array([len(tokens) for tokens in ids])


# --- one pair ------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Of one script, model and data set: memory in bytes, on the device; work in operations, by kind."""

    texts: Texts
    weights: int
    sums: int  # moments; for trainers what is trained, its gradients and the optimizer's numbers
    per_token: int  # temporaries, or what a backward pass needs: a bound
    batches: Batches
    disk: int
    work: dict[str, float]
    updated: float = 0.0  # parameters that optimizer steps update, over all steps

    @property
    def batch(self) -> int:
        """Bytes of the largest batch."""
        return self.per_token * max(int(n.sum()) for n in self.batches)

    @property
    def memory(self) -> int:
        return self.weights + self.sums + self.batch

    def largest(self, free: int) -> int:
        """Tokens of the largest batch that fits, with their padding where texts are padded."""
        return max(0, (free - self.weights - self.sums) // self.per_token)

    def seconds(self, speed: float, device: str) -> float:
        """About; a backward pass and the moments are taken to run at the forward pass's operations a second."""
        return sum(self.work.values()) / speed + self.updated / UPDATES.get(device, UPDATES_ELSEWHERE)


def plan_pair(script: str, outline: Outline, dataset: str, flags: Flags, read: bool = True) -> Plan:
    """What a script takes for one model and data set; `read` as for planned_texts."""
    splits = flags["splits"] if script == "cache" else ("train", "test")
    texts = planned_texts(dataset, outline, splits, flags, read)
    if script == "cache":
        return plan_cache(outline, texts, flags)
    trains = METHOD[script].trains
    return (
        plan_linear(outline, texts, flags)
        if trains == "head"
        else plan_training(outline, texts, flags, trains == "adapter")
    )


def plan_cache(outline: Outline, texts: Texts, flags: Flags) -> Plan:
    """cache.py: one forward pass over every split, and the moments of every layer."""
    caching = Caching(**{name: flags[name] for name in ("label_permutations", "partitions", "shard")})
    R, (shard, parts) = caching.label_permutations, caching.parts
    budget = flags["tokens_per_batch"] or default_budget(outline.device)
    layers, d, planned, moments, sums, disk = outline.layers, outline.width, [], 0.0, 0, 0
    for split, lengths in texts.lengths.items():
        check_parts(caching, split, len(lengths))
        shares = [lengths[part::parts] for part in (range(parts) if shard is None else [shard - 1])]
        batches = [share[rows] for share in shares for rows in plan_batches(share, budget)]
        prefix = split == "train" or flags["prefix_moments"] == "all"
        empty = Moments(layers, d, texts.targets, R, prefix, "meta")
        sums = max(sums, empty.nbytes)
        disk += (len(shares) + (len(shares) > 1)) * storage.layout_bytes(moments_layout(empty))
        if flags["keep_states"]:
            disk += len(layers) * sum(map(len, shares)) * d * max(4, outline.dtype.itemsize)
        moments += len(layers) * moments_flops(d, texts.targets, R, prefix, batches)
        planned += batches
    work = {"forward": outline.forward_flops(planned), "moments": moments}
    return Plan(texts, outline.weight_bytes, sums, outline.batch_bytes, planned, disk, work)


def plan_linear(outline: Outline, texts: Texts, flags: Flags) -> Plan:
    """linear_training.py: one forward pass over every text; its head costs next to nothing beside it."""
    budget = default_budget(outline.device)
    batches = [n[rows] for n in texts.lengths.values() for rows in plan_batches(n, budget)]
    work = {"forward": outline.forward_flops(batches)}
    states = 4 * outline.width * texts.count
    return Plan(texts, outline.weight_bytes, states, outline.batch_bytes, batches, 0, work)


def plan_training(outline: Outline, texts: Texts, flags: Flags, lora: bool) -> Plan:
    """from_scratch.py or, with lora, lora_finetuning.py: all seeds, one after the other.

    With F the operations of a forward pass, a step takes 3 F where all is trained; with LoRA 2 F, as frozen matrices
    have no gradient, + 6 x trained numbers x tokens. Trained numbers have float32 weights and gradients, Adafactor's means
    of squares (by row and by column of a matrix), and copies for a 16-bit forward pass.
    """
    rows, steps, seeds = flags["batch_size"], flags["max_steps"], len(flags["seeds"])
    train, test = texts.lengths["train"], texts.lengths["test"]
    shapes = outline.trained_shapes(flags, lora)
    trained = sum(map(math.prod, shapes))
    means = 4 * sum(sum(shape) if len(shape) == 2 else math.prod(shape) for shape in shapes)
    work, copies = outline.forward_flops, 2 * trained if outline.dtype.itemsize == 2 else 0

    batches = padded(train, rows)
    epoch = (2 if lora else 3) * work(batches) + lora * 6.0 * trained * sum(int(n.sum()) for n in batches)
    epochs = seeds * steps * flags["gradient_accumulation"] * rows / len(train)
    at_once, times = max(rows, EVALUATION_BATCH), steps // flags["eval_every"]
    watched = train[: math.ceil(VALIDATION * len(train))]
    if flags["released_protocol"]:
        watched, times = test, max(0, times - 1)
    scores = seeds * (work(padded(test, at_once)) + times * work(padded(watched, at_once)))
    checkpoints = 2 * (4 * trained + means)  # while it runs
    return Plan(
        texts, lora * outline.weight_bytes, 8 * trained + means + copies, outline.training_bytes, batches,
        disk=checkpoints + lora * seeds * 4 * trained, work={"training": epochs * epoch, "forward": scores},
        updated=float(seeds * steps * trained),
    )  # fmt: skip


def padded(lengths: np.ndarray, rows: int) -> Batches:
    """Batches of `rows` texts of similar length, padded to the longest, as the trainers make them."""
    ordered = np.sort(lengths)[::-1]
    return [np.full_like(n, n.max()) for n in np.split(ordered, range(rows, len(ordered), rows))]


# --- does it fit ---------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Bytes that a new process could use: of the accelerator, else of the machine or its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - used)
    return free


def complaint(script: str, plan: Plan, outline: Outline, free: int, room: int) -> str | None:
    """Why a plan does not fit into free bytes of memory and `room` on disk, and what to change; None where it does."""
    if plan.disk > room:
        fewer = ", fewer --layers or --label_permutations" if script == "cache" else ""
        return f"the output takes {size(plan.disk)}, {size(room)} are free: another --output{fewer}"
    if plan.memory <= free:
        return None
    change = advice(script, plan, outline, free)
    return f"needs {size(plan.memory)} of memory, {size(free)} are free: {change}"


def advice(script: str, plan: Plan, outline: Outline, free: int) -> str:
    """A smaller batch, else fewer layers, else a smaller model."""
    tokens, longest, layers = plan.largest(free), plan.texts.longest, outline.layers
    if tokens >= longest and script == "cache":
        return f"--tokens_per_batch {tokens}"
    if tokens >= longest:
        rows = f"--batch_size {tokens // longest} with --gradient_accumulation, or "
        rows = "" if script == "linear_training" else rows
        return f"{rows}a smaller --max_length: a batch may have {tokens} tokens with their padding"
    count = int(len(layers) * (free - plan.weights - plan.per_token * longest) / plan.sums)
    if script == "cache" and count > 0:
        some = ",".join(map(str, layers[:: -(-len(layers) // count)]))
        return f"--layers {some} (at most {count} at a time)"
    wide = outline.dtype.itemsize > 2 and script != "from_scratch"
    return f"{'--dtype bfloat16, or ' if wide else ''}a smaller model or a larger device"


# --- what --plan prints --------------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"


def print_plan(script: str, flags: Flags) -> int:
    """Print the plan of every model and data set for a script's flags; exit code 1 if one fails or does not fit."""
    device, room = pick_device(flags["device"]), storage.free_space(Path(flags["output"]))
    free = free_memory(device)  # now: what is timed below stays in an accelerator's cache
    speeds: dict[str, float] = {}
    seconds, disk, faults = [], [], []

    @functools.cache
    def outline_of(name: str) -> Outline:
        outline = Outline(name, flags, device)
        print_model(outline, free)
        return outline

    def work(name: str, dataset: str) -> None:
        outline = outline_of(name)
        plan = plan_pair(script, outline, dataset, flags)
        if name not in speeds:
            speeds[name] = outline.measured(plan.batches)
            print(f"  measured on this device: about {speeds[name] / 1e9:.3g} GFLOP/s")
        seconds.append(plan.seconds(speeds[name], device.type))
        disk.append(plan.disk)
        print_pair(script, plan, seconds[-1], free)
        if fault := complaint(script, plan, outline, free, room):
            faults.append(fault)
            print(f"    DOES NOT FIT: {fault}")

    failed = for_each_pair(flags["models"], flags["datasets"], work)
    requested = len(flags["models"]) * len(flags["datasets"])
    pairs = f"{len(disk)} pairs" if len(disk) == requested else f"{len(disk)} of the {requested} pairs"
    print(f"\n{pairs}, one after the other: about {duration(sum(seconds))}, {size(sum(disk))} on disk")
    return int(failed or bool(faults))


def print_model(outline: Outline, free: int) -> None:
    dtype = str(outline.dtype).removeprefix("torch.")
    print(
        f"\n{outline.name}: {outline.parameters / 1e6:.1f} M parameters without head, {len(outline.blocks)} blocks, "
        f"d = {outline.width}; {dtype} on {outline.device}, {size(free)} free"
    )
    for note in outline.notes:
        print(f"  assumed: {note}")


def print_pair(script: str, plan: Plan, seconds: float, free: int) -> None:
    texts, work = plan.texts, ", ".join(f"{kind} {count:.2g}" for kind, count in plan.work.items())
    held = "moments" if script == "cache" else "trained weights, gradients, optimizer"
    print(
        f"  {texts.name}: {texts.count} texts, {texts.tokens} tokens; about {duration(seconds)}; {size(plan.disk)} on disk\n"
        f"    memory about {size(plan.memory)}: weights {size(plan.weights)}, {held} {size(plan.sums)}, "
        f"batch about {size(plan.batch)}; largest batch about {plan.largest(free)} tokens\n    operations: {work}"
    )
    for note in texts.notes:
        print(f"    assumed: {note}")
