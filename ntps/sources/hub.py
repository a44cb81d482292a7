"""Repositories of the Hugging Face hub: snapshots of a commit in the local cache, and the lock file of commits.

`python -m ntps.pin` records in a lock file beside descriptions which commit a branch or tag stood for; from then on
the descriptions of that folder read this commit.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import errors, snapshot_download

from ntps.errors import UserError, one_line
from ntps.system.paths import regular_file

LOCK = "hub.lock.json"
Patterns = tuple[str, ...]


class Unreachable(UserError):
    """The hub did not answer, and the cache does not hold all that was requested."""


class Gated(UserError):
    """The hub wants an agreement first."""


def is_commit(revision: str) -> bool:
    """Whether a revision names one commit, which never moves."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def read_lock(folder: Path) -> dict[str, dict[str, str]]:
    """The lock file of a folder, {"KIND REPOSITORY REVISION": {"commit", "date"}}; empty where there is none."""
    path = regular_file(folder / LOCK)
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
        if all(is_commit(entry["commit"]) for entry in lock.values()):
            return lock
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        pass
    raise UserError(f"{path} is no lock file of python -m ntps.pin: remove it and pin again")


def locked(where: Path, kind: str, repository: str, revision: str) -> str:
    """The commit that the lock file beside the description `where` has for a branch or tag, else the revision."""
    return read_lock(where.parent).get(f"{kind} {repository} {revision}", {}).get("commit", revision)


# cached: a branch that moves while we run must not give weights of one commit and a tokenizer of another
@functools.cache
def snapshot(
    repository: str, revision: str, kind: str = "model", wanted: Patterns = ("*",), unwanted: Patterns = ()
) -> Path:
    """Folder with the files of a repository (kind: model or dataset) that match; its name is the commit.

    Fetched the first time; afterwards a commit needs no network, a branch does unless HF_HUB_OFFLINE=1.
    Raises UserError (Unreachable, Gated) when it cannot be fetched.
    """
    patterns: dict[str, Any] = {"allow_patterns": list(wanted), "ignore_patterns": list(unwanted)}
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, **patterns))
    except Exception as error:  # the hub's and the network's errors have no base class in common
        raise hub_error(repository, revision, kind, error) from error


def hub_error(repository: str, revision: str, kind: str, error: Exception) -> UserError:
    """What went wrong with a repository, and what to do."""
    data = kind == "dataset"
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if data else ''}{repository}"
        login = "then log in with `hf auth login` (or set HF_TOKEN)"
        return Gated(f"{repository} is gated: ask for access at {page}, {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"there is no folder {repository} here, and no {'data set' if data else kind} of that name on the hub that you may read; "
            "for a private one log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repository} on the hub has no revision {revision!r}")
    return Unreachable(
        f"cannot get {repository} (revision {revision}): it is no folder here, not complete in the cache, "
        f"and the hub cannot be reached ({one_line(error)}). Where there is a network, `hf download "
        f"{repository}{' --repo-type dataset' * data} --revision {revision}` fetches it into HF_HOME; then HF_HUB_OFFLINE=1 needs none"
    )
