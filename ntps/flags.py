"""Flags that scripts share, as dataclasses that check themselves: a script's own `Flags` inherits what it takes.

A field holds its default and its help; its type may hold a Rule for its values. Imports nothing large: --help
answers at once.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from ntps.errors import UserError

SMALL = 0.05  # a score with a p-value up to this is significant beside the label-permutation null


class Rule(NamedTuple):
    """What the value of a flag must be, in words and as a function; None, where it is allowed, always holds."""

    words: str
    holds: Callable[[Any], bool]


def one_of(*names: str) -> Rule:
    return Rule(" or ".join(names), names.__contains__)


def at_least(least: int) -> Rule:
    return Rule(f"at least {least} and below 2**31", lambda value: least <= value < 2**31)


Count = Annotated[int, at_least(1)]
OptionalCount = Annotated[int | None, at_least(1)]
Natural = Annotated[int, at_least(0)]
SEED = Rule("at least 0 and below 2**32", lambda value: 0 <= value < 2**32)  # numpy takes no others
Seed = Annotated[int, SEED]
Seeds = Annotated[Sequence[int], Rule(f"each {SEED.words}", lambda values: all(map(SEED.holds, values)))]
LARGEST = 1e30  # optimizers multiply by it in float32, which holds up to 3.4e38
Positive = Annotated[float, Rule(f"above 0 and up to {LARGEST}", lambda value: 0 < value <= LARGEST)]
NotNegative = Annotated[float, Rule(f"at least 0 and up to {LARGEST}", lambda value: 0 <= value <= LARGEST)]
Share = Annotated[float, Rule("at least 0 and below 1", lambda value: 0 <= value < 1)]
# the least two-sided p-value of R permutations is 2 / (1 + R)
ENOUGH = Rule(f"0 or at least 39, to reach p = {SMALL}", lambda value: value == 0 or value >= 39)
POOLINGS = ("mean", "last", "mean_without_first")  # what they are: ntps/moments/sums.py
Pooling = Annotated[str, one_of(*POOLINGS)]


def numbers(tolerances: str | float) -> list[float]:
    """Of a list such as 1e-12,1e-3,cv."""
    return [float(one) for one in str(tolerances).split(",") if one != "cv"]


def are_tolerances(value: str | float) -> bool:
    try:
        found = numbers(value)
        return bool(found) and all(1e-12 <= one < 1 for one in found)
    except ValueError:
        return False


TOLERANCES = Rule("numbers from 1e-12 on and below 1, such as 1e-12,1e-3,cv", are_tolerances)


def flag(default: Any = MISSING, help: str = "") -> Any:
    """A field with its help; without a default it is needed."""
    return field(default=default, metadata={"help": help})


def setting(default: Any, help: str) -> Any:
    """A flag that decides the numbers of a table: part of its identity."""
    return field(default=default, metadata={"help": help, "decides": True})


def as_type(value: Any, kind: Any) -> Any:
    """A flag's value from Python as its type has it: a path is a text, a number of numpy or torch a number.

    TypeError for another kind, such as 1.0 or True for a whole number; ValueError for a text that is no UTF-8, as of a path whose
    bytes are none.
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        kinds = [one for one in inner if one is not NoneType]
        chosen = [one for one in kinds if isinstance(value, (str, os.PathLike) if one is str else Real)]
        return as_type(value, chosen[0] if chosen else kinds[0])
    if origin is Sequence:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError("must be a list")
        return [as_type(one, inner[0]) for one in value]
    if kind is str and isinstance(value, str | os.PathLike):
        return whole_text(os.fspath(value))
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if kind not in TYPES or (kind is bool and isinstance(value, bool)):
        return value
    raise TypeError(f"must be {TYPES[kind]}")


TYPES = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}


def whole_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a byte that is no UTF-8: rename it") from None
    return text


@dataclass(kw_only=True)
class Checked:
    """Flags whose values follow the rules of their types."""

    def __post_init__(self) -> None:
        """UserError for a value of another type, or against the rule of its type; classes add theirs."""
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            rules, plain = getattr(kind, "__metadata__", ()), getattr(kind, "__origin__", kind)
            value = getattr(self, name)
            try:
                value = as_type(value, plain if rules else kind)
            except (TypeError, ValueError) as error:
                raise UserError(f"--{name} {value!a:.60}: {error}") from None
            setattr(self, name, value)
            for rule in rules:
                if value is not None and not rule.holds(value):
                    raise UserError(f"--{name} {value}: must be {rule.words}")


