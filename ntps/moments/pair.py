"""A model and a data set as requested: where their results lie, and what cache.py left of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import output_name
from ntps.moments import identity
from ntps.moments.file import MomentsFile
from ntps.moments.merge import part_name
from ntps.system import storage
from ntps.texts.dataset import dataset_name

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Pair:
    """MODEL and DATASET of the output paths OUTPUT/KIND/MODEL/DATASET, and the flags that name the pair."""

    output: Path
    model: str
    dataset: str
    flags: tuple[str, ...]  # as the user gave them

    @classmethod
    def of(cls, model: str, dataset: str, output: str, adapter: str | None = None) -> Pair:
        """The pair of a model and a data set as the user names them."""
        named = cls.named(Path(output), model, dataset).flags
        flags = (*named, "--adapter", adapter) if adapter else named
        return cls(Path(output), output_name(resolve_model(model), adapter), dataset_name(dataset), flags)

    @classmethod
    def named(cls, output: Path, model: str, dataset: str) -> Pair:
        """The pair of two folder names of a results folder."""
        return cls(
            output, model, dataset, ("--models", model, "--datasets", dataset, "--output", str(output))
        )

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

    def train_moments(self) -> MomentsFile:
        """The train moments, prefix moments among them; UserError without, with the command that makes them."""
        path = self.split("moments", "train")
        if not path.exists():
            if any(path.parent.glob("train.*-of-*.safetensors")):
                merge = shlex.join(["python", "-m", "ntps.merge", str(self.output)])
                raise UserError(
                    f"only parts of {path} are there: {merge} adds up those of several machines; after a kill, run "
                    "the same cache.py again"
                )
            raise UserError(f"no moments at {path}: run {self.command('cache.py')}")
        train = MomentsFile(path)
        if not train.prefix:
            raise UserError(f"{path} has no prefix moments: run cache.py again with --overwrite")
        return train

    def test_moments(self) -> MomentsFile | None:
        path = self.split("moments", "test")
        return MomentsFile(path) if path.exists() else None


def partition_files(train: MomentsFile) -> list[MomentsFile]:
    """The files of the partitions that add up to these moments; [] where they are not all there (any more)."""
    whole = train.identity
    names = [part_name(number + 1, whole["partitions"]) for number in range(whole["partitions"])]
    paths = [train.path.with_name(f"{train.path.stem}.{name}.safetensors") for name in names]
    if len(paths) < 2 or not all(path.exists() for path in paths):
        return []
    files = [MomentsFile(path) for path in paths]
    for file in files:
        own = {key: value for key, value in file.identity.items() if key != "part"}
        if lines := storage.differences(own, whole):
            raise UserError(
                f"{file.path} is no part of {train.path}: {'; '.join(lines[:4])}. Run cache.py with --overwrite, "
                "or delete it to go without error bars"
            )
    return files


class Cached:
    """What cache.py left of a pair: moments `train` and `test`, and the paths of the states (None unless both are there).

    UserError if moments are missing, if files do not belong together, or if train has one class only.
    """

    def __init__(self, pair: Pair):
        self.pair = pair
        paths = {name: pair.split("moments", name) for name in SPLITS}
        self.files = {name: MomentsFile(path) for name, path in paths.items() if path.exists()}
        for name, path in paths.items():
            if name not in self.files:
                raise UserError(f"no {name} moments at {path}: run {self.cache_command()}")
        self.train, self.test = (self.files[name] for name in SPLITS)
        if self.train.targets > 1 and (self.train.class_counts > 0).sum() < 2:
            raise UserError(
                f"the {self.train.text_count} train rows are all of one class: cache more of them"
            )
        self.rows = {name: identity.of_rows(file.identity) for name, file in self.files.items()}
        storage.check_same_run(self.rows["train"], self.rows["test"], self.train.path.parent)
        self.states = self._states()

    def _states(self) -> dict[str, Path] | None:
        paths = {name: self.pair.split("states", name) for name in SPLITS}
        if not all(path.exists() for path in paths.values()):
            return None
        for name, path in paths.items():
            own = storage.read_provenance(path, "states")["identity"]
            if lines := storage.differences(own, self.rows[name]):
                raise UserError(
                    f"{path} is of another run than {self.files[name].path}: {'; '.join(lines[:4])}. Delete it, "
                    f"or run {self.cache_command()} --overwrite"
                )
        return paths

    def cache_command(self) -> str:
        """The cache.py command that makes what is missing, of the rows whose train moments are there."""
        flags: list = ["--keep_states"]
        if "train" in self.files:
            known = self.files["train"].identity
            usual = {"limit": None, "seed": 42, "label_permutations": 20, "partitions": 1}
            for name in [name for name in usual if known[name] != usual[name]] + ["max_length", "dtype"]:
                flags += [f"--{name}", known[name]]
            if known["layers"] != list(range(len(known["layers"]))):
                flags += ["--layers", ",".join(map(str, known["layers"]))]
        if "test" in self.files and self.files["test"].prefix:
            flags += ["--prefix_moments", "all"]
        return self.pair.command("cache.py", *flags)
