"""OpenELM as a native transformers model: configuration, base model and causal language model.

The hub's remote code for apple/OpenELM-* does not run on transformers 5; this module reads its config.json and
safetensors by name, and the Auto classes build it once this module is imported, as ntps.models.loading does.

Architecture (Mehta et al. 2024, arXiv 2404.14619): pre-norm blocks x + attn(norm(x)), then x + ffn(norm(x)); no biases;
heads and feed-forward width grow with depth; grouped queries; RMSNorm on queries and keys; rotary positions; tied head.
The loop over the blocks, masks, caches and the loss are those of transformers' Llama.
Shapes below: B texts, S tokens, T tokens with those in the cache, d = head_dim.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.llama import modeling_llama as llama


def make_divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor` and not below 0.9 `value`."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def per_layer(multipliers: float | list[float], layers: int) -> list[float]:
    """One multiplier a layer: one for all, as listed, or from two ends in equal steps (two decimals)."""
    if not isinstance(multipliers, list):
        return [multipliers] * layers
    if len(multipliers) == layers:
        return multipliers
    if len(multipliers) != 2:
        raise ValueError(f"expected 2 or {layers} multipliers, got {len(multipliers)}")
    return [round(float(step), 2) for step in np.linspace(multipliers[0], multipliers[1], layers)]


BUILT = {  # what every released checkpoint has, and nothing else is built
    "activation_fn_name": "swish",
    "normalization_layer_name": "rms_norm",
    "ffn_with_glu": True,
    "normalize_qk_projections": True,
    "share_input_output_layers": True,
}


class OpenELMConfig(PreTrainedConfig):
    """The hub's fields; heads follow from qkv_multipliers where not listed; ValueError for other variants than BUILT."""

    model_type = "openelm"
    attribute_map = {
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_transformer_layers",
        "max_position_embeddings": "max_context_length",
    }

    vocab_size: int = 32000
    max_context_length: int = 2048
    num_transformer_layers: int = 12
    model_dim: int = 2048
    head_dim: int = 128
    qkv_multipliers: float | list[float] = 1.0
    num_query_heads: list[int] | None = None
    num_kv_heads: list[int] | None = None
    num_gqa_groups: int = 1
    ffn_multipliers: float | list[float] = 4.0
    ffn_dim_divisor: int = 256
    rope_freq_constant: float = 10000
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        layers = self.num_transformer_layers
        if self.num_query_heads is None:
            unit = self.head_dim * self.num_gqa_groups
            widths = (self.model_dim * multiplier for multiplier in per_layer(self.qkv_multipliers, layers))
            self.num_query_heads = [make_divisible(width, unit) // self.head_dim for width in widths]
        if self.num_kv_heads is None:
            self.num_kv_heads = [heads // self.num_gqa_groups for heads in self.num_query_heads]
        self.ffn_multipliers = per_layer(self.ffn_multipliers, layers)
        for field, value in BUILT.items():
            if (found := kwargs.setdefault(field, value)) != value:
                raise ValueError(f"{field}={found!r} is not supported, only {value!r}")
        for field in ("num_query_heads", "num_kv_heads"):
            if len(getattr(self, field)) != layers:
                raise ValueError(f"{field} lists {len(getattr(self, field))} layers of {layers}")
        super().__post_init__(**kwargs)

    def ffn_width(self, layer: int) -> int:
        multiplier = per_layer(self.ffn_multipliers, self.num_transformer_layers)[layer]
        return make_divisible(self.model_dim * multiplier, self.ffn_dim_divisor)


class OutputProjection(nn.Linear):
    """A projection onto the residual stream: a class of its own because it starts smaller (_init_weights)."""


class OpenELMAttention(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.head_dim = config, layer, config.head_dim
        assert config.num_query_heads is not None and config.num_kv_heads is not None  # __post_init__
        self.query_heads, self.kv_heads = config.num_query_heads[layer], config.num_kv_heads[layer]
        self.num_key_value_groups = self.query_heads // self.kv_heads  # as attention functions call it
        heads = self.query_heads + 2 * self.kv_heads
        self.qkv_proj = nn.Linear(config.model_dim, heads * config.head_dim, bias=False)
        self.q_norm = llama.LlamaRMSNorm(config.head_dim)
        self.k_norm = llama.LlamaRMSNorm(config.head_dim)
        self.out_proj = OutputProjection(self.query_heads * config.head_dim, config.model_dim, bias=False)

    def forward(self, x, attention_mask, position_embeddings, past_key_values: Cache | None = None, **kwargs):
        batch, length, _ = x.shape
        heads = self.qkv_proj(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        query, key, value = heads.split([self.query_heads, self.kv_heads, self.kv_heads], dim=1)
        normed = self.q_norm(query).float(), self.k_norm(key).float()
        query, key = (
            turned.to(x.dtype) for turned in llama.apply_rotary_pos_emb(*normed, *position_embeddings)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer)  # (B, G, T, d)
        # the mask is None where a plain causal one (for one new token: none at all) is right
        named = self.config._attn_implementation
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(named, sdpa_attention_forward)
        states, _ = attention(self, query, key, value, attention_mask, **kwargs)
        return self.out_proj(states.reshape(batch, length, -1))


class OpenELMFeedForward(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        width = config.ffn_width(layer)
        self.proj_1 = nn.Linear(config.model_dim, 2 * width, bias=False)
        self.proj_2 = OutputProjection(width, config.model_dim, bias=False)

    def forward(self, x):
        gate, values = self.proj_1(x).chunk(2, dim=-1)
        return self.proj_2(F.silu(gate) * values)


class OpenELMBlock(GradientCheckpointingLayer):
    def __init__(self, config: OpenELMConfig, layer: int):
        super().__init__()
        self.attn_norm = llama.LlamaRMSNorm(config.model_dim)
        self.attn = OpenELMAttention(config, layer)
        self.ffn_norm = llama.LlamaRMSNorm(config.model_dim)
        self.ffn = OpenELMFeedForward(config, layer)

    def forward(self, x, **kwargs):
        x = x + self.attn(self.attn_norm(x), **kwargs)
        return x + self.ffn(self.ffn_norm(x))


class OpenELMPreTrainedModel(PreTrainedModel):
    config_class = OpenELMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OpenELMBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _input_embed_layer = "token_embeddings"
    _can_record_outputs = {"hidden_states": OpenELMBlock}

    def _init_weights(self, module: nn.Module) -> None:
        """std: Linear in^-1/2, Embedding dim^-1/2, a block's output projections (2 L dim)^-1/2; norms 1."""
        if isinstance(module, OutputProjection):
            blocks = self.config.num_transformer_layers
            init.normal_(module.weight, std=(2 * module.out_features * blocks) ** -0.5)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, llama.LlamaRMSNorm):
            init.ones_(module.weight)


class OpenELMModel(OpenELMPreTrainedModel):
    """Embeddings, blocks, final norm; hidden_states has L + 1 entries, the last after the final norm."""

    def __init__(self, config: OpenELMConfig):
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(OpenELMBlock(config, i) for i in range(config.num_transformer_layers))
        self.norm = llama.LlamaRMSNorm(config.model_dim)
        self.post_init()

    forward = llama.LlamaModel.forward

    @property
    def embed_tokens(self) -> nn.Embedding:
        return self.token_embeddings

    def rotary_emb(
        self, states: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each (B or 1, S, d) in float32, of position * base^(-2i/d), the d/2 angles twice over."""
        # computed at each call: a buffer would be left uninitialised by loading through the meta device
        d, base = self.config.head_dim, self.config.rope_freq_constant
        even = torch.arange(0, d, 2, dtype=torch.float32, device=states.device)
        angles = (position_ids[..., None].float() * base ** (-even / d)).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


class OpenELMForCausalLM(OpenELMPreTrainedModel, GenerationMixin):
    """The base model with a head tied to the token embeddings: the checkpoint holds no lm_head."""

    def __init__(self, config: OpenELMConfig):
        super().__init__(config)
        self.transformer = OpenELMModel(config)
        self.post_init()

    forward = llama.LlamaForCausalLM.forward

    @property
    def model(self) -> OpenELMModel:
        return self.transformer

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self.transformer.token_embeddings.weight)


AutoConfig.register("openelm", OpenELMConfig, exist_ok=True)
AutoModel.register(OpenELMConfig, OpenELMModel, exist_ok=True)
AutoModelForCausalLM.register(OpenELMConfig, OpenELMForCausalLM, exist_ok=True)
