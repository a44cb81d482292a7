"""docs/contributing.md: every diff applies, and a score and a figure are added by nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import cache
import K_sweep
from ntps.run import cli
from tests.tiny import tiny_world, world_flags

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(
    r"^```diff\n(.*?)^```$", (ROOT / "docs/contributing.md").read_text(), re.MULTILINE | re.DOTALL
)
SCORE = "retention_per_share"
NAMES = f"""
from fig_plot.labels import LABELS
from ntps import results
from ntps.results.tables import SUBSPACE
print(LABELS["{SCORE}"], SUBSPACE["{SCORE}"], results.DIRECTION["{SCORE}"])
"""


@pytest.fixture
def copy(tmp_path):
    """The tracked files without results/, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", ".", ":!results"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = tmp_path / "copy" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return tmp_path / "copy"


def apply(diff, folder, *flags):
    command = ["git", "apply", *flags]
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # the copy is no repository
    done = subprocess.run(command, cwd=folder, input=diff, capture_output=True, text=True, env=outside)
    assert done.returncode == 0 and not done.stderr, done.stderr


def block(file):
    """The diff that changes a file."""
    (found,) = [diff for diff in BLOCKS if f"+++ b/{file}\n" in diff]
    return found


def test_every_diff_applies_alone_and_after_the_others(copy):
    assert len(BLOCKS) == 4
    for diff in BLOCKS:
        apply(diff, copy, "--check")
    for diff in BLOCKS:
        apply(diff, copy)
    for path in copy.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.slow
def test_a_score_and_a_figure_are_added_by_their_diffs_alone(copy, tmp_path):
    def python(*command, code=0):
        done = subprocess.run([sys.executable, *map(str, command)], cwd=copy, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    world, output = tiny_world(tmp_path / "world", n=30), tmp_path / "results"
    flags = world_flags(world, output)
    assert cli.run(cache.main, [*flags, "--layers", "0,3"]) == 0  # without the diffs
    assert cli.run(K_sweep.main, flags) == 0
    (table,) = output.glob("ntps/*/tiny.csv")
    assert SCORE not in pd.read_csv(table)

    apply(block("ntps/scores/registry.py"), copy)
    said = python("K_sweep.py", *flags, code=1)
    assert f"{table} is outdated: it has no column {SCORE}" in said and "--overwrite" in said
    python("K_sweep.py", *flags, "--overwrite")
    scores = pd.read_csv(table)
    assert (scores[SCORE] - scores["retention"] / scores["chance"]).abs().max() < 1e-9
    assert f"| `{SCORE}` | retention over kv / d" in python("-m", "ntps.columns")
    assert python("-c", NAMES).split("\n")[0] == "retention per direction 1 1"

    apply(block("fig_plot/registry.py"), copy)
    drawn = "from fig_plot.registry import FIGURES; print(len(FIGURES['by_layer'].draw('nowhere')))"
    assert python("-c", drawn).strip() == "1"  # of a folder without results
    python("-m", "fig_plot.render", output, "--notebooks", "by_layer")
    assert {path.name for path in (output / "figures").iterdir()} == {
        "by_layer.html",
        "by_layer.png",
        "by_layer.pdf",
    }
