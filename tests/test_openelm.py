"""The native OpenELM against the remote code's outputs, the released sizes, transformers and peft."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ntps.models.openelm import OpenELMConfig, OpenELMForCausalLM, OpenELMModel, make_divisible

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
SIZES = {
    # name: (model_dim, layers, head_dim, query heads (count x layers), parameters)
    "270M": (1280, 16, 64, [12] * 5 + [16] * 7 + [20] * 4, 271_527_168),
    "450M": (1536, 20, 64, [12] * 3 + [16] * 7 + [20] * 6 + [24] * 4, 457_179_136),
    "1_1B": (2048, 28, 64, [16] * 3 + [20] * 7 + [24] * 8 + [28] * 6 + [32] * 4, 1_079_891_456),
    "3B": (3072, 36, 128, [12] * 4 + [16] * 14 + [20] * 12 + [24] * 6, 3_036_647_424),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "openelm_tiny_io.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The golden model as the hub would hold it, remote-code entries of its config.json included."""
    folder = tmp_path_factory.mktemp("openelm")
    config = json.loads((GOLDEN / "openelm_tiny_config.json").read_text())
    config["architectures"] = ["OpenELMForCausalLM"]
    config["auto_map"] = {
        "AutoConfig": "configuration_openelm.OpenELMConfig",
        "AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((GOLDEN / "openelm_tiny_weights.safetensors").read_bytes())
    return folder


def load(kind, folder: Path, **options):
    model, info = kind.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **options
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForCausalLM])
@torch.no_grad()
def test_right_padded_batch_matches_the_remote_code(kind, folder, golden):
    model = load(kind, folder)
    mask = golden["attention_mask"]
    assert (mask[:, 0] == 1).all() and (mask.sum(1) < mask.shape[1]).any()
    outputs = model(golden["input_ids"], attention_mask=mask, output_hidden_states=True)
    expected = golden["expected.hidden_states"]  # (layer, text, token, d), zero under padding
    states = torch.stack(outputs.hidden_states) * mask[None, :, :, None]
    assert states.shape == expected.shape
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
    if kind is AutoModelForCausalLM:
        torch.testing.assert_close(
            outputs.logits * mask[:, :, None], golden["expected.logits"], atol=1e-5, rtol=1e-5
        )
    else:
        assert isinstance(model, OpenELMModel)
        torch.testing.assert_close(outputs.last_hidden_state, outputs.hidden_states[-1])


@torch.no_grad()
def test_each_text_alone_without_padding_matches_the_remote_code(folder, golden):
    model = load(AutoModelForCausalLM, folder)
    for text, length in enumerate(golden["attention_mask"].sum(1).tolist()):
        outputs = model(golden["input_ids"][text : text + 1, :length], output_hidden_states=True)
        states = torch.stack(outputs.hidden_states)[:, 0]
        torch.testing.assert_close(
            states, golden["expected.hidden_states"][:, text, :length], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            outputs.logits[0], golden["expected.logits"][text, :length], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_states_do_not_depend_on_what_fills_the_padding_and_the_head_is_the_embedding(folder, golden):
    model = load(AutoModelForCausalLM, folder)
    ids, mask = golden["input_ids"], golden["attention_mask"]
    first = model(ids, attention_mask=mask, output_hidden_states=True)
    other = model(torch.where(mask == 1, ids, (ids + 7) % 96), attention_mask=mask)
    torch.testing.assert_close(first.logits[mask == 1], other.logits[mask == 1], atol=1e-6, rtol=0)
    by_hand = first.hidden_states[-1] @ model.transformer.token_embeddings.weight.T
    torch.testing.assert_close(first.logits, by_hand)
    kept = model(ids, attention_mask=mask, logits_to_keep=2).logits
    torch.testing.assert_close(kept, first.logits[:, -2:])
    assert first.hidden_states is not None and other.hidden_states is None


@pytest.mark.parametrize("size", SIZES)
def test_the_released_sizes_have_the_released_heads_and_parameter_counts(size):
    dim, layers, head_dim, heads, count = SIZES[size]
    config = OpenELMConfig(
        model_dim=dim,
        num_transformer_layers=layers,
        head_dim=head_dim,
        num_gqa_groups=4,
        qkv_multipliers=[0.5, 1.0],
        ffn_multipliers=[0.5, 4.0],
    )
    assert config.num_query_heads == heads
    assert config.num_kv_heads == [h // 4 for h in heads]
    with torch.device("meta"):
        model = OpenELMForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert (
        config.hidden_size == dim
        and config.num_hidden_layers == layers
        and config.max_position_embeddings == 2048
    )
    assert config.vocab_size == 32000 and config.bos_token_id == 1 and config.eos_token_id == 2


def test_make_divisible_by_brute_force():
    for value in np.linspace(1, 200, 400):
        for divisor in (4, 16, 32):
            multiples = [m for m in range(divisor, 400, divisor)]
            allowed = [m for m in multiples if m >= 0.9 * value]
            nearest = min(multiples, key=lambda m: (abs(m - value), -m))
            assert make_divisible(value, divisor) == max(nearest, min(allowed))


def test_multipliers_may_be_two_ends_or_one_a_layer(folder):
    ends = OpenELMConfig(num_transformer_layers=3, ffn_multipliers=[0.5, 4.0])
    listed = OpenELMConfig(num_transformer_layers=3, ffn_multipliers=[0.5, 2.25, 4.0])
    assert [ends.ffn_width(i) for i in range(3)] == [listed.ffn_width(i) for i in range(3)]
    with pytest.raises(ValueError, match="3 multipliers"):
        OpenELMConfig(num_transformer_layers=3, ffn_multipliers=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="ffn_with_glu"):
        OpenELMConfig(ffn_with_glu=False)
    stored = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(stored, OpenELMConfig)
    again = OpenELMConfig(
        **{k: v for k, v in stored.to_dict().items() if k not in ("num_query_heads", "num_kv_heads")}
    )
    assert (again.num_query_heads, again.num_kv_heads) == (stored.num_query_heads, stored.num_kv_heads)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_model_with_no_head_and_no_buffers(folder, golden, tmp_path):
    model = load(AutoModelForCausalLM, folder)
    assert not list(model.buffers())
    model.save_pretrained(tmp_path / "causal")
    saved = load_file(tmp_path / "causal" / "model.safetensors")
    assert saved.keys() == load_file(folder / "model.safetensors").keys()
    load(AutoModel, folder).save_pretrained(tmp_path / "base")
    want = model(golden["input_ids"]).logits
    for source in ("causal", "base"):
        again = load(AutoModelForCausalLM, tmp_path / source)
        assert torch.equal(again(golden["input_ids"]).logits, want)


def test_initialisation_has_the_documented_standard_deviations():
    torch.manual_seed(0)
    model = OpenELMModel(
        OpenELMConfig(vocab_size=500, model_dim=256, num_transformer_layers=2, head_dim=32, num_gqa_groups=2)
    )
    block = model.layers[1]
    output_std = (256 * 2 * 2) ** -0.5
    for weight, std in [
        (model.token_embeddings.weight, 256**-0.5),
        (block.attn.qkv_proj.weight, 256**-0.5),
        (block.ffn.proj_1.weight, 256**-0.5),
        (block.attn.out_proj.weight, output_std),
        (block.ffn.proj_2.weight, output_std),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert (block.attn.q_norm.weight == 1).all() and (model.norm.weight == 1).all()


@torch.no_grad()
def test_bfloat16_stays_close_and_keeps_the_norm_in_float32(folder, golden):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    mask = golden["attention_mask"]
    outputs = model(golden["input_ids"], attention_mask=mask, output_hidden_states=True)
    assert all(states.dtype == torch.bfloat16 for states in outputs.hidden_states)
    states = torch.stack(outputs.hidden_states).float() * mask[None, :, :, None]
    error = (states - golden["expected.hidden_states"]).norm() / golden["expected.hidden_states"].norm()
    assert error < 0.02


def test_loss_and_gradients_with_checkpointing_equal_those_without(folder, golden):
    ids, mask = golden["input_ids"], golden["attention_mask"]
    labels = torch.where(mask == 1, ids, -100)
    gradients = []
    for checkpointing in (False, True):
        model = load(AutoModelForCausalLM, folder).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.transformer.layers[0].gradient_checkpointing
        outputs = model(ids, attention_mask=mask, labels=labels)
        logits = outputs.logits[:, :-1].reshape(-1, 96)
        by_hand = torch.nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1))
        torch.testing.assert_close(outputs.loss, by_hand)
        outputs.loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradient is not None and gradient.any() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForCausalLM])
