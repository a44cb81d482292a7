"""Licences that have to be accepted before what they cover is fetched: by a variable, which reaches every script."""

import os
import sys

from ntps.errors import UserError

ACCEPT = "NTPS_ACCEPT_LICENSE"  # names of licences, with commas or spaces between


def how_to_accept(name: str, terms: str) -> str:
    """The licence, where it can be read, and how it is accepted."""
    return f"under the licence {name}: read {terms} and, to accept it, set {ACCEPT}={name}"


def check_accepted(what: str, name: str, terms: str) -> None:
    """Show the licence `name` of `what`, to be read at `terms`; UserError unless it is accepted."""
    if name not in os.environ.get(ACCEPT, "").replace(",", " ").split():
        raise UserError(f"{what} is fetched only {how_to_accept(name, terms)}")
    print(f"{what} is under the licence {name}, {terms}, accepted by {ACCEPT}", file=sys.stderr, flush=True)
