"""LoRA on the attention projections, with a linear head on the mean state of the last layer.

    python lora_finetuning.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --max_steps 150 --batch_size 16
    python lora_finetuning.py --models openelm-270m --datasets trec50 --seeds 0 1 2 --log_to tensorboard
    torchrun --nproc_per_node 4 lora_finetuning.py --models qwen2-7b --datasets medmcqa
    python cache.py --models smollm2-135m --datasets trec6 --adapter results/adapters/smollm2-135m/trec6-seed0

Writes OUTPUT/accuracy/lora_finetuning/MODEL/DATASET.csv and OUTPUT/adapters/MODEL/DATASET-seedN. After a kill the
same command goes on from the last checkpoint, about a minute back. The last line above: moments after LoRA.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ntps.flags import Lora
from ntps.run import cli

METHOD = "lora_finetuning"


@dataclass(kw_only=True)
class Flags(Lora):
    """Fine-tune every model on every data set by LoRA; LoRA and head are float32 whatever --dtype is."""


def main(flags: Flags) -> int:
    if flags.plan:
        from ntps.run.plan import print_plan

        return print_plan(METHOD, asdict(flags))
    from ntps.accuracies.finetuning import Classifier, fitter  # after the flags: these imports take seconds
    from ntps.accuracies.lora import chosen_targets, lora_model, save_adapter
    from ntps.accuracies.table import measure
    from ntps.accuracies.task import Task
    from ntps.system import processes

    def work(task: Task) -> None:
        targets = chosen_targets(task.model.spec, flags.lora_targets, task.model.config)
        settings = flags.settings | processes.several() | {"lora_targets": targets}

        def keep(model: Classifier, seed: int, identity: dict[str, Any]) -> None:
            folder = Path(flags.output) / "adapters" / task.model.name / f"{task.data.name}-seed{seed}"
            save_adapter(model.base, model.head[-1], folder, identity)

        fit = fitter(task, METHOD, flags, lambda seed: lora_model(task.model, settings), keep)
        measure(task, METHOD, settings, flags, fit)

    return cli.for_each_task(flags, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
