"""Flags that scripts share, as dataclasses that check themselves: a script's own `Flags` inherits what it takes.

The Args of a class are the help of its flags. Imports nothing large: --help answers at once.
"""

import math
from dataclasses import dataclass, field

from ntps.errors import UserError, at_least

SMALL = 0.05  # a score with a p-value up to this is significantly above the label-permutation null
FEWEST_SHUFFLES = 19  # with fewer no p-value can reach SMALL, for 1 / (1 + 19) is the least
LOGGERS = ("none", "tensorboard", "wandb", "trackio")


@dataclass(kw_only=True)
class Results:
    """Where results go.

    Args:
        output: folder for all results
        overwrite: replace results of other settings
    """

    output: str = "results"
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """UserError for a value out of its range; classes add theirs."""


@dataclass(kw_only=True)
class Pairs(Results):
    """What to run over.

    Args:
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
    """

    models: list[str]
    datasets: list[str]


@dataclass(kw_only=True)
class Adapted:
    """A model with an adapter.

    Args:
        adapter: PEFT adapter folder to merge into the model
    """

    adapter: str | None = None


@dataclass(kw_only=True)
class Forward(Results):
    """Which rows, and how a model runs over them.

    Args:
        limit: rows per split, the first of one seeded permutation (default: all)
        max_length: tokens per row (default: the smaller of the tokenizer's and the model's limit)
        device: auto, cpu, cuda, cuda:1, mps
        dtype: of the forward pass: float32, bfloat16, float16, float64 (default: bfloat16 on cuda, else float32)
    """

    limit: int | None = None
    max_length: int | None = None
    device: str = "auto"
    dtype: str | None = None

    def check(self) -> None:
        super().check()
        at_least("limit", self.limit, 1)
        at_least("max_length", self.max_length, 1)


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

    tokens_per_batch: int | None = None
    layers: str = "all"
    label_permutations: int = 20
    partitions: int = 1
    shard: str | None = None
    prefix_moments: str = "train"
    keep_states: bool = False
    seed: int = 42

    def check(self) -> None:
        super().check()
        for name, least in (
            ("tokens_per_batch", 1),
            ("partitions", 1),
            ("label_permutations", 0),
            ("seed", 0),
        ):
            at_least(name, getattr(self, name), least)
        self.parts  # noqa: B018 -- raises for a shard that is none
        if self.prefix_moments not in ("train", "all"):
            raise UserError(f"--prefix_moments {self.prefix_moments}: must be train or all")

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
    """

    seeds: tuple[int, ...] = (0,)
    released_protocol: bool = False


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
        plan: only print what this would take: memory, disk, operations and time
    """

    max_steps: int = 5000
    batch_size: int = 1
    gradient_accumulation: int = 1
    eval_every: int = 500
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    dropout: float = 0.05
    log_to: str = "none"
    plan: bool = False

    def check(self) -> None:
        super().check()
        for name in ("max_steps", "batch_size", "gradient_accumulation", "eval_every"):
            at_least(name, getattr(self, name), 1)
        positive("learning_rate", self.learning_rate)
        probability("dropout", self.dropout)
        if self.log_to not in LOGGERS:
            raise UserError(f"--log_to {self.log_to}: must be one of {', '.join(LOGGERS)}")

    @property
    def settings(self) -> dict:
        """Those that decide the numbers of a table."""
        names = ("max_steps", "batch_size", "gradient_accumulation", "eval_every", "learning_rate", "weight_decay",
                 "dropout", "released_protocol")  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class Words(Pairs, Adapted):
    """Words in the planes of two subspaces.

    Args:
        words: YAML file with groups of words (default: the paper's Joy, Sad and Be)
        between: the two groups that the dividing line and the signs are for (default: the first two)
        layer: of the directions and states (default: the best layer, by the ridge probe of K_sweep.py)
        dtype: of the forward pass (default: that of the moments)
        device: of the forward pass: auto, cpu, cuda, cuda:1, mps
    """

    models: list[str] = field(default_factory=lambda: ["smollm2-135m"])
    datasets: list[str] = field(default_factory=lambda: ["rotten_tomatoes_pypi"])
    words: str | None = None
    between: tuple[str, ...] = ()
    layer: int | None = None
    dtype: str | None = None
    device: str = "auto"


