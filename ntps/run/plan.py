"""What a run will take, before it runs: memory, disk, operations and time, from a model's shapes and its texts."""

import contextlib
import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.benchmark import Timer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ntps.accuracies.attention import by_formula
from ntps.accuracies.lora import chosen_targets, target_modules
from ntps.accuracies.registry import METHOD
from ntps.accuracies.task import EVALUATION_BATCH, WATCH_EVERY
from ntps.errors import UserError, enough_memory
from ntps.flags import Caching
from ntps.models import loading
from ntps.models.description import resolve_model
from ntps.moments.batches import plan_batches, tokenize
from ntps.moments.encoder import find_blocks
from ntps.moments.file import moments_layout
from ntps.moments.lazy_model import default_budget, parse_layers
from ntps.moments.resumable_pass import check_parts
from ntps.moments.sums import GAP, SCAN, STRIPS, Moments
from ntps.run.cli import for_each_pair
from ntps.system import array_files, atomic_files
from ntps.texts.dataset import Dataset, find_description, load_dataset
from ntps.texts.description import read_description

Flags = Mapping[str, Any]  # of a script, by name
ASSUMED = {"train": 10_000, "test": 10_000, "tokens": 32, "classes": 10}  # of texts that are not here
CHARACTERS_PER_TOKEN = 4  # where the texts are here but the tokenizer is not
TIMED_CPU, TIMED_GPU = 1e10, 1e12  # operations that are timed: well under a second
UPDATES_CPU, UPDATES_GPU = 1e8, 3e9  # numbers that Adafactor updates a second, about


@dataclass(frozen=True)
class Batches:
    """Lengths in tokens of texts, batch after batch and with their padding if there is any, and how many each batch has."""

    lengths: np.ndarray  # (texts,)
    counts: np.ndarray  # (batches,)

    @classmethod
    def of(cls, batches: Sequence[np.ndarray]) -> "Batches":
        return cls(np.concatenate(batches), np.array(list(map(len, batches))))

    @classmethod
    def padded(cls, lengths: np.ndarray, rows: int) -> "Batches":
        """Of `rows` texts of similar length, padded to the longest, as the trainers make them."""
        longest = np.sort(lengths)[::-1][::rows]
        counts = np.diff([*range(0, len(lengths), rows), len(lengths)])
        return cls(np.repeat(longest, counts), counts)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """(batches,)"""
        return np.add.reduceat(self.lengths, self.counts.cumsum() - self.counts)


