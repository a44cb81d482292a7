"""LoRA on the attention projections, with a linear head on the mean state of the last layer.

    python lora_finetuning.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --max_steps 150 --batch_size 16
    python lora_finetuning.py --models openelm-270m --datasets trec50 --seeds 0 1 2 --log_to tensorboard
    torchrun --nproc_per_node 4 lora_finetuning.py --models qwen2-7b --datasets medmcqa
    python cache.py --models smollm2-135m --datasets trec6 --adapter results/adapters/smollm2-135m/trec6-seed0

Writes OUTPUT/accuracy/lora_finetuning/MODEL/DATASET.csv and OUTPUT/adapters/MODEL/DATASET-seedN. After a kill the
same command goes on from the last checkpoint, about a minute back. The last line above: moments after LoRA.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ntps.accuracies import finetuning
from ntps.accuracies import lora as adapters
from ntps.accuracies.table import measure
from ntps.accuracies.task import Task, check
from ntps.commands import plan as planning
from ntps.models.loading import load_model
from ntps.run import cli
from ntps.run.tasks import each_task
from ntps.system import processes

METHOD = "lora_finetuning"


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    limit: int | None = None,
    max_length: int | None = None,
    max_steps: int = 5000,
    batch_size: int = 1,
    gradient_accumulation: int = 1,
    eval_every: int = 500,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
    dropout: float = 0.05,
    rank: int = 32,
    alpha: float = 32,
    lora_dropout: float = 0.05,
    lora_targets: Sequence[str] = (),
    start_layer: int = 0,
    seeds: Sequence[int] = (0,),
    released_protocol: bool = False,
    log_to: str = "none",
    device: str = "auto",
    dtype: str | None = None,
    overwrite: bool = False,
    plan: bool = False,
) -> int:
    """Fine-tune every model on every data set by LoRA.

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
        rank: of the LoRA matrices
        alpha: LoRA's scale times the rank
        lora_dropout: before the LoRA matrices
        lora_targets: modules to adapt (default: those of the model's description)
        start_layer: the first block to adapt, 0 = all
        seeds: one training each: of first weights, order, dropout, and the cut of the validation part; those that
            a table has already stay as they are, so that more can be added
        released_protocol: train on all of train and score test along the way, as the published code does
        log_to: none, tensorboard, wandb or trackio
        device: auto, cpu, cuda, mps
        dtype: of the frozen weights and the forward pass: float32, bfloat16, float16 (default: bfloat16 on cuda,
            else float32); LoRA and head are float32
        overwrite: replace results of other settings
        plan: only print what this would take: memory, disk, operations and time
    """
    flags = dict(locals())
    names = (*finetuning.SETTINGS, "rank", "alpha", "lora_dropout", "start_layer")
    common = {name: flags[name] for name in names} | processes.several()
    check(common)
    if plan:
        return planning.print_plan(METHOD, flags)

    def work(task: Task) -> None:
        spec = task.source.spec
        settings = common | {"lora_targets": spec.targets(lora_targets)}

        def build(seed: int) -> nn.Module:
            base = load_model(spec, task.source.dtype, task.source.device)
            return adapters.add_lora(base, spec.source.get("id", spec.name), settings)

        def keep(model: finetuning.Classifier, seed: int, identity: dict) -> None:
            folder = Path(output) / "adapters" / task.source.name / f"{task.data.name}-seed{seed}"
            adapters.save_adapter(model.base, model.head.linear, folder, identity)

        fit = finetuning.fitter(task, METHOD, settings, output, log_to, build, keep)
        measure(task, METHOD, settings, seeds, output, overwrite, fit)

    return each_task(models, datasets, limit, device, dtype, max_length, None, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
