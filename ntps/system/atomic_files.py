"""Files that are written whole or not at all: under a name beside their own, on a disk that has the space."""

import contextlib
import glob
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from ntps.errors import UserError


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end; on an error nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace(temporary: Path, path: Path) -> None:
    """fsync and rename: after a kill there is the old file or the new one, never half of one."""
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Mapping) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to make it in, removed at the end; one that a killed process left is, too."""
    folder = temporary_name(path)
    remove(folder)  # of a killed process with our number
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def temporary_name(path: Path) -> Path:
    """A name beside `path` for writing; what a killed process of this machine left there is removed."""
    remove_stale(path.parent, path.name)
    return path.with_name(f".{path.name}.{node()}.{os.getpid()}.tmp")


def node() -> str:
    return platform.node().replace(".", "-")


def remove_stale(folder: Path, name: str = "") -> None:
    """Remove what killed processes of this machine were writing in a folder, as `name` or (empty) as anything."""
    for stale in folder.glob(f".{glob.escape(name) or '*'}.{glob.escape(node())}.*.tmp"):
        process = stale.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            remove(stale)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_empty(folder: Path, levels: int) -> None:
    """Remove a folder and its parents, up to `levels` of them, as far as they are empty."""
    for place in (folder, *folder.parents)[:levels]:
        if place.is_dir() and not any(place.iterdir()):
            with contextlib.suppress(OSError):  # the working folder, a mount point, no right to
                place.rmdir()


def free_space(folder: Path) -> int:
    """Bytes free on the disk where `folder` is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_space(
    folder: Path, size: int, remedy: str = "Use another --output, or fewer --layers or --label_permutations"
) -> None:
    """UserError if the disk of `folder` has less than `size` bytes free."""
    free = free_space(folder)
    if free < size:
        what = f"{folder} has {free / 1e9:.2f} GB free, the output takes {size / 1e9:.2f} GB"
        raise UserError(f"no space: {what}. {remedy}.")
