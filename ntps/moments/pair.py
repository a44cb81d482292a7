"""What cache.py left of one model and data set: moments of train and test and, where they were kept, the states."""

from __future__ import annotations

import shlex
from pathlib import Path

from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import output_name
from ntps.moments.file import MomentsFile
from ntps.moments.merge import part_name
from ntps.system import storage
from ntps.texts.dataset import dataset_name

SPLITS = ("train", "test")
OF_MOMENTS = ("label_permutations", "partitions", "prefix_moments")  # what states do not depend on


def pair_flags(model: str, dataset: str, output: str, adapter: str | None) -> list[str]:
    """The flags that name one pair, as the user gave them."""
    flags = ["--models", model, "--datasets", dataset, "--output", output]
    return flags + (["--adapter", adapter] if adapter else [])


class Kept:
    """Moments `train` and `test`, the paths of the states (None unless both are there), and which texts they are of.

    UserError if moments are missing, if files do not belong together, or if train has one class only.
    """

    def __init__(self, model: str, dataset: str, output: str, adapter: str | None):
        self.asked = pair_flags(model, dataset, output, adapter)
        self.model, self.dataset = output_name(resolve_model(model), adapter), dataset_name(dataset)
        self.moments, states = (
            {name: Path(output) / kind / self.model / self.dataset / f"{name}.safetensors" for name in SPLITS}
            for kind in ("moments", "states")
        )
        self.files = {name: MomentsFile(path) for name, path in self.moments.items() if path.exists()}
        for name, path in self.moments.items():
            if name not in self.files:
                raise UserError(f"no {name} moments at {path}: run {self.cache_command()}")
        self.train, self.test = (self.files[name] for name in SPLITS)
        if self.train.targets > 1 and (self.train.class_counts > 0).sum() < 2:
            raise UserError(
                f"the {self.train.text_count} train texts are all of one class: cache more of them"
            )
        self.texts = {
            name: {key: value for key, value in file.about["identity"].items() if key not in OF_MOMENTS}
            for name, file in self.files.items()
        }
        storage.check_same_run(self.texts["train"], self.texts["test"], self.train.path.parent)
        self.states = states if all(path.exists() for path in states.values()) else None
        for name, path in (self.states or {}).items():
            found = storage.read_provenance(path, "states")["identity"]
            if lines := storage.differences(found, self.texts[name]):
                raise UserError(
                    f"{path} is of another run than {self.moments[name]}: {'; '.join(lines[:4])}. Delete it, "
                    f"or run {self.cache_command()} --overwrite"
                )

    def cache_command(self) -> str:
        """The cache.py command that makes what is missing, of the texts whose train moments are there."""
        flags: list = ["--keep_states"]
        if "train" in self.files:
            found = self.files["train"].about["identity"]
            usual = {"limit": None, "seed": 42, "label_permutations": 20, "partitions": 1}
            for name in [name for name in usual if found[name] != usual[name]] + ["max_length", "dtype"]:
                flags += [f"--{name}", found[name]]
            if found["layers"] != list(range(len(found["layers"]))):
                flags += ["--layers", ",".join(map(str, found["layers"]))]
        if "test" in self.files and self.files["test"].prefix:
            flags += ["--prefix_moments", "all"]
        return shlex.join(["python", "cache.py", *self.asked, *map(str, flags)])


def scorable_moments(output: Path, model: str, dataset: str, flags: str) -> MomentsFile:
    """The train moments of a pair, token moments among them; UserError without, with the command (its flags are given)."""
    path = output / "moments" / model / dataset / "train.safetensors"
    if not path.exists():
        if any(path.parent.glob("train.*-of-*.safetensors")):
            raise UserError(
                f"only parts of {path} are there: python -m ntps.merge {shlex.quote(str(output))} adds up those of "
                "several machines; after a kill, run the same cache.py again"
            )
        raise UserError(f"no moments at {path}: run python cache.py {flags}")
    train = MomentsFile(path)
    if not train.prefix:
        raise UserError(f"{path} has no prefix moments: run cache.py again with --overwrite")
    return train


def partition_files(train: MomentsFile) -> list[MomentsFile]:
    """The files of the partitions that add up to these moments; [] where there are none (any more)."""
    whole = train.about["identity"]
    names = [part_name(number + 1, whole["partitions"]) for number in range(whole["partitions"])]
    paths = [train.path.with_name(f"{train.path.stem}.{name}.safetensors") for name in names]
    if len(paths) < 2 or not all(path.exists() for path in paths):
        return []
    files = [MomentsFile(path) for path in paths]
    for file in files:
        own = {key: value for key, value in file.about["identity"].items() if key != "part"}
        if lines := storage.differences(own, whole):
            raise UserError(
                f"{file.path} is no part of {train.path}: {'; '.join(lines[:4])}. Run cache.py with --overwrite, "
                "or delete it to go without error bars"
            )
    return files
