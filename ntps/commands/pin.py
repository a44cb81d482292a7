"""Write today's commits of the hub into descriptions, in place of branches and tags; comments stay.

    python -m ntps.pin --config configs/experiments/paper.yaml
    python -m ntps.pin --models qwen2-0.5b my_model.yaml --datasets sst2

A revision that is a commit stays as it is: to move it on, write the branch in its place and run this again.
"""

import datetime
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi

from ntps.errors import UserError
from ntps.models.description import is_commit
from ntps.run import cli
from ntps.sources.hub import Unreachable, first_line, hub_error
from ntps.sources.yaml_files import find_config, read_yaml
from ntps.system import console
from ntps.system.storage import write_text

# our folder of configs: kind of repository; keys that name one: key of its revision
REPOSITORIES = {"models": "model", "datasets": "dataset"}
PINNED = {"id": "revision", "tokenizer": "tokenizer_revision"}


def main(models: Sequence[str] = (), datasets: Sequence[str] = ()) -> int:
    """Pin the revisions of models and data sets.

    Args:
        models: config names or YAML files
        datasets: config names or YAML files
    """
    for folder, names in (("models", models), ("datasets", datasets)):
        for name in names:
            where = find_config(folder, name)
            if where is None:
                raise UserError(
                    f"{name}: only a description in configs/{folder} or a YAML file can be pinned"
                )
            pin(where, REPOSITORIES[folder])
    return 0


def pin(where: Path, kind: str) -> None:
    """Replace each branch or tag in the YAML by the commit it stands for today, and say so."""
    text = where.read_text(encoding="utf-8")
    for key, repository, revision in repositories(where):
        if is_commit(revision):
            console.say(f"{where}: {key}: already the commit {revision}")
            continue
        commit = commit_of(repository, revision, kind)
        text = with_value(text, key, commit, f"{revision} on {datetime.date.today()}")
        if yaml.safe_load(text) != read_yaml(where, "") | {key: commit}:
            raise UserError(f"{where}: {key}: cannot be replaced here: write {commit} yourself")
        write_text(where, text)
        console.say(f"{where}: {key}: {repository} {revision} is {commit}")


def repositories(where: Path) -> Iterator[tuple[str, str, str]]:
    """Hub repositories that a description names: key of the revision, repository, revision."""
    spec: dict[str, Any] = read_yaml(where, "id: organisation/name")
    for key, revision_key in PINNED.items():
        name = spec.get(key)
        if isinstance(name, str) and not (where.parent / name).exists():
            yield revision_key, name, str(spec.get(revision_key, "main"))


@functools.cache
def commit_of(repository: str, revision: str, kind: str) -> str:
    """The commit that a branch or tag stands for; UserError when the hub does not say."""
    try:
        commit = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
    except Exception as error:  # the hub's and the network's errors have no base class in common
        why = hub_error(repository, revision, kind, error)
        if isinstance(why, Unreachable):
            raise UserError(
                f"cannot look up {repository}: the hub cannot be reached ({first_line(error)}); run this where "
                "there is a network and HF_HUB_OFFLINE is not set"
            ) from error
        raise why from error
    if not is_commit(commit or ""):
        raise UserError(f"the hub gives no commit for {repository} at {revision!r}")
    return str(commit)


def with_value(text: str, key: str, value: str, remark: str) -> str:
    """The YAML text with `key: value`, the remark before the line's comment; below its owner where it is new."""

    def line(match: re.Match) -> str:
        comment = (match["comment"] or "").strip("# \t")
        return f"{key}: {value}  # {remark}" + (f"; {comment}" if comment else "")

    pattern = rf"^{key}:[ \t]*[^\s#]+(?P<comment>[ \t]+#.*)?[ \t]*$"
    text, found = re.subn(pattern, line, text, count=1, flags=re.MULTILINE)
    if not found:
        owner = next(name for name, revision in PINNED.items() if revision == key)
        new = rf"\g<0>\n{key}: {value}  # {remark}"
        text = re.sub(rf"^{owner}:.*$", new, text, count=1, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    sys.exit(cli.run(main))
