"""The gradient-kernel probe: autograd's gradients, kernels in shards, ridge and GCV by hand, a pass that goes on."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge

from ntps.accuracies import gradients as module
from ntps.accuracies.gradients import Gradients, directions_among, feature_blocks
from ntps.accuracies.lora import target_modules
from ntps.commands import finetune_probe
from ntps.models.description import resolve_model
from ntps.models.loading import load_model
from ntps.moments.encoder import Encoder
from ntps.run import cli
from ntps.scores.kernel_ridge import centred, compare, linear_kernel, ridge, states_kernel
from ntps.system import checkpoint_clock
from ntps.texts import dataset
from report.kernel_variants import Part, of_part
from tests.launch import launch
from tests.tiny import tiny_model, tiny_world, world_flags

TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "openelm": ["qkv_proj"]}


def base(folder, arch):
    return load_model(resolve_model(str(tiny_model(folder, arch))), torch.float64, "cpu")


def rows_of(count=6):
    draw = np.random.default_rng(0)
    return [draw.integers(3, 90, length) for length in sorted(draw.integers(2, 20, count), reverse=True)]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TARGETS)
def adapted(request, tmp_path_factory):
    """Without and with the sketch: features and states of rows in one pass, and the model as PEFT adapts it."""
    arch, targets, directions = request.param, TARGETS[request.param], torch.randn(2, 32).double()
    folder, ids = tmp_path_factory.mktemp(arch), rows_of()
    encoder = Encoder(base(folder, arch), [3])
    names = target_modules(encoder.model, targets, 0)
    whole, sketched = (Gradients(encoder, names, directions, 4, sketch, 1) for sketch in (None, 8))
    found = [whole.of(ids), sketched.of(ids)]
    config = LoraConfig(r=4, lora_alpha=4, lora_dropout=0.0, target_modules=names)
    peft = get_peft_model(base(folder, arch), config).double()
    return ids, directions, names, (whole, sketched), found, peft


def test_gradients_are_those_of_autograd_through_peft(adapted):
    ids, directions, names, (whole, _), [(features, states), _], peft = adapted
    layers = [peft.get_submodule(f"base_model.model.{name}") for name in names]
    for place, layer in enumerate(layers):
        layer.lora_A["default"].weight.data.copy_(whole.projections[place][0])
    B = [layer.lora_B["default"].weight for layer in layers]
    assert features.dtype == torch.float64 and features.abs().amax(2).gt(0).all()
    for row, tokens in enumerate(ids):
        mean = peft(input_ids=torch.from_numpy(tokens)[None]).last_hidden_state[0].mean(0)
        close(states[row], mean.detach())
        for number, direction in enumerate(directions):
            wanted = torch.autograd.grad(direction @ mean, B, retain_graph=True)
            close(features[row, number], torch.cat([part.flatten() for part in wanted]))


def test_the_sketch_projects_the_outputs(adapted):
    ids, _, _, (whole, sketched), [(features, _), (small, _)], _ = adapted
    widths = [whole.encoder.model.get_submodule(name) for name in whole.names]
    sizes = [sketched.projections[place][1].shape[0] * 4 for place in range(len(widths))]
    wanted = [
        torch.einsum("nrok,os->nrsk", part.unflatten(2, (-1, 4)), sketched.projections[place][1]).flatten(2)
        for place, part in enumerate(features.split(sizes, 2))
    ]
    close(small, torch.cat(wanted, 2))


def test_a_part_of_the_features_is_that_of_fewer_columns_of_the_sketch_and_rows_of_A(adapted, tmp_path):
    """What report.kernel_variants takes apart, against gradients through smaller projections."""
    ids, directions, names, (_, sketched), [_, (features, _)], _ = adapted
    small = Gradients(sketched.encoder, names, directions, 2, 3, 1)
    small.projections = {place: (A[2:], P[:, 1:4]) for place, (A, P) in sketched.projections.items()}
    path, part = tmp_path / "f.safetensors", Part("", sketch=slice(1, 4), rank=slice(2, None))
    save_file({"features": features.contiguous()}, path)
    for place in range(2):
        found = torch.cat(list(of_part(path, place, part, 8, 4)), 1)
        close(found, small.of(ids)[0][:, place])


def test_a_row_has_the_same_features_in_every_company(adapted):
    ids, _, _, (_, sketched), [_, (features, _)], _ = adapted
    close(torch.cat([sketched.of(ids[start : start + 2])[0] for start in (0, 2, 4)]), features)
    sketched.encoder.packs, kept = 0, sketched.encoder.packs  # as for models that take no texts in one row
    close(torch.cat([sketched.of([row])[0] for row in ids]), features)
    sketched.encoder.packs = kept


def test_the_kernel_of_shards_is_that_of_all_rows(adapted):
    _, _, _, _, [_, (features, _)], _ = adapted
    X = features[:, 0]
    for unit in (False, True):
        shape = X / X.norm(dim=1, keepdim=True) if unit else X
        close(linear_kernel(X.split(7, 1), 4, unit), shape @ shape[:4].mT)
        shard = torch.cat([X[:4], X[5:]])  # rows held out elsewhere
        close(linear_kernel(shard.split(7, 1), 4, unit)[4:], linear_kernel([X], 4, unit)[5:])


@pytest.mark.parametrize("kind", ["principal", "random"])
def test_directions_have_unit_variance_whatever_the_scale_of_a_coordinate(kind):
    states = torch.randn(100, 12) * torch.logspace(-2, 3, 12) + 5
    found = directions_among(states, 3, kind, 0)
    along = states.double() @ found.mT
    close(along.std(0), torch.ones(3).double())
    if kind == "principal":
        assert torch.corrcoef(along.mT).triu(1).abs().max() < 1e-6
    close(directions_among(states * 2, 3, kind, 0).abs(), found.abs() / 2)


# --- ridge ---------------------------------------------------------------------------------------------------------


def noise(seed, n=200, classes=3):
    draw = torch.Generator().manual_seed(seed)
    states, more = (torch.randn(2 * n, d, generator=draw).double() for d in (40, 600))
    return states, more, torch.randint(0, classes, (2 * n,), generator=draw)


def test_the_ridge_and_its_gcv_error_are_those_by_hand():
    states, _, labels = noise(0, 50)
    n, Y = 50, torch.eye(3)[labels[:50]].double()
    kernel = centred(states_kernel(states, n))
    found = ridge(kernel, kernel, Y, (0.0,))
    Z = (states - states[:n].mean(0)) / states[:n].std(0, correction=0) / 40**0.5
    reference = Ridge(alpha=n * found.penalty).fit(Z[:n], Y)
    close(found.predictions, torch.from_numpy(reference.predict(Z.numpy())))
    H = Z[:n] @ torch.linalg.solve(Z[:n].mT @ Z[:n] + n * found.penalty * torch.eye(40), Z[:n].mT) + 1 / n
    error, guess = (Y - H @ Y).square().sum() / (1 - H.trace() / n) ** 2, (Y - Y.mean(0)).square().sum()
    assert found.gcv_skill == pytest.approx(float(1 - error / (guess / (1 - 1 / n) ** 2)), abs=1e-9)


def test_the_error_of_the_gain_is_that_of_paired_rows():
    states, more, _ = noise(0)
    labels, n = (states[:, 0] + more[:, 0] > 0).long(), 200
    kernels = [centred(kernel) for kernel in (states_kernel(states, n), linear_kernel([more[:, :60]], n))]
    hits = [
        (ridge(*kernels, torch.eye(2)[labels[:n]].double(), weights).predictions[n:].argmax(1) == labels[n:])
        for weights in ((0.0,), (0.0, 0.1, 0.25, 0.5, 0.75, 0.9))
    ]
    found = compare(states_kernel(states, n), linear_kernel([more[:, :60]], n), labels[:n], labels[n:], 2)
    gain = (hits[1].double() - hits[0].double()).numpy()
    assert found["accuracy_gain"] == pytest.approx(gain.mean()) and gain.mean() > 0.03
    assert found["accuracy_gain_error"] == pytest.approx(gain.std(ddof=1) / n**0.5)


def gains(labelled):
    rows = []
    for seed in range(12):
        states, more, labels = labelled(*noise(seed))
        n = len(labels) // 2
        rows.append(compare(states_kernel(states, n), linear_kernel([more], n), labels[:n], labels[n:], 3))
    return pd.DataFrame(rows)


def test_noise_gains_nothing():
    found = gains(lambda states, more, labels: (states, more, labels))
    assert found["gcv_skill_joint"].mean() < 0.02 and found["gcv_skill_gain"].mean() < 0.01
    assert abs(found["skill_gain"].mean()) < 0.01 and abs(found["accuracy_gain"].mean()) < 0.02


def test_labels_of_states_gain_nothing_and_those_of_gradients_much():
    found = gains(lambda states, more, labels: (states, more, (states[:, :3]).argmax(1)))
    assert found["accuracy_states"].mean() > 0.75 and abs(found["accuracy_gain"].mean()) < 0.02
    found = gains(lambda states, more, labels: (states, more[:, :60], (more[:, :3]).argmax(1)))
    assert found["accuracy_gain"].mean() > 0.3 and found["gcv_skill_gain"].mean() > 0.2


def test_states_and_gradients_that_do_not_vary_are_no_error():
    flat, labels = torch.ones(20, 10).double(), torch.arange(20) % 2
    found = compare(flat, flat, labels[:10], labels[10:], 2)
    assert found["accuracy_gain"] == 0 and found["skill_joint"] == pytest.approx(0)


# --- the command ---------------------------------------------------------------------------------------------------

FLAGS = ["--tokens_per_batch", "100", "--sketch", "4", "--rank", "2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def probe(world, output, *flags):
    code = cli.run(finetune_probe.main, world_flags(world, output, *FLAGS, *flags))
    return code, next((output / "finetune_probe").rglob("*.csv"), None)


def features_in(table):
    return {
        name: value for name, value in load_file(table.with_suffix(".safetensors")).items() if name != "cost"
    }


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    code, table = probe(world, tmp_path_factory.mktemp("plain"))
    assert code == 0
    return table


def test_the_table(world, done, capsys):
    table = pd.read_csv(done)
    assert list(table) == list(finetune_probe.COLUMNS) and table["unit_norm"].tolist() == [False, True]
    assert table.notna().all(axis=None) and (table["n_train"] == 60).all() and (table["n_test"] == 30).all()
    assert (table["accuracy_joint"] - table["accuracy_states"]).equals(table["accuracy_gain"])
    assert sorted(path.suffix for path in done.parent.iterdir()) == [".csv", ".json", ".safetensors"]
    stamp = done.stat().st_mtime_ns
    assert probe(world, done.parents[2])[0] == 0 and "already there" in capsys.readouterr().out
    assert probe(world, done.parents[2], "--seed", "7")[0] == 1 and done.stat().st_mtime_ns == stamp
    assert "settings.seed is 42 there, 7 here" in capsys.readouterr().err


def test_the_file_holds_each_row_by_itself(done):
    found = features_in(done)
    assert found["features"].shape == (90, 2, 9 * 2 * 4) and (found["tokens"] > 0).all()
    blocks = torch.cat(list(feature_blocks(done.with_suffix(".safetensors"), 1)), 1)
    assert torch.equal(blocks, found["features"][:, 1])


def test_train_labels_do_not_touch_features(world, done, tmp_path, monkeypatch):
    encode = dataset._encode

    def permuted(split, *arguments):
        found = encode(split, *arguments)
        order = np.random.default_rng(0).permutation(len(found.labels))
        return dataset.Split(split, found.texts, found.labels[order] if split == "train" else found.labels)

    monkeypatch.setattr(dataset, "_encode", permuted)
    code, table = probe(world, tmp_path)
    assert code == 0 and not pd.read_csv(table)["accuracy_states"].equals(
        pd.read_csv(done)["accuracy_states"]
    )
    assert all(torch.equal(value, features_in(done)[name]) for name, value in features_in(table).items())


def test_an_interrupted_pass_goes_on_with_the_missing_rows_in_bounded_memory(
    world, done, tmp_path, monkeypatch
):
    batches, inner, graphs = [], Gradients.of, []

    def of(self, ids):
        if len(batches) == 3:
            batches.append(None)
            raise KeyboardInterrupt
        assert not any(reference() is not None for reference in graphs)  # of the batch before
        handle = self.encoder.model.register_forward_hook(
            lambda model, args, output: graphs.append(weakref.ref(output.last_hidden_state))
        )
        found = inner(self, ids)
        handle.remove()
        batches.append([len(row) for row in ids])
        return found

    gc.disable()
    monkeypatch.setattr(checkpoint_clock, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_clock, "WORK", 0.0)
    monkeypatch.setattr(Gradients, "of", of)
    code, table = probe(world, tmp_path)
    assert code == 130 and table is None
    again, table = probe(world, tmp_path)
    gc.enable()
    sizes = [lengths for lengths in batches if lengths]
    assert again == 0 and sum(map(len, sizes)) == 90 and max(map(sum, sizes)) <= 100
    assert all(torch.equal(value, features_in(done)[name]) for name, value in features_in(table).items())
    assert not list(table.parent.glob(".*"))


def test_a_partial_file_of_another_run_is_started_over(world, done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Gradients, "of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert probe(world, tmp_path, "--seed", "1")[0] == 130
    monkeypatch.undo()
    code, table = probe(world, tmp_path)
    assert code == 0 and "starting over: it is of another run" in capsys.readouterr().out
    assert torch.equal(features_in(table)["features"], features_in(done)["features"])


def test_gradients_that_are_not_finite_are_an_error(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        module, "directions_among", lambda states, *_: torch.full((2, 32), torch.nan).double()
    )
    assert probe(world, tmp_path)[0] == 1 and "gradients that are not finite" in capsys.readouterr().err


def test_modules_that_no_gradient_reaches_are_an_error(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Gradients, "_tap", lambda self, place: lambda *_: None)
    assert probe(world, tmp_path)[0] == 1 and "take --lora_targets that see every" in capsys.readouterr().err


def test_two_processes_make_the_same_file(world, done, tmp_path):
    command = ["ntps.commands.finetune_probe", *world_flags(world, tmp_path / "out", *FLAGS)]
    assert [code for code, *_ in launch(2, [command], tmp_path)] == [0, 0]
    found = features_in(next((tmp_path / "out").rglob("*.csv")))
    for name, value in features_in(done).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
