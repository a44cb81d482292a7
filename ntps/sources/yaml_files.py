"""YAML descriptions: where they lie, how they are read, and the check of their keys.

Whoever wrote a description, reading it ends and hands on plain values: size and depth are bounded, aliases (which
grow without bound) are refused, and every value is text, a number, true, false, nothing, a list or a mapping.
"""

import difflib
import inspect
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from ntps.errors import UserError, boundary
from ntps.system.paths import NO_TEXT, plain_name, regular_file

KINDS = {"datasets": "data set", "models": "model", "experiments": "experiment"}  # folders of configs/
Keys = dict[str, tuple[Any, str]]  # key: (type of the value, meaning)
Faults = Iterator[tuple[str, str]]  # key, what is wrong with its value
Label = str | int | float
LARGEST, DEEPEST = 2**20, 50  # bytes of a file; lists and mappings in each other
# Numbers that mean to everybody what they mean to YAML, to which 010 is 8 and 12:30 is 750
NUMBERS, LONGEST_NUMBER = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"), 400
PLAIN = {int: re.compile(r"[-+]?(0|[1-9]\d*)"), float: re.compile("[^:_]*")}


def config_folders(kind: str) -> list[Path]:
    """Where names of a kind (models, datasets) are looked up: ./configs, the checkout's, the installed package's."""
    package = Path(__file__).resolve().parents[1]
    return [folder / "configs" / kind for folder in (Path(), package.parent, package)]


def shipped_file(name: str) -> Path | None:
    """configs/NAME of the checkout or the installed package; never of the folder that a script is run in."""
    return next((path for folder in config_folders("")[1:] if (path := folder / name).exists()), None)


def config_names(kind: str) -> list[str]:
    """Names of a kind's descriptions."""
    return sorted({path.stem for folder in config_folders(kind) for path in folder.glob("*.yaml")})


def find_config(kind: str, name: str) -> Path | None:
    """The YAML file of a config name, or that is named itself (UserError if it is not there); else None.

    UserError for a name of two that differ: a folder from elsewhere, in which a script is run, must not put its own model
    in the place of a shipped one.
    """
    if name.endswith((".yaml", ".yml")):
        if not os.path.exists(name):
            raise UserError(f"there is no {KINDS[kind]} description {ascii(name)[1:-1]}")
        plain_name(Path(name).stem, f"the {KINDS[kind]} description {name!a}")
        return regular_file(name)
    paths = (folder / f"{name}.yaml" for folder in config_folders(kind))
    found = [path for path in paths if os.path.isfile(path)]
    if len({path.read_bytes() for path in found}) > 1:
        raise UserError(
            f"{found[0]} has the name of a {KINDS[kind]} that is shipped, {found[-1]}, and says something else: give the "
            "path of the one that is meant, or rename yours"
        )
    return found[0] if found else None


def suggest(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?' with near matches of `name`, then what there is."""
    known = list(known)
    near = " or ".join(map(repr, difflib.get_close_matches(name, known, cutoff=0.5)))
    return (f"did you mean {near}? " if near else "") + f"there are: {', '.join(known)}"


class Loader(yaml.SafeLoader):
    """YAML without aliases, dates (they stay text) and keys that stand twice (plain YAML keeps the last, silently)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.fail("aliases (*name) are not read: write the value again")
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"more than {DEEPEST} lists and mappings in each other")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            self.fail(f"a number of more than {LONGEST_NUMBER} characters", node)
        value = super().construct_object(node, deep)
        if not isinstance(value, str | int | float | list | dict | None):
            self.fail(f"a {type(value).__name__} is neither text, number, list nor mapping", node)
        if isinstance(value, str) and NO_TEXT.search(value):
            self.fail(f"{value!a} holds a character that is no text", node)
        if isinstance(value, int) and abs(value) >= 2**63:
            self.fail("a whole number of more than 63 bits", node)
        if type(value) in PLAIN and not PLAIN[type(value)].fullmatch(node.value):
            self.fail(f"{node.value} is read as {value}: write it so, or put it in quotes,", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # of merge keys super() makes others
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        found, seen = super().construct_mapping(node, deep), dict[Any, str]()
        for key in keys:
            value = self.construct_object(key)
            forms = value, str(value), key.value  # 1, 1.0 and true are one key
            if (other := next((seen[form] for form in forms if form in seen), None)) is not None:
                as_other = "" if other == key.value else f" (as {other!r})"
                self.fail(f"{key.value!r} stands twice{as_other}, again", key)
            seen |= dict.fromkeys(forms, key.value)
        return found

    def fail(self, problem: str, node: yaml.Node | None = None) -> None:
        line = (node.start_mark if node else self.peek_event().start_mark).line + 1
        raise yaml.constructor.ConstructorError(problem=f"{problem} in line {line}")


def read_yaml(where: Path, example: str) -> dict[str, Any]:
    """The `key: value` lines of a YAML file; UserError for any other content, with an example of a line."""
    with boundary(f"{where}: cannot be read as YAML"):
        with regular_file(where).open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        content = yaml.load(text.decode(), Loader)  # a SafeLoader
    if not isinstance(content, dict):
        raise UserError(f"{where}: it must be made of `key: value` lines, such as `{example}`")
    return content


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a YAML file is of a type such as `str | dict[str, list[int]]`; true and false are bool only."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return any(fits(value, each) for each in inner)
    if type(value) is not ({tuple: list}.get(origin, origin) or kind):
        return kind is float and type(value) is int
    if origin is dict:
        return all(fits(key, inner[0]) and fits(item, inner[1]) for key, item in value.items())
    if origin is tuple:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return origin is not list or all(fits(item, inner[0]) for item in value)


def check_keys(where: Path, spec: dict[str, Any], sources: Mapping[str, Keys], common: Keys) -> str:
    """The one source that the description has; UserError for other keys and for values of another type."""
    given = [source for source in sources if source in spec]
    alone = f" with {given[0]}" if len(given) == 1 else ""
    groups = [sources[source] for source in (given if alone else sources)]
    allowed = {key: rule for group in (*groups, common) for key, rule in group.items()}
    for key, value in spec.items():
        if key not in allowed:
            owners = ", ".join(source for source, group in sources.items() if key in group)
            hint = f"it goes with {owners}" if owners else suggest(str(key), allowed)
            raise UserError(f"{where}: {key}: not a key of a description{alone}; {hint}")
        kind, meaning = allowed[key]
        if not fits(value, kind):
            raise UserError(
                f"{where}: {key}: {value!r:.200} is not {inspect.formatannotation(kind)} ({meaning}); "
                "numbers as text need quotes, and so do the words yes, no, on, off and null"
            )
    if not alone:
        found = " and ".join(given) or "none"
        raise UserError(f"{where}: exactly one of {', '.join(sources)} is needed, found {found}")
    return given[0]
