"""The grid of an experiment file: every script that it lists, over every model and data set; see docs/cluster.md.

    snakemake --cores 2 --config experiment=configs/experiments/mini.yaml
    snakemake -n --quiet rules --config experiment=configs/experiments/paper.yaml
    snakemake --workflow-profile profiles/slurm --config experiment=configs/experiments/paper.yaml gpus=1
"""

import os
import re
import shlex
import sys

sys.path.insert(0, workflow.basedir)
offline = os.environ.get("HF_HUB_OFFLINE")
os.environ["HF_HUB_OFFLINE"] = "1"  # read at import: a plan needs sizes only; jobs are free to ask the hub
from ntps.run.jobs import READS, Grid  # noqa: E402

del os.environ["HF_HUB_OFFLINE"]
if offline is not None:
    os.environ["HF_HUB_OFFLINE"] = offline

if "experiment" not in config:
    raise WorkflowError("which grid? snakemake --config experiment=configs/experiments/mini.yaml")
THREADS, GPUS = int(config.get("threads", 8)), int(config.get("gpus", 0))
grid = Grid(config["experiment"], THREADS)


wildcard_constraints:
    model="|".join(map(re.escape, grid.models)),
    dataset="|".join(map(re.escape, grid.datasets)),
    split="|".join(map(re.escape, grid.splits)),


def command(script, more=""):
    """The script on one pair, with the experiment's flags."""
    path = os.path.join(workflow.basedir, f"{script}.py")
    words = shlex.join([sys.executable, path, "--config", grid.where]).replace("{", "{{").replace("}", "}}")
    return f"{words} --models {{params.model:q}} --datasets {{params.dataset:q}} {more}"


def needs(script, what):
    """mem_mb, runtime or gpu of a job, from the plan; twice as much of the first two at a second attempt."""
    def requested(wildcards, attempt):
        count = grid.needs(script, wildcards.model, wildcards.dataset, GPUS)[what]
        return count if what == "gpu" else attempt * count
    return requested


def reads(script):
    """What a job waits for."""
    return lambda found: [path for kind in READS[script] for path in grid.cached(found.model, found.dataset, kind)]


MODEL, DATASET = lambda wildcards: grid.models[wildcards.model], lambda wildcards: grid.datasets[wildcards.dataset]


rule all:
    input:
        [path for m, d in grid.pairs("cache") for kind in grid.kinds for path in grid.cached(m, d, kind)],
        [grid.table(s, m, d) for s in grid.scripts if s != "cache" for m, d in grid.pairs(s)],


# update(): what a script wrote stays until the script itself replaces it
rule cache:
    output:
        [update(f"{grid.output}/{kind}/{{model}}/{{dataset}}/{{split}}.safetensors") for kind in grid.kinds],
    params:
        model=MODEL,
        dataset=DATASET,
    threads: THREADS
    resources:
        mem_mb=needs("cache", "mem_mb"),
        runtime=needs("cache", "runtime"),
        gpu=needs("cache", "gpu"),
    shell:
        command("cache", "--splits {wildcards.split:q}")


for script in grid.scripts:
    if script == "cache":
        continue

    rule:
        name:
            script
        input:
            reads(script),
        output:
            update(grid.table(script, "{model}", "{dataset}")),
        params:
            model=MODEL,
            dataset=DATASET,
        threads: THREADS
        resources:
            mem_mb=needs(script, "mem_mb"),
            runtime=needs(script, "runtime"),
            gpu=needs(script, "gpu"),
        shell:
            command(script)
