"""A linear head on a frozen model: each row is encoded once, then 50 epochs on its mean state.

    python linear_training.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python linear_training.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --seeds 0 1 2
    python linear_training.py --models Qwen/Qwen2-0.5B --datasets my_texts.yaml --layer 12 --pooling last
    torchrun --nproc_per_node 4 linear_training.py --models qwen2-7b --datasets medmcqa

Writes OUTPUT/accuracy/linear_training/MODEL/DATASET.csv. States that `cache.py --keep_states` left in OUTPUT of
the same rows and settings are used as they are.
"""

import sys
from dataclasses import asdict, dataclass

from ntps.flags import LinearHead
from ntps.run import cli

METHOD = "linear_training"


@dataclass(kw_only=True)
class Flags(LinearHead):
    """Train a linear head on the frozen states of every model and data set."""


def main(flags: Flags) -> int:
    if flags.plan:
        from ntps.run.plan import print_plan

        return print_plan(METHOD, asdict(flags))
    from ntps.accuracies.linear_head import fitter  # after the flags: these imports take seconds
    from ntps.accuracies.table import measure
    from ntps.accuracies.task import Task

    def work(task: Task) -> None:
        measure(task, METHOD, flags.settings, flags, fitter(task, flags))

    return cli.for_each_task(flags, work, flags.layer)


if __name__ == "__main__":
    sys.exit(cli.run(main))
