"""Safetensors files: arrays, provenance and a hash of both in the header, made as zeros and filled through maps."""

import contextlib
import functools
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ntps.errors import UserError
from ntps.system import atomic_files, console
from ntps.system.provenance import REMEDY

HASH = "sha256"  # in the header, before all else: of the provenance and the arrays
PLACE = 8 + len(f'{{"__metadata__": {{"{HASH}": "')  # of its digits in a file
CHUNK = 1 << 20  # bytes
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (F64, F32 or I64, shape)
KINDS = {"F64": np.float64, "F32": np.float32, "I64": np.int64}


def write(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping) -> None:
    """Write small or medium arrays at once."""
    kinds = {np.dtype(kind): name for name, kind in KINDS.items()}
    layout = {name: (kinds[value.dtype], value.shape) for name, value in arrays.items()}
    with written(path, layout, about) as temporary:
        for name, place in maps(temporary).items():
            place[...] = arrays[name]


@contextlib.contextmanager
def written(path: Path, layout: Layout, about: Mapping) -> Iterator[Path]:
    """A file of zeros, to be filled through `maps`, which becomes `path` at the end; on an error nothing is left."""
    with atomic_files.written(path) as temporary:
        create(temporary, layout, about)
        yield temporary
        write_hash(temporary)


def finish(temporary: Path, path: Path) -> None:
    """Hash and name of a file that `create` made and that is filled now."""
    write_hash(temporary)
    atomic_files.replace(temporary, path)


def write_hash(path: Path) -> None:
    """Put the hash of what a file of ours holds into its header."""
    digits = content_hash(path)[0].encode()
    with path.open("rb+") as file:
        file.seek(PLACE)
        file.write(digits)


def create(path: Path, layout: Layout, about: Mapping) -> None:
    """Make a safetensors file of zeros, to be filled through `maps` and given its name by `finish`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, size = header(layout, about)
    with path.open("wb") as file:
        file.write(head)
        if hasattr(os, "posix_fallocate"):  # a full disk is said here, not by a crash while it is filled
            os.posix_fallocate(file.fileno(), 0, len(head) + size)
        file.truncate(len(head) + size)


def header(layout: Layout, about: Mapping) -> tuple[bytes, int]:
    """The head of a safetensors file, with a place for the hash of what it holds, and the bytes that follow."""
    entries: dict = {"__metadata__": {HASH: "0" * 64, "ntps": json.dumps(about)}}
    offset = 0
    for name in sorted(layout, key=lambda name: layout[name][0] == "F32"):  # 8 bytes first: all are aligned
        size = layout_bytes({name: layout[name]})
        kind, shape = layout[name]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset


def layout_bytes(layout: Layout) -> int:
    return sum(math.prod(shape) * np.dtype(KINDS[kind]).itemsize for kind, shape in layout.values())


def maps(path: Path) -> dict[str, np.memmap]:
    """The arrays of a file that `create` made, as writable maps: hold them briefly, touched pages count as memory."""
    start, entries = entries_of(path)
    del entries["__metadata__"]
    return {  # str: numpy would look up where a Path leads
        name: np.memmap(
            str(path), KINDS[entry["dtype"]], "r+", start + entry["data_offsets"][0], tuple(entry["shape"])
        )
        for name, entry in entries.items()
    }


def entries_of(path: Path) -> tuple[int, dict[str, dict]]:
    """Where the numbers of a safetensors file begin, and its header."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return 8 + size, json.loads(file.read(size))


def content_hash(path: Path, finite: bool = False) -> tuple[str, str | None]:
    """SHA-256 of the provenance and arrays of a file, in any order, and the one that its header holds.

    finite: UserError for numbers that are none.
    """
    start, entries = entries_of(path)
    metadata = entries.pop("__metadata__")
    digest = hashlib.sha256(metadata["ntps"].encode())
    with path.open("rb") as file:
        for name, entry in sorted(entries.items()):
            kind, (begin, end) = entry["dtype"], entry["data_offsets"]
            look = finite and kind in ("F32", "F64")
            digest.update(json.dumps([name, kind, entry["shape"]]).encode())
            file.seek(start + begin)
            for place in range(begin, end, CHUNK):
                block = file.read(min(CHUNK, end - place))
                digest.update(block)
                if look and not np.isfinite(np.frombuffer(block, KINDS[kind])).all():
                    raise UserError(f"{path} is damaged: {name} has numbers that are not finite. {REMEDY}")
    return digest.hexdigest(), metadata.get(HASH)


def verify(path: Path, finite: bool = False) -> str | None:
    """Read a whole file of ours: the hash in its header (None in files of earlier versions).

    UserError where that is not the hash of what it holds.
    """
    found, written = content_hash(path, finite)
    if written is None:
        note_without_hash()
    elif written != found:
        raise UserError(
            f"{path} is damaged: what it holds is not what was written ({HASH} in its header). {REMEDY}"
        )
    return written


@functools.cache
def note_without_hash() -> None:
    """Once."""
    console.say("note: files of an earlier version hold no hash: a bit flipped on the disk would not show")
