"""What a run will take, before it runs: memory, disk, operations and time, from a model's outline and its texts."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ntps.commands.block import Speed, measured, training_bytes
from ntps.commands.outline import Batches, Outline, batch_bytes, forward_flops, moments_flops
from ntps.errors import UserError
from ntps.flags import Caching
from ntps.models.loading import pick_device
from ntps.moments.batches import plan_batches, tokenize
from ntps.moments.file import moments_layout
from ntps.moments.passes import check_parts
from ntps.moments.source import default_budget
from ntps.moments.sums import Moments
from ntps.system import storage
from ntps.texts.dataset import Dataset, find_description, load_dataset
from ntps.texts.description import read_description

ASSUMED = {"train": 10_000, "test": 10_000, "tokens": 32, "classes": 10}  # of texts that are not here
CHARACTERS_PER_TOKEN = 4  # where the texts are here but the tokenizer is not
EVALUATION_BATCH = 16  # as in ntps.training, which takes seconds to import
WATCHED = 0.1  # of the train texts, as in ntps.accuracy


# --- the texts -----------------------------------------------------------------------------------------------------


@functools.cache
def texts_of(dataset: str) -> Dataset | UserError:
    """The data set, or why it is not here."""
    try:
        return load_dataset(dataset)
    except UserError as error:
        return error


@dataclass
class Texts:
    """Lengths in tokens of the texts of every split, columns of the target, and what had to be assumed."""

    name: str
    lengths: dict[str, np.ndarray]
    targets: int
    notes: list[str] = field(default_factory=list)

    @property
    def longest(self) -> int:
        return max(int(n.max()) for n in self.lengths.values())

    @property
    def facts(self) -> dict[str, Any]:
        """What every plan of these texts says."""
        rows = self.lengths.values()
        counts = {
            "texts": sum(map(len, rows)),
            "tokens": int(sum(n.sum() for n in rows)),
            "classes": self.targets,
        }
        return counts | {"dataset": self.name, "longest": self.longest, "notes": self.notes}


def planned_texts(
    dataset: str, outline: Outline, splits: Sequence[str], flags: Mapping[str, Any], read: bool = True
) -> Texts:
    """Tokens counted where texts and tokenizer are here; else from the characters, or from sizes and --limit.

    read=False does not look for the texts.
    """
    data, limit, where = texts_of(dataset) if read else None, flags.get("limit"), find_description(dataset)
    notes: list[str] = []
    if isinstance(data, Dataset):
        chosen = {split: data.select(split, limit, flags.get("seed", 42)).texts for split in splits}
        if outline.tokenizer is None:
            notes.append(f"its tokenizer is not here: {CHARACTERS_PER_TOKEN} characters a token assumed")
            lengths = {k: np.array([2 + len(text) // CHARACTERS_PER_TOKEN for text in texts]).clip(max=outline.max_length)
                       for k, texts in chosen.items()}  # fmt: skip
        else:
            rules = outline.tokenizer, outline.max_length, outline.config.get_text_config().vocab_size
            ids = {k: tokenize(v, *rules)[0] for k, v in chosen.items()}
            lengths = {k: np.array([len(tokens) for tokens in rows]) for k, rows in ids.items()}
        return Texts(where.stem, lengths, data.targets, notes)
    _, description = read_description(where)
    size = ASSUMED | description.get("size", {})
    tokens = min(size["tokens"], outline.max_length)
    known = {split: size.get(split, size["test"]) for split in splits}  # validation: about as many as test
    lengths = {split: np.full(min(limit or count, count), tokens) for split, count in known.items()}
    rows = " and ".join(f"{len(n)} {split}" for split, n in lengths.items())
    source = "its description's size" if "size" in description else "no size in its description"
    notes.append(
        f"its texts are not here: {rows} texts of {tokens} tokens, {size['classes']} classes assumed ({source})"
    )
    if unknown := [split for split in splits if split not in size]:
        notes.append(f"no size of {', '.join(unknown)}: that of test")
    return Texts(where.stem, lengths, size["classes"], notes)


# --- one pair ------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Of one script, model and data set. Memory in bytes, on the device; work in operations, by kind."""

    dataset: str
    texts: int
    tokens: int
    classes: int
    weights: int
    sums: int  # moments; for trainers what is trained, its gradients and the optimizer's numbers
    batch: int  # the largest batch's temporaries, or what autograd keeps of it
    per_token: int  # of batch
    disk: int
    work: dict[str, float]
    typical: tuple[int, int]  # texts of a middling batch and their tokens on average
    longest: int  # tokens of the longest text
    notes: list[str]
    updated: float = 0.0  # parameters that optimizer steps update, over all steps

    @property
    def memory(self) -> int:
        return self.weights + self.sums + self.batch

    def largest(self, free: int) -> int:
        """Tokens of the largest batch that fits, with their padding where texts are padded."""
        return max(0, (free - self.weights - self.sums) // self.per_token)

    def seconds(self, speed: Speed) -> float:
        moments = self.work.get("moments", 0.0)
        return (
            (sum(self.work.values()) - moments) / speed.forward
            + moments / speed.moments
            + self.updated / speed.updates
        )


def middling(batches: Batches) -> tuple[int, int]:
    """Texts, and their tokens on average, of the batch that the middle token lies in."""
    sizes = np.cumsum([n.sum() for n in batches])
    n = batches[int(np.searchsorted(sizes, sizes[-1] / 2))]
    return len(n), round(n.mean())


def plan_cache(outline: Outline, texts: Texts, flags: Mapping[str, Any]) -> Plan:
    """Plan of cache.py: one forward pass over every split, and the moments of every layer."""
    names = ("partitions", "shard", "label_permutations")
    caching = Caching(**{name: flags[name] for name in names})
    R, (shard, parts) = flags["label_permutations"], caching.parts
    budget = flags["tokens_per_batch"] or default_budget(outline.device)
    per_token, layers, d = batch_bytes(outline), outline.layers, outline.width
    work, sums, disk, planned = {"forward": 0.0, "moments": 0.0}, 0, 0, []
    for split, lengths in texts.lengths.items():
        check_parts(caching, split, len(lengths))
        apart = [lengths[part::parts] for part in range(parts)]
        apart = apart if shard is None else [apart[shard - 1]]
        lengths = np.concatenate(apart)
        prefix = split == "train" or flags["prefix_moments"] == "all"
        batches = [own[rows] for own in apart for rows in plan_batches(own, budget)]
        planned += batches
        work["forward"] += forward_flops(outline.weights, outline.attention, batches)
        work["moments"] += len(layers) * moments_flops(d, texts.targets, R, prefix, batches)
        empty = Moments(layers, d, texts.targets, R, prefix, "meta")
        sums = max(sums, empty.nbytes)
        disk += (1 if shard else parts + (parts > 1)) * storage.layout_bytes(moments_layout(empty))
        disk += flags["keep_states"] * len(layers) * len(lengths) * d * max(4, outline.dtype.itemsize)
    largest = max(int(n.sum()) for n in planned)
    return Plan(
        **texts.facts, weights=outline.weight_bytes, sums=sums, batch=per_token * largest, per_token=per_token,
        disk=disk, work=work, typical=middling(planned),
    )  # fmt: skip


def plan_linear(outline: Outline, texts: Texts, flags: Mapping[str, Any]) -> Plan:
    """Plan of linear_training.py: one forward pass over every text; its head costs next to nothing beside it."""
    budget, per_token = default_budget(outline.device), batch_bytes(outline)
    batches = [n[rows] for n in texts.lengths.values() for rows in plan_batches(n, budget)]
    states = 4 * outline.width * sum(map(len, texts.lengths.values()))
    return Plan(
        **texts.facts, weights=outline.weight_bytes, sums=states, per_token=per_token,
        batch=per_token * max(int(n.sum()) for n in batches), disk=0,
        work={"forward": forward_flops(outline.weights, outline.attention, batches)}, typical=middling(batches),
    )  # fmt: skip


def plan_training(outline: Outline, texts: Texts, flags: Mapping[str, Any], lora: bool) -> Plan:
    """Plan of lora_finetuning.py or from_scratch.py, all seeds.

    With F the operations of a forward pass, a step takes 3 F where all is trained; with LoRA 2 F, as frozen matrices
    have no gradient, + 6 x trained numbers x tokens.
    """
    rows, steps, released = flags["batch_size"], flags["max_steps"], flags["released_protocol"]
    train, test = texts.lengths["train"], texts.lengths["test"]
    trained, sums, per_token = training_bytes(outline, outline.lora(flags) if lora else None)
    seeds = len(flags["seeds"])

    def work(batches: Batches) -> float:
        return forward_flops(outline.weights, outline.attention, batches)

    batches = _consecutive(train, rows)
    epochs = seeds * steps * flags["gradient_accumulation"] * rows / len(train)
    training = epochs * (2 if lora else 3) * work(batches)
    if lora:
        training += epochs * 6 * trained * sum(int(n.sum()) for n in batches)
    watched = test if released else train[: math.ceil(WATCHED * len(train))]
    scores = [_consecutive(n, max(rows, EVALUATION_BATCH)) for n in (test, watched)]
    evaluation = work(scores[0]) + work(scores[1]) * max(0, steps // flags["eval_every"] - released)
    checkpoints = 2 * (sums - 4 * trained)  # weights and optimizer, while it runs
    return Plan(
        **texts.facts, weights=outline.weight_bytes if lora else 0, sums=sums, per_token=per_token,
        batch=per_token * rows * texts.longest, disk=checkpoints + lora * seeds * 4 * trained,
        work={"training": training, "forward": seeds * evaluation}, updated=float(seeds * steps * trained),
        typical=middling(batches),
    )  # fmt: skip


def _consecutive(lengths: np.ndarray, rows: int) -> Batches:
    """Batches of `rows` texts of similar length, padded to the longest, as the trainers make them."""
    ordered = np.sort(lengths)[::-1]
    return [np.full_like(n, n.max()) for n in np.split(ordered, range(rows, len(ordered), rows))]


def plan_pair(
    script: str, outline: Outline, dataset: str, flags: Mapping[str, Any], read: bool = True
) -> Plan:
    """What a script takes for one model and data set; `read` as for planned_texts."""
    splits = flags["splits"] if script == "cache" else ("train", "test")
    texts = planned_texts(dataset, outline, splits, flags, read)
    if script == "cache":
        return plan_cache(outline, texts, flags)
    if script == "linear_training":
        return plan_linear(outline, texts, flags)
    return plan_training(outline, texts, flags, script == "lora_finetuning")


# --- does it fit ---------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Bytes that a new process could use: of the accelerator, else of the machine or its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        free = min(
            free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        )
    except (OSError, ValueError):
        pass  # no control group, or one without a limit
    return free


def complaint(script: str, plan: Plan, outline: Outline, free: int, disk: int) -> str | None:
    """Why a plan does not fit, and what to change; None where it does."""
    if plan.disk > disk:
        fewer = ", fewer --layers or --label_permutations" if script == "cache" else ""
        return f"the output takes {size(plan.disk)}, {size(disk)} are free: another --output{fewer}"
    if plan.memory <= free:
        return None
    least = plan.per_token * plan.longest
    said = f"needs {size(plan.memory)} of memory, {size(free)} are free: "
    if plan.weights + least > free or (script == "from_scratch" and plan.sums + least > free):
        wide = outline.dtype.itemsize > 2 and script != "from_scratch"
        return f"{said}{'--dtype bfloat16, or ' if wide else ''}a smaller model or a larger device"
    if plan.weights + plan.sums + least > free:
        count = int(len(outline.layers) * (free - plan.weights - least) / plan.sums)
        if script != "cache" or not count:
            return f"{said}a larger device"
        some = outline.layers[:: -(-len(outline.layers) // count)]
        return f"{said}--layers {','.join(map(str, some))} (at most {count} at a time)"
    tokens = plan.largest(free)
    if script == "cache":
        return f"{said}--tokens_per_batch {tokens}"
    if script == "linear_training":
        return f"{said}--max_length below {tokens}, or a larger device"
    rows = tokens * plan.typical[0] // (plan.batch // plan.per_token)
    smaller = f"--batch_size {rows} with --gradient_accumulation, or " if rows else ""
    return f"{said}{smaller}a smaller --max_length: a batch may have {tokens} padded tokens"


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


def print_plan(script: str, flags: Mapping[str, Any]) -> int:
    """Print the plan of every model and data set for a script's flags; exit code 1 if one fails or does not fit."""
    device, bad, seconds, disk, pairs = pick_device(flags["device"]), 0, 0.0, 0, 0
    for name in flags["models"]:
        try:
            outline = Outline(name, flags, device)
        except UserError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            bad += 1
            continue
        free, room, speed = free_memory(device), storage.free_space(Path(flags["output"])), None
        kind = str(outline.dtype).removeprefix("torch.")
        print(
            f"\n{outline.name}: {outline.parameters / 1e6:.1f} M parameters without head, {len(outline.blocks)} blocks, "
            f"d = {outline.width}; {kind} on {device}, {size(free)} free"
        )
        for note in outline.notes:
            print(f"  assumed: {note}")
        for dataset in flags["datasets"]:
            try:
                plan = plan_pair(script, outline, dataset, flags)
                if speed is None:
                    R = flags.get("label_permutations", 0)
                    speed = measured(script, outline, plan.typical, plan.classes, R)
                    print(f"  measured on this device: {speed}")
            except UserError as error:
                print(f"error: {name} x {dataset}: {error}", file=sys.stderr)
                bad += 1
                continue
            seconds, disk, pairs = seconds + plan.seconds(speed), disk + plan.disk, pairs + 1
            say(script, plan, plan.seconds(speed), free)
            if fault := complaint(script, plan, outline, free, room):
                print(f"    DOES NOT FIT: {fault}")
                bad += 1
    asked = len(flags["models"]) * len(flags["datasets"])
    part = f" of the {asked}" if pairs < asked else ""
    print(f"\n{pairs}{part} pairs, one after the other: about {duration(seconds)}, {size(disk)} on disk")
    return int(bad > 0)


def say(script: str, plan: Plan, seconds: float, free: int) -> None:
    """The lines of one pair."""
    held = "moments" if script == "cache" else "trained weights, gradients, optimizer"
    work = ", ".join(f"{kind} {count:.2g}" for kind, count in plan.work.items())
    print(
        f"  {plan.dataset}: {plan.texts} texts, {plan.tokens} tokens; about {duration(seconds)}; {size(plan.disk)} on disk"
    )
    print(f"    memory {size(plan.memory)}: weights {size(plan.weights)}, {held} {size(plan.sums)}, batch {size(plan.batch)}; "
          f"largest batch {plan.largest(free)} tokens")  # fmt: skip
    print(f"    operations: {work}")
    for note in plan.notes:
        print(f"    assumed: {note}")
