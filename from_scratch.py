"""The same architecture from fresh weights, all of them trained, with a linear head on the mean state.

    python from_scratch.py --models smollm2-135m --datasets trec6
    python from_scratch.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --max_steps 100 --batch_size 16
    torchrun --nproc_per_node 4 from_scratch.py --models qwen2-0.5b --datasets medmcqa

Writes OUTPUT/accuracy/from_scratch/MODEL/DATASET.csv. After a kill the same command goes on from the last checkpoint.
"""

import sys
from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModel

from ntps.accuracies import finetuning
from ntps.accuracies.table import measure
from ntps.accuracies.task import Task, check
from ntps.commands import plan as planning
from ntps.run import cli
from ntps.run.tasks import each_task
from ntps.system import processes

METHOD = "from_scratch"


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    limit: int | None = None,
    max_length: int | None = None,
    max_steps: int = 10000,
    batch_size: int = 1,
    gradient_accumulation: int = 1,
    eval_every: int = 500,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
    dropout: float = 0.05,
    seeds: Sequence[int] = (0,),
    released_protocol: bool = False,
    log_to: str = "none",
    device: str = "auto",
    dtype: str | None = None,
    overwrite: bool = False,
    plan: bool = False,
) -> int:
    """Train every model's architecture on every data set from random weights.

    Args:
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
        output: folder for all results
        limit: texts per split, the first of one seeded permutation (default: all)
        max_length: tokens per text (default: the smaller of the tokenizer's and the model's limit)
        max_steps: optimizer steps
        batch_size: texts in a forward pass of each process: N processes take N times as many texts a step
        gradient_accumulation: forward passes per optimizer step
        eval_every: steps between scores of the validation part
        learning_rate: of Adafactor, after the warm-up
        weight_decay: of Adafactor
        dropout: before the head
        seeds: one training each: of first weights, order, dropout, and the cut of the validation part; those that
            a table has already stay as they are, so that more can be added
        released_protocol: train on all of train and score test along the way, as the published code does
        log_to: none, tensorboard, wandb or trackio
        device: auto, cpu, cuda, mps
        dtype: of the forward pass: float32, bfloat16, float16 (default: bfloat16 on cuda, else float32); weights
            are float32
        overwrite: replace results of other settings
        plan: only print what this would take: memory, disk, operations and time
    """
    flags = dict(locals())
    settings = {name: flags[name] for name in finetuning.SETTINGS} | processes.several()
    check(settings)
    if plan:
        return planning.print_plan(METHOD, flags)

    def work(task: Task) -> None:
        def build(seed: int) -> nn.Module:  # the seed is set already
            return AutoModel.from_config(
                task.source.config, dtype=torch.float32, trust_remote_code=task.source.spec.trust_remote_code
            )

        fit = finetuning.fitter(task, METHOD, settings, output, log_to, build)
        measure(task, METHOD, settings, seeds, output, overwrite, fit)

    return each_task(models, datasets, limit, device, dtype, max_length, None, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
