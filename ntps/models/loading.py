"""Language models: weights, tokenizers, and the identity that names them in every output.

Whatever a model's source, it comes down to a folder with config.json and safetensors. Only those are read:
never pickled weights, and code from the hub only where a description says `trust_remote_code` of one commit.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto import MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import ntps.models.openelm  # noqa: F401  registers OpenELM with the Auto classes
from ntps.errors import UserError, boundary
from ntps.models.description import DTYPES, ModelSpec, adapter_hash, output_name
from ntps.models.files import SAFETENSORS, TOKENIZER, WEIGHTS, source_folder, source_hash
from ntps.models.gguf import quiet
from ntps.sources.patterns import Pattern, pattern_fault
from ntps.sources.wheels import file_sha256
from ntps.sources.yaml_files import suggest
from ntps.system import console, processes

MOST_BLOCKS = 10_000  # published models have a few hundred at most; modules of millions fill the memory
AT_ONCE = 1000  # texts to be tokenized: a tokenizer takes many times the memory of the ids it returns
# kinds of adapters that lie in one folder and can be merged; others may name folders and repositories to load from
MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "VERA", "FOURIERFT")
# keys of an adapter's configuration that make it more than weights to be added: peft imports the module that the first names
NOT_MERGED = ("megatron_config", "layer_replication")
CODE = "code in its repository runs only where a YAML gives a commit as `revision:` and `trust_remote_code: true`"


def model_identity(spec: ModelSpec, adapter: str | None = None) -> dict[str, Any]:
    """What decides the hidden states, without loading weights: name, weights, tokenizer and adapter.

    `weights` is a commit of the hub, the SHA-256 of a wheel or of a folder's config and safetensors, or, for
    random weights, of the configuration (with the seed beside it).
    """
    if spec.base is None:
        weights = source_hash(spec.source, WEIGHTS)
    else:
        weights = file_sha256(source_folder(spec.base.source, weights=False) / "config.json")
    return {
        "name": output_name(spec, adapter),
        **{key: spec.source[key] for key in ("id", "random_of", "seed") if key in spec.source},
        "weights": weights,
        "tokenizer": source_hash(_tokenizer_source(spec), TOKENIZER),
        "adapter": adapter_hash(adapter) if adapter else None,
    }


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is cuda (of several processes each has its own), else mps, else cpu; UserError for one that is not there."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if processes.count() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UserError(f"--device {name}: several processes take one GPU each, say --device cuda")
        name = f"cuda:{processes.local_rank()}"
    with boundary(f"device {name!r} cannot be used here"):
        torch.ones(1, device=name).item()
        return torch.device(name)


def pick_dtype(name: str | None, spec: ModelSpec, device: torch.device) -> torch.dtype:
    """The dtype requested, else the description's, else bfloat16 on cuda and float32 elsewhere."""
    name = name or spec.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; {suggest(name, DTYPES)}")
    if name == "float64" and device.type == "mps":
        raise UserError("--dtype float64: mps has none; say --dtype float32, or --device cpu")
    return getattr(torch, name)


def say_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """A line where the CPU has instructions for float32 alone, as those with AVX2 and no AVX-512."""
    half = dtype in (torch.bfloat16, torch.float16)
    if half and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        name = str(dtype).removeprefix("torch.")
        console.say(
            f"{name} is slow on this CPU, which has no instructions for it: --dtype float32 is faster"
        )


def load_config(spec: ModelSpec) -> PreTrainedConfig:
    """The model's configuration alone: for hub models no weights are fetched."""
    source = (spec.base or spec).source
    folder = source_folder(source, weights=False)
    with boundary(f"{spec.name}: cannot use {folder / 'config.json'}", CODE):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=_trusted(source, folder))
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{spec.name} is an encoder-decoder ({config.model_type}); a decoder is needed")
    if (blocks := getattr(config, "num_hidden_layers", 0)) < 1:
        raise UserError(
            f"{spec.name}: a {config.model_type} is no language model of texts alone, or has no layers"
        )
    if blocks > MOST_BLOCKS:
        raise UserError(
            f"{spec.name}: num_hidden_layers of config.json is {blocks}; up to {MOST_BLOCKS} are built"
        )
    return config


