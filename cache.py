"""One forward pass of each model over each split of each data set: moments, and mean states on request.

    python cache.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python cache.py --models smollm2-135m smollm2-135m-random --datasets trec6 --limit 1000 --keep_states
    python cache.py --models Qwen/Qwen2-0.5B --datasets my_texts.yaml --max_length 256 --output results
    torchrun --nproc_per_node 4 cache.py --models qwen2-7b --datasets medmcqa
    python cache.py --models qwen2-7b --datasets medmcqa --shard 2/3

Writes OUTPUT/moments/MODEL/DATASET/SPLIT.safetensors (and OUTPUT/states/...). What is there already is skipped;
after a kill the same command goes on from the last checkpoint, at most a minute back.
"""

import functools
import sys
from dataclasses import asdict, dataclass

from ntps.flags import Caching, Pairs, flag
from ntps.run import cli


@dataclass(kw_only=True)
class Flags(Pairs, Caching):
    """Cache the moments of every model x data set x split."""

    splits: tuple[str, ...] = flag(("train", "test"), "splits to run")
    plan: bool = flag(False, "only print what this would take: memory, disk, operations and time")


def main(flags: Flags) -> int:
    if flags.plan:
        from ntps.run.plan import print_plan

        return print_plan("cache", asdict(flags))
    from ntps.moments.lazy_model import lazy_models  # after the flags: these imports take seconds
    from ntps.moments.resumable_pass import cache_splits
    from ntps.texts.dataset import load_dataset

    lazy, texts = lazy_models(flags), functools.cache(load_dataset)

    def work(model: str, dataset: str) -> None:
        cache_splits(lazy(model), texts(dataset), flags.splits, flags)

    return cli.for_each_pair(flags.models, flags.datasets, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