@dataclass(kw_only=True)
class Results(Checked):
    """Where results go."""

    output: str = flag("results", "folder for all results")
    overwrite: bool = flag(False, "replace results of other settings")

    def __post_init__(self) -> None:
        super().__post_init__()
        # of a YAML; Trainer does so by itself, and would look for its checkpoints elsewhere
        self.output = os.path.expanduser(self.output)
        if os.path.isfile(self.output):
            raise UserError(f"--output {self.output} is a file: give a folder, which need not be there yet")

    @property
    def settings(self) -> dict[str, Any]:
        """Those that decide the numbers of a table."""
        return {one.name: getattr(self, one.name) for one in fields(self) if "decides" in one.metadata}


@dataclass(kw_only=True)
class Pairs(Results):
    """What to run over."""

    models: Sequence[str] = flag(help="config names, YAML files, hub ids or folders")
    datasets: Sequence[str] = flag(help="config names or YAML files")


@dataclass(kw_only=True)
class Adapted:
    """A model with an adapter."""

    adapter: str | None = flag(
        None, "PEFT adapter folder, merged into the model; results are named MODEL+FOLDER-HASH"
    )


@dataclass(kw_only=True)
class Cached(Pairs, Adapted):
    """What cache.py left."""

    no_verify: bool = flag(False, "read files without checking their hashes first, for very large ones")


@dataclass(kw_only=True)
class Forward(Results):
    """Which rows, and how a model runs over them."""

    limit: OptionalCount = flag(None, "rows per split, the first of one seeded permutation (default: all)")
    max_length: OptionalCount = flag(None, "tokens per row (default: what tokenizer and model allow)")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps")
    dtype: str | None = flag(
        None,
        "of the forward pass: float32, bfloat16, float16, float64 (default: bfloat16 on cuda, else float32)",
    )


@dataclass(kw_only=True)
class Caching(Forward, Adapted):
    """One forward pass and what it leaves."""

    tokens_per_batch: OptionalCount = flag(None, "tokens in a batch (default: 2048 on CPUs, 16384 elsewhere)")
    layers: str = flag("all", "all, or a list such as 0,8,16 (0 = embeddings)")
    pooling: Pooling = flag("mean", "of a row's states: mean, last (token), mean_without_first (token)")
    label_permutations: Natural = flag(200, "permuted copies of the labels, for the permutation null")
    partitions: Count = flag(1, "parts of the rows whose moments are also kept apart, for error bars")
    shard: str | None = flag(None, "i/n: part i of n partitions alone; python -m ntps.merge adds them up")
    prefix_moments: Annotated[str, one_of("train", "all")] = flag("train", "of these splits: train or all")
    keep_states: bool = flag(False, "also write the pooled states of every row")
    seed: Seed = flag(42, "of the limit's permutation and of the label permutations")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts  # noqa: B018 -- raises for a shard that is none

    @property
    def parts(self) -> tuple[int | None, int]:
        """The one part to do (None: all) and the number of parts, of `--shard 2/4` and `--partitions`."""
        if self.shard is None:
            return None, self.partitions
        try:
            number, parts = map(int, self.shard.split("/"))
        except ValueError:
            number, parts = 0, 0
        if not 1 <= number <= parts or self.partitions not in (1, parts):
            raise UserError(f"--shard {self.shard}: give i/n with i from 1 to n, without --partitions")
        return number, parts


@dataclass(kw_only=True)
class Seeded:
    """Repeated training."""

    seeds: Seeds = flag(
        (0,),
        "one training each: of weights, order, dropout, validation part; those a table has stay, so add more",
    )
    released_protocol: bool = setting(False, "train on all of train, score test along the way, as published")
    plan: bool = flag(False, "only print what this would take: memory, disk, operations and time")


