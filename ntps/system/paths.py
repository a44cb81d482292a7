"""Files and names that users give: only regular files are read, only plain names become part of a path."""

import os
import re
from pathlib import Path

from ntps.errors import UserError

LONGEST = 200  # bytes of a name: file systems take 255, and ours get endings such as .curves.safetensors
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL ends a path early; halves of a character are no UTF-8


def regular_file(path: str | Path) -> Path:
    """The path of a file that can be read to its end; UserError for a folder, a device or a pipe, which may hang.

    A file that is not there is left to whoever opens it.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is no regular file: give a file, not a folder, pipe or device")
    return path


def plain_name(name: str, what: str) -> str:
    """A name that may stand in output paths, and in cells of a spreadsheet, as it is; UserError for any other (`what` says
    whose it is)."""
    if not name.strip(". ") or NO_TEXT.search(name) or re.search(r"[/\\\x00-\x1f\x7f-\x9f]|^[=+@]", name):
        raise UserError(f"{what} is named {name!a}: rename it, results are stored under that name")
    if len(name.encode()) > LONGEST:
        raise UserError(f"{what} has a name of {len(name.encode())} bytes: give it one of at most {LONGEST}")
    return name
