"""The loop of the trainers: every model, set to one layer, on every data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ntps.accuracies.task import Task
from ntps.errors import at_least
from ntps.moments.source import Source
from ntps.run import cli
from ntps.texts.dataset import load_dataset


def each_task(
    models: Sequence[str],
    datasets: Sequence[str],
    limit: int | None,
    device: str,
    dtype: str | None,
    max_length: int | None,
    layer: int | None,
    work: Callable[[Task], None],
) -> int:
    """Call `work` with every model and data set, the model set to one layer (None: the last); the exit code."""
    at_least("limit", limit, 1)
    at_least("max_length", max_length, 1)
    sources: dict[str, Source] = {}

    def pair(model: str, dataset: str) -> None:
        if model not in sources:
            sources.clear()  # one model in memory at a time
            source = Source(model, None, device, dtype, max_length, "all" if layer is None else str(layer))
            source.layers = source.layers[-1:]
            sources[model] = source
        work(Task(sources[model], load_dataset(dataset), limit))

    return cli.for_each_pair(models, datasets, pair)