def _trusted(source: dict[str, Any], folder: Path) -> bool:
    """Whether the repository's own code may run; UserError where its JSON names code or weights from elsewhere."""
    trusted = bool(source.get("trust_remote_code"))

    def own(values: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            plain = json.dumps(value, ensure_ascii=False)  # / is a slash, however the file spells it
            if "attn_implementation" in key and "/" in plain:
                raise ValueError(f"{key}: {value!r} is code of the hub, which is not run")
            if key == "configuration_files":
                raise ValueError(f"{key}: only config.json itself is read: take the line out")
            if key == "fast_tokenizer_files" and not all(
                re.fullmatch(r"tokenizer[\w.-]*", str(file), re.ASCII) for file in value
            ):
                raise ValueError(f"{key}: {value!r}: only tokenizer files in its folder are read")
            if key == "transformers_weights" and not re.fullmatch(SAFETENSORS, str(value), re.ASCII):
                raise ValueError(f"{key}: {value!r}: only safetensors files in its folder are read")
            if trusted and (other := re.search(r'"([\w.-]+/[\w.-]+)--', plain)):
                raise ValueError(f"{key} is code of another repository, {other[1]}, which no revision pins")
        return values

    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        with boundary(f"{file} cannot be used"):
            json.loads(file.read_text("utf-8") if file.is_file() else "{}", object_hook=own)
    if trusted:
        where = f"{source['id']} at {source['revision']}"
        console.note(f"the code that {where} holds is run, as trust_remote_code of its description asks")
    return trusted


def load_model(
    spec: ModelSpec, dtype: torch.dtype, device: torch.device | str, adapter: str | None = None
) -> torch.nn.Module:
    """The base model without head, in eval mode, no parameter requiring gradients, an adapter merged into it.

    Random weights are drawn in float32 from the description's seed alone, whatever ran before.

    Raises UserError when it cannot be fetched or built, when its checkpoint lacks weights or holds others
    than the model's and a head's, when an adapter does not fit, and when any weight is not finite.
    """
    say_if_slow(dtype, torch.device(device))
    config = load_config(spec)
    config.use_cache = False  # nothing is generated: no keys and values to keep
    config.return_dict = True
    # an adapter fits only the class it was made on: with the head, as is usual, or the base model, as we do
    kind = AutoModelForCausalLM if adapter is not None and _with_head(adapter, config) else AutoModel
    with quiet():
        model = (_drawn if spec.base else _read_checkpoint)(spec, kind, config, dtype)
        if adapter is not None:
            model = _merged(model, adapter)
    model = model.base_model
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtype:
            raise UserError(f"{spec.name} keeps {name} in {parameter.dtype}, not {dtype}: change --dtype")
        if not torch.isfinite(parameter).all():
            raise UserError(f"{spec.name}: {name} has weights that are NaN or infinite in {dtype}")
    return model.eval().requires_grad_(False).to(device)


def without_weights(spec: ModelSpec, config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    """The base model on the meta device: its modules and the shapes of its weights, and no memory."""
    with torch.device("meta"):
        return built(spec, AutoModel, config, dtype)


def built(spec: ModelSpec, kind: Any, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    """With weights drawn at random."""
    config.return_dict = True
    with boundary(f"{spec.name}: transformers cannot build the model of its config.json"):
        return kind.from_config(config, dtype=dtype, trust_remote_code=spec.trust_remote_code)


def _drawn(spec: ModelSpec, kind: Any, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.source["seed"])
        model = built(spec, kind, config, torch.float32)
    # buffers, such as those of rotary positions, stay in float32 as from_pretrained has them
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _read_checkpoint(spec: ModelSpec, kind: Any, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    folder = source_folder(spec.source)
    options = {"config": config, "use_safetensors": True, "trust_remote_code": spec.trust_remote_code}
    with boundary(f"{spec.name}: cannot load the weights in {folder}"):
        model, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    body = {name for name, _ in model.base_model.named_children()}
    prefix = model.base_model_prefix + "."
    # what the base model has no place for is a head; anything else unexpected is a layer left out
    dropped = {key for key in info["unexpected_keys"] if key.removeprefix(prefix).split(".")[0] in body}
    for what, keys in (("lacks", info["missing_keys"]), ("holds more than the configuration says:", dropped)):
        if keys:
            listed = ", ".join(sorted(map(str, keys))[:3])
            raise UserError(f"{spec.name}: the checkpoint in {folder} {what} {listed} ({len(keys)} weights)")
    return model


def _with_head(adapter: str, config: PreTrainedConfig) -> bool:
    adapter_hash(adapter)
    base_class: Any = MODEL_MAPPING.get(type(config), None)
    if base_class is None:
        raise UserError(f"adapter {adapter}: not for {config.model_type}, an architecture of remote code")
    prefix = f"base_model.model.{base_class.base_model_prefix}."
    with boundary(f"adapter {adapter}: its weights cannot be read"):
        with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
            return any(key.startswith(prefix) for key in list(file.keys()))


def _adapter_config(model: Any, adapter: str) -> Any:
    """peft's configuration, with names of modules in place of the patterns for them: peft's own matching may hang."""
    from peft import PeftConfig  # takes seconds to import

    config = PeftConfig.from_pretrained(adapter)
    if config.peft_type not in MERGED:
        raise ValueError(f"peft_type: {config.peft_type.value} is none of {', '.join(MERGED)}")
    if more := [key for key in NOT_MERGED if getattr(config, key, None)]:
        raise ValueError(f"{more[0]} is not taken: only weights that are added to the model's own layers")
    for key in ("target_modules", "exclude_modules"):
        pattern = getattr(config, key, None)
        if isinstance(pattern, str) and pattern != "all-linear":
            if fault := pattern_fault(pattern):
                raise ValueError(f"{key}: {pattern!r:.200} {fault}")
            match = Pattern(pattern, Path(adapter), key)
            setattr(config, key, [name for name, _ in model.named_modules() if match("fullmatch", name)])
    # each item of these is a pattern
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern"):
        value = getattr(config, key, None) or ()
        for item in [value] if isinstance(value, str) else value:
            repeats = len(re.findall("[*+?{]", item))
            if repeats > 1 or item.count("|") > (0 if repeats else 8):
                raise ValueError(f"{key}: {item!r:.200} is a pattern that may run wild: name the modules")
    return config


def _merged(model: Any, adapter: str) -> Any:
    """The model with the adapter's weights added in; peft itself only warns of weights it does not find."""
    from peft import PeftModel, get_peft_model_state_dict  # takes seconds to import

    with boundary(f"adapter {adapter} does not fit the model"):
        adapted = PeftModel.from_pretrained(model, adapter, config=_adapter_config(model, adapter))
        stored = load_file(Path(adapter) / "adapter_model.safetensors")
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        unread = {key for key in stored if stored[key].any() and key in loaded and not loaded[key].any()}
        strange = sorted(unread | (loaded.keys() ^ stored.keys()))
        if strange:
            raise ValueError(f"{', '.join(strange[:3])} ({len(strange)} weights) are another model's")
        return adapted.merge_and_unload()


def _tokenizer_source(spec: ModelSpec) -> dict[str, Any]:
    return spec.tokenizer or (_tokenizer_source(spec.base) if spec.base else spec.source)


def load_tokenizer(spec: ModelSpec, kind: Any = AutoTokenizer, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer, put right where it would spoil the moments; what was changed is in tokenizer_facts.

    Pads and truncates on the right; a missing padding token, or one that the model has no embedding for, becomes eos
    (else unk), and no token is ever added; model_max_length is context_length's, at most the description's `context`.
    """
    config = load_config(spec)
    source = _tokenizer_source(spec)
    # a folder named for its tokenizer alone needs no config.json
    folder = Path(source["path"]) if "path" in source else source_folder(source, weights=False)
    with boundary(f"{spec.name}: no usable tokenizer in {folder}", "name one with `tokenizer:` in a YAML"):
        tokenizer = kind.from_pretrained(folder, trust_remote_code=_trusted(source, folder), **options)
        changed = _put_right(tokenizer, config.get_text_config().vocab_size)
    longest = tokenizer.model_max_length
    with suppress(UserError):  # of one that nobody limits the user says how long
        tokenizer.model_max_length = context_length(tokenizer, config, spec.context)
    if tokenizer.model_max_length != longest:
        changed.append(f"model_max_length was {longest:g}")
    tokenizer.init_kwargs["put_right"] = changed
    return tokenizer


def tokenizer_file(spec: ModelSpec, loaded: Any) -> Tokenizer | None:
    """The tokenizer of the folder's tokenizer.json as it is; None where the loaded one is that, or there is no such file.

    transformers builds some classes (Qwen2Tokenizer) by their own rules from the vocabulary alone.
    """
    if type(loaded) is PreTrainedTokenizerFast or _tokenizer_source(spec).get("trust_remote_code"):
        return None  # that is the file's; code of the repository may have its reasons
    path = Path(loaded.name_or_path) / "tokenizer.json"
    if not path.is_file():
        return None
    found = Tokenizer.from_file(str(path))
    found.no_padding()
    found.no_truncation()
    return found


def truer_tokenizer(spec: ModelSpec, loaded: Any, file: Tokenizer | None, texts: Sequence[str]) -> Any:
    """The loaded tokenizer, or that of the file where it gives any of the texts other ids.

    All texts are looked at: so their ids are the file's, whichever texts came before or will.
    """
    if file is None or type(loaded) is PreTrainedTokenizerFast:
        return loaded
    theirs, other = None, 0
    for start in range(0, len(texts), AT_ONCE):
        some = list(texts[start : start + AT_ONCE])
        ids = loaded(some, verbose=False).input_ids
        if ids != [found.ids for found in file.encode_batch(some)]:
            if theirs is None:  # takes seconds
                theirs = load_tokenizer(spec, PreTrainedTokenizerFast, pad_token=loaded.pad_token)
            own_ids = theirs(some, verbose=False).input_ids
            other += sum(ours != own for ours, own in zip(ids, own_ids, strict=True))
    if theirs is None or not other:
        return loaded
    was = f"{type(loaded).__name__} differed from tokenizer.json"
    console.say(f"{spec.name}: {was} in {other} of {len(texts)} texts: tokenizer.json is used")
    theirs.init_kwargs["put_right"] = [*loaded.init_kwargs["put_right"], was]
    return theirs


def _put_right(tokenizer: Any, vocabulary: int) -> list[str]:
    """Pads and truncates on the right, with a token that the model knows; what was changed."""
    if tokenizer.vocab_size > vocabulary:
        raise ValueError(f"it is another model's: {tokenizer.vocab_size} tokens, the model has {vocabulary}")
    changed = []
    for side in ("padding_side", "truncation_side"):
        if getattr(tokenizer, side) != "right":
            changed.append(f"{side} was {getattr(tokenizer, side)}")
            setattr(tokenizer, side, "right")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= vocabulary:
        changed.append(f"pad_token was {tokenizer.pad_token}")
        known = [token for token in (tokenizer.eos_token, tokenizer.unk_token) if token is not None]
        known = [token for token in known if tokenizer.convert_tokens_to_ids(token) < vocabulary]
        if not known:
            raise ValueError("it has no padding, end or unknown token to pad with")
        tokenizer.pad_token = known[0]
    return changed


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What provenance keeps of a tokenizer from load_tokenizer, with what it was before it was put right."""
    return {
        "class": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "added_to_every_text": tokenizer.convert_ids_to_tokens(tokenizer("").input_ids),
        "pad_token": tokenizer.pad_token,
        "max_length": tokenizer.model_max_length,
        "put_right": tokenizer.init_kwargs.get("put_right", []),
    }


def context_length(tokenizer: Any, config: PreTrainedConfig, *requested: int | None) -> int:
    """The smallest of what tokenizer, config.max_position_embeddings and `requested` say below 1e9; UserError if none."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = (getattr(tokenizer, "model_max_length", None), positions, *requested)
    if known := [int(limit) for limit in limits if limit and 0 < limit < 1e9]:
        return min(known)
    raise UserError("neither tokenizer nor model says how long texts may be: give --max_length or `context:`")
