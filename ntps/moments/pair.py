"""A model and a data set as requested: where their results lie, and what cache.py left of them."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path

from ntps.errors import UserError
from ntps.flags import Caching
from ntps.models.description import output_name, resolve_model
from ntps.moments import identity
from ntps.moments.file import MomentsFile, StatesFile, check_together
from ntps.moments.merge import part_names
from ntps.system import provenance
from ntps.texts.dataset import dataset_name

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Pair:
    """MODEL and DATASET of the output paths OUTPUT/KIND/MODEL/DATASET, and the flags that name the pair."""

    output: Path
    model: str
    dataset: str
    flags: tuple[str, ...]  # as the user gave them
    verify: bool = True  # the hashes of what is read

    @classmethod
    def of(
        cls, model: str, dataset: str, output: str, adapter: str | None = None, verify: bool = True
    ) -> Pair:
        """The pair of a model and a data set as the user names them."""
        flags = cls.named(Path(output), model, dataset).flags + (("--adapter", adapter) if adapter else ())
        return cls(
            Path(output), output_name(resolve_model(model), adapter), dataset_name(dataset), flags, verify
        )

    @classmethod
    def named(cls, output: Path, model: str, dataset: str) -> Pair:
        """The pair of two folder names of a results folder."""
        flags = ("--models", model, "--datasets", dataset, "--output", str(output))
        return cls(output, model, dataset, flags)

    def __str__(self) -> str:
        return f"{self.model} x {self.dataset}"

    def stem(self, kind: str) -> Path:
        """OUTPUT/KIND/MODEL/DATASET, to which files add their endings."""
        return self.output / kind / self.model / self.dataset

    def table(self, kind: str) -> Path:
        return self.stem(kind).with_name(f"{self.dataset}.csv")

    def split(self, kind: str, name: str) -> Path:
        """The moments or states of a split."""
        return self.stem(kind) / f"{name}.safetensors"

    def command(self, script: str, *more: object) -> str:
        """The command that runs a script on this pair."""
        return shlex.join(["python", script, *self.flags, *map(str, more)])

    def train_moments(self, *flags: str) -> MomentsFile:
        """The train moments, prefix moments among them; UserError without, with the command that makes them.

        flags: of that command.
        """
        path = self.split("moments", "train")
        if not path.exists():
            remedy = f"run {self.command('cache.py', *flags)}"
            if any(path.parent.glob("train.*-of-*.safetensors")):
                merge = shlex.join(["python", "-m", "ntps.merge", str(self.output)])
                remedy = f"only its parts: {merge} adds up those of several machines; after a kill, {remedy}"
            raise UserError(f"no train moments at {path}: {remedy}")
        train = MomentsFile(path, verify=self.verify)
        if not train.prefix:
            raise UserError(f"{path} has no prefix moments: run cache.py again with --overwrite")
        return train

    def test_moments(self) -> MomentsFile | None:
        path = self.split("moments", "test")
        return MomentsFile(path, verify=self.verify) if path.exists() else None


def partition_files(train: MomentsFile) -> list[MomentsFile]:
    """The files of the partitions that add up to these moments; [] where they are not all there (any more)."""
    whole, count = train.identity, train.identity["partitions"]
    paths = (train.path.with_name(f"{train.path.stem}.{name}.safetensors") for name in part_names(count))
    there = list(itertools.takewhile(Path.exists, paths))
    if count < 2 or len(there) < count:
        return []
    files = [MomentsFile(path, verify=train.verify) for path in there]
    for file in files:
        own = {key: value for key, value in file.identity.items() if key != "part"}
        remedy = "Run cache.py with --overwrite, or delete it to go without error bars"
        provenance.check_same(f"{file.path} is no part of {train.path}", own, whole, remedy)
    check_together(train, *files)
    if sum(file.text_count for file in files) != train.text_count:
        raise UserError(f"the parts of {train.path} do not add up to its {train.text_count} rows. {remedy}")
    return files


def check_split(train: MomentsFile, test: MomentsFile) -> None:
    """UserError unless they differ in nothing but split, limit and texts, and where we divided the rows, are of the same rows:
    of a file that has changed in between, a row of test may be in train now."""
    identity.check_same_run(train.identity, test.identity, train.path.parent)
    data, other = (file.record.get("data") or {} for file in (train, test))
    if "as given" != data.get("split_rule") and data.get("source") != other.get("source"):
        remedy = "run cache.py on both with --overwrite"
        raise UserError(f"train and test in {train.path.parent} are of two versions of their file: {remedy}")


def check_states(states: StatesFile, moments: MomentsFile, remedy: str) -> None:
    """UserError unless they are of the same rows."""
    what = f"{states.path} is of another run than the moments"
    provenance.check_same(what, states.identity, identity.of_rows(moments.identity), remedy)
    if states.counts != (moments.text_count if states.numeric else moments.class_counts.tolist()):
        raise UserError(f"{states.path} has other rows than {moments.path}. {remedy}")


class Cached:
    """What cache.py left of a pair: moments `train` and `test`, and the states of both, or none.

    UserError if moments are missing, if files do not belong together, or if train has one class only.
    """

    def __init__(self, pair: Pair):
        self.pair, self.train, test = pair, pair.train_moments("--keep_states"), pair.test_moments()
        self.files = {"train": self.train}
        if test is None:
            raise UserError(f"no test moments at {pair.split('moments', 'test')}: run {self.cache_command()}")
        self.test = self.files["test"] = test
        if not self.train.numeric and (self.train.class_counts > 0).sum() < 2:
            rows = self.train.text_count
            raise UserError(f"the {rows} train rows have one and the same label: cache more of them")
        self.rows = {name: identity.of_rows(file.identity) for name, file in self.files.items()}
        check_split(self.train, test)
        paths = {name: pair.split("states", name) for name in SPLITS}
        there = all(path.exists() for path in paths.values())
        self.states = {name: StatesFile(path, pair.verify) for name, path in paths.items() if there}
        for name, file in self.states.items():
            check_states(file, self.files[name], f"Delete it, or run {self.cache_command()} --overwrite")
        check_together(*self.files.values(), *self.states.values())

    def cache_command(self) -> str:
        """The cache.py command that makes what is missing, of the rows whose train moments are there."""
        flags: list = ["--keep_states"]
        known = provenance.UNSAID | self.train.identity
        names = ("limit", "seed", "label_permutations", "partitions")
        usual = {name: getattr(Caching, name) for name in names} | provenance.UNSAID
        for name in [name for name in usual if known[name] != usual[name]] + ["max_length", "dtype"]:
            flags += [f"--{name}", known[name]]
        if known["layers"] != list(range(len(known["layers"]))):
            flags += ["--layers", ",".join(map(str, known["layers"]))]
        flags += ["--prefix_moments", "all"] if "test" in self.files and self.files["test"].prefix else []
        return self.pair.command("cache.py", *flags)
