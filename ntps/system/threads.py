"""Work on several layers at a time, on the threads that torch has."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_layers(
    function: Callable[[Item], Result], layers: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """function over layers, in order, several at a time (default: as many as torch has threads).

    torch.linalg releases the interpreter lock, and two layers on one thread each are done sooner than two in turn on
    two threads. Give large layers by number, for `function` to read from disk; workers=1 where they lie on a GPU.
    """
    import torch

    threads = torch.get_num_threads()
    workers = workers or threads
    torch.set_num_threads(max(1, threads // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(function, layers)
    finally:
        torch.set_num_threads(threads)
