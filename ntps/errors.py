"""The one exception for what a user can cause and mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Says what is wrong, where, and what to do; scripts print it without a traceback and exit 1."""


class OutOfMemory(UserError):
    """The memory of this machine, or of its accelerator, does not suffice."""


@contextmanager
def enough_memory(told: str) -> Iterator[None]:
    """OutOfMemory, in these words, instead of what Python, numpy and torch raise."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        torchs = "out of memory" in str(error) or "can't allocate memory" in str(error)  # a GPU's, a CPU's
        if isinstance(error, MemoryError) or torchs or type(error).__name__ == "OutOfMemoryError":
            raise OutOfMemory(told) from None
        raise


NO_MEMORY = "out of memory: take fewer texts, layers or label permutations, or a smaller model"


def at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"--{name} {value}: must be at least {least}")
