"""Plans against explicit counts: parameters as published, operations as torch counts them, bytes as arrays have them."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel
from transformers.optimization import Adafactor

import cache
import from_scratch
import linear_training
import lora_finetuning
from ntps.accuracies import lora as adapters
from ntps.accuracies.attention import attention_for_gradients
from ntps.errors import UserError
from ntps.models import loading
from ntps.moments.encoder import Encoder, find_blocks
from ntps.moments.sums import Batch, Moments
from ntps.run import cli, plan
from ntps.texts.dataset import load_dataset
from tests.tiny import tiny_config, tiny_dataset, tiny_model, tiny_world, world_flags

CPU = torch.device("cpu")
# As the hub's safetensors have them; with the language-model head where it is not tied to the embeddings.
PUBLISHED = {
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "openelm-270m": 271_527_168,
    "openelm-450m": 457_179_136,
    "openelm-1.1b": 1_079_891_456,
    "openelm-3b": 3_036_647_424,
    "llama3-8b": 8_030_261_248,
}
HEADS = {"qwen2-7b": 152_064 * 3584, "llama3-8b": 128_256 * 4096}
CACHE = dict(
    splits=("train", "test"),
    limit=None,
    max_length=None,
    tokens_per_batch=None,
    dtype=None,
    layers="all",
    label_permutations=200,
    partitions=1,
    shard=None,
    prefix_moments="train",
    keep_states=False,
    seed=42,
)
TRAINING = dict(
    limit=8,
    seeds=(0,),
    max_steps=4,
    batch_size=2,
    gradient_accumulation=1,
    eval_every=10,
    released_protocol=False,
    rank=4,
    alpha=4,
    lora_dropout=0.0,
    start_layer=0,
    lora_targets=["q_proj", "k_proj", "v_proj"],
)


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_):
        raise UserError("no hub here")

    monkeypatch.setattr(loading, "load_config", refuse)
    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    monkeypatch.setattr(plan, "load_dataset", refuse)
    plan.texts_of.cache_clear()
    yield
    plan.texts_of.cache_clear()


def tiny_outline(folder, arch="llama", dtype="float32", **shape):
    flags = {"layers": "all", "dtype": dtype}
    return plan.Outline(str(tiny_model(folder, arch, **shape)), flags, CPU)


# --- parameters and operations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_models_have_their_published_parameters_without_the_hub(name, no_hub):
    found = plan.Outline(name, {"layers": "all"}, CPU)
    assert found.parameters + HEADS.get(name, 0) == PUBLISHED[name]
    assert "architecture" in found.notes[0]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "openelm"])
@pytest.mark.parametrize("layers", ["all", "0,2"])
def test_forward_operations_are_those_that_torch_counts(tmp_path, arch, layers):
    tiny = tiny_model(tmp_path, arch)
    found = plan.Outline(str(tiny), {"layers": layers}, CPU)
    encoder = Encoder(AutoModel.from_pretrained(tiny).eval(), found.layers)
    batches = [np.array([40, 40, 37]), np.array([9, 3])]
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        for n in batches:
            encoder.run(torch.ones(n.sum(), dtype=torch.int64), n, lambda place, states: None)
    ours = found.forward_flops(plan.Batches.of(batches))
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.01)  # 0.01: angles of rotary positions


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 9])
def test_padded_batches_are_of_similar_length(rows):
    lengths = np.array([3, 9, 4, 4, 7, 1])
    ordered = sorted(lengths.tolist(), reverse=True)
    batches = [ordered[start : start + rows] for start in range(0, 6, rows)]
    found = plan.Batches.padded(lengths, rows)
    assert found.lengths.tolist() == [max(batch) for batch in batches for _ in batch]
    assert found.tokens.tolist() == [max(batch) * len(batch) for batch in batches]


@pytest.mark.parametrize("d, prefix", [(64, True), (63, True), (32, False)])
def test_moments_operations_are_those_that_torch_counts(d, prefix):
    C, R = 3, 5
    batches = [np.array([70, 70, 9, 1]), np.array([20, 12]), np.array([1, 1])]
    moments = Moments([0], d, C, R, prefix)
    with FlopCounterMode(display=False) as counted:
        for n in batches:
            targets, permuted = torch.ones(len(n), C).double(), torch.ones(len(n), C * R).double()
            moments.add(0, torch.randn(n.sum(), d), Batch(torch.as_tensor(n), targets, permuted))
    # M and the labels are added by addmm_ in place, which torch does not count: 8 texts, 4 strips
    labels, step = 2 * 8 * d * C * (R + 1), -(-d // 4)
    gram = 2 * 8 * sum(min(step, d - start) * (d - start) for start in range(0, d, step))
    assert (
        plan.moments_flops(d, C, R, prefix, plan.Batches.of(batches))
        == counted.get_total_flops() + labels + gram
    )


@pytest.mark.parametrize("lora", [False, True])
def test_training_operations_are_those_that_torch_counts(tmp_path, lora):
    tiny, texts = tiny_outline(tmp_path / "m", d=64, blocks=4), tiny_dataset(tmp_path)
    planned = plan.plan_pair("lora_finetuning" if lora else "from_scratch", tiny, str(texts), TRAINING)
    model = AutoModel.from_pretrained(tmp_path / "m")
    model = adapters.add_lora(model, "tiny", TRAINING) if lora else model
    data, total = load_dataset(str(texts)), 0
    lengths = sorted(len(ids) for ids in tiny.tokenizer(data.select("train", 8).texts)["input_ids"])
    for longest in lengths[1::2]:  # 4 batches of 2 texts, as long as the longer one
        with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
            ids = torch.ones(2, longest, dtype=torch.int64)
            model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
        total += counted.get_total_flops()
    assert planned.work["training"] == pytest.approx(total, rel=0.08)


# --- memory and disk -----------------------------------------------------------------------------------------------


def test_memory_and_disk_of_the_moments_are_those_of_the_arrays(tmp_path):
    tiny, texts = tiny_outline(tmp_path / "m"), tiny_dataset(tmp_path)
    flags = CACHE | {"keep_states": True, "partitions": 2}
    planned = plan.plan_pair("cache", tiny, str(texts), flags)
    output = tmp_path / "out"
    run = [
        "--models",
        str(tmp_path / "m"),
        "--datasets",
        str(texts),
        "--output",
        str(output),
        "--partitions",
        "2",
    ]
    assert cli.run(cache.main, [*run, "--keep_states"]) == 0
    files = [path for path in output.rglob("*") if path.is_file()]
    arrays = sum(array_bytes(path) for path in files)
    labels = 8 * 90
    assert planned.disk == arrays - labels
    assert 0 < sum(path.stat().st_size for path in files) - arrays < 4000 * len(files)  # their headers
    sums = Moments(tiny.layers, 32, 3, 200).sums
    assert planned.sums == sum(value.numel() * value.element_size() for value in sums.values())
    data = load_dataset(str(texts))
    ids = [tiny.tokenizer(data.splits[s].texts)["input_ids"] for s in ("train", "test")]
    assert planned.texts.tokens == sum(len(row) for split in ids for row in split)
    assert planned.texts.count == 90 and planned.texts.targets == 3
    assert planned.weights == sum(p.nbytes for p in AutoModel.from_pretrained(tmp_path / "m").parameters())


def array_bytes(path: Path) -> int:
    with safe_open(path, "numpy") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside hold at a time."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, key, storage.nbytes())
        return made

    def freed(self, key, size):
        self.seen.discard(key)
        self.now -= size


@pytest.mark.parametrize("arch", ["llama", "qwen2", "openelm"])
def test_batch_memory_bounds_what_a_batch_takes(tmp_path, arch):
    tiny = tiny_model(tmp_path, arch, d=64, context=256)
    found = plan.Outline(str(tiny), {"layers": "all"}, CPU)
    encoder = Encoder(AutoModel.from_pretrained(tiny).eval())
    rows, length = 16, 100
    columns = torch.ones(rows, 3, dtype=torch.float64)
    lengths = np.full(rows, length)
    batch = Batch(torch.from_numpy(lengths), columns, None)
    moments = Moments(found.layers, 64, 3)
    ids = torch.ones(rows * length, dtype=torch.int64)
    encoder.run(ids, lengths, lambda place, states: moments.add(place, states, batch))
    with Peak() as peak:
        encoder.run(ids, lengths, lambda place, states: moments.add(place, states, batch))
    bound = found.batch_bytes * rows * length
    assert bound / 3 < peak.most <= bound


@pytest.mark.parametrize("arch", ["llama", "qwen2", "openelm"])
@pytest.mark.parametrize("lora, dtype", [(False, "float32"), (True, "float32"), (False, "bfloat16")])
def test_memory_of_training_is_what_adafactor_keeps_and_bounds_what_autograd_keeps(
    tmp_path, arch, lora, dtype
):
    tiny = tiny_outline(tmp_path / "m", arch, dtype=dtype, d=64, blocks=4)
    flags = TRAINING | ({"lora_targets": ["qkv_proj"]} if arch == "openelm" else {})
    script = "lora_finetuning" if lora else "from_scratch"
    planned = plan.plan_pair(script, tiny, str(tiny_dataset(tmp_path)), flags)
    model = AutoModel.from_pretrained(tmp_path / "m")
    if lora:
        model = adapters.add_lora(model, "tiny", flags)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    length = int(planned.batches.lengths.max())
    ids = torch.ones(6, length, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
        attention_for_gradients(CPU, length),
    ):
        states = model.train()(input_ids=ids, use_cache=False).last_hidden_state
    held = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = sum(p.numel() for p in trained)
    copies = 2 * numbers if dtype == "bfloat16" else 0  # autocast's, of the weights
    bound = planned.per_token * 6 * length
    assert bound / 3 < held <= bound + copies
    states.sum().backward()
    optimizer = Adafactor(trained, lr=1e-3, relative_step=False, scale_parameter=False)
    optimizer.step()
    means = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    means = sum(v.nbytes for v in means if v.numel() > 1)
    assert planned.sums == sum(p.nbytes + p.grad.nbytes for p in trained) + means + copies
    assert planned.disk == 2 * (4 * numbers + means) + (4 * numbers if lora else 0)
    assert planned.updated == numbers * flags["max_steps"]


# --- what is printed -----------------------------------------------------------------------------------------------


def flags_of(tmp_path, *more):
    tiny_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()  # a plan needs no weights
    (tmp_path / "m.yaml").write_text("path: m\nlora_targets: [q_proj]\n")
    texts = tiny_dataset(tmp_path)
    return [
        "--models",
        str(tmp_path / "m.yaml"),
        "--datasets",
        str(texts),
        "--output",
        str(tmp_path / "o"),
        "--plan",
        *more,
    ]


@pytest.mark.parametrize("script", [cache, linear_training, lora_finetuning, from_scratch])
def test_every_script_plans_without_weights_and_writes_nothing(tmp_path, capsys, script):
    assert cli.run(script.main, flags_of(tmp_path)) == 0
    told = capsys.readouterr().out
    for part in (
        "parameters",
        "memory",
        "weights",
        "largest batch",
        "on disk",
        "operations",
        "about",
        "GFLOP/s",
    ):
        assert part in told
    assert "moments" in told or script is not cache
    assert not (tmp_path / "o").exists()


def test_what_does_not_fit_is_said_and_the_advice_fits(tmp_path, capsys, monkeypatch):
    tiny, texts = tiny_outline(tmp_path / "n", blocks=8), str(tiny_dataset(tmp_path))
    whole = plan.plan_pair("cache", tiny, texts, CACHE)
    assert plan.complaint("cache", whole, tiny, whole.memory, 10**12) is None
    told = plan.complaint("cache", whole, tiny, whole.memory - 1, 10**12)
    tokens = told.split("--tokens_per_batch ")[1]
    smaller = plan.plan_pair("cache", tiny, texts, CACHE | {"tokens_per_batch": int(tokens)})
    assert smaller.memory < whole.memory
    free = whole.weights + 3 * whole.sums // 4
    told = plan.complaint("cache", whole, tiny, free, 10**12)
    layers = told.split("--layers ")[1].split()[0]
    fewer = plan.Outline(str(tmp_path / "n"), {"layers": layers}, CPU)
    assert 1 < len(fewer.layers) < 9
    part = plan.plan_pair("cache", fewer, texts, CACHE | {"tokens_per_batch": 1})
    assert part.memory <= free
    assert "bfloat16" in plan.complaint("cache", whole, tiny, whole.weights // 2, 10**12)
    assert "--output" in plan.complaint("cache", whole, tiny, whole.memory, whole.disk - 1)
    monkeypatch.setattr(plan, "free_memory", lambda device: 1000)
    assert cli.run(cache.main, flags_of(tmp_path)) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_a_batch_that_does_not_fit_a_trainer_is_cut(tmp_path):
    tiny, texts = tiny_outline(tmp_path / "n"), str(tiny_dataset(tmp_path))
    common = TRAINING | {"limit": None, "max_steps": 10, "eval_every": 5}
    whole = plan.plan_pair("from_scratch", tiny, texts, common | {"batch_size": 32})
    told = plan.complaint("from_scratch", whole, tiny, whole.memory - whole.batch // 2, 10**12)
    rows = int(told.split("--batch_size ")[1].split()[0])
    smaller = plan.plan_pair("from_scratch", tiny, texts, common | {"batch_size": rows})
    assert 1 <= rows < 32 and smaller.memory <= whole.memory - whole.batch // 2
    once = plan.plan_pair("from_scratch", tiny, texts, common | {"batch_size": 32, "max_steps": 20})
    assert once.work["training"] == 2 * whole.work["training"]


def test_texts_that_are_not_here_are_planned_by_size_and_limit(no_hub):
    found = plan.Outline("qwen2-0.5b", {"layers": "all"}, CPU)
    planned = plan.plan_pair("cache", found, "imdb", CACHE)
    assert planned.texts.count == 50_000 and planned.texts.targets == 2
    assert (
        "texts are not here" in planned.texts.notes[0] and "its description's size" in planned.texts.notes[0]
    )
    cut = plan.plan_pair("cache", found, "imdb", CACHE | {"limit": 100, "max_length": 20})
    assert cut.texts.count == 200


def test_characters_stand_for_tokens_where_the_tokenizer_is_not_here(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("no tokenizer")

    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    planned = plan.plan_pair("cache", tiny_outline(tmp_path / "m"), str(tiny_dataset(tmp_path)), CACHE)
    assert "4 characters a token" in planned.texts.notes[0]
    assert planned.texts.tokens > planned.texts.count


def test_a_model_without_configuration_is_an_error_and_the_others_are_planned(
    tmp_path, capsys, no_hub, monkeypatch
):
    flags = CACHE | dict(
        models=["some/model", "openelm-270m"], datasets=["sst2"], device="cpu", output=str(tmp_path)
    )
    monkeypatch.setattr(plan.Outline, "measured", lambda *_: 1e12)
    assert plan.print_plan("cache", flags) == 1
    told = capsys.readouterr()
    assert "some/model" in told.err and "openelm-270m" in told.out and "DOES NOT FIT" not in told.out
    assert "assumed: config.json" in told.out and "assumed: its texts" in told.out


@pytest.mark.parametrize("arch", ["llama", "gpt2", "openelm"])
def test_the_calibration_runs_one_block_of_the_models_own_size(tmp_path, arch):
    found = tiny_outline(tmp_path, arch)
    model = plan.one_block(found)
    whole = find_blocks(AutoModel.from_config(tiny_config(arch, 600)))
    assert [p.shape for p in find_blocks(model)[0].parameters()] == [p.shape for p in whole[0].parameters()]
    assert 0 < found.measured(plan.Batches.of([np.full(4, 10), np.full(2, 10)])) < 1e14


def test_a_split_without_a_size_has_that_of_test(no_hub):
    found = plan.Outline("qwen2-0.5b", {"layers": "all"}, CPU)
    planned = plan.plan_pair("cache", found, "imdb", CACHE | {"splits": ("train", "validation")})
    assert planned.texts.count == 50_000 and "validation" in planned.texts.notes[1]


def test_a_shard_without_texts_is_an_error_and_not_counted(tmp_path, capsys):
    flags = flags_of(tmp_path, "--limit", "4", "--partitions", "9", "--shard", "9/9")
    assert cli.run(cache.main, flags) == 1
    told = capsys.readouterr()
    assert "--shard 9/9" in told.err and "0 of the 1 pairs" in told.out


def test_no_known_length_is_an_error(tmp_path, monkeypatch):
    tiny = tiny_outline(tmp_path)
    tiny.config.__dict__["max_position_embeddings"] = (
        None  # past its checks, as in a model without such a limit
    )
    monkeypatch.setattr(loading, "load_config", lambda spec: tiny.config)
    monkeypatch.setattr(loading, "load_tokenizer", lambda spec: None)
    model = AutoModel.from_pretrained(tmp_path)
    monkeypatch.setattr(loading, "without_weights", lambda *_: model)
    with pytest.raises(UserError, match="--max_length"):
        plan.Outline(str(tmp_path), {"layers": "all"}, CPU)


def test_lora_without_targets_is_planned_as_it_is_run(tmp_path, capsys):
    world = tiny_world(tmp_path / "world")
    assert cli.run(lora_finetuning.main, world_flags(world, tmp_path / "out", "--plan")) == 0
    assert "LoRA adapts q_proj k_proj v_proj" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_a_recurrent_decoder_is_planned_without_attention(tmp_path, kind):
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 400, "pad_token_id": 0}
    tiny_model(tmp_path)
    AutoConfig.for_model(kind, **shape).save_pretrained(tmp_path)
    outline = plan.Outline(str(tmp_path), {"layers": "all"}, CPU)
    assert outline.block_attention == [0, 0, 0] and outline.measured(plan.Batches.of([np.array([8, 4])])) > 0
