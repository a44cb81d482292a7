"""What the user sees while we work: lines, progress bars in meaningful units, and quiet libraries."""

import ctypes
import functools
import html
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from ntps.system import processes

# of terminals, and of the direction of writing
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def say(text: str) -> None:
    """A line for the user that leaves progress bars whole; once, however many processes there are."""
    if processes.first():
        tqdm.write(visible(text))


def warn(text: str) -> None:
    """A line on stderr."""
    print(visible(f"warning: {text}"), file=sys.stderr)


@functools.cache
def note(words: str) -> None:
    """A line on stderr, once in a process: however many models read a file."""
    print(visible(f"note: {words}"), file=sys.stderr)


def as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as the user is to see it: `warnings.formatwarning`."""
    return visible(f"warning: {message}\n")


def visible(text: str) -> str:
    """With control characters of texts, labels and names spelled out, which a terminal would obey; ends of lines and tabs stay."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def escaped(text: str) -> str:
    """Plain text as Markdown shows it, in one line."""
    return re.sub(r"([\\`*|\[\]]|\b_|_\b)", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def progress(total: int, unit: str, text: str, initial: int = 0, over: Iterable[Any] | None = None) -> tqdm:
    """A bar in meaningful units with time left, over items or to be updated; one, however many processes there are."""
    return tqdm(
        over, total=total, initial=initial, unit=unit, desc=visible(text), unit_scale=True, dynamic_ncols=True, smoothing=0.1,
        disable=not processes.first(),
    )  # fmt: skip


def quiet() -> None:
    """Silence the libraries' own bars and notices; our scripts say what matters."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_heap() -> None:
    """Have glibc keep the memory that is freed, in one heap, for blocks up to 32 MB; mallopt(3).

    By default every thread has a heap that keeps what it once had, and the temporaries of a forward pass go back to the
    system again and again, at the price of a page fault each time.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**30)):
            mallopt(option, value)