class Outline:
    """A model's numbers without its weights, and in `notes` what had to be assumed. `flags` are a script's."""

    def __init__(self, name: str, flags: Flags, device: torch.device):
        self.spec, self.device, self.notes = resolve_model(name), device, list[str]()
        self.name = loading.output_name(self.spec, flags.get("adapter"))
        self.dtype = loading.pick_dtype(flags.get("dtype"), self.spec, device)
        try:
            self.config = loading.load_config(self.spec)
        except UserError as error:
            self.config = self.spec.described_config()
            if self.config is None:
                raise UserError(f"{error}. (A plan needs only `architecture:` in the description)") from None
            self.notes.append("config.json cannot be had: planned from `architecture:` in the description")
        self.model = loading.without_weights(self.spec, self.config, self.dtype)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.weight_bytes = self.parameters * self.dtype.itemsize
        self.blocks, self.width = find_blocks(self.model), int(self.config.hidden_size)
        last, layer = len(self.blocks), flags.get("layer")
        self.layers = parse_layers(flags.get("layers", str(last)) if layer is None else str(layer), last)
        matrices = [[p.shape for p in block.parameters() if p.dim() == 2] for block in self.blocks]
        self.block_weights = [sum(map(math.prod, shapes)) for shapes in matrices]
        # Bounds on the bytes that one token takes, with s bytes a number and e the inputs and outputs of a block's matrices:
        # a forward pass with moments s (2 d + e) in the widest block, and max(4, s) (2 (d + GAP) + 2 SCAN) for h_t, c_t and
        # the masks of the sums; a backward pass s e of every block, and 7 d float32 numbers of its norms and sums, as of the
        # last norm (the fused kernels of attention keep no scores)
        ends, s, d = [sum(map(sum, shapes)) for shapes in matrices], self.dtype.itemsize, self.width
        self.batch_bytes = s * (2 * d + max(ends)) + max(4, s) * (2 * (d + GAP) + 2 * SCAN)
        self.training_bytes = s * sum(ends) + 28 * d * (last + 1)
        attending = getattr(self.config, "num_attention_heads", 0)  # none: a recurrent decoder
        heads = getattr(self.config, "num_query_heads", None) or [attending] * last
        dim = getattr(self.config, "head_dim", None) or self.width // (attending or 1)
        self.block_attention, self.heads = [count * dim for count in heads], sum(heads)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        with contextlib.suppress(UserError):
            self.tokenizer = loading.load_tokenizer(self.spec)
        limits = flags.get("max_length"), self.spec.context
        self.max_length = loading.context_length(self.tokenizer, self.config, *limits)

    def attention_bytes(self, longest: int) -> int:
        """What attention by its formula keeps of a token for a backward pass: its weights, and float32 copies of what goes in."""
        if not by_formula(self.device, longest):
            return 0
        return 4 * (self.heads * longest + 3 * sum(self.block_attention))

    def forward_flops(self, batches: Batches, blocks: int | None = None) -> float:
        """Sum over texts of n tokens of 2 P n + 4 A n^2, of the first blocks (None: up to the highest layer).

        P: numbers in the blocks' matrices; A: their sum of heads x head_dim; a multiply-add counts as two. Attention counts
        in full, as torch's FlopCounterMode has it, though only its causal half is needed; what is elementwise does not.
        """
        run = slice(blocks or self.layers[-1])
        weights, attention = sum(self.block_weights[run]), sum(self.block_attention[run])
        n = batches.lengths
        return float((n * (2.0 * weights + 4.0 * attention * n)).sum())

    def measured(self, batches: Batches) -> float:
        """Operations a second of a forward pass here, by one block with random weights on a batch of average size.

        Of a larger batch as many texts as take well under a second. UserError where one block does not fit.
        """
        texts, tokens = len(batches.lengths), int(batches.lengths.sum())
        rows, length = -(-texts // len(batches.counts)), -(-tokens // texts)
        work = self.forward_flops(Batches.of([np.array([length])]), blocks=1)
        rows = max(1, min(rows, int((TIMED_CPU if self.device.type == "cpu" else TIMED_GPU) / work)))
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
    texts, tokens = batches.counts.astype(float), batches.tokens.astype(float)
    blocks = np.where(tokens > SCAN, np.ceil(tokens / SCAN), 0)  # the sums of one need no joining
    work = texts * (gram + 2 * width * targets * (permutations + 1))
    work += 2 * width * (tokens // SCAN * SCAN**2 + (tokens % SCAN) ** 2 + blocks**2)
    work += prefix * (tokens - 1) * (gram + 2 * width**2)
    return float(work.sum())


# --- texts ---------------------------------------------------------------------------------------------------------


@dataclass
class Texts:
    """Lengths in tokens of every split's texts, columns of the target, and what had to be assumed."""

    name: str
    lengths: dict[str, np.ndarray]
    targets: int
    notes: list[str] = field(default_factory=list)
    label_sets: bool = False  # several labels a row

    def __post_init__(self) -> None:
        every = np.concatenate(list(self.lengths.values()))
        self.count, self.tokens, self.longest = len(every), int(every.sum()), int(every.max())


@functools.cache
def texts_of(dataset: str) -> Dataset | None:
    """The data set, if its texts are here."""
    with contextlib.suppress(UserError):
        return load_dataset(dataset)
    return None


@functools.cache
def described_size(where: Path) -> dict[str, int]:
    """A description's size:, {} without one."""
    return read_description(where)[1].get("size", {})


def planned_texts(dataset: str, outline: Outline, splits: Sequence[str], flags: Flags, read: bool) -> Texts:
    """The texts of some splits, or what their description says of them; read=False does not look for them."""
    data, limit, where = texts_of(dataset) if read else None, flags.get("limit"), find_description(dataset)
    if data:
        rows = {split: data.select(split, limit, flags.get("seed", 42)).texts for split in splits}
        lengths = {split: in_tokens(texts, outline) for split, texts in rows.items()}
        assumed = f"its tokenizer is not here: {CHARACTERS_PER_TOKEN} characters a token"
        notes = [] if outline.tokenizer else [assumed]
        return Texts(where.stem, lengths, data.targets, notes, data.multilabel)
    described = described_size(where)
    size = ASSUMED | described
    tokens = min(size["tokens"], outline.max_length)
    counts = {split: size.get(split, size["test"]) for split in splits}  # validation: about as many as test
    lengths = {split: np.full(min(limit or count, count), tokens) for split, count in counts.items()}
    source = "its description's size" if described else "no size in its description"
    shown = " and ".join(f"{len(n)} {split}" for split, n in lengths.items())
    what = f"{shown} texts of {tokens} tokens, {size['classes']} classes"
    notes = [f"its texts are not here: {what} ({source})"]
    notes += [f"no size of {split}: that of test" for split in splits if split not in size]
    return Texts(where.stem, lengths, size["classes"], notes)


def in_tokens(texts: Sequence[str], outline: Outline) -> np.ndarray:
    """Lengths of texts in tokens, by the tokenizer if it is here, else from their characters."""
    if outline.tokenizer is None:
        return np.array([2 + len(t) // CHARACTERS_PER_TOKEN for t in texts]).clip(max=outline.max_length)
    file = loading.tokenizer_file(outline.spec, outline.tokenizer)
    outline.tokenizer = loading.truer_tokenizer(outline.spec, outline.tokenizer, file, texts)
    vocabulary = outline.config.get_text_config().vocab_size
    ids, _ = tokenize(texts, outline.tokenizer, outline.max_length, vocabulary)
    return np.array(list(map(len, ids)))


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
        return self.per_token * int(self.batches.tokens.max())

    @property
    def memory(self) -> int:
        return self.weights + self.sums + self.batch

    def largest(self, free: int) -> int:
        """Tokens of the largest batch that fits, with their padding where texts are padded."""
        return max(0, (free - self.weights - self.sums) // self.per_token)

    def seconds(self, speed: float, device: str) -> float:
        """About; a backward pass and the moments are taken to run at the forward pass's operations a second."""
        updates = UPDATES_CPU if device == "cpu" else UPDATES_GPU
        return sum(self.work.values()) / speed + self.updated / updates


def plan_pair(script: str, outline: Outline, dataset: str, flags: Flags, read: bool = True) -> Plan:
    """What a script takes for one model and data set; `read` as for planned_texts."""
    splits = flags["splits"] if script == "cache" else ("train", "test")
    texts = planned_texts(dataset, outline, splits, flags, read)
    if script == "cache":
        return plan_cache(outline, texts, flags)
    if METHOD[script].trains == "head":
        return plan_linear(outline, texts)
    return plan_training(outline, texts, flags, lora=METHOD[script].trains == "adapter")


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
        empty = Moments(layers, d, texts.targets, R, prefix, "meta", texts.label_sets)
        sums = max(sums, empty.nbytes)
        disk += (len(shares) + (len(shares) > 1)) * array_files.layout_bytes(moments_layout(empty))
        if flags["keep_states"]:
            disk += len(layers) * sum(map(len, shares)) * d * max(4, outline.dtype.itemsize)
        moments += len(layers) * moments_flops(d, texts.targets, R, prefix, Batches.of(batches))
        planned += batches
    work = {"forward": outline.forward_flops(every := Batches.of(planned)), "moments": moments}
    return Plan(texts, outline.weight_bytes, sums, outline.batch_bytes, every, disk, work)


def plan_linear(outline: Outline, texts: Texts) -> Plan:
    """linear_training.py: one forward pass over every text; its head costs next to nothing beside it."""
    budget = default_budget(outline.device)
    batches = Batches.of([n[rows] for n in texts.lengths.values() for rows in plan_batches(n, budget)])
    work, states = {"forward": outline.forward_flops(batches)}, 4 * outline.width * texts.count
    return Plan(texts, outline.weight_bytes, states, outline.batch_bytes, batches, 0, work)


def plan_training(outline: Outline, texts: Texts, flags: Flags, lora: bool) -> Plan:
    """from_scratch.py or, with lora, lora_finetuning.py: all seeds, one after the other.

    With F the operations of a forward pass, a step takes 3 F where all is trained; with LoRA 2 F, as frozen matrices
    have no gradient, + 6 x trained numbers x tokens. Trained numbers (LoRA: A (r, inputs) and B (outputs, r) of every
    target) have float32 weights and gradients, Adafactor's means of squares (by row and by column of a matrix), and
    copies for a 16-bit forward pass.
    """
    shapes: list[Sequence[int]] = [parameter.shape for parameter in outline.model.parameters()]
    if lora:
        targets = chosen_targets(outline.spec, flags["lora_targets"], outline.config)
        names = target_modules(outline.model, targets, flags["start_layer"])
        ends = [end for name in names for end in outline.model.get_parameter(f"{name}.weight").shape]
        shapes = [(flags["rank"], end) for end in ends]
    trained = sum(map(math.prod, shapes))
    means = 4 * sum(sum(shape) if len(shape) == 2 else math.prod(shape) for shape in shapes)
    copies = 2 * trained if outline.dtype.itemsize == 2 else 0

    rows, steps, seeds = flags["batch_size"], flags["max_steps"], len(flags["seeds"])
    train, test, work = texts.lengths["train"], texts.lengths["test"], outline.forward_flops
    batches = Batches.padded(train, rows)
    epoch = (2 if lora else 3) * work(batches) + lora * 6.0 * trained * int(batches.lengths.sum())
    epochs = seeds * steps * flags["gradient_accumulation"] * rows / len(train)
    at_once, times = max(rows, EVALUATION_BATCH), steps // flags["eval_every"]
    watched = train[: math.ceil(len(train) / WATCH_EVERY)]
    if flags["released_protocol"]:
        watched, times = test, max(0, times - 1)
    scores = seeds * (work(Batches.padded(test, at_once)) + times * work(Batches.padded(watched, at_once)))
    weights, sums = lora * outline.weight_bytes, 8 * trained + means + copies
    disk = 2 * (4 * trained + means) + lora * seeds * 4 * trained  # two checkpoints while it runs, adapters
    operations = {"training": epochs * epoch, "forward": scores}
    updated = float(seeds * steps * trained)
    per_token = outline.training_bytes + max(
        map(outline.attention_bytes, np.unique(batches.lengths).tolist())
    )
    return Plan(texts, weights, sums, per_token, batches, disk, operations, updated)


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
    """Why a plan does not fit into free bytes of memory and `room` on disk, and what to change; None where it does.

    A smaller batch, else fewer layers, else a smaller model.
    """
    if plan.disk > room:
        fewer = ", fewer --layers or --label_permutations" if script == "cache" else ""
        return f"the output takes {size(plan.disk)}, {size(room)} are free: another --output{fewer}"
    if plan.memory <= free:
        return None
    tokens, longest, layers = plan.largest(free), plan.texts.longest, outline.layers
    count = int(len(layers) * (free - plan.weights - plan.per_token * longest) / plan.sums)
    if tokens >= longest:
        rows = f"--batch_size {tokens // longest} with --gradient_accumulation, or a smaller --max_length"
        batches = f"--tokens_per_batch {tokens}"
        own = {
            "cache": batches,
            "linear_training": f"first cache.py --keep_states {batches}, which leaves the states",
        }
        change = own.get(script, rows)
    elif script == "cache" and count > 0:
        some = ",".join(map(str, layers[:: -(-len(layers) // count)]))
        change = f"--layers {some} (at most {count} at a time)"
    else:
        wide = outline.dtype.itemsize > 2 and script != "from_scratch"
        change = f"{'--dtype bfloat16, or ' if wide else ''}a smaller model or a larger device"
    return f"needs {size(plan.memory)} of memory, {size(free)} are free: {change}"


# --- what --plan prints --------------------------------------------------------------------------------------------

size = functools.partial(tqdm.format_sizeof, suffix="B")


def print_plan(script: str, flags: Flags) -> int:
    """Print the plan of every model and data set for a script's flags; exit code 1 if one fails or does not fit."""
    device, room = loading.pick_device(flags["device"]), atomic_files.free_space(Path(flags["output"]))
    free = free_memory(device)  # now: what is timed below stays in an accelerator's cache
    held = "moments" if script == "cache" else "trained weights, gradients, optimizer"
    speeds: dict[str, float] = {}
    seconds, disk, faults = [], [], []

    @functools.cache
    def outline_of(name: str) -> Outline:
        o = Outline(name, flags, device)
        shape = f"{o.parameters / 1e6:.1f} M parameters without head, {len(o.blocks)} blocks, d = {o.width}"
        print(f"\n{o.name}: {shape}; {str(o.dtype).removeprefix('torch.')} on {device}, {size(free)} free")
        print(*(f"  assumed: {note}\n" for note in o.notes), sep="", end="")
        return o

    def work(name: str, dataset: str) -> None:
        plan = plan_pair(script, outline := outline_of(name), dataset, flags)
        if name not in speeds:
            speeds[name] = outline.measured(plan.batches)
            print(f"  measured on this device: about {speeds[name] / 1e9:.3g} GFLOP/s")
        texts, time = plan.texts, plan.seconds(speeds[name], device.type)
        seconds.append(time)
        disk.append(plan.disk)
        print(
            f"  {texts.name}: {texts.count} texts, {texts.tokens} tokens; about {timedelta(seconds=round(time))}; {size(plan.disk)} on disk",
            f"memory about {size(plan.memory)}: weights {size(plan.weights)}, {held} {size(plan.sums)}, "
            f"batch about {size(plan.batch)}; largest batch about {plan.largest(free)} tokens",
            f"operations: {', '.join(f'{kind} {count:.2g}' for kind, count in plan.work.items())}",
            *(f"assumed: {note}" for note in texts.notes),
            sep="\n    ",
        )
        if fault := complaint(script, plan, outline, free, room):
            faults.append(fault)
            print(f"    DOES NOT FIT: {fault}")

    failed = for_each_pair(flags["models"], flags["datasets"], work)
    requested = len(flags["models"]) * len(flags["datasets"])
    pairs = f"{len(disk)} pairs" if len(disk) == requested else f"{len(disk)} of the {requested} pairs"
    total = f"about {timedelta(seconds=round(sum(seconds)))}, {size(sum(disk))} on disk ({size(room)} free)"
    print(f"\n{pairs}, one after the other: {total}" + f"; {len(faults)} do not fit" * bool(faults))
    return int(failed or bool(faults))
