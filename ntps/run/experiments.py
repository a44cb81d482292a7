"""Experiment files: models, data sets and the flags of every script in one YAML, for --config.

    models: [qwen2-0.5b, openelm-270m]     # at the top: flags that several scripts share
    datasets: [sst2, imdb]
    output: results/mine
    cache: {keep_states: true}             # a section per script, by its name: flags of this one alone

A script takes its own section over what stands at the top, and the command line over both. A file without
sections is a list of flags for one script.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.sources.yaml_files import read_yaml, suggest

# What may stand above sections though a script has no such flag.
SHARED = ("models", "datasets", "output", "limit", "max_length", "dtype", "device", "seeds")
WHOLE = ("pin", "prefetch")  # want the models and data sets of all sections together
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Experiment:
    """An experiment file: what stands at the top, and the sections by script."""

    where: Path
    top: dict[str, Any]
    sections: dict[str, dict[str, Any]]

    def flags(self, script: str, known: Collection[str]) -> dict[str, Any]:
        """Flags of a script, its section over the top; UserError for one that is not in `known`."""
        own = self.sections.get(script, {})
        check(f"{self.where}: {script}", script, own, known)
        shared, note = (SHARED, "; above the sections may stand all of these") if self.sections else ((), "")
        check(str(self.where), script, self.top, dict.fromkeys((*known, *shared)), note)
        flags = {key: value for key, value in self.top.items() if key in known} | own
        whole = {key: self.named(key) for key in ("models", "datasets") if script in WHOLE and key in known}
        return flags | {key: names for key, names in whole.items() if names}

    def pairs(self, script: str) -> list[tuple[str, str]]:
        """Models x data sets of a script, those of its section over those at the top."""
        flags = self.top | self.sections.get(script, {})
        return list(product(flags.get("models", []), flags.get("datasets", [])))

    def named(self, key: str) -> list[str]:
        """All models or all data sets, of the top and of every section, each once."""
        parts = (self.top, *self.sections.values())
        return list(dict.fromkeys(name for part in parts for name in part.get(key, [])))


def check(where: str, script: str, flags: dict[str, Any], known: Collection[str], note: str = "") -> None:
    """UserError for a flag that is not known."""
    for key in flags:
        if key not in known:
            fault = f"no flag of {script}; {suggest(key, known)}{note}"
            if script_path(key):
                fault = f"a section holds `flag: value` lines, not {flags[key]!r}"
            raise UserError(f"{where}: {key}: {fault}")


def script_path(name: str) -> Path | None:
    """The file of a script, at the top of the checkout or run with python -m; None if there is none."""
    if not re.fullmatch(r"\w{1,100}", name, re.ASCII):  # no path: a script is imported
        return None
    for folder in ("", "ntps/commands", "fig_plot"):
        path = ROOT / folder / f"{name}.py"
        if path.is_file() and "cli.run(main)" in path.read_text(encoding="utf-8"):
            return path
    return None


def read_experiment(where: str | Path) -> Experiment:
    """The experiment of a YAML file; UserError for one that cannot be read and for sections of no script."""
    where = Path(where)
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in read_yaml(where, "models: [NAME, NAME]").items():
        key = str(key)
        script = script_path(key)
        if script is None and isinstance(value, dict):
            names = [path.stem for path in ROOT.glob("*.py")]
            raise UserError(f"{where}: {key}: no script has this name; {suggest(key, names)}")
        if script and (value is None or isinstance(value, dict)):
            sections[key] = _with_lists(f"{where}: {key}", value or {})
        elif key != "about":
            top |= _with_lists(f"{where}", {key: value})
    return Experiment(where, top, sections)


def _with_lists(where: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, one model or data set made a list; UserError for what is no list of names."""
    flags = dict(flags)
    for key in {"models", "datasets"} & flags.keys():
        names = flags[key] = [flags[key]] if isinstance(flags[key], str) else flags[key]
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise UserError(f"{where}: {key}: {names!r} is not a list of names, such as [NAME, NAME]")
    return flags
