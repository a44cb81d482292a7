"""The jobs of an experiment file, one for each script, model and data set, and what to ask a cluster for; see Snakefile."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import torch

from ntps.accuracies.registry import METHOD, METHODS
from ntps.errors import UserError
from ntps.models.description import output_name, resolve_model
from ntps.run.cli import experiment_flags
from ntps.run.experiments import read_experiment
from ntps.run.plan import Outline, Plan, plan_pair
from ntps.texts.dataset import dataset_name, find_description
from ntps.texts.sources import SPLIT

# the scripts in their order, and what of cache.py's output each waits for
READS: dict[str, tuple[str, ...]] = {
    "cache": (),
    "K_sweep": ("moments",),
    **{method.name: method.reads for method in METHODS},
}
# Operations a second that a job may count on: a third of what is usual, so that few jobs are cut off.
FLOPS = {"cuda": 1e13, "cpu": 2e10}
START = 900  # seconds for imports, texts and weights
HOST = 6e9  # bytes of a process that has loaded nothing yet, and to spare
# K_sweep.py: twice the CPU seconds of a layer at d = 2048 in docs/scaling.md, and its d x d matrices in memory, the moments among them
SOLVE_SECONDS, SOLVE_MATRICES = 42.0, 37
PROBE_SECONDS = 25 / (2000 * 576 * 31)  # linear_sklearn.py: of a text, dimension and layer


def trains_probes(script: str) -> bool:
    return script in METHOD and METHOD[script].trains == "probes"


def by_name(names: dict[str, str], source: Callable[[str], Any]) -> dict[str, str]:
    """What was given, by its name in output paths; UserError for two different ones of one name."""
    found: dict[str, str] = {}
    for given, name in names.items():
        if source(first := found.setdefault(name, given)) != source(given):
            raise UserError(f"{first} and {given} are both called {name} in output paths: rename one")
    return found


class Grid:
    """An experiment's pairs by their names in output paths, and the flags of every script with its defaults."""

    def __init__(self, where: str, threads: int = 1):
        self.where, self.threads, self.experiment = where, threads, read_experiment(where)
        top, sections = self.experiment.top, self.experiment.sections
        self.scripts = [name for name in READS if name in ("cache", "K_sweep") or name in sections]
        for script in self.scripts:
            own = sections.get(script, {})
            if missing := [key for key in ("models", "datasets") if key not in top | own]:
                raise UserError(f"{where}: {missing[0]}: a grid needs a list of them, and {script} has none")
            if "output" in own:
                hint = "in a grid it stands at the top: scripts read each other's results"
                raise UserError(f"{where}: {script}: output: {hint}")
            if (top | own).get("adapter"):
                raise UserError(
                    f"{where}: adapter: a grid's models have none, for it names their results; run {script}.py by itself"
                )
        pairs = (pair for script in self.scripts for pair in self.experiment.pairs(script))
        models, datasets = map(dict.fromkeys, zip(*pairs))
        self.names = [
            {given: output_name(resolve_model(given)) for given in models},
            {given: dataset_name(given) for given in datasets},
        ]  # in output paths
        self.models = by_name(self.names[0], resolve_model)
        self.datasets = by_name(self.names[1], lambda name: find_description(name).resolve())
        self.output, cache = str(top.get("output", "results")), self.flags("cache")
        self.splits: list[str] = cache["splits"]
        if strange := [name for name in self.splits if not re.fullmatch(SPLIT, name, re.ASCII)]:
            raise UserError(f"{where}: cache: splits: {strange[0]!r} is no name of a split")
        if cache["shard"]:
            raise UserError(
                f"{where}: cache: shard: jobs wait for whole splits, which a shard does not write"
            )
        self.kinds = ["moments", "states"] if cache["keep_states"] else ["moments"]  # that cache.py writes
        probes = [script for script in self.scripts if trains_probes(script)]
        if probes and "states" not in self.kinds:
            raise UserError(f"{where}: {probes[0]}: it needs states: cache: {{keep_states: true}}")

    def pairs(self, script: str) -> list[tuple[str, str]]:
        """Models and data sets of a script, by their names in output paths."""
        models, datasets = self.names
        return list(dict.fromkeys((models[m], datasets[d]) for m, d in self.experiment.pairs(script)))

    def cached(self, model: str, dataset: str, kind: str = "moments") -> list[str]:
        """What cache.py makes of a pair, of one kind."""
        return [f"{self.output}/{kind}/{model}/{dataset}/{split}.safetensors" for split in self.splits]

    def table(self, script: str, model: str, dataset: str) -> str:
        """The table that a script makes of a pair."""
        kind = "ntps" if script == "K_sweep" else f"accuracy/{script}"
        return f"{self.output}/{kind}/{model}/{dataset}.csv"

    @functools.cache  # noqa: B019 -- one grid in a process
    def flags(self, script: str) -> dict[str, Any]:
        return experiment_flags(script, self.where)

    def device(self, script: str) -> str:
        """Probes never run on a GPU, K_sweep.py where its section says so, the others by default."""
        device = str(self.flags(script).get("device", "cpu"))
        gpu = device.startswith("cuda") or (
            device == "auto" and script != "K_sweep" and not trains_probes(script)
        )
        return "cuda" if gpu else "cpu"

    @functools.cache  # noqa: B019
    def outline(self, script: str, model: str) -> Outline:
        return Outline(self.models[model], self.flags(script), torch.device(self.device(script)))

    @functools.cache  # noqa: B019
    def plan(self, script: str, model: str, dataset: str) -> Plan:
        """Without a look at texts or weights."""
        outline = self.outline(script, model)
        return plan_pair(script, outline, self.datasets[dataset], self.flags(script), read=False)

    def needs(self, script: str, model: str, dataset: str, gpus: int = 1) -> dict[str, int]:
        """mem_mb of the machine, runtime in minutes and gpus, from the plan."""
        device, outline = self.device(script) if gpus else "cpu", self.outline("cache", model)
        d, layers, at_once = outline.width, len(outline.blocks) + 1, 1 if device == "cuda" else self.threads
        if script == "K_sweep":
            memory = at_once * SOLVE_MATRICES * 8 * d**2
            seconds = 3 * math.ceil(layers / at_once) * SOLVE_SECONDS * (d / 2048) ** 3
        elif trains_probes(script):  # many classes and huge coordinates are slow
            size = self.plan("cache", model, dataset).texts.count * d
            memory, seconds = at_once * 16 * size, 10 * PROBE_SECONDS * size * layers
        else:
            plan = self.plan(script, model, dataset)
            # weights pass through the machine's memory, and so do the moments when they are written
            memory = plan.memory if device == "cpu" else 2 * plan.weights + plan.sums
            seconds = plan.seconds(FLOPS[device], device)
        gigabytes, minutes = math.ceil((HOST + 1.2 * memory) / 1e9), math.ceil((START + seconds) / 60)
        return {"mem_mb": gigabytes * 1000, "runtime": minutes, "gpu": gpus if device == "cuda" else 0}
