"""Tiny random models and tiny labelled texts, written into a folder in well under a second."""

import csv
import random
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

TOPICS = [
    ["river", "boat", "fish", "water", "swim"],
    ["bread", "oven", "sugar", "flour", "cake"],
    ["engine", "wheel", "road", "brake", "truck"],
    ["star", "moon", "planet", "orbit", "sky"],
    ["song", "drum", "violin", "choir", "tune"],
]
FILLERS = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "on",
    "was",
    "very",
    "small",
    "big",
    "they",
    "saw",
    "it",
    "near",
    "with",
]
WORDS = [word for topic in TOPICS for word in topic] + FILLERS


def tiny_tokenizer(
    *, pad: bool = True, bos: bool = True, padding_side: str = "right", max_length: int | None = 64
):
    """A byte-level tokenizer that knows WORDS as single tokens and splits anything else into bytes.

    max_length None leaves transformers' 1e30, as Llama-2's tokenizer has it.
    """
    specials = ["<unk>", "<s>", "</s>"] + (["<pad>"] if pad else [])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
        padding_side=padding_side,
        **({} if max_length is None else {"model_max_length": max_length}),
    )


def tiny_config(
    arch: str, vocab_size: int, *, d: int = 32, blocks: int = 3, context: int = 128
) -> PretrainedConfig:
    """The configuration of a tiny llama, qwen2, gpt2 or openelm."""
    shape: dict[str, int | list[float]]
    if arch == "gpt2":
        shape = dict(n_embd=d, n_layer=blocks, n_head=4, n_positions=context)
    elif arch == "openelm":
        import ntps.models.openelm  # noqa: F401  for AutoConfig

        shape = dict(
            model_dim=d, num_transformer_layers=blocks, head_dim=4, num_gqa_groups=4, ffn_dim_divisor=8
        )
        shape |= dict(qkv_multipliers=[0.5, 1.0], ffn_multipliers=[0.5, 4.0], max_context_length=context)
    else:
        shape = dict(hidden_size=d, num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=2)
        shape |= dict(intermediate_size=2 * d, max_position_embeddings=context)
    return AutoConfig.for_model(arch, vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, **shape)


def tiny_model(
    folder: str | Path,
    arch: str = "llama",
    *,
    seed: int = 0,
    d: int = 32,
    blocks: int = 3,
    context: int = 128,
    pad: bool = True,
    bos: bool = True,
    padding_side: str = "right",
    max_length: int | None = 64,
) -> Path:
    """Write a random causal language model (float32) with its tokenizer into `folder` and return the folder.

    `max_length` is the tokenizer's, `context` the model's. The same arguments give the same bytes.
    Only llama, gpt2 and openelm keep the home-made tokenizer when loaded by AutoTokenizer: on a qwen2
    folder it always builds Qwen2Tokenizer.
    """
    tokenizer = tiny_tokenizer(pad=pad, bos=bos, padding_side=padding_side, max_length=max_length)
    config = tiny_config(arch, len(tokenizer), d=d, blocks=blocks, context=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # ten times the usual 0.02: states that differ clearly from layer to layer
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def two_models(folder: Path) -> list[str]:
    """The folders a and b of two tiny models."""
    for seed, name in enumerate("ab"):
        tiny_model(folder / name, seed=seed)
    return [str(folder / name) for name in "ab"]


def tiny_texts(n: int, classes: int, seed: int) -> tuple[list[str], list[str]]:
    """n distinct texts of 1 to 40 words whose class shows in the words, and their class names in turn."""
    draw = random.Random(seed)
    texts, labels = [], []
    for i in range(n):
        topic = TOPICS[i % classes]
        length = draw.choice([1, 2, 3, 5, 8, 13, 21, 40])
        words = [draw.choice(topic if draw.random() < 0.5 else FILLERS) for _ in range(length)]
        texts.append(" ".join([*words, draw.choice(topic), str(i)]))
        labels.append(f"class{i % classes}")
    return texts, labels


def tiny_dataset(
    folder: str | Path, n: int = 60, classes: int = 3, seed: int = 0, name: str = "tiny"
) -> Path:
    """Write NAME-train.csv (n rows), NAME-test.csv (n // 2 rows) and NAME.yaml; return its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts, labels = tiny_texts(n + n // 2, classes, seed)
    for split, rows in (("train", range(n)), ("test", range(n, n + n // 2))):
        with open(folder / f"{name}-{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((texts[i], labels[i]) for i in rows)
    files = {split: f"{name}-{split}.csv" for split in ("train", "test")}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"files": files, "text": "text", "label": "label"}))
    return path


def tiny_world(folder: Path, n: int = 60) -> Path:
    """A tiny model and a tiny data set in a folder; it."""
    tiny_model(folder / "model")
    tiny_dataset(folder / "data", n=n)
    return folder


def world_flags(world: Path, output: str | Path, *flags) -> list[str]:
    """A command line on the pair of a `tiny_world`."""
    pair = ["--models", str(world / "model"), "--datasets", str(world / "data" / "tiny.yaml")]
    return [*pair, "--output", str(output), *map(str, flags)]