def test_lora_on_qkv_proj_trains_saves_loads_and_merges(kind, folder, golden, tmp_path):
    ids, mask = golden["input_ids"], golden["attention_mask"]
    # peft finds layer numbers only behind a prefix, which the base model has not
    layers = [0, 2] if kind is AutoModelForCausalLM else None
    model = get_peft_model(
        load(kind, folder), LoraConfig(r=4, target_modules=["qkv_proj"], layers_to_transform=layers)
    )
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    prefix = "base_model.model." + ("transformer." if layers else "")
    assert adapted == {f"{prefix}layers.{i}.attn.qkv_proj" for i in layers or [0, 1, 2]}
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model(ids, attention_mask=mask)[0][mask == 1].square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        want = model(ids, attention_mask=mask)[0]
        plain = load(kind, folder)(ids, attention_mask=mask)[0]
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(load(kind, folder), str(tmp_path))
        assert torch.equal(again(ids, attention_mask=mask)[0], want)
        merged = again.merge_and_unload()(ids, attention_mask=mask)[0]
    assert (want - plain).abs().max() > 0.1
    torch.testing.assert_close(merged, want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_generate_with_and_without_the_cache_and_from_left_padding(folder, golden):
    model = load(AutoModelForCausalLM, folder)
    ids = golden["input_ids"][:1, :6]
    greedy = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    want = ids
    for _ in range(8):
        want = torch.cat([want, model(want).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **greedy), want)
    uncached = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **greedy)
    assert torch.equal(uncached, want)
    padded = torch.cat([torch.zeros(1, 3, dtype=ids.dtype), ids], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    assert torch.equal(model.generate(padded, attention_mask=mask, **greedy)[:, 3:], want)


def test_import_ntps_imports_no_transformers_and_loading_models_registers_it(folder):
    code = f"""
import sys
import ntps
from ntps.models.description import output_name, resolve_model
assert resolve_model({str(folder)!r}).name == output_name(resolve_model({str(folder)!r}))
assert "transformers" not in sys.modules
import ntps.models.loading
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained({str(folder)!r})
model, info = AutoModelForCausalLM.from_pretrained({str(folder)!r}, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"]
from ntps.models.openelm import OpenELMConfig, OpenELMForCausalLM
assert type(config) is OpenELMConfig and type(model) is OpenELMForCausalLM
assert type(AutoConfig.for_model("openelm", num_transformer_layers=2)) is OpenELMConfig
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
