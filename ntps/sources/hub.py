"""Repositories of the Hugging Face hub: snapshots of a commit in the local cache, and why one cannot be had."""

import functools
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from ntps.errors import UserError

Patterns = tuple[str, ...]


class Unreachable(UserError):
    """The hub did not answer, and the cache does not hold all that was asked for."""


class Gated(UserError):
    """The hub wants an agreement first."""


# cached: a branch that moves while we run must not give weights of one commit and a tokenizer of another
@functools.cache
def snapshot(
    repository: str, revision: str, kind: str = "model", wanted: Patterns = ("*",), unwanted: Patterns = ()
) -> Path:
    """Folder with the files of a repository (kind: model or dataset) that match; its name is the commit.

    Fetched the first time; afterwards a commit needs no network, a branch does unless HF_HUB_OFFLINE=1.
    Raises UserError (Unreachable, Gated) when it cannot be had.
    """
    try:
        found = snapshot_download(
            repository,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
        )
    except Exception as error:  # the hub's and the network's errors have no base class in common
        raise hub_error(repository, revision, kind, error) from error
    return Path(found)


def hub_error(repository: str, revision: str, kind: str, error: Exception) -> UserError:
    """What went wrong with a repository, and what to do."""
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    option = " --repo-type dataset" if kind == "dataset" else ""
    if isinstance(error, GatedRepoError):
        return Gated(
            f"{repository} is gated: ask for access at {page}, then log in with `hf auth login` (or set HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        what = "data set" if kind == "dataset" else kind
        return UserError(
            f"there is no folder {repository} here, and no {what} of that name on the hub that you may read; "
            "for a private one log in with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{repository} on the hub has no revision {revision!r}")
    return Unreachable(
        f"cannot get {repository} (revision {revision}): it is no folder here, not complete in the cache, "
        f"and the hub cannot be reached ({first_line(error)}). Where there is a network, `hf download "
        f"{repository}{option} --revision {revision}` fetches it into HF_HOME; then HF_HUB_OFFLINE=1 needs none"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, for use inside a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
