"""A linear head on a frozen model: each text is encoded once, then 50 epochs on its mean state.

    python linear_training.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python linear_training.py --models smollm2-135m --datasets trec6 --limit 2000 --max_length 64 --seeds 0 1 2
    python linear_training.py --models Qwen/Qwen2-0.5B --datasets my_texts.yaml --layer 12 --pooling last
    torchrun --nproc_per_node 4 linear_training.py --models qwen2-7b --datasets medmcqa

Writes OUTPUT/accuracy/linear_training/MODEL/DATASET.csv. States that `cache.py --keep_states` left in OUTPUT of
the same texts and settings are used as they are.
"""

import sys
from collections.abc import Sequence

from ntps.accuracies import linear_head
from ntps.accuracies.table import measure
from ntps.accuracies.task import Task, check
from ntps.errors import UserError
from ntps.run import cli
from ntps.run.tasks import each_task

SETTINGS = (  # named as the flags that set them
    "layer", "pooling", "epochs", "max_steps", "batch_size", "learning_rate", "dropout", "released_protocol",
)  # fmt: skip


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    limit: int | None = None,
    max_length: int | None = None,
    layer: int | None = None,
    pooling: str = "mean",
    epochs: int = 50,
    max_steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    dropout: float = 0.05,
    seeds: Sequence[int] = (0,),
    released_protocol: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    overwrite: bool = False,
    plan: bool = False,
) -> int:
    """Train a linear head on the frozen states of every model and data set.

    Args:
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
        output: folder for all results
        limit: texts per split, the first of one seeded permutation (default: all)
        max_length: tokens per text (default: the smaller of the tokenizer's and the model's limit)
        layer: whose states, 0 = embeddings (default: the last)
        pooling: of a text's states: mean, or last (the last token's)
        epochs: passes over the states
        max_steps: optimizer steps, if fewer than the epochs have
        batch_size: texts per step, however many processes share the forward pass
        learning_rate: of AdamW
        dropout: on the states
        seeds: one training each: of the head's first weights, the order, and the cut of the validation part; those
            that a table has already stay as they are, so that more can be added
        released_protocol: train on all of train and score test along the way, as the published code does
        device: auto, cpu, cuda, mps
        dtype: of the forward pass: float32, bfloat16, float16 (default: bfloat16 on cuda, else float32)
        overwrite: replace results of other settings
        plan: only print what this would take: memory, disk, operations and time
    """
    flags = dict(locals())
    settings = {name: flags[name] for name in SETTINGS}
    check(settings)
    if pooling not in ("mean", "last"):
        raise UserError(f"--pooling {pooling}: must be mean or last")
    if plan:
        from ntps.commands.plan import print_plan  # its imports are large

        return print_plan("linear_training", flags)

    def work(task: Task) -> None:
        fit = linear_head.fitter(task, settings, output)
        measure(task, "linear_training", settings, seeds, output, overwrite, fit)

    return each_task(models, datasets, limit, device, dtype, max_length, layer, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
