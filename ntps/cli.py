"""What the scripts share: flags from a typed main, the loop over pairs, and how errors are told."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import jsonargparse
from tqdm import tqdm

from ntps.errors import UserError

LISTS = {"models": str, "datasets": str, "splits": str, "seeds": int, "lora_targets": str}  # and their items


def run(main: Callable[..., int], argv: list[str] | None = None) -> int:
    """Parse the flags of a script's typed `main` from its signature and docstring, call it, return the exit code.

    Lists take one or more values (`--models A B`); `--config FILE.yaml` may hold any flag, later flags win.
    """
    parser = jsonargparse.ArgumentParser(
        description=inspect.getdoc(inspect.getmodule(main)), formatter_class=Formatter, default_env=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these flags")
    flags = inspect.signature(main).parameters
    docs = parameter_docs(main)
    lists = [name for name in flags if name in LISTS]
    switches = [name for name, flag in flags.items() if flag.default is False]
    for name in lists:
        needed = flags[name].default is inspect.Parameter.empty
        default = None if needed else list(flags[name].default)
        parser.add_argument(
            f"--{name}", nargs="+", type=LISTS[name], required=needed, default=default, help=docs.get(name)
        )
    parser.add_function_arguments(main, skip={*lists, *switches}, as_positional=True)
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true", help=docs.get(name))
    values = parser.parse_args(argv).as_dict()
    values.pop("config", None)
    quiet()
    try:
        return main(**values)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on with what is missing", file=sys.stderr)
        return 130


class Formatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the lines of a script's docstring: they are the commands that run it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parameter_docs(main: Callable) -> dict[str, str]:
    """Descriptions of the parameters from a docstring's Args section."""
    from docstring_parser import parse

    return {entry.arg_name: entry.description or "" for entry in parse(inspect.getdoc(main) or "").params}


def for_each_pair(models: Iterable[str], datasets: Iterable[str], work: Callable[[str, str], None]) -> int:
    """Call work(model, dataset) for every pair; a user error ends its pair only. Exit code 1 if any pair failed."""
    failed = 0
    for model, dataset in product(models, datasets):
        try:
            work(model, dataset)
        except (UserError, OSError) as error:  # OSError: no permission, a file for a folder, a full disk
            failed += 1
            print(f"error: {model} x {dataset}: {error}", file=sys.stderr)
    return int(failed > 0)


def say(text: str) -> None:
    """A line for the user that leaves progress bars whole."""
    tqdm.write(text)


def progress(total: int, unit: str, text: str, initial: int = 0) -> tqdm:
    """A bar in meaningful units with time left."""
    return tqdm(
        total=total, initial=initial, unit=unit, desc=text, unit_scale=True, dynamic_ncols=True, smoothing=0.1
    )


def at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"--{name} {value}: must be at least {least}")


def quiet() -> None:
    """Silence the libraries' own bars and notices; our scripts say what matters."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def output_path(output: str | Path, kind: str, model: str, dataset: str, suffix: str) -> Path:
    """OUTPUT/KIND/MODEL/DATASET + suffix."""
    return Path(output) / kind / model / f"{dataset}{suffix}"
