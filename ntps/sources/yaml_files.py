"""YAML descriptions: where they lie, how they are read, and the check of their keys."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ntps.errors import UserError

KINDS = {"datasets": "data set", "models": "model"}  # folders of configs/
Keys = dict[str, tuple[tuple[type, ...], str]]  # key: (kinds of value, meaning)


def config_folders(kind: str) -> list[Path]:
    """Where names of a kind (models, datasets) are looked up: ./configs, the checkout's, the installed package's."""
    package = Path(__file__).resolve().parents[1]
    return [folder / "configs" / kind for folder in (Path(), package.parent, package)]


def config_names(kind: str) -> list[str]:
    """Names of a kind's descriptions."""
    return sorted({path.stem for folder in config_folders(kind) for path in folder.glob("*.yaml")})


def find_config(kind: str, name: str) -> Path | None:
    """The YAML file that a config name stands for, or that is named itself; None if the name is no config's.

    UserError for a YAML file that is not there.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"there is no {KINDS[kind]} description {name}")
        return Path(name)
    paths = (folder / f"{name}.yaml" for folder in config_folders(kind))
    return next((path for path in paths if path.is_file()), None)


def suggest(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?' with near matches of `name`, then what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return (
        (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + "there are: " + ", ".join(known)
    )


class OneOfEach(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: plain YAML keeps the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands twice, again in line {line}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(where: Path, example: str) -> dict[str, Any]:
    """The `key: value` lines of a YAML file; UserError for any other content, with an example of a line."""
    try:
        content = yaml.load(where.read_text(encoding="utf-8"), OneOfEach)  # a SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: it must be made of `key: value` lines, such as `{example}`")
    return content


def check_keys(where: Path, spec: dict[str, Any], sources: dict[str, Keys], common: Keys) -> str:
    """The one source that the description has; UserError for other keys and for values of another kind."""
    given = [source for source in sources if source in spec]
    groups = {source: sources[source] for source in given} if len(given) == 1 else sources
    allowed = {key: rule for group in groups.values() for key, rule in group.items()} | common
    for key, value in spec.items():
        if key not in allowed:
            owners = [source for source, group in sources.items() if key in group]
            hint = f"it goes with {', '.join(owners)}" if owners else suggest(str(key), allowed)
            kind = f"a description with {given[0]}" if len(given) == 1 else "a description"
            raise UserError(f"{where}: {key}: not a key of {kind}; {hint}")
        kinds, meaning = allowed[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(
                f"{where}: {key}: {value!r} is not {names} ({meaning}); numbers as text need quotes"
            )
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{where}: exactly one of {', '.join(sources)} is needed, found {found}")
    return given[0]
