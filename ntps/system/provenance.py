"""Provenance of outputs: the format and identity that say what a file is, and the record for its reader."""

import datetime
import functools
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ntps.errors import UserError
from ntps.system.paths import regular_file

FORMAT = 1
REMEDY = "Restore it from a copy, or write it again with --overwrite"
UNSAID = {"pooling": "mean"}  # of an identity that has no such key
TEXTS = "texts_sha256"  # of rows, which most settings change
OF_ROWS = re.compile(rf"(\w+\.)*data\.|.*\b{TEXTS}\b")  # differences that say least of why
VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "peft", "datasets")


def of(kind: str, identity: Mapping, **record) -> dict:
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


def read(path: Path, kind: str | None = None) -> dict:
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


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> list[str]:
    """Names of the fields in which two identities differ, with both values, shortened."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        left, right = (identity.get(key, UNSAID.get(key)) for identity in (found, wanted))
        if left != right and key == TEXTS:
            lines.append(f"the texts or their labels are others than there ({prefix}{key})")
        elif isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            texts = (json.dumps(value) for value in (left, right))
            there, here = (text if len(text) <= 60 else text[:57] + "..." for text in texts)
            lines.append(f"{prefix}{key} is {there} there, {here} here")
    return lines


def check_same(what: str, found: Mapping, wanted: Mapping, remedy: str = "") -> None:
    """UserError, beginning with `what`, unless two identities are the same."""
    if lines := sorted(differences(found, wanted), key=lambda line: bool(OF_ROWS.match(line))):
        raise UserError(f"{what}: {'; '.join(lines[:4])}. {remedy}".rstrip(". "))


def same_output(path: Path, kind: str, identity: Mapping, overwrite: bool = False) -> bool:
    """True if `path` holds this very output, False if it is to be made; a different or broken file is refused."""
    if overwrite or not path.exists():
        return False
    try:
        found = read(path, kind)["identity"]
    except UserError as error:
        raise UserError(f"{error}. Move it away, or use another --output, or --overwrite") from None
    wanted = json.loads(json.dumps(identity))
    check_same(f"{path} holds another run", found, wanted, "Use another --output, or --overwrite")
    return True
