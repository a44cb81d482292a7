"""Regular expressions on descriptions: the forms of what reaches a path, an index or a command line, and those of users.

One of a user that runs wild on a text is an error, not a process that hangs.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex
from packaging.version import VERSION_PATTERN

from ntps.errors import UserError
from ntps.sources.yaml_files import Faults

REPOSITORY = r"(?!.*(--|\.\.))(\w[\w.-]*/)?\w[\w.-]{0,95}", "organisation/name of the hub, nor a folder here"
REVISION = r"\w[\w.-]*(/\w[\w.-]*)*", "commit, branch or tag"
SHA256 = "(?-i:[0-9a-f]{64})", "SHA-256 (64 hexadecimal digits)"
FORMS = {  # key of a description: the form of its value, and that in words
    "package": (
        r"[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?",
        "name of a package, letters, digits, and ., _, - between",
    ),
    "version": (VERSION_PATTERN, "version as PEP 440 has them, such as '1.0.2'"),
    "sha256": SHA256,
    "gguf_sha256": SHA256,
    "name": (r"\w[\w.-]*", "name of a licence, letters, digits, and ., _, - between"),
    "terms": (r"https://[!-~]+", "address https://..., where the licence can be read"),
    "gguf": (r"\w[\w.+-]*", "name of a file: the wheel's folders are not given"),
    "id": REPOSITORY,
    "revision": REVISION,
    "tokenizer": REPOSITORY,
    "tokenizer_revision": REVISION,
}
SECONDS = 5.0  # on one text
# A brace that begins no repetition, which is text to `re` and may ask `regex` for matches that nearly fit; after what is escaped
BRACE = re.compile(r"(\\N\{[^{}]*\}|\\.)|\{(?!\d*,?\d*\})", re.DOTALL)


def form_faults(spec: Mapping[str, Any], *keys: str) -> Faults:
    """Those of the keys whose values have another form, as (key, fault); only ASCII has one."""
    for key in keys:
        form, words = FORMS[key]
        if key in spec and not re.fullmatch(form, spec[key], re.VERBOSE | re.IGNORECASE | re.ASCII):
            yield key, f"is no {words}"


def compiled(pattern: str) -> regex.Pattern:
    """By `regex`, which reads it as `re` does."""
    return regex.compile(BRACE.sub(lambda brace: brace[1] or r"\{", pattern), regex.V0)


def pattern_fault(pattern: str, replacement: str = "") -> str | None:
    """Why a regular expression, or its replacement, cannot be used; None if it can."""
    try:
        known = re.compile(pattern)
        compiled(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        return f"is not a regular expression ({error})"
    try:
        groups = {number: f"?P<{name}>" for name, number in known.groupindex.items()}
        # of the same groups, and matched at once
        re.sub("".join(f"({groups.get(number + 1, '')})" for number in range(known.groups)), replacement, "")
    except (re.error, IndexError) as error:  # IndexError: no group of that name
        return f"has a replacement that does not work ({error})"
    return None


class Pattern:
    """A compiled regular expression with a timeout, and with what an error has to name."""

    def __init__(self, pattern: str, where: Path, key: str):
        self.pattern, self.where, self.key = compiled(pattern), where, key

    def __call__(self, method: str, *arguments: str) -> Any:
        """Its sub, search or fullmatch on a text."""
        try:
            return getattr(self.pattern, method)(*arguments, timeout=SECONDS)
        except TimeoutError:
            raise UserError(
                f"{self.where}: {self.key}: {self.pattern.pattern!r} takes over {SECONDS:g} s on a text such as "
                f"{arguments[-1][:60]!r}: repeated parts that match the same in many ways, as (a|aa)+, need a rewrite"
            ) from None
