"""Several processes of one launch (torchrun, accelerate launch): which one this is, and how they stay in step.

Processes meet by `meet`, each equally often, and one that fails on a user error says so at its next meeting: the
error ends the same work in all, and none waits for one that will not come. Sums and states travel only between
meetings, when all are well. A process that is gone ends the others with `Lost`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from ntps.errors import UserError

TIMEOUT = timedelta(minutes=30)  # silent for longer is lost; the first may be writing large files
LAUNCHED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets beside WORLD_SIZE
NUMBERS = 2  # that the first process may tell at a meeting


class Elsewhere(UserError):
    """What another process has told the user already."""


class Lost(RuntimeError):
    """Another process of the launch is gone: this one cannot go on."""


def rank() -> int:
    return _number("RANK", 0) if count() > 1 else 0


def local_rank() -> int:
    return _number("LOCAL_RANK", 0)


def count() -> int:
    return _number("WORLD_SIZE", 1)


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise


def first() -> bool:
    """True in one process of a launch: the one that writes files and talks to the user."""
    return rank() == 0


def several() -> dict[str, int]:
    """The number of processes, for the identity of what depends on it; nothing if there is one."""
    return {"processes": count()} if count() > 1 else {}


@contextmanager
def launched() -> Iterator[None]:
    """Connect the processes of the launch, if there are several."""
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
    with _contact():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    yield
    distributed.destroy_process_group()


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Lost(
            f"process {rank()} has lost another one ({reason}). Start the same command again: it goes on from "
            "the last checkpoint"
        ) from error


def meet(*numbers: int, failed: bool = False) -> tuple[int, ...]:
    """Wait for all processes and return the first one's `numbers`; Elsewhere if another one has failed.

    Of several that fail at once, the lowest returns, to tell its error.
    """
    if count() == 1:
        return numbers
    import torch
    from torch import distributed

    told = torch.zeros(count() + NUMBERS, dtype=torch.int64)
    told[rank()] = failed
    if first():
        told[count() : count() + len(numbers)] = torch.tensor(numbers)
    with _contact():
        distributed.all_reduce(told)
    failures = told[: count()].nonzero().flatten().tolist()
    if failures and failures[0] != rank():
        raise Elsewhere(f"process {failures[0]} has failed")
    return tuple(told[count() : count() + len(numbers)].tolist())


@contextmanager
def in_step() -> Iterator[None]:
    """Work that all processes leave together: done, or on the user error of one of them."""
    try:
        yield
    except Elsewhere:
        raise
    except (UserError, OSError):
        meet(failed=True)
        raise
    meet()


def to_first(moments: Any) -> None:
    """Bring the sums of all `Moments` to the first process; the others' begin again at nothing."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    counts = torch.tensor([moments.text_count, moments.token_count, moments.label_second_moment]).double()
    with _contact():
        for total in (counts, moments.class_counts, *moments.sums.values()):
            for part in total if total.ndim > 1 else [total]:  # a layer at a time
                if part.numel():
                    distributed.reduce(part, 0)
                if not first():
                    part.zero_()
    texts, tokens, moments.label_second_moment = counts.tolist()
    moments.text_count, moments.token_count = int(texts), int(tokens)


def add_up(values: Any) -> None:
    """Make a tensor the sum of all processes' in every one of them."""
    if count() > 1:
        from torch import distributed

        with _contact():
            distributed.all_reduce(values)


def carry(values: Any, source: int) -> None:
    """Bring a numpy array from process `source` into the array of the same shape in the first."""
    import torch
    from torch import distributed

    with _contact():
        if rank() == source:
            distributed.send(torch.from_numpy(values), 0)
        else:
            distributed.recv(torch.from_numpy(values), source)
