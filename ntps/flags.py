"""Flags that scripts share, as dataclasses that check themselves: a script's own `Flags` inherits what it takes.

The Args of a class are the help of its flags; the type of a field may hold a Rule for its values. Imports nothing
large: --help answers at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple, get_type_hints

from ntps.errors import UserError

SMALL = 0.05  # a score with a p-value up to this is significant beside the label-permutation null


class Rule(NamedTuple):
    """What the value of a flag must be, in words and as a function; None, where it is allowed, always holds."""

    words: str
    holds: Callable[[Any], bool]


def one_of(*names: str) -> Rule:
    return Rule(" or ".join(names), names.__contains__)


ONE_OR_MORE = Rule("at least 1", lambda value: value >= 1)
Count = Annotated[int, ONE_OR_MORE]
OptionalCount = Annotated[int | None, ONE_OR_MORE]
Natural = Annotated[int, Rule("at least 0", lambda value: value >= 0)]
Positive = Annotated[float, Rule("above 0", lambda value: 0 < value < math.inf)]
Share = Annotated[float, Rule("at least 0 and below 1", lambda value: 0 <= value < 1)]
NO_P = f"with fewer no two-sided p-value can reach {SMALL}"  # the least of R permutations is 2 / (1 + R)
ENOUGH = Rule(f"0 or at least 39; {NO_P}", lambda value: value == 0 or value >= 39)


def numbers(tolerances: str | float) -> list[float]:
    """Of a list such as 1e-12,1e-3,cv."""
    return [float(one) for one in str(tolerances).split(",") if one != "cv"]


def are_tolerances(value: str | float) -> bool:
    try:
        found = numbers(value)
        return bool(found) and all(0 < one < 1 for one in found)
    except ValueError:
        return False


TOLERANCES = Rule("numbers above 0 and below 1, such as 1e-12,1e-3,cv", are_tolerances)


@dataclass(kw_only=True)
class Results:
    """Where results go.

    Args:
        output: folder for all results
        overwrite: replace results of other settings
    """

    output: str = "results"
    overwrite: bool = False

    SETTINGS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """UserError for a value against the rule of its type; classes add theirs."""
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            for rule in getattr(kind, "__metadata__", ()):
                if value is not None and not rule.holds(value):
                    raise UserError(f"--{name} {value}: must be {rule.words}")

    @property
    def settings(self) -> dict[str, Any]:
        """Those that decide the numbers of a table."""
        return {name: getattr(self, name) for name in self.SETTINGS}


@dataclass(kw_only=True)
class Pairs(Results):
    """What to run over.

    Args:
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
    """

    models: Sequence[str]
    datasets: Sequence[str]


@dataclass(kw_only=True)
class Adapted:
    """A model with an adapter.

    Args:
        adapter: PEFT adapter folder to merge into the model
    """

    adapter: str | None = None


@dataclass(kw_only=True)
class Cached(Pairs, Adapted):
    """What cache.py left.

    Args:
        no_verify: read files without checking their hashes first, for very large ones
    """

    no_verify: bool = False


@dataclass(kw_only=True)
class Forward(Results):
    """Which rows, and how a model runs over them.

    Args:
        limit: rows per split, the first of one seeded permutation (default: all)
        max_length: tokens per row (default: the smaller of the tokenizer's and the model's limit)
        device: auto, cpu, cuda, cuda:1, mps
        dtype: of the forward pass: float32, bfloat16, float16, float64 (default: bfloat16 on cuda, else float32)
    """

    limit: OptionalCount = None
    max_length: OptionalCount = None
    device: str = "auto"
    dtype: str | None = None


@dataclass(kw_only=True)
class Caching(Forward, Adapted):
    """One forward pass and what it leaves.

    Args:
        tokens_per_batch: tokens in a batch (default: 2048 on a CPU, 16384 elsewhere)
        layers: all, or a list such as 0,8,16 (0 = embeddings)
        label_permutations: permuted copies of the labels, for the permutation null
        partitions: parts of the rows whose moments are also kept apart, for error bars
        shard: i/n does part i of n partitions alone, into SPLIT.i-of-n.safetensors, on this machine;
            `python -m ntps.merge` adds up what the machines made
        prefix_moments: splits that get the two prefix moments: train or all
        keep_states: also write the mean states of every row
        seed: of the limit's permutation and of the label permutations
    """

    tokens_per_batch: OptionalCount = None
    layers: str = "all"
    label_permutations: Natural = 200
    partitions: Count = 1
    shard: str | None = None
    prefix_moments: Annotated[str, one_of("train", "all")] = "train"
    keep_states: bool = False
    seed: Natural = 42

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
    """Repeated training.

    Args:
        seeds: one training each: of first weights, order, dropout, and the cut of the validation part; those that
            a table has already stay as they are, so that more can be added
        released_protocol: train on all of train and score test along the way, as the published code does
        plan: only print what this would take: memory, disk, operations and time
    """

    seeds: Sequence[int] = (0,)
    released_protocol: bool = False
    plan: bool = False


@dataclass(kw_only=True)
class Training(Pairs, Forward, Seeded):
    """Training of a language model with a linear head, by the Hugging Face Trainer.

    Args:
        max_steps: optimizer steps
        batch_size: rows in a forward pass of each process: N processes take N times as many rows a step
        gradient_accumulation: forward passes per optimizer step
        eval_every: steps between scores of the validation part
        learning_rate: of Adafactor, after the warm-up
        weight_decay: of Adafactor
        dropout: before the head
        log_to: none, tensorboard, wandb or trackio
    """

    max_steps: Count = 5000
    batch_size: Count = 1
    gradient_accumulation: Count = 1
    eval_every: Count = 500
    learning_rate: Positive = 1e-4
    weight_decay: float = 1e-5
    dropout: Share = 0.05
    log_to: Annotated[str, one_of("none", "tensorboard", "wandb", "trackio")] = "none"

    SETTINGS: ClassVar[tuple[str, ...]] = (
        "max_steps", "batch_size", "gradient_accumulation", "eval_every", "learning_rate", "weight_decay", "dropout",
        "released_protocol",
    )  # fmt: skip


@dataclass(kw_only=True)
class Words(Cached):
    """Words in the planes of two subspaces.

    Args:
        words: YAML file with groups of words (default: the paper's Joy, Sad and Be)
        between: the two groups that the dividing line and the signs are for (default: the first two)
        layer: of the directions and states (default: the best layer, by the ridge probe of K_sweep.py)
        dtype: of the forward pass (default: that of the moments)
        device: of the forward pass: auto, cpu, cuda, cuda:1, mps
    """

    models: Sequence[str] = ("smollm2-135m",)
    datasets: Sequence[str] = ("rotten_tomatoes_pypi",)
    words: str | None = None
    between: Sequence[str] = ()
    layer: int | None = None
    dtype: str | None = None
    device: str = "auto"


@dataclass(kw_only=True)
class LayerProbes(Cached):
    """Probes of every layer.

    Args:
        layers: all that were cached, or a list such as 0,8,16
        solver: of the logistic regression: saga, or lbfgs (which converges further in less time)
        max_iter: iterations of the solver
        tol: at which the solver stops
        jobs: layers at a time (default: as many as there are cores); fewer take less memory
        seed: of the order in which saga takes the rows
    """

    layers: str = "all"
    solver: Annotated[str, one_of("saga", "lbfgs")] = "saga"
    max_iter: Count = 1000
    tol: Positive = 0.01
    jobs: OptionalCount = None
    seed: Natural = 42

    SETTINGS = ("solver", "max_iter", "tol", "seed")


@dataclass(kw_only=True)
class LinearHead(Pairs, Forward, Seeded):
    """A linear head on a frozen model.

    Args:
        layer: whose states, 0 = embeddings (default: the last)
        pooling: of a row's states: mean, or last (the last token's)
        epochs: passes over the states
        max_steps: optimizer steps, if fewer than the epochs have
        batch_size: rows per step, however many processes share the forward pass
        learning_rate: of AdamW
        dropout: on the states
    """

    layer: int | None = None
    pooling: Annotated[str, one_of("mean", "last")] = "mean"
    epochs: Count = 50
    max_steps: OptionalCount = None
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    dropout: Share = 0.05

    SETTINGS = (
        "layer", "pooling", "epochs", "max_steps", "batch_size", "learning_rate", "dropout", "released_protocol",
    )  # fmt: skip


@dataclass(kw_only=True)
class Scoring(Cached):
    """Scores from moments.

    Args:
        device: of the eigen-solves, float64: cpu, or cuda for large d; what it cannot do, the CPU does, with a line
            that says so
        rtol: eigenvalues of M, scaled to unit diagonal, up to rtol times the largest are left out. A list, such as
            1e-12,1e-3,cv: its first number is that of all scores, OUTPUT/conditioned has NTPS at every number, and with
            cv at the tolerance of cross-validation over --partitions, for the layers that get error bars
        prefix_rtol: the same of P0 (default: as rtol)
        error_bars: layers that get them, where cache.py kept --partitions K: best (the best layer and the last),
            all (K times the time) or none
        tight_bounds: also the tight bounds of the excess loss, 38 eigen-solves a layer
    """

    device: str = "cpu"
    rtol: Annotated[str | float, TOLERANCES] = "1e-12,1e-4,3e-4,1e-3,3e-3,1e-2,cv"
    prefix_rtol: Annotated[str | float | None, TOLERANCES] = None
    error_bars: Annotated[str, one_of("best", "all", "none")] = "best"
    tight_bounds: bool = False

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
    """What is what in a file of labelled rows, as in a description.

    Args:
        text: column of the texts, or a template such as "{question} {choices}"
        label: column of the labels
        target: classes, or numeric: the label is a number to predict
        encoding: of the file, such as cp1252 (default: utf-8, or what its mark says)
        delimiter: of its columns: comma, semicolon, tab, pipe or a character (default: as the columns stand in its header)
        normalise_labels: labels that differ in writing alone are one class: Yes and yes (1.0 and 1, TRUE and true: always)
    """

    text: str = "text"
    label: str = "label"
    target: Annotated[str, one_of("classes", "numeric")] = "classes"
    encoding: str | None = None
    delimiter: str | None = None
    normalise_labels: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        """Those that are given, as keys of a description."""
        return {
            field.name: getattr(self, field.name) for field in fields(Columns) if getattr(self, field.name)
        }

    @property
    def changed(self) -> list[str]:
        return [field.name for field in fields(Columns) if getattr(self, field.name) != field.default]


@dataclass(kw_only=True)
class Prescreening(Forward, Columns):
    """Candidate models on one data set.

    Args:
        models: config names, YAML files, hub ids or folders
        train: file of labelled rows; NAME of the results is its name
        test: file of further rows to score on (default: a quarter of train is held out, stratified on the label)
        dataset: config name or YAML file, where no --train is given
        limit: rows per split, the first of one seeded permutation
        tokens_per_batch: as for cache.py
        layers: spread (nine from the embeddings to the last), all, or a list such as 0,8,16
        label_permutations: permuted copies of the labels, for the p-values: 39 or more, or 0 for none
        partitions: of the train rows, for the error bars of NTPS and retention
        gain: calibration file of python -m ntps.gain, for the expected LoRA gain (default: the one that is shipped)
        seed: of the limit's permutation and of the label permutations
    """

    models: Sequence[str] = ("smollm2-135m", "smollm2-135m-random")
    train: str | None = None
    test: str | None = None
    dataset: str = "trec6"
    output: str = "prescreen"
    limit: Annotated[int, Rule("at least 2", lambda value: value >= 2)] = 2000
    tokens_per_batch: OptionalCount = None
    layers: str = "spread"
    label_permutations: Annotated[int, ENOUGH] = 200
    partitions: Count = 5
    gain: str | None = None
    seed: Natural = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train and (idle := ["test"] * bool(self.test) + self.changed):
            raise UserError(f"--{idle[0]}: only together with --train")

    @property
    def caching(self) -> Caching:
        """The flags of the forward pass over train."""
        shared = {field.name for field in fields(self)} & {field.name for field in fields(Caching)}
        return Caching(**{name: getattr(self, name) for name in shared}, keep_states=True)
