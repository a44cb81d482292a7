"""The one exception for what a user can cause and mend, and the boundaries that turn other errors into it."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Says what is wrong, where, and what to do; scripts print it without a traceback and exit 1."""


class OutOfMemory(UserError):
    """The memory of this machine, or of its accelerator, does not suffice."""


def one_line(error: BaseException) -> str:
    """What an error says, shortened, for use inside a message of one line."""
    words = " ".join(str(error).split())
    return f"{words:.300}" if " " in words else f"{type(error).__name__} {words:.300}".strip()


def lacks_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch (on a GPU or a CPU) had no memory left."""
    words = f"{type(error).__name__} {error}"
    torchs = any(part in words for part in ("OutOfMemoryError", "out of memory", "can't allocate memory"))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torchs)


@contextmanager
def enough_memory(told: str) -> Iterator[None]:
    """OutOfMemory, in these words, instead of what Python, numpy and torch raise."""
    try:
        yield
    except Exception as error:
        if lacks_memory(error):
            raise OutOfMemory(told) from None
        raise


@contextmanager
def boundary(words: str, remedy: str = "") -> Iterator[None]:
    """Around a library: whatever it raises becomes a UserError of these words, what it said, and the remedy."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or lacks_memory(error):
            raise
        raise UserError(f"{words}: {one_line(error)}{remedy and f'; {remedy}'}") from error


NO_MEMORY = "out of memory: take fewer texts, layers or label permutations, or a smaller model"
