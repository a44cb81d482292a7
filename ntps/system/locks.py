"""Locks: one process or launch at a time works on an output."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ntps.errors import UserError
from ntps.system import processes
from ntps.system.atomic_files import remove_empty, remove_stale

POLL = 0.2  # seconds


@contextlib.contextmanager
def locked(path: Path, wait: float = 0) -> Iterator[None]:
    """Hold a lock file while working; UserError if another process still holds it after so many seconds. A kill releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, until = FileLock(path, blocking=False), time.monotonic() + wait
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire()
        if (lock.is_locked and path.exists()) or time.monotonic() >= until:
            break
        lock.release()  # of a file that its holder, who has just finished, has removed
        time.sleep(POLL)
    if not (lock.is_locked and path.exists()):  # removed: its holder has just finished
        raise UserError(f"another process is working on this (it holds {path}): wait for it")
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def alone(lock: Path, *folders: Path) -> Iterator[None]:
    """Hold a lock, in the first process of a launch; what killed processes were writing is removed, and of work that
    fails before it writes anything no folder is left.

    folders: of what is written, three levels below OUTPUT.
    """
    try:
        with locked(lock) if processes.first() else contextlib.nullcontext():
            yield
    finally:
        for folder in folders if processes.first() else ():
            remove_stale(folder)
            remove_empty(folder, 4)
