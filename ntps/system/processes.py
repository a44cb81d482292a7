"""Several processes of one launch (torchrun, accelerate launch): which one this is, and what they exchange.

One rule: an error in one process ends the launch, and the same command goes on from the last checkpoint. The first
process that fails says why; to the others it is gone, which ends them at their next exchange.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from ntps.errors import UserError

TIMEOUT = timedelta(minutes=30)  # silent for longer is lost; the first may be writing large files
FAREWELL = 5.0  # seconds that a failed first process, which may hold the store, waits for the others
LAUNCHED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets beside WORLD_SIZE
Value = TypeVar("Value")


class Lost(RuntimeError):
    """Another process of the launch is gone: this one cannot go on."""


class Elsewhere(Exception):
    """This process ends because of another one, which says why."""


def count() -> int:
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    return _number("RANK", 0) if count() > 1 else 0


def local_rank() -> int:
    return _number("LOCAL_RANK", 0)


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable) or str(default)
    if not (value.isascii() and value.isdecimal()):
        raise UserError(
            f"the variable {variable} is {value!a}, not a number: a launcher sets it, so unset it or correct it"
        )
    return int(value)


def first() -> bool:
    """True in one process of a launch: the one that writes files and talks to the user."""
    return rank() == 0


def several() -> dict[str, int]:
    """The number of processes, for the identity of what depends on it; nothing if there is one."""
    return {"processes": count()} if count() > 1 else {}


@contextmanager
def launched() -> Iterator[None]:
    """Connect the processes of the launch, if there are several; Elsewhere in those that did not fail first."""
    if count() == 1:
        yield
        return
    if missing := [name for name in LAUNCHED if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {count()}, but {', '.join(missing)} not set: start by torchrun or accelerate launch, "
            "or unset WORLD_SIZE for one process"
        )
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    store, *_ = next(distributed.rendezvous("env://", timeout=TIMEOUT))
    about: Any = {"rank": rank(), "world_size": count(), "store": store, "timeout": TIMEOUT}
    _exchange("init_process_group", "cpu:gloo,cuda:nccl" if cuda else "gloo", **about)
    try:
        yield
    except Exception as error:
        try:
            place = store.add("failed", 1)
        except RuntimeError:  # the store is gone with its process
            place = 1
        if not cuda:  # NCCL would wait for the others; they notice when this process ends
            distributed.destroy_process_group()
        deadline = time.monotonic() + FAREWELL
        while first() and store.add("failed", 0) < count() and time.monotonic() < deadline:
            time.sleep(0.05)
        if place > 1:
            raise Elsewhere from error
        raise
    distributed.destroy_process_group()


def _exchange(name: str, *arguments: Any, **options: Any) -> None:
    """Call a function of torch.distributed; Lost where another process is gone."""
    from torch import distributed

    try:
        getattr(distributed, name)(*arguments, **options)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Lost(
            f"process {rank()} has lost another one ({reason}). Start the same command again: it goes on from "
            "the last checkpoint"
        ) from error


def from_first(make: Callable[[], Value]) -> Value:
    """make() of the first process, which alone calls it, in every process."""
    found: list[Any] = [make() if first() else None]
    if count() > 1:
        _exchange("broadcast_object_list", found, 0)
    return found[0]


def gather(value: Value) -> list[Value]:
    """The values of all processes in the first; nothing in the others."""
    found = [value] * count() if first() else []
    if count() > 1:
        _exchange("gather_object", value, found or None, 0)
    return found


def add_up(values: Any) -> None:
    """Make a tensor the sum of all processes' in every one of them."""
    if count() > 1:
        _exchange("all_reduce", values)


def add_up_in_first(values: Any) -> None:
    """Make a tensor the sum of all processes' in the first, and zero in the others."""
    if count() > 1 and values.numel():
        _exchange("reduce", values, 0)
        if not first():
            values.zero_()
