"""make paper: disk and hours, then pin, prefetch, plan, run and figures, in this order; what fails ends it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLANNED = ["cache.py", "linear_training.py", "lora_finetuning.py", "from_scratch.py"]
SCRIPTS = ["cache.py", "K_sweep.py", "linear_sklearn.py", *PLANNED[1:], "alignment_vis.py"]
STEPS = [f"{name} --plan" for name in PLANNED] + ["-m ntps.pin", "-m ntps.prefetch"]
STEPS += [f"offline {name} --plan" for name in PLANNED] + [f"offline {name}" for name in SCRIPTS]


@pytest.mark.parametrize("fails", ["nothing", "ntps.pin", "ntps.prefetch", "lora.*--plan", "K_sweep"])
def test_the_steps_come_in_order_and_the_first_that_fails_is_the_last(tmp_path, fails):
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    (tmp_path / ".ready").touch()
    python.write_text(
        f'#!/bin/sh\necho "${{HF_HUB_OFFLINE:+offline }}$*" >> {tmp_path}/ran\necho about 3 h\n'
        f'! echo "$*" | grep -q "{fails}"\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "paper", f"VENV={tmp_path}", "EXPERIMENT=mine"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    ran = (tmp_path / "ran").read_text()
    assert "--config configs/experiments/mine.yaml --output results/mine" in ran
    steps = [re.sub(r" --config \S+| --output \S+", "", line) for line in ran.splitlines()]
    expected = [*STEPS, "-m fig_plot.render results/mine"]
    last = max(
        (place for place, step in enumerate(expected) if re.search(fails, step)), default=len(expected)
    )
    assert steps == expected[: last + 1] and (done.returncode != 0) == (fails != "nothing")
    assert done.stdout.startswith("cache.py: about 3 h\nlinear_training.py: about 3 h\n")
