"""What an import brings along: scores without transformers, --help without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


def loaded(code: str) -> set[str]:
    """Top-level modules that are loaded once the code has run."""
    code += "\nimport sys; print('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n"))


def test_scores_need_no_transformers():
    names = loaded(
        "import ntps, ntps.scores.table, ntps.scores.registry, ntps.scores.words; ntps.layer_scores"
    )
    assert "torch" in names and not names & {"transformers", "datasets", "pandas"}


def test_the_package_alone_is_light():
    names = loaded("import ntps; from ntps import results")
    assert "transformers" not in names


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_at_once(script):
    code = f"""
import sys, {script}
from ntps.run import cli
try:
    cli.run({script}.main, ["--help"])
except SystemExit:
    pass
"""
    names = loaded(code)
    assert not names & {"torch", "transformers", "pandas", "matplotlib", "scipy", "numpy"}
