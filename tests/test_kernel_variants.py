"""Parts of the gradient kernel's features: the whole is the command's own, a part is that of the sliced array."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ntps import finetune_probe
from ntps.run import cli
from ntps.scores.kernel_ridge import linear_kernel
from report import kernel_variants
from report.kernel_variants import parts
from tests.tiny import tiny_world, world_flags


def test_settings_are_halved_one_at_a_time():
    names = [part.name for part in parts(8, 2, 2)]
    assert names == [
        "all", "sketch 4", "sketch 2", "sketch 1", "sketch 4, another draw", "rank 1", "rank 1, another draw",
        "direction 1 alone", "direction 2 alone",
    ]  # fmt: skip
    assert [part.name for part in parts(1, 1, 1)] == ["all"]
    odd = {part.name: part.sketch for part in parts(5, 1, 1)}
    assert (odd["sketch 2"], odd["sketch 2, another draw"]) == (
        slice(2),
        slice(2, 4),
    ) and "sketch 3" not in odd


def test_a_part_is_that_of_the_sliced_features(tmp_path, capsys):
    world = tiny_world(tmp_path, n=80)
    asked = world_flags(world, tmp_path / "out", "--sketch", "4", "--rank", "2")
    assert cli.run(finetune_probe.main, asked) == 0
    ask = [str(tmp_path / "out"), *world_flags(world, "unused")[:4]]
    assert cli.run(kernel_variants.main, ask) == 0, capsys.readouterr().err
    path = next((tmp_path / "out/kernel_variants").rglob("*.csv"))
    table = pd.read_csv(path).set_index("part")
    whole = next((tmp_path / "out/finetune_probe").rglob("*.csv"))
    own = pd.read_csv(whole).set_index("unit_norm").loc[True]
    assert table.loc["all", "accuracy_gain"] == pytest.approx(own["accuracy_gain"], abs=1e-6)
    assert table.loc["all", "gcv_skill_gain"] == pytest.approx(own["gcv_skill_gain"], abs=1e-6)

    arrays, n = load_file(whole.with_suffix(".safetensors")), int(own["n_train"])
    features = arrays["features"].double().unflatten(2, (-1, 4, 2))[:, 1, :, 2:].flatten(1)
    features = features / features.norm(dim=1, keepdim=True)
    another = next(part for part in parts(4, 2, 2) if part.name == "sketch 2, another draw")
    blocks = list(kernel_variants.of_part(whole.with_suffix(".safetensors"), 1, another, 4, 2))
    close = torch.testing.assert_close
    close(linear_kernel(blocks, n, unit_norm=True), features @ features[:n].T)
    assert cli.run(kernel_variants.main, ask) == 0 and "already there" in capsys.readouterr().out


def test_the_table_of_the_page():
    gains = dict(zip("abcdef", (0.01, 0.02, 0.06, 0.03, 0.0, 0.06)))
    rows = [
        {"model": "tiny", "dataset": name, "part": part, "accuracy_gain": gain * factor}
        for name, gain in gains.items()
        for part, factor in (("all", 1), ("sketch 1", 0.5), ("sketch 1, another draw", 0.25))
    ]
    lora = pd.DataFrame([
        {"model": "tiny", "dataset": name, "lora_gain": 0.1 - gain} for name, gain in gains.items()
    ])  # fmt: skip
    more = [{"model": "tiny", "dataset": "untrained", "part": "all", "accuracy_gain": 1.0}]
    page = kernel_variants.summary(pd.DataFrame(rows + more), lora)
    lines = page.splitlines()
    assert lines[0] == "Over 6 data sets:" and lines[4] == "| all | 3.0 | - | −1.00 |"
    assert lines[5] == "| sketch 1 | 1.5 | −1.5 ± 0.5 | −1.00 |"
    assert lines[-1].startswith(
        "Two draws of sketch 1: gains correlate at 1.00 over the data sets and differ by 0.9"
    )
    assert "Not run yet" in kernel_variants.summary(pd.DataFrame(rows[:9]), lora)
