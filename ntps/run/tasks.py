"""The loop of the trainers: every model, set to one layer, on every data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ntps.accuracies.task import Task
from ntps.moments.source import Sources
from ntps.run import cli
from ntps.texts.dataset import load_dataset


def each_task(flags: Any, work: Callable[[Task], None], layer: int | None = None) -> int:
    """Call `work` with every model and data set, the models set to one layer (None: the last); the exit code."""
    sources = Sources(flags, layer)

    def pair(model: str, dataset: str) -> None:
        work(Task(sources[model], load_dataset(dataset), flags.limit))

    return cli.for_each_pair(flags.models, flags.datasets, pair)
