"""The same architecture from fresh weights, all of them trained, with a linear head on the mean state.

    python from_scratch.py --models smollm2-135m --datasets trec6
    python from_scratch.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --max_steps 100 --batch_size 16
    torchrun --nproc_per_node 4 from_scratch.py --models qwen2-0.5b --datasets medmcqa

Writes OUTPUT/accuracy/from_scratch/MODEL/DATASET.csv. After a kill the same command goes on from the last checkpoint.
"""

import sys
from dataclasses import asdict, dataclass

from ntps.flags import Count, Training, setting
from ntps.run import cli

METHOD = "from_scratch"


@dataclass(kw_only=True)
class Flags(Training):
    """Train every model's architecture on every data set from random weights; they are float32 whatever --dtype is."""

    max_steps: Count = setting(10000, "optimizer steps")


def main(flags: Flags) -> int:
    if flags.plan:
        from ntps.run.plan import print_plan

        return print_plan(METHOD, asdict(flags))
    import torch  # after the flags: these imports take seconds
    from torch import nn
    from transformers import AutoModel

    from ntps.accuracies.finetuning import fitter
    from ntps.accuracies.table import measure
    from ntps.accuracies.task import Task
    from ntps.models.loading import built
    from ntps.system import processes

    def work(task: Task) -> None:
        def build(seed: int) -> nn.Module:  # the seed is set already
            return built(task.model.spec, AutoModel, task.model.config, torch.float32)

        settings = flags.settings | processes.several()
        measure(task, METHOD, settings, flags, fitter(task, METHOD, flags, build))

    return cli.for_each_task(flags, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
