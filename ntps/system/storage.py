"""Files: safetensors with provenance in their header, written whole or not at all, and checked on reading."""

import contextlib
import datetime
import functools
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from ntps.errors import UserError
from ntps.system import console, processes
from ntps.system.paths import regular_file

FORMAT = 1
REMEDY = "Restore it from a copy, or write it again with --overwrite"
HASH = "sha256"  # in the header, before all else: of the provenance and the arrays
PLACE = 8 + len(f'{{"__metadata__": {{"{HASH}": "')  # of its digits in a file
CHUNK = 1 << 20  # bytes
UNSAID = {"pooling": "mean"}  # of an identity that has no such key
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (F64, F32 or I64, shape)
KINDS = {"F64": np.float64, "F32": np.float32, "I64": np.int64}
VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "peft", "datasets")


def provenance(kind: str, identity: Mapping, **record) -> dict:
    """Provenance of an output. `identity` decides whether two files are the same thing; the rest is for the reader."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "format": f"ntps {kind} {FORMAT}",
        "identity": json.loads(json.dumps(identity)),
        "record": {"date": date, "versions": versions(), **record},
    }


@functools.cache
def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> list[str]:
    """Names of the fields in which two identities differ, with both values, shortened."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        left, right = (identity.get(key, UNSAID.get(key)) for identity in (found, wanted))
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            texts = (json.dumps(value) for value in (left, right))
            there, here = (text if len(text) <= 60 else text[:57] + "..." for text in texts)
            lines.append(f"{prefix}{key} is {there} there, {here} here")
    return lines


def check_same(what: str, found: Mapping, wanted: Mapping, remedy: str = "") -> None:
    """UserError, beginning with `what`, unless two identities are the same."""
    if lines := differences(found, wanted):
        raise UserError(f"{what}: {'; '.join(lines[:4])}. {remedy}".rstrip(". "))


def same_output(path: Path, kind: str, identity: Mapping, overwrite: bool = False) -> bool:
    """True if `path` holds this very output, False if it is to be made; a different or broken file is refused."""
    if overwrite or not path.exists():
        return False
    try:
        found = read_provenance(path, kind)["identity"]
    except UserError as error:
        raise UserError(f"{error}. Move it away, or use another --output, or --overwrite") from None
    wanted = json.loads(json.dumps(identity))
    check_same(f"{path} holds another run", found, wanted, "Use another --output, or --overwrite")
    return True


def check_same_run(train: Mapping, test: Mapping, where: Path) -> None:
    """UserError unless the identities of a train and a test file differ in nothing but split, limit and texts."""
    own = {"split", "limit", "label_permutations", "partitions", "prefix_moments"}

    def shared(identity: Mapping) -> dict:
        data = {key: value for key, value in identity["data"].items() if key != "texts_sha256"}
        return {key: identity[key] for key in identity.keys() - own} | {"data": data}

    what = f"train and test in {where} are of different runs (train there, test here)"
    check_same(what, shared(train), shared(test), "Run cache.py on both with --overwrite")


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


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping) -> None:
    """Write small or medium arrays at once."""
    kinds = {np.dtype(kind): name for name, kind in KINDS.items()}
    with written(path) as temporary:
        create(temporary, {name: (kinds[value.dtype], value.shape) for name, value in arrays.items()}, about)
        for name, place in maps(temporary).items():
            place[...] = arrays[name]


def create(path: Path, layout: Layout, about: Mapping) -> None:
    """Make a safetensors file of zeros, to be filled through `maps` and given its name by `replace`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, size = header(layout, about)
    with path.open("wb") as file:
        file.write(head)
        if hasattr(os, "posix_fallocate"):  # a full disk is said here, not by a crash while it is filled
            os.posix_fallocate(file.fileno(), 0, len(head) + size)
        file.truncate(len(head) + size)


def entries_of(path: Path) -> tuple[int, dict[str, dict]]:
    """Where the numbers of a safetensors file begin, and its header."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return 8 + size, json.loads(file.read(size))


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


def sync(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def replace(temporary: Path, path: Path) -> None:
    """Hash in the header, fsync and rename: after a kill there is the old file or the new one, never half of one."""
    if path.suffix == ".safetensors":
        digits = content_hash(temporary)[0].encode()
        with temporary.open("rb+") as file:
            file.seek(PLACE)
            file.write(digits)
    sync(temporary)
    os.replace(temporary, path)


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


def to_json(value: Mapping) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_provenance(path: Path, kind: str | None = None) -> dict:
    """Provenance of one of our files (safetensors, or the JSON beside a table); UserError if it is not one."""
    regular_file(path)
    try:
        if path.suffix == ".json":
            about = json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {}).get("ntps", "null"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): cut short, or no file of ours") from None
    name = about.get("format") if isinstance(about, dict) else None
    if not re.fullmatch(f"ntps {kind or '[a-z ]+'} {FORMAT}", str(name)):
        raise UserError(f"{path} is not a file of 'ntps {kind or '...'} {FORMAT}' (it says {name!r})")
    for key in ("identity", "record"):
        if not isinstance(about.setdefault(key, {}), dict):
            raise UserError(f"{path} is damaged: its {key} is no mapping. {REMEDY}")
    return about


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while working; UserError if another process holds it. A kill releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    with contextlib.suppress(Timeout):
        lock.acquire()
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
