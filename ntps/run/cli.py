"""What the scripts share: flags from a typed main, the loop over pairs, and how errors are told."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import jsonargparse

from ntps.errors import NO_MEMORY, UserError, enough_memory
from ntps.run.experiments import read_experiment
from ntps.system import processes
from ntps.system.console import keep_heap, quiet

LISTS = {  # and their items
    "between": str, "notebooks": str, "models": str, "datasets": str, "splits": str, "seeds": int, "lora_targets": str,
    "targets": str, "scores": str, "groups": str, "predictors": str,
}  # fmt: skip
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def run(main: Callable[..., int], argv: list[str] | None = None) -> int:
    """Parse the flags of a script's typed `main` from its signature and docstring, call it, return the exit code.

    Lists take one or more values (`--models A B`). `--config FILE.yaml` may hold any flag, or an experiment
    of several scripts (ntps/run/experiments.py); what the command line says wins.
    """
    parser = jsonargparse.ArgumentParser(
        description=inspect.getdoc(inspect.getmodule(main)),
        formatter_class=Formatter,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with any of these flags, or an experiment"
    )
    flags = inspect.signature(main).parameters
    docs = parameter_docs(main)
    lists = [name for name in flags if name in LISTS]
    switches = [name for name, flag in flags.items() if flag.default is False]
    words = [name for name, flag in flags.items() if flag.annotation == str | None]
    for name in lists:
        needed = flags[name].default is inspect.Parameter.empty
        default = None if needed else list(flags[name].default)
        parser.add_argument(
            f"--{name}", nargs="+", type=LISTS[name], required=needed, default=default, help=docs.get(name)
        )
    parser.add_function_arguments(main, skip={*lists, *switches, *words}, as_positional=True)
    for name in words:  # as they stand: `#a.csv` and `null` are names like others
        parser.add_argument(f"--{name}", type=str, help=docs.get(name))
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true", help=docs.get(name))
    try:
        argv = with_config(sys.argv[1:] if argv is None else argv, main, lists, switches)
    except UserError as error:
        parser.error(str(error))
    values = parser.parse_args(argv).as_dict()
    values.pop("config", None)
    for name in words:
        if values[name] == "":
            parser.error(f"--{name} is empty: leave it out, or give it a value")
    quiet()
    keep_heap()
    try:
        with processes.launched():
            return main(**values)
    except (UserError, OSError) as error:
        if processes.first():
            print(f"error: {error}", file=sys.stderr)
        return 1
    except processes.Lost as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on with what is missing", file=sys.stderr)
        return 130


def with_config(argv: list[str], main: Callable, lists: list[str], switches: list[str]) -> list[str]:
    """The command line with the flags of its --config file put before it, so that its own win."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    given, rest = reader.parse_known_args(argv)
    if given.config is None:
        return rest
    script, flags = Path(inspect.getfile(main)).stem, inspect.signature(main).parameters
    words: list[str] = []
    for name, value in read_experiment(given.config).flags(script, flags).items():
        if value is None and flags[name].default is None:
            continue
        if name in lists:
            items = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, items)] if value is not None else []
        elif name in switches and isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words.append(f"--{name}={'null' if value is None else value}")
    return words + rest


class Formatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the lines of a script's docstring: they are the commands that run it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parameter_docs(main: Callable) -> dict[str, str]:
    """Descriptions of the parameters from a docstring's Args section."""
    from docstring_parser import parse

    return {entry.arg_name: entry.description or "" for entry in parse(inspect.getdoc(main) or "").params}


def for_each_pair(models: Iterable[str], datasets: Iterable[str], work: Callable[[str, str], None]) -> int:
    """Call work(model, dataset) for every pair; a user error ends its pair only, in all processes of a launch.

    Exit code 1 if any pair failed.
    """
    failed = 0
    for model, dataset in product(models, datasets):
        try:
            # of several processes the launcher ends all: in the middle of a step they would wait for each other
            alone = processes.count() == 1
            with processes.in_step(), enough_memory(NO_MEMORY) if alone else contextlib.nullcontext():
                work(model, dataset)
        except (UserError, OSError) as error:  # OSError: no permission, a file for a folder, a full disk
            failed += 1
            if not isinstance(error, processes.Elsewhere):
                print(f"error: {model} x {dataset}: {error}", file=sys.stderr)
    return int(failed > 0)
