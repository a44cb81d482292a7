"""One forward pass of each model over each split of each data set: moments, and mean states on request.

    python cache.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python cache.py --models smollm2-135m smollm2-135m-random --datasets trec6 --limit 1000 --keep_states
    python cache.py --models Qwen/Qwen2-0.5B --datasets my_texts.yaml --max_length 256 --output results
    torchrun --nproc_per_node 4 cache.py --models qwen2-7b --datasets medmcqa
    python cache.py --models qwen2-7b --datasets medmcqa --shard 2/3

Writes OUTPUT/moments/MODEL/DATASET/SPLIT.safetensors (and OUTPUT/states/...). What is there already is skipped;
after a kill the same command goes on from the last checkpoint, at most a minute back.
"""

import sys
from collections.abc import Sequence

from ntps.errors import UserError, at_least
from ntps.moments.passes import Job, parse_shard
from ntps.moments.source import Source
from ntps.run import cli
from ntps.texts.dataset import Dataset, load_dataset


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    splits: Sequence[str] = ("train", "test"),
    output: str = "results",
    limit: int | None = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    layers: str = "all",
    label_permutations: int = 20,
    partitions: int = 1,
    shard: str | None = None,
    prefix_moments: str = "train",
    keep_states: bool = False,
    adapter: str | None = None,
    seed: int = 42,
    overwrite: bool = False,
    plan: bool = False,
) -> int:
    """Cache the moments of every model x data set x split.

    Args:
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
        splits: splits to run
        output: folder for all results
        limit: texts per split, the first of one seeded permutation (default: all)
        max_length: tokens per text (default: the smaller of the tokenizer's and the model's limit)
        tokens_per_batch: tokens in a batch (default: 2048 on a CPU, 16384 elsewhere)
        dtype: of the forward pass: float32, bfloat16, float16, float64 (default: bfloat16 on cuda, else float32)
        device: auto, cpu, cuda, cuda:1, mps
        layers: all, or a list such as 0,8,16 (0 = embeddings)
        label_permutations: shuffled copies of the labels, for the label null
        partitions: parts of the texts whose moments are also kept apart, for error bars
        shard: i/n does part i of n partitions alone, into SPLIT.i-of-n.safetensors, on this machine;
            `python -m ntps.merge` adds up what the machines made
        prefix_moments: splits that get the two token moments: train or all
        keep_states: also write the mean states of every text
        adapter: PEFT adapter folder to merge into the model
        seed: of the limit's permutation and of the label permutations
        overwrite: replace results of other settings
        plan: only print what this would take: memory, disk, operations and time
    """
    flags = dict(locals())
    for name in ("limit", "max_length", "tokens_per_batch", "partitions"):
        at_least(name, flags[name], 1)
    for name in ("label_permutations", "seed"):
        at_least(name, flags[name], 0)
    parse_shard(shard, partitions)
    if prefix_moments not in ("train", "all"):
        raise UserError(f"--prefix_moments {prefix_moments}: must be train or all")
    if plan:
        from ntps.commands.plan import print_plan  # its imports are large

        return print_plan("cache", flags)
    sources: dict[str, Source] = {}
    texts: dict[str, Dataset] = {}

    def work(model: str, dataset: str) -> None:
        if model not in sources:
            sources.clear()  # one model in memory at a time
            sources[model] = Source(model, adapter, device, dtype, max_length, layers)
        if dataset not in texts:
            texts[dataset] = load_dataset(dataset)
        data = texts[dataset]
        chosen = [data.select(split, limit, seed) for split in splits]
        for split in chosen:
            if split.name == "train" and len(set(split.labels)) < 2:
                raise UserError(f"the {len(split.labels)} train texts are all of one class: raise --limit")
        for split in chosen:
            Job(sources[model], data, split, flags).run()

    return cli.for_each_pair(models, datasets, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
