"""What the scripts share: flags from a typed `main`, the loop over pairs, and how errors are shown."""

import argparse
import dataclasses
import importlib
import inspect
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse

from ntps.errors import NO_MEMORY, UserError, enough_memory
from ntps.run.experiments import ROOT, read_experiment, script_path
from ntps.system import processes
from ntps.system.console import as_line, keep_heap, quiet, visible

REQUIRED = inspect.Parameter.empty


class Flag(NamedTuple):
    """One flag of a script: its type, its default (REQUIRED if there is none) and its help."""

    type: Any
    default: Any
    help: str | None

    @property
    def item(self) -> Any:
        """The type of a list's items; None for a flag that takes one value."""
        listed = typing.get_origin(self.type) in (list, tuple, Sequence)
        return typing.get_args(self.type)[0] if listed else None


def settings_class(main: Callable[..., int]) -> Any:
    """The dataclass that `main(flags: Flags)` takes; None for a main with parameters of its own."""
    first: Any = next(iter(typing.get_type_hints(main).values()), None)
    return first if dataclasses.is_dataclass(first) else None


def flags_of(main: Callable[..., int]) -> dict[str, Flag]:
    """Every flag of a script, by name; help is in the fields of the dataclass, or in the Args of main's docstring."""
    kind = settings_class(main)
    if kind:
        every = (field for owner in kind.__mro__[-2::-1] for field in dataclasses.fields(owner))
        docs = {field.name: field.metadata["help"] for field in every if field.metadata}  # or that of a base
    else:
        from docstring_parser import parse

        docs = {entry.arg_name: entry.description for entry in parse(inspect.getdoc(main) or "").params}
    hints, parameters = typing.get_type_hints(kind or main), inspect.signature(kind or main).parameters
    order = sorted(parameters, key=lambda name: name not in ("models", "datasets"))
    return {name: Flag(hints[name], parameters[name].default, docs.get(name)) for name in order}


def script_main(name: str) -> Callable[..., int]:
    """`main` of the script of this name; UserError where there is none."""
    if (path := script_path(name)) is None:
        raise UserError(f"{name}: not a script")
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)).main


def experiment_flags(name: str, where: str) -> dict[str, Any]:
    """Every flag of a script as `--config where` sets it, read and checked as the script itself does; UserError."""
    main = script_main(name)
    parser, kind = parser_of(main, flags_of(main)), settings_class(main)
    parser.exit_on_error = False
    try:
        return dataclasses.asdict(kind(**parsed(parser, main, ["--config", where])))
    except (UserError, argparse.ArgumentError) as error:
        raise UserError(f"{where}: {name}: {' '.join(str(error).split())}") from None


def parsed(parser: jsonargparse.ArgumentParser, main: Callable[..., int], argv: list[str]) -> dict[str, Any]:
    """The values of a script's flags, those of its --config file among them; UserError for what the parser does not see."""
    flags = flags_of(main)
    values = parser.parse_args(with_config(argv, main, flags)).as_dict()
    values.pop("config", None)
    for name, flag in flags.items():
        if flag.type in (str, str | None) and values[name] == "":
            raise UserError(f"--{name} is empty: leave it out, or give it a value")
    return values


def run(main: Callable[..., int], argv: list[str] | None = None) -> int:
    """Parse the flags of a script's `main`, call it, return the exit code.

    `main` takes one dataclass of flags (see ntps/flags.py), or parameters of its own. Lists take one or more values
    (`--models A B`). `--config FILE.yaml` may hold any flag, or an experiment of several scripts
    (ntps/run/experiments.py); what the command line says wins.
    """
    parser = parser_of(main, flags_of(main))
    try:
        values = parsed(parser, main, sys.argv[1:] if argv is None else argv)
    except UserError as error:
        parser.error(visible(str(error)))
    quiet()
    keep_heap()
    warnings.formatwarning = as_line
    kind = settings_class(main)
    try:
        with processes.launched(), enough_memory(NO_MEMORY):
            return main(kind(**values)) if kind else main(**values)
    except processes.Elsewhere:
        return 1
    except (UserError, OSError, processes.Lost) as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on with what is missing", file=sys.stderr)
        return 130


class Formatter(argparse.RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Keeps the lines of a script's docstring: they are the commands that run it."""


def parser_of(main: Callable[..., int], flags: dict[str, Flag]) -> jsonargparse.ArgumentParser:
    """A parser of these flags; those without a default are positional, unless they take several values."""
    about = inspect.getdoc(inspect.getmodule(main))
    parser = jsonargparse.ArgumentParser(description=about, formatter_class=Formatter, allow_abbrev=False)
    config = "YAML file with any of these flags, or an experiment"
    parser.add_argument("--config", metavar="FILE", help=config)
    for name, flag in flags.items():
        needed = flag.default is REQUIRED
        if flag.item:
            several: dict[str, Any] = {"required": True} if needed else {"default": list(flag.default)}
            parser.add_argument(f"--{name}", nargs="+", type=flag.item, help=flag.help, **several)
        elif flag.default is False:
            parser.add_argument(f"--{name}", action="store_true", help=flag.help)
        elif needed:
            parser.add_argument(name, type=flag.type, help=flag.help)
        else:  # a text that may be absent is taken as it stands: `#a.csv` and `null` are names like others
            kind = str if flag.type == str | None else flag.type
            parser.add_argument(f"--{name}", type=kind, default=flag.default, help=flag.help)
    return parser


def with_config(argv: list[str], main: Callable, flags: dict[str, Flag]) -> list[str]:
    """The command line with the flags of its --config file put before it, so that its own win."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    given, rest = reader.parse_known_args(argv)
    if given.config is None:
        return rest
    script = Path(inspect.getfile(main)).stem
    words: list[str] = []
    for name, value in read_experiment(given.config).flags(script, flags).items():
        flag = flags[name]
        if value is None and (flag.default is None or flag.item):
            continue
        if flag.item:
            items = list(map(str, value if isinstance(value, list) else [value]))
            if other := [item for item in items if item.startswith("--")]:
                raise UserError(f"{given.config}: {name}: {other[0]!r} is a flag, not a value")
            words += [f"--{name}", *items]
        elif flag.default is False and isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words.append(f"--{name}={'null' if value is None else value}")
    return words + rest


def for_each_pair(models: Iterable[str], datasets: Iterable[str], work: Callable[[str, str], None]) -> int:
    """Call work(model, dataset) for every pair; a user error ends its pair, in a launch of several processes all.

    Exit code 1 if any pair failed.
    """
    failed = 0
    for model, dataset in product(models, datasets):
        try:
            with enough_memory(NO_MEMORY):
                work(model, dataset)
        except (UserError, OSError) as error:  # OSError: no permission, a file for a folder, a full disk
            text = f"{model} x {dataset}: {error}"
            if processes.count() > 1:
                raise UserError(text) from error
            print(visible(f"error: {text}"), file=sys.stderr)
            failed = 1
    return failed


def for_each_task(flags: Any, work: Callable[[Any], None], layer: int | None = None) -> int:
    """for_each_pair, with a Task (ntps.accuracies) of each; the models are set to one layer (None: the last)."""
    from ntps.accuracies.task import Task  # these imports take seconds
    from ntps.moments.lazy_model import lazy_models
    from ntps.texts.dataset import load_dataset

    lazy = lazy_models(flags, layer)

    def pair(model: str, dataset: str) -> None:
        work(Task(lazy(model), load_dataset(dataset), flags.limit))

    return for_each_pair(flags.models, flags.datasets, pair)
