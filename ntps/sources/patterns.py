"""Regular expressions of descriptions, which end: one that runs wild on a text is an error, not a process that hangs."""

import re
from pathlib import Path
from typing import Any

import regex

from ntps.errors import UserError

SECONDS = 5.0  # on one text


def pattern_fault(pattern: str, replacement: str = "") -> str | None:
    """Why a regular expression, or its replacement, cannot be used; None if it can."""
    try:
        known = re.compile(pattern)
        regex.compile(pattern, regex.V0)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        return f"is not a regular expression ({error})"
    try:
        known.sub(replacement, "")
    except (re.error, IndexError) as error:  # IndexError: no group of that name
        return f"has a replacement that does not work ({error})"
    return None


class Pattern:
    """A compiled regular expression with what an error has to name; `regex` reads it as `re` does, and has a timeout."""

    def __init__(self, pattern: str, where: Path, key: str):
        self.pattern, self.where, self.key = regex.compile(pattern, regex.V0), where, key

    def __call__(self, method: str, *arguments: str) -> Any:
        """Its sub, search or fullmatch on a text."""
        try:
            return getattr(self.pattern, method)(*arguments, timeout=SECONDS)
        except TimeoutError:
            raise UserError(
                f"{self.where}: {self.key}: {self.pattern.pattern!r} takes over {SECONDS:g} s on a text such as "
                f"{arguments[-1][:60]!r}: repeated parts that match the same in many ways, as (a|aa)+, need a rewrite"
            ) from None
