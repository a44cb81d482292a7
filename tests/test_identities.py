"""What decides that two outputs are the same thing: keys and values of every identity, as committed.

A change here refuses every results folder that users have. Hashes are compared by their kind only.
Written anew by: python -m tests.test_identities
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.golden_outputs import identities

GOLDEN = Path(__file__).parent / "golden" / "identities.json"


def without_hashes(value):
    if isinstance(value, dict):
        return {key: without_hashes(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_hashes(part) for part in value]
    if isinstance(value, str):
        value = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", value)
        return re.sub(r"-[0-9a-f]{6}\b", "-<hash>", value)
    return value


@pytest.mark.slow
def test_identities_are_those_committed(tmp_path):
    found, golden = without_hashes(identities(tmp_path)), json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for name in golden:
        assert found[name] == golden[name], name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(without_hashes(identities(Path(folder))), indent=1, sort_keys=True)
    GOLDEN.write_text(text + "\n")
    sys.exit(0)
