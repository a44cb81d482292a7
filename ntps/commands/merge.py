"""Partial files below a folder added up: python -m ntps.merge results

See ntps/moments/merge.py; bring the files of all machines below one folder first.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

from ntps.errors import UserError
from ntps.moments.merge import merge
from ntps.run import cli
from ntps.system import console, storage

# KIND/MODEL/DATASET/SPLIT.i-of-n.safetensors
PARTIAL = re.compile(r"(?:moments|states)/[^/]+/[^/]+/[^./][^/]*\.\d+-of-(\d+)\.safetensors")


def main(folder: str, overwrite: bool = False) -> int:
    """Add up all partial files below a folder.

    Args:
        folder: results of cache.py --shard, of one machine or of several
        overwrite: replace sums of other settings
    """
    sets: dict[tuple, list[Path]] = defaultdict(list)
    failed = 0
    for path in sorted(Path(folder).resolve().rglob("*.safetensors")):
        if not (found := PARTIAL.fullmatch("/".join(path.parts[-4:]))):
            continue
        try:
            about = storage.read_provenance(path)
            identity = about["identity"]
            names = identity["model"]["name"], identity["data"]["name"], identity["split"]
        except (UserError, OSError, KeyError, TypeError) as error:
            failed += 1
            print(f"error: {path} is no partial file: {error}", file=sys.stderr)
        else:
            sets[about["format"], *names, found[1]].append(path)
    if not sets and not failed:
        raise UserError(f"{folder} holds no partial files: make them by cache.py --shard i/n")
    for paths in sets.values():
        try:
            console.say(f"{merge(paths, overwrite)}: {len(paths)} parts")
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
