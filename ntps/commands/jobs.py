"""The jobs of an experiment file, one for each script, model and data set, and what to ask a cluster for; see Snakefile."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch

from ntps.commands.outline import Outline
from ntps.commands.plan import Plan, plan_pair
from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import output_name
from ntps.run.cli import flags_of
from ntps.run.experiments import read_experiment
from ntps.texts.dataset import dataset_name

TRAINERS = ("linear_training", "lora_finetuning", "from_scratch")
SCRIPTS = ("cache", "K_sweep", "linear_sklearn", *TRAINERS)
# Operations a second that a job may count on: a third of what is usual, so that few jobs are cut off.
FLOPS = {"cuda": 1e13, "cpu": 2e10}
UPDATES = {"cuda": 3e9, "cpu": 2e7}  # parameters that Adafactor updates a second
START = 900  # seconds for imports, texts and weights
HOST = 6e9  # bytes of a process that has loaded nothing yet, and to spare
# K_sweep.py, docs/scaling.md: a layer's CPU seconds at d = 2048, and d x d matrices in memory for it, moments among them
SOLVE_SECONDS, SOLVE_MATRICES = 42.0, 30
PROBE_SECONDS = 25 / (2000 * 576 * 31)  # linear_sklearn.py, README: of a text, dimension and layer


class Grid:
    """An experiment's pairs by their names in output paths, and the flags of every script with its defaults."""

    def __init__(self, where: str, threads: int = 1):
        self.where, self.threads = where, threads
        self.experiment = read_experiment(where)
        top, sections = self.experiment.top, self.experiment.sections
        self.scripts = [*SCRIPTS[:2], *(name for name in SCRIPTS[2:] if name in sections)]
        for script in self.scripts:
            own = sections.get(script, {})
            for key in ("models", "datasets"):
                if key not in top | own:
                    raise UserError(f"{where}: {key}: a grid needs a list of them, and {script} has none")
            if "output" in own:
                raise UserError(
                    f"{where}: {script}: output: in a grid it stands at the top: scripts read each other's results"
                )
        self.models = {output_name(resolve_model(name)): name for name in self._named(0)}
        self.datasets = {dataset_name(name): name for name in self._named(1)}
        self.output = str(top.get("output", "results"))
        if "linear_sklearn" in self.scripts and not self.flags("cache")["keep_states"]:
            raise UserError(f"{where}: linear_sklearn: it needs states: cache: {{keep_states: true}}")

    def _named(self, place: int) -> list[str]:
        pairs = (pair for script in self.scripts for pair in self.experiment.pairs(script))
        return list(dict.fromkeys(pair[place] for pair in pairs))

    def pairs(self, script: str) -> list[tuple[str, str]]:
        """Models and data sets of a script, by their names in output paths."""
        short = {name: key for key, name in (self.models | self.datasets).items()}
        return [(short[model], short[dataset]) for model, dataset in self.experiment.pairs(script)]

    @functools.cached_property
    def splits(self) -> list[str]:
        return list(self.flags("cache")["splits"])

    @property
    def kinds(self) -> list[str]:
        """What cache.py makes of a split."""
        return ["moments", "states"] if self.flags("cache")["keep_states"] else ["moments"]

    def moments(self, model: str, dataset: str, kind: str = "moments") -> list[str]:
        """What cache.py makes of a pair, of one kind."""
        return [f"{self.output}/{kind}/{model}/{dataset}/{split}.safetensors" for split in self.splits]

    def table(self, script: str, model: str, dataset: str) -> str:
        """The table that a script makes of a pair."""
        kind = "ntps" if script == "K_sweep" else f"accuracy/{script}"
        return f"{self.output}/{kind}/{model}/{dataset}.csv"

    @functools.cache  # noqa: B019 -- one grid in a process
    def flags(self, script: str) -> dict[str, Any]:
        known = flags_of(importlib.import_module(script).main)
        defaults = {name: flag.default for name, flag in known.items()}
        return defaults | self.experiment.flags(script, known)

    def on_gpu(self, script: str) -> bool:
        """linear_sklearn.py never runs there, K_sweep.py where its section says so, the others unless told not to."""
        device = str(self.flags(script).get("device", "cpu"))
        return device.startswith("cuda") or (device == "auto" and script not in ("K_sweep", "linear_sklearn"))

    @functools.cache  # noqa: B019
    def outline(self, script: str, model: str) -> Outline:
        device = torch.device("cuda" if self.on_gpu(script) else "cpu")
        return Outline(self.models[model], self.flags(script), device)

    @functools.cache  # noqa: B019
    def needs(self, script: str, model: str, dataset: str, gpus: int = 1) -> dict[str, int]:
        """mem_mb of the machine, runtime in minutes and gpus, from the plan; sizes of texts are not looked up."""
        outline, device = self.outline("cache", model), "cuda" if gpus and self.on_gpu(script) else "cpu"
        d, layers = outline.width, len(outline.blocks) + 1
        if script in ("K_sweep", "linear_sklearn"):
            plan = self._plan("cache", model, dataset)
            at_once = 1 if device == "cuda" else self.threads
            memory = at_once * (SOLVE_MATRICES * 8 * d**2 if script == "K_sweep" else 16 * plan.texts * d)
            seconds = 3 * math.ceil(layers / at_once) * SOLVE_SECONDS * (d / 2048) ** 3
            if script == "linear_sklearn":
                seconds = (
                    10 * PROBE_SECONDS * plan.texts * d * layers
                )  # many classes and huge coordinates are slow
        else:
            plan = self._plan(script, model, dataset)
            # weights pass through the machine's memory, and so do the moments when they are written
            memory = plan.memory if device == "cpu" else 2 * plan.weights + plan.sums
            seconds = sum(plan.work.values()) / FLOPS[device] + plan.updated / UPDATES[device]
        return {
            "mem_mb": math.ceil((HOST + 1.2 * memory) / 1e9) * 1000,
            "runtime": math.ceil((START + seconds) / 60),
            "gpu": gpus if device == "cuda" else 0,
        }

    @functools.cache  # noqa: B019
    def _plan(self, script: str, model: str, dataset: str) -> Plan:
        return plan_pair(
            script, self.outline(script, model), self.datasets[dataset], self.flags(script), read=False
        )