@dataclass(kw_only=True)
class Training(Pairs, Forward, Seeded):
    """Training of a language model with a linear head, by the Hugging Face Trainer."""

    max_steps: Count = setting(5000, "optimizer steps")
    batch_size: Count = setting(1, "rows in a forward pass of each process: N take N times as many a step")
    gradient_accumulation: Count = setting(1, "forward passes per optimizer step")
    eval_every: Count = setting(500, "steps between scores of the validation part")
    patience: OptionalCount = flag(
        None,
        "stop once N scores of the validation part are no better than the best before, and keep that step's weights; "
        "the learning rate stays constant after the warm-up (default: all of max_steps, cosine)",
    )
    learning_rate: Positive = setting(1e-4, "of Adafactor, after the warm-up")
    weight_decay: NotNegative = setting(1e-5, "of Adafactor")
    dropout: Share = setting(0.05, "before the head")
    log_to: Annotated[str, one_of("none", "tensorboard", "wandb", "trackio")] = flag(
        "none", "none, tensorboard, wandb, trackio"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and self.released_protocol:
            raise UserError("--patience: not with --released_protocol, which has no validation part")

    @property
    def settings(self) -> dict[str, Any]:
        """With patience only where it is set: tables of trainings without it stay what they are."""
        return super().settings | ({"patience": self.patience} if self.patience else {})

    @property
    def schedule(self) -> str:
        """Of the learning rate, in transformers' words: with patience the last step is not known."""
        return "constant_with_warmup" if self.patience else "cosine"


@dataclass(kw_only=True)
class Lora(Training):
    """LoRA and a linear head."""

    rank: Count = setting(32, "of the LoRA matrices")
    alpha: Positive = setting(32, "LoRA's scale times the rank")
    lora_dropout: Share = setting(0.05, "before the LoRA matrices")
    lora_targets: Sequence[str] = flag(
        (), "modules to adapt, or all-linear (default: of the model's description, else attention's)"
    )
    start_layer: int = setting(0, "the first block to adapt, 0 = all")


@dataclass(kw_only=True)
class Words(Cached):
    """Words in the planes of two subspaces."""

    models: Sequence[str] = ("smollm2-135m",)
    datasets: Sequence[str] = ("rotten_tomatoes_pypi",)
    words: str | None = flag(None, "YAML file with groups of words (default: the paper's Joy, Sad and Be)")
    between: Sequence[str] = flag((), "two groups for dividing line and signs (default: the first two)")
    layer: int | None = flag(None, "of directions and states (default: K_sweep.py's best layer)")
    dtype: str | None = flag(None, "of the forward pass (default: that of the moments)")
    device: str = flag("auto", "of the forward pass: auto, cpu, cuda, cuda:1, mps")


@dataclass(kw_only=True)
class LayerProbes(Cached):
    """Probes of every layer."""

    layers: str = flag("all", "all that were cached, or a list such as 0,8,16")
    solver: Annotated[str, one_of("saga", "lbfgs")] = setting(
        "saga", "saga, or lbfgs (converges further in less time)"
    )
    max_iter: Count = setting(1000, "iterations of the solver")
    tol: Positive = setting(0.01, "at which the solver stops")
    jobs: OptionalCount = flag(None, "layers at a time (default: as many as cores); fewer take less memory")
    seed: Seed = setting(42, "of the order in which saga takes the rows")


@dataclass(kw_only=True)
class LinearHead(Pairs, Forward, Seeded):
    """A linear head on a frozen model."""

    layer: int | None = setting(None, "whose states, 0 = embeddings (default: the last)")
    pooling: Pooling = setting("mean", "of a row's states, as for cache.py")
    epochs: Count = setting(50, "passes over the states")
    max_steps: OptionalCount = setting(None, "optimizer steps, if fewer than the epochs have")
    batch_size: Count = setting(64, "rows per step, however many processes share the forward pass")
    learning_rate: Positive = setting(1e-4, "of AdamW")
    dropout: Share = setting(0.05, "on the states")


@dataclass(kw_only=True)
class Scoring(Cached):
    """Scores from moments."""

    device: str = flag(
        "cpu", "of the eigen-solves, float64: cpu, or cuda for large d; what it cannot do, the CPU does"
    )
    rtol: Annotated[str | float, TOLERANCES] = flag(
        "1e-12,1e-4,3e-4,1e-3,3e-3,1e-2,cv",
        "eigenvalues of M, scaled to unit diagonal, up to rtol times the largest are left out. A list, such as "
        "1e-12,1e-3,cv: its first number is that of all scores, OUTPUT/conditioned has NTPS at every number, and with "
        "cv at the tolerance of cross-validation over --partitions, for the layers that get error bars",
    )
    prefix_rtol: Annotated[str | float | None, TOLERANCES] = flag(None, "the same of P0 (default: as rtol)")
    error_bars: Annotated[str, one_of("best", "all", "none")] = flag(
        "best",
        "layers that get them, where cache.py kept --partitions K: best (the best layer and the last), "
        "all (K times the time) or none",
    )
    tight_bounds: bool = flag(False, "also the tight bounds of the excess loss, 38 eigen-solves a layer")

    @property
    def rtols(self) -> list[float]:
        return numbers(self.rtol)

    @property
    def prefix_rtols(self) -> list[float]:
        return numbers(self.rtol if self.prefix_rtol is None else self.prefix_rtol)

    @property
    def cross_validated(self) -> bool:
        return "cv" in str(self.rtol).split(",")


@dataclass(kw_only=True)
class Columns:
    """What is what in a file of labelled rows, as in a description."""

    text: str = flag("text", 'column of the texts, or a template such as "{question} {choices}"')
    label: str = flag("label", "column of the labels")
    target: Annotated[str, one_of("classes", "numeric", "multilabel")] = flag(
        "classes", "classes, numeric: numbers to predict, or multilabel: several labels a row"
    )
    label_separator: str | None = flag(None, "multilabel: what lies between the labels of a row, such as ;")
    encoding: str | None = flag(None, "of the file, as cp1252 (default: utf-8, or what its mark says)")
    delimiter: str | None = flag(
        None,
        "of its columns: comma, semicolon, tab, pipe or a character (default: as its header has the columns)",
    )
    normalise_labels: bool = flag(
        False,
        "labels that differ in capitals, too, are one class: Yes and yes; without it 1 and 1.0 still are, and True and TRUE "
        "(a description's normalise_labels: false keeps these apart)",
    )

    @property
    def keys(self) -> dict[str, Any]:
        """Those that are given, as keys of a description."""
        return {one.name: value for one in fields(Columns) if (value := getattr(self, one.name))}

    @property
    def changed(self) -> list[str]:
        return [one.name for one in fields(Columns) if getattr(self, one.name) != one.default]


@dataclass(kw_only=True)
class Judging(Checked):
    """Which scores and accuracies of a results folder are set against each other."""

    results: str = flag("results", "the folder that K_sweep.py and the trainers wrote to")
    models: Sequence[str] = flag((), "folder names of models (default: all)")
    datasets: Sequence[str] = flag((), "names of data sets (default: all)")
    groups: Sequence[str] = flag((), "data sets that count once, as a,b; those of one file do so anyway")
    order: str = flag("descending", "descending or released")
    rule: str = flag("task_rank", "task_rank or fraction")


@dataclass(kw_only=True)
class Prescreening(Forward, Columns):
    """Candidate models on one data set."""

    models: Sequence[str] = flag(
        ("smollm2-135m", "smollm2-135m-random"), "config names, YAML files, hub ids or folders"
    )
    train: str | None = flag(None, "file of labelled rows; NAME of the results is its name")
    test: str | None = flag(
        None,
        "file of further rows to score on (default: of classes a quarter of train, stratified; of numbers and sets of labels "
        "30 %, not stratified)",
    )
    dataset: str | None = flag(None, "config name or YAML file, instead of --train (default: trec6)")
    output: str = "prescreen"
    limit: Annotated[int, at_least(2)] = flag(2000, "rows per split, the first of one seeded permutation")
    tokens_per_batch: OptionalCount = flag(None, "as for cache.py")
    layers: str = flag("spread", "spread (nine, embeddings to last), all, or a list such as 0,8,16")
    pooling: Pooling = flag("mean", "of a row's states, as for cache.py")
    label_permutations: Annotated[int, ENOUGH] = flag(200, "permuted labels, for p: 0, or 39 or more")
    partitions: Count = flag(5, "of the train rows, for error bars; more for a small --budget")
    budget: Annotated[float | None, Rule("above 1", lambda value: 1 < value < math.inf)] = flag(
        None,
        "passes over all rows that the models may take together: those significantly behind on few rows are dropped "
        "(default: one each)",
    )
    gain: str | None = flag(None, "calibration file of python -m ntps.gain (default: the shipped one)")
    finetune_probe: OptionalCount = flag(
        None,
        "steps of a short LoRA training of the model that ranks first, such as 50: its accuracy along the way on a tenth of the "
        "train rows, at the end on the unseen rows, beside the linear probe's (default: none)",
    )
    seed: Seed = flag(42, "of the limit's permutation and of the label permutations")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train and (idle := ["test"] * bool(self.test) + self.changed):
            raise UserError(f"--{idle[0]}: only together with --train")
        if self.train and self.dataset:
            raise UserError(f"--dataset {self.dataset}: not together with --train {self.train}")
        if self.budget and (rivals := len(self.models) - 1):
            # a first round of half of what one model on all rows leaves, in a power of two: stays when a model is added
            parts = 2 * rivals / (self.budget - 1)
            self.partitions = max(self.partitions, 2 ** math.ceil(math.log2(parts)))

    @property
    def caching(self) -> Caching:
        """The flags of the forward pass over train."""
        shared = {one.name for one in fields(self)} & {one.name for one in fields(Caching)}
        return Caching(**{name: getattr(self, name) for name in shared}, keep_states=True)
