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
from ntps.system import console

# KIND/MODEL/DATASET/SPLIT.i-of-n.safetensors; the groups are what the files of one set share
PARTIAL = re.compile(r"(moments|states)/([^/]+)/([^/]+)/([^./][^/]*)\.\d+-of-(\d+)\.safetensors")


def main(folder: str, overwrite: bool = False) -> int:
    """Add up all partial files below a folder.

    Args:
        folder: results of cache.py --shard, of one machine or of several
        overwrite: replace sums of other settings
    """
    sets: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in sorted(Path(folder).resolve().rglob("*.safetensors")):
        if found := PARTIAL.fullmatch("/".join(path.parts[-4:])):
            sets[found.groups()].append(path)
    if not sets:
        raise UserError(f"{folder} holds no partial files: make them by cache.py --shard i/n")
    failed = 0
    for paths in sets.values():
        try:
            console.say(f"{merge(paths, overwrite)}: {len(paths)} parts")
        except (UserError, OSError) as error:
            failed = 1
            print(console.visible(f"error: {error}"), file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(cli.run(main))
