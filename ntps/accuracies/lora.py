"""LoRA on a base model: which modules it adapts, and its folder, which PEFT and `cache.py --adapter` read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ntps.errors import UserError
from ntps.models.description import ModelSpec
from ntps.models.loading import load_model, without_weights
from ntps.moments.encoder import find_blocks
from ntps.moments.lazy_model import LazyModel
from ntps.system import array_files, atomic_files, console, provenance

ALL = "all-linear"
# of attention: queries, keys and values, apart or in one matrix
USUAL = (["q_proj", "k_proj", "v_proj"], ["query_key_value"], ["c_attn"], ["qkv_proj"])


def chosen_targets(spec: ModelSpec, requested: Sequence[str], config: Any) -> list[str]:
    """The modules that LoRA adapts: those requested, the description's, or the usual ones of the architecture.

    `all-linear`, PEFT's word, is every linear module of the blocks. It and the usual ones are reported by name;
    UserError where neither we nor PEFT know the architecture.
    """
    targets = list(requested or spec.lora_targets or ())
    if targets and targets != [ALL]:
        return targets
    blocks, kind = find_blocks(without_weights(spec, config)), config.model_type
    if targets:
        linear = [name for name, module in blocks.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
        targets = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear))
        console.say(f"{spec.name}: LoRA adapts {' '.join(targets)}, all linear modules of its blocks")
        return targets
    from peft.utils import constants  # takes seconds to import

    names = {name.rsplit(".", 1)[-1] for name, _ in blocks.named_modules()}
    known: Any = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    for targets in (*USUAL, *([known] if isinstance(known, list) else [])):
        if names.issuperset(targets):
            usual = f"{' '.join(targets)}, usual for {kind} (else: --lora_targets)"
            console.say(f"{spec.name}: LoRA adapts {usual}")
            return targets
    raise UserError(
        f"{spec.name}: lora_targets: none are known for {kind}: name modules by --lora_targets or in its YAML"
    )


def target_modules(model: nn.Module, targets: Sequence[str], start_layer: int) -> list[str]:
    """Full names of the modules called one of `targets` in block start_layer (0 = first) and those above it.

    UserError for a block that is not there, and for a target that the blocks do not have.
    """
    blocks = find_blocks(model)
    if not 0 <= start_layer < len(blocks):
        raise UserError(f"--start_layer {start_layer}: this model has blocks 0 to {len(blocks) - 1}")
    inside = {module for block in list(blocks)[start_layer:] for module in block.modules()}
    last = {name: name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in inside}
    if lacking := set(targets) - set(last.values()):
        known = sorted({last[name] for name in last if hasattr(model.get_submodule(name), "weight")})
        raise UserError(
            f"--lora_targets {' '.join(sorted(lacking))}: the blocks have no such module, but {', '.join(known)}"
        )
    return [name for name, ending in last.items() if ending in targets]


def lora_model(model: LazyModel, settings: dict[str, Any]) -> nn.Module:
    """A model with its weights and LoRA, as `add_lora`."""
    spec = model.spec
    base = load_model(spec, model.dtype, model.device)
    return add_lora(base, spec.source.get("id", spec.name), settings)


def add_lora(model: nn.Module, name: str, settings: dict[str, Any]) -> nn.Module:
    """The model with LoRA of the settings' rank, alpha and dropout, B = 0: only A and B will be trained.

    PEFT's own layers_to_transform misses blocks at the top of a headless model, so modules are named one by one.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds to import

    targets = target_modules(model, settings["lora_targets"], settings["start_layer"])
    own = {"r": settings["rank"], "lora_alpha": settings["alpha"], "lora_dropout": settings["lora_dropout"]}
    config = LoraConfig(**own, target_modules=targets)
    try:
        adapted: Any = get_peft_model(model, config)
    except ValueError as error:  # of modules that a fused kernel reads past LoRA, as in Mamba
        raise UserError(f"--lora_targets: {error}") from None
    adapted.peft_config["default"].base_model_name_or_path = name  # not a folder of this machine
    return adapted


def save_adapter(adapted: Any, head: nn.Module, folder: Path, identity: dict[str, Any]) -> None:
    """Write adapter_model.safetensors, adapter_config.json and head.safetensors (weight (C, d), bias (C,)).

    Saved from the model without a language-model head: loaded on one with a head, PEFT would only warn that
    nothing fits. After a kill there is the old adapter, the new one or none, never half of one.
    """
    temporary, old = (
        atomic_files.temporary_name(folder.with_name(folder.name + end)) for end in ("", ".old")
    )
    config = adapted.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # PEFT's set has another order in every process
    adapted.save_pretrained(temporary, save_embedding_layers=False)
    (temporary / "README.md").unlink(missing_ok=True)
    arrays = {name: value.detach().float().cpu().numpy() for name, value in head.named_parameters()}
    array_files.write(temporary / "head.safetensors", arrays, provenance.of("head", identity))
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    atomic_files.remove(old)
