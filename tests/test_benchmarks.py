"""Every benchmark starts as its first lines say: from the project's folder, nothing installed but requirements."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_how_it_is_run(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    commands = re.findall(r"^    (python .*?)(?: {2,}#.*)?$", module.__doc__, re.MULTILINE)
    assert commands and all(command.startswith(f"python -m benchmarks.{name}") for command in commands)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    flags = set(re.findall(r"--\w+", " ".join(commands)))
    assert ended.value.code == 0 and flags <= set(re.findall(r"--\w+", capsys.readouterr().out))


def test_a_hundred_thousand_rows_are_read_in_seconds_and_under_a_gigabyte():
    command = [sys.executable, "-m", "benchmarks.reading_speed"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    seconds, gigabytes = map(float, re.findall(r"([\d.]+) (?:s|GB),", said))
    assert seconds < 6 and gigabytes < 1, said  # 1 s and 0.5 GB of one core