@dataclass(kw_only=True)
class LayerProbes(Pairs, Adapted):
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
    solver: str = "saga"
    max_iter: int = 1000
    tol: float = 0.01
    jobs: int | None = None
    seed: int = 42

    def check(self) -> None:
        super().check()
        if self.solver not in ("saga", "lbfgs"):
            raise UserError(f"--solver {self.solver}: must be saga or lbfgs")
        if not self.tol > 0:
            raise UserError(f"--tol {self.tol}: must be above 0")
        for name, least in (("max_iter", 1), ("jobs", 1), ("seed", 0)):
            at_least(name, getattr(self, name), least)

    @property
    def settings(self) -> dict:
        """Those that decide the numbers of a table."""
        return {"solver": self.solver, "max_iter": self.max_iter, "tol": self.tol, "seed": self.seed}


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
        plan: only print what this would take: memory, disk, operations and time
    """

    layer: int | None = None
    pooling: str = "mean"
    epochs: int = 50
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-4
    dropout: float = 0.05
    plan: bool = False

    def check(self) -> None:
        super().check()
        for name in ("epochs", "max_steps", "batch_size"):
            at_least(name, getattr(self, name), 1)
        positive("learning_rate", self.learning_rate)
        probability("dropout", self.dropout)
        if self.pooling not in ("mean", "last"):
            raise UserError(f"--pooling {self.pooling}: must be mean or last")

    @property
    def settings(self) -> dict:
        """Those that decide the numbers of a table."""
        names = ("layer", "pooling", "epochs", "max_steps", "batch_size", "learning_rate", "dropout",
                 "released_protocol")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"--{name} {value}: must be above 0")


def probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"--{name} {value}: must be at least 0 and below 1")


@dataclass(kw_only=True)
class Scoring(Pairs, Adapted):
    """Scores from moments.

    Args:
        device: of the eigen-solves, float64: cpu, or cuda for large d; what it cannot do, the CPU does, with a line
            that says so
        rtol: eigenvalues of the equilibrated matrices below rtol times the largest count as zero
        error_bars: layers that get them, where cache.py kept --partitions K: best (the best layer and the last),
            all (K times the time) or none
        tight_bounds: also the tight bounds of the excess loss, 38 eigen-solves a layer
    """

    device: str = "cpu"
    rtol: float = 1e-12
    error_bars: str = "best"
    tight_bounds: bool = False

    def check(self) -> None:
        super().check()
        if not 0 < self.rtol < 1:
            raise UserError(f"--rtol {self.rtol}: must lie between 0 and 1")
        if self.error_bars not in ("best", "all", "none"):
            raise UserError(f"--error_bars {self.error_bars}: must be one of best, all, none")


@dataclass(kw_only=True)
class Prescreening(Results):
    """Candidate models on one data set.

    Args:
        models: config names, YAML files, hub ids or folders
        train: file of labelled rows; NAME of the results is its name
        test: file of further rows to score on (default: a part of train is held out)
        text: column of the texts, or a template such as "{question} {choices}"
        label: column of the labels
        target: classes, or numeric: the label is a number to predict
        dataset: config name or YAML file, where no --train is given
        output: folder for all results
        limit: rows per split, the first of one seeded permutation
        max_length: tokens per row (default: the smaller of the tokenizer's and the model's limit)
        tokens_per_batch: as for cache.py
        dtype: as for cache.py
        device: as for cache.py
        layers: spread (nine from the embeddings to the last), all, or a list such as 0,8,16
        label_permutations: permuted copies of the labels, for the p-values: 19 or more, or 0 for none
        partitions: of the train rows, for the error bars of NTPS and retention
        gain: calibration file of python -m ntps.gain, for the expected LoRA gain (default: the one that is shipped)
        seed: of the limit's permutation and of the label permutations
    """

    models: list[str] = field(default_factory=lambda: ["smollm2-135m", "smollm2-135m-random"])
    train: str | None = None
    test: str | None = None
    text: str = "text"
    label: str = "label"
    target: str = "classes"
    dataset: str = "trec6"
    output: str = "prescreen"
    limit: int = 2000
    max_length: int | None = None
    tokens_per_batch: int | None = None
    dtype: str | None = None
    device: str = "auto"
    layers: str = "spread"
    label_permutations: int = 20
    partitions: int = 5
    gain: str | None = None
    seed: int = 42

    def check(self) -> None:
        super().check()
        at_least("limit", self.limit, 2)
        if 0 != self.label_permutations < FEWEST_SHUFFLES:
            raise UserError(
                f"--label_permutations {self.label_permutations}: must be 0 or at least {FEWEST_SHUFFLES}; with fewer "
                f"no p-value can reach {SMALL}"
            )
        self.caching  # noqa: B018 -- checks the rest
        if self.target not in ("classes", "numeric"):
            raise UserError(f"--target {self.target}: must be classes or numeric")
        if not self.train and (self.test or self.target != "classes"):
            raise UserError(f"--{'test' if self.test else 'target'}: only together with --train")

    @property
    def caching(self) -> Caching:
        """The flags of the forward pass over train."""
        return Caching(
            output=self.output, overwrite=self.overwrite, limit=self.limit, max_length=self.max_length, device=self.device,
            dtype=self.dtype, tokens_per_batch=self.tokens_per_batch, layers=self.layers, keep_states=True,
            label_permutations=self.label_permutations, partitions=self.partitions, seed=self.seed,
        )  # fmt: skip
