"""Record today's commits of the hub for branches and tags, in hub.lock.json beside the descriptions.

    python -m ntps.pin --config configs/experiments/paper.yaml
    python -m ntps.pin --models qwen2-0.5b my_model.yaml --datasets sst2

Descriptions stay as they are; those of that folder read the recorded commits from then on. A commit in the lock file
stays: to move it on, remove its line there (or the file) and run this again.
"""

import datetime
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import HfApi

from ntps.errors import UserError, one_line
from ntps.models.description import resolve_model
from ntps.run import cli
from ntps.sources.hub import LOCK, Unreachable, hub_error, is_commit, locked, read_lock
from ntps.sources.yaml_files import find_config, read_yaml
from ntps.system import console
from ntps.system.atomic_files import to_json, write_text

REPOSITORIES = {"models": "model", "datasets": "dataset"}  # our folder of configs: kind of repository
PINNED = {"id": "revision", "tokenizer": "tokenizer_revision"}  # keys that name one: key of its revision


def main(models: Sequence[str] = (), datasets: Sequence[str] = ()) -> int:
    """Pin the revisions of models and data sets.

    Args:
        models: config names or YAML files
        datasets: config names or YAML files
    """
    for folder, names in (("models", models), ("datasets", datasets)):
        for name in names:
            if (where := find_config(folder, name)) is None:
                raise UserError(f"{name}: only a description in configs/{folder} or a YAML can be pinned")
            pin(where, REPOSITORIES[folder])
    return 0


def pin(where: Path, kind: str) -> None:
    """Record the commit of each branch or tag in the YAML that the lock file has not, and say so; of random weights their model's."""
    if isinstance(base := read_yaml(where, "id: organisation/name").get("random_of"), str):
        beside = where.parent / base
        if (found := find_config("models", str(beside) if beside.is_file() else base)) is None:
            return console.say(f"{where}: {base} is no description: write one, and pin that")
        resolve_model(str(found), base_of=where)  # refuses random weights of random weights
        return pin(found, kind)
    for repository, revision in repositories(where):
        if is_commit(commit := locked(where, kind, repository, revision)):
            console.say(f"{where}: {repository}: already the commit {commit}")
            continue
        commit, lock = commit_of(repository, revision, kind), read_lock(where.parent)
        lock[f"{kind} {repository} {revision}"] = {"commit": commit, "date": str(datetime.date.today())}
        write_text(where.parent / LOCK, to_json(dict(sorted(lock.items()))))
        console.say(f"{where.parent / LOCK}: {repository} {revision} is {commit}")


def repositories(where: Path) -> Iterator[tuple[str, str]]:
    """Hub repositories that a description names, with their revisions."""
    spec = read_yaml(where, "id: organisation/name")
    for key, revision_key in PINNED.items():
        name = spec.get(key)
        if isinstance(name, str) and not (where.parent / name).exists():
            yield name, str(spec.get(revision_key, "main"))


@functools.cache
def commit_of(repository: str, revision: str, kind: str) -> str:
    """The commit that a branch or tag stands for; UserError when the hub does not say."""
    try:
        return str(HfApi().repo_info(repository, repo_type=kind, revision=revision).sha)
    except Exception as error:  # the hub's and the network's errors have no base class in common
        why = hub_error(repository, revision, kind, error)
        if isinstance(why, Unreachable):
            reached = f"the hub cannot be reached ({one_line(error)})"
            hint = "run this where there is a network and HF_HUB_OFFLINE is not set"
            why = UserError(f"cannot look up {repository}: {reached}; {hint}")
        raise why from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
