"""Descriptions, models and files as an attacker or an accident makes them: one error each, nothing run, nothing hung."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModel

from ntps.commands import show, validate
from ntps.errors import UserError
from ntps.models.description import output_name, resolve_model
from ntps.models.loading import load_config, load_model, load_tokenizer
from ntps.moments.encoder import Encoder
from ntps.moments.lazy_model import LazyModel
from ntps.results.word_tables import read_words
from ntps.run import cli
from ntps.sources import patterns
from ntps.sources.yaml_files import DEEPEST, LARGEST, find_config, fits, read_yaml
from ntps.system import console
from ntps.system.paths import plain_name
from ntps.texts.dataset import dataset_name, load_dataset
from tests.tiny import tiny_model

ROWS = "text,label\ngood,1\nbad,0\nfine,1\nawful,0\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def texts(tmp_path):
    """Loads the data set of a.csv, described with the keys given or by a text."""
    (tmp_path / "a.csv").write_text(ROWS)

    def load(text: str | None = None, **keys):
        spec = {"files": {"train": "a.csv", "test": "a.csv"}, "text": "text", "label": "label"} | keys
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec) if text is None else text)
        return load_dataset(str(tmp_path / "mine.yaml"))

    return load


def one_error(call, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500, message
    message.encode()  # can be printed
    for part in parts:
        assert part in message, message


# ----------------------------------------------------------------------------------------- pickles and code
def sharded(folder: Path, names: list) -> Path:
    """The model as shards: an index that gives each weight one of the names in turn."""
    weights = load_file(folder / "model.safetensors")
    for name in {name for name in names if isinstance(name, str) and name.endswith(".bin")}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights, folder / name)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {key: names[i % len(names)] for i, key in enumerate(weights)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["a.safetensors", "b.bin"],
        ["evil.pt"],
        ["sub/a.safetensors"],
        ["../a.safetensors"],
        ["/tmp/a.safetensors"],
        ["a.safetensors\n"],
        [".safetensors/../a.bin"],
        [3],
        [None],
        [["a.safetensors"]],
    ],
    ids=str,
)
def test_an_index_names_safetensors_of_its_folder_only(tiny, tmp_path, monkeypatch, names):
    folder = sharded(shutil.copytree(tiny, tmp_path / "m"), names)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    one_error(
        lambda: load_model(resolve_model(str(folder)), torch.float32, "cpu"), "model.safetensors.index.json"
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"weight_map": 3}', "{}", "[" * 9999, '{"weight_map": [1]}']
)
def test_an_index_that_is_none(tiny, tmp_path, text):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(text)
    one_error(lambda: resolve_model(str(folder)), "model.safetensors.index.json")


def test_shards_in_safetensors_are_read(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    spec, want = (
        resolve_model(str(tiny)),
        load_model(resolve_model(str(tiny)), torch.float32, "cpu").state_dict(),
    )
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(load_file(tiny / "model.safetensors"), "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read = load_model(resolve_model(str(folder)), torch.float32, "cpu").state_dict()
    assert all(torch.equal(weight, want[key]) for key, weight in read.items()) and spec.name.startswith(
        "tiny"
    )


def changed(tiny: Path, folder: Path, **config) -> Path:
    shutil.copytree(tiny, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | config))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"transformers_weights": "adapter_model.bin"},
        {"transformers_weights": "sub/a.safetensors"},
        {"transformers_weights": "../a.safetensors"},
        {"transformers_weights": "model.safetensors.index.json"},
        {"attn_implementation": "someone/kernel"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"_attn_implementation": "someone/kernel@main"},
        {"attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
    ],
    ids=str,
)
def test_a_configuration_names_no_other_weights_and_no_code_of_the_hub(tiny, tmp_path, config):
    folder = changed(tiny, tmp_path / "m", **config)
    one_error(lambda: load_config(resolve_model(str(folder))), "config.json", next(iter(config)).strip("_"))


def test_a_tokenizer_is_read_from_its_folder_alone(tiny, tmp_path):
    """A file elsewhere would be used, and is not part of the tokenizer's identity."""
    folder = changed(tiny, tmp_path / "m")
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"fast_tokenizer_files": ["other/tokenizer.4.0.0.json"]})
    )
    one_error(
        lambda: load_tokenizer(resolve_model(str(folder))), "tokenizer_config.json", "fast_tokenizer_files"
    )


@pytest.mark.parametrize("slash", ["/", "\\/", "\\u002f"])
def test_code_of_another_repository_is_found_however_the_slash_is_written(tiny, tmp_path, monkeypatch, slash):
    from ntps.models import loading

    folder = changed(tiny, tmp_path / "m", auto_map={"AutoConfig": "else|where--toy.Config"})
    text = (folder / "config.json").read_text().replace("|", slash)
    (folder / "config.json").write_text(text)
    one_error(lambda: loading._trusted({"trust_remote_code": True}, folder), "else/where", "pins")


BROKEN = [
    {"num_attention_heads": 0}, {"num_attention_heads": "4"}, {"hidden_size": -64}, {"intermediate_size": -1},
    {"vocab_size": -5}, {"vocab_size": None}, {"hidden_act": ["silu"]}, {"hidden_act": "no"},
    {"rms_norm_eps": "x"}, {"rope_parameters": 3}, {"rope_parameters": {"rope_type": "no"}}, {"dtype": ["x"]},
    {"num_hidden_layers": "3"}, {"num_hidden_layers": -1}, {"num_hidden_layers": 10**6}, {"model_type": ["llama"]}, {"model_type": None}, {"head_dim": 0},
    {"max_position_embeddings": "x"}, {"pad_token_id": 10**6},
    {"layer_types": ["no"]}, {"model_type": "gpt2", "num_attention_heads": 0},
]  # fmt: skip


@pytest.mark.parametrize("config", BROKEN, ids=str)
@pytest.mark.parametrize("random_weights", [False, True])
def test_a_configuration_of_which_no_model_can_be_built_is_one_error(tiny, tmp_path, config, random_weights):
    folder = changed(tiny, tmp_path / "m", **config)
    (tmp_path / "r.yaml").write_text("random_of: m\n")
    where = str(tmp_path / "r.yaml") if random_weights else str(folder)
    one_error(lambda: load_model(resolve_model(where), torch.float32, "cpu"), "m")


@pytest.mark.parametrize("config", [{"num_key_value_heads": 3}, {"model_type": "mamba"}], ids=str)
def test_nor_can_one_that_the_weights_do_not_fit(tiny, tmp_path, config):
    folder = changed(tiny, tmp_path / "m", **config)
    one_error(lambda: load_model(resolve_model(str(folder)), torch.float32, "cpu"), str(folder))


@pytest.mark.parametrize("key", ["return_dict", "use_return_dict", "output_hidden_states"])
def test_what_a_configuration_says_of_its_outputs_changes_nothing_or_is_one_error(tiny, tmp_path, key):
    folder = changed(tiny, tmp_path / "m", **{key: False})
    ids = torch.arange(6)[None]
    try:
        model = load_model(resolve_model(str(folder)), torch.float32, "cpu")
    except UserError as error:
        assert key in str(error) and str(folder) in str(error)
    else:
        plain = load_model(resolve_model(str(tiny)), torch.float32, "cpu")
        assert torch.equal(model(ids).last_hidden_state, plain(ids).last_hidden_state)
        Encoder(model)


@pytest.mark.parametrize("vocab", [{}, {"river": 0}], ids=len)
def test_a_tokenizer_that_fails_on_the_texts_is_one_error(tiny, tmp_path, vocab):
    folder = shutil.copytree(tiny, tmp_path / "m")
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<none>"))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    one_error(
        lambda: LazyModel(str(folder), None, "cpu", None, None, "all").tokenize(["boat"]), "m-", "tokenizer"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "["),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "no"}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
        ("tokenizer_config.json", '{"pad_token": [1]}'),
        ("tokenizer_config.json", '{"model_max_length": "x"}'),
        ("tokenizer_config.json", '{"model_max_length": [64]}'),
        ("tokenizer_config.json", '{"tokenizer_class": "RagTokenizer"}'),
    ],
)
def test_a_tokenizer_that_cannot_be_built_is_one_error(tiny, tmp_path, file, content):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / file).write_text(content)
    one_error(lambda: load_tokenizer(resolve_model(str(folder))), str(folder))


def test_an_adapter_inside_a_models_folder_is_refused_with_the_remedy(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    one_error(lambda: resolve_model(str(folder)), str(folder), "--adapter")
    (tmp_path / "mine.yaml").write_text("path: m\n")
    one_error(lambda: resolve_model(str(tmp_path / "mine.yaml")), str(folder), "--adapter")


def test_an_adapter_that_came_into_the_cache_beside_a_hub_model_is_refused(tiny, tmp_path, monkeypatch):
    from ntps.sources import hub

    folder = shutil.copytree(tiny, tmp_path / ("e" * 40))
    (folder / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    hub.snapshot.cache_clear()
    try:
        one_error(lambda: load_model(resolve_model("org/name"), torch.float32, "cpu"), "--adapter")
    finally:
        hub.snapshot.cache_clear()


@pytest.mark.parametrize(
    ("key", "value"),
    [("package", "p @ file:///tmp/p"), ("package", "-r list.txt"), ("package", "./folder"), ("version", "1 @ x"),
     ("version", "-r"), ("version", ""), ("sha256", "0"), ("sha256", "AB" * 32), ("sha256", "ab" * 32 + "\n")],
)  # fmt: skip
def test_a_wheel_of_a_description_is_a_name_a_version_and_a_hash(tmp_path, key, value):
    spec = {"package": "p", "version": "1.0", "sha256": "ab" * 32, "file": "a", "reader": "jsonl"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec | {"text": "a", "label": "b", key: value}))
    one_error(lambda: load_dataset(str(tmp_path / "mine.yaml")), "mine.yaml", f"{key}: ")


@pytest.mark.parametrize("revision", ["../../x", "/etc/x", "a/../b", "-x", "a b", "", "a\n", ".", "refs//x"])
def test_a_revision_is_no_path_out_of_the_cache(tmp_path, revision):
    spec = {"id": "org/name", "revision": revision, "text": "a", "label": "b"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    one_error(lambda: load_dataset(str(tmp_path / "mine.yaml")), "mine.yaml", "revision")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"id": "org/name", "revision": revision}))
    one_error(lambda: resolve_model(str(tmp_path / "m.yaml")), "m.yaml", "revision")


@pytest.mark.parametrize("name", ["../x/y", "a/b/c", "a b", "-x/y", "/nowhere", "a/..", "https://x/y"])
def test_an_id_is_a_repository(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"id": name, "text": "a", "label": "b"}))
    one_error(lambda: load_dataset(str(tmp_path / "mine.yaml")), "mine.yaml", "id: ")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"id": name}))
    one_error(lambda: resolve_model(str(tmp_path / "m.yaml")), "m.yaml", "id: ")


# ----------------------------------------------------------------------------------------------------- names
BAD = [".", "..", "...", " ", ". .", "", "a/b", "a\\b", "a\nb", "a\0b", "\udcff", "x" * 201, "é" * 101]
BAD += ["a\x9bb", "=1+1", "+x", "@x"]  # obeyed by a terminal, or by a spreadsheet


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_names_that_are_no_name_of_a_file_are_refused(name):
    one_error(lambda: plain_name(name, "the thing"), "the thing")


@pytest.mark.parametrize("name", ["a", "a.b", ".a", "my data (1)", "ähnlich", "-x", "日本", "x" * 200])
def test_other_names_stay_as_they_are(name):
    assert plain_name(name, "the thing") == name


@pytest.mark.parametrize("stem", [".", "..", "a\\b", "\udcff", "x" * 240], ids=ascii)
def test_a_yaml_of_such_a_name_is_no_data_set_and_no_model(tmp_path, stem):
    os.makedirs(tmp_path / "data")
    where = os.path.join(tmp_path, "data", f"{stem}.yaml")
    with open(where, "w") as file:
        file.write("path: m\n")
    for call in (dataset_name, load_dataset, resolve_model):
        one_error(lambda call=call: call(where), "rename" if len(stem) < 200 else "at most 200")


@pytest.mark.parametrize("name", ["\udcff", "x" * 220], ids=ascii)
def test_a_folder_of_such_a_name_is_no_model_and_no_adapter(tiny, tmp_path, name):
    folder = os.path.join(tmp_path, name)
    shutil.copytree(tiny, folder)
    one_error(lambda: resolve_model(folder), "named" if len(name) == 1 else "at most 200")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny / "config.json", os.path.join(folder, file))
    one_error(lambda: output_name(resolve_model(str(tiny)), folder), "adapter")


# ---------------------------------------------------------------------------------------- regular expressions
WILD = "(a|aa)+$"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"label_pattern": WILD}, "label_pattern"),
        ({"replace": {WILD: "x"}}, "replace"),
        ({"replace": {"^x$": "y", f"(?:{WILD})": "x"}}, "replace"),
    ],
)
def test_a_pattern_that_runs_wild_is_an_error(texts, tmp_path, monkeypatch, keys, key):
    monkeypatch.setattr(patterns, "SECONDS", 0.3)
    many = "a" * 60 + "b"
    (tmp_path / "a.csv").write_text(f"text,label\n{many},{many}\ngood,0\n")
    start = time.monotonic()
    one_error(lambda: texts(**keys), "mine.yaml", f"{key}: ", WILD[:-1], "takes over 0.3 s")
    assert time.monotonic() - start < 5


def test_a_replacement_that_makes_a_text_endless_is_an_error(texts):
    many = {f"(?s)({'(' * place}.+{')' * place})": r"\1\1" for place in range(24)}
    one_error(lambda: texts(replace=many), "mine.yaml: replace: ", "over 10000000 are not taken")


def test_a_replacement_is_checked_without_the_pattern_being_run():
    start = time.monotonic()
    assert patterns.pattern_fault(r"(a?|b?){40}\b", r"\1") is None
    assert "replacement that does not work" in patterns.pattern_fault(r"(a?|b?){40}\b", r"\2")
    assert patterns.pattern_fault(r"(?P<x>a)(b)", r"\g<x>\2") is None
    assert "replacement that does not work" in patterns.pattern_fault(r"(?P<x>a)", r"\g<y>")
    assert time.monotonic() - start < 5


def test_a_pattern_of_lines_that_runs_wild_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.3)
    pattern = patterns.Pattern(f"(?P<text>{WILD})", tmp_path / "mine.yaml", "pattern")
    one_error(lambda: pattern("fullmatch", "a" * 60 + "b"), "mine.yaml: pattern: ", "takes over")


@pytest.mark.parametrize(
    "pattern", ["(" * 3000 + ")" * 3000, "(?:" * 300 + "a" + ")*" * 300, "[", "(?P<a>x)(?P<a>y)"]
)
def test_a_pattern_that_cannot_be_compiled_is_an_error(texts, pattern):
    one_error(
        lambda: texts(label_pattern=pattern), "mine.yaml", "label_pattern", "is not a regular expression"
    )


def test_patterns_are_read_as_re_reads_them():
    import re

    alphabet = [
        "a",
        "b",
        "ab",
        "\\d",
        "\\w",
        "\\s",
        ".",
        "^",
        "$",
        "[ab]",
        "[^a]",
        "(a|b)",
        "(?:ab)",
        "x?",
        "a*",
        "b+?",
    ]
    alphabet += [
        "a{1,2}",
        "b{,2}",
        "{e}",
        "{i<=1}",
        "\\{e}",
        "\\\\",
        "{",
        "[{e}]",
        "\\b",
        " ",
        "é",
        "\\.",
        "(?=a)",
        "(?!b)",
        "[a-c]",
    ]
    draw = random.Random(0)
    texts = ["", "ab", "ab{e} {i<=1}\\{", "abba x1 é", " a\nb ", "xab.ab", "1 22 333", "aaaa", 'a "quoted" b']
    for _ in range(1500):
        pattern = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 5)))
        ours = patterns.Pattern(pattern, Path("mine.yaml"), "pattern")
        for text in texts:
            for method in ("search", "fullmatch"):
                theirs, found = getattr(re.compile(pattern), method)(text), ours(method, text)
                assert (theirs and theirs.span()) == (found and found.span()), (pattern, text)
                assert not theirs or theirs.groups() == found.groups()
            assert ours("sub", "<\\g<0>>", text) == re.sub(pattern, "<\\g<0>>", text), (pattern, text)


@pytest.fixture
def adapter(tiny, tmp_path):
    """Writes an adapter for q_proj whose configuration has other values."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(tiny), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "a")

    def build(**config) -> str:
        known = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(known | config))
        return str(tmp_path / "a")

    return build


def test_a_pattern_for_an_adapters_modules_is_read_as_peft_reads_it(tiny, adapter):
    spec = resolve_model(str(tiny))
    plain = load_model(spec, torch.float32, "cpu", adapter()).state_dict()
    read = load_model(
        spec,
        torch.float32,
        "cpu",
        adapter(target_modules=r".*\.layers\.\d\..*q_pro[j]|q_proj|layers.*q_proj"),
    )
    assert all(torch.equal(weight, plain[key]) for key, weight in read.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "(x|xx)+[yz]"},
        {"exclude_modules": "(x|xx)+[yz]"},
        {"target_modules": "("},
        {"rank_pattern": {"(.+.+)+!": 3}},
        {"alpha_pattern": {"a?a?": 3}},
        {"modules_to_save": ["(.*)*!"]},
        {"rank_pattern": {"(.|..|...|....|.....){1,99}!": 3}},
        {"layers_pattern": "(((.+)+)+)+!", "layers_to_transform": [0]},
    ],
    ids=str,
)
def test_an_adapters_pattern_that_runs_wild_is_an_error(tiny, adapter, monkeypatch, config):
    monkeypatch.setattr(patterns, "SECONDS", 0.3)
    monkeypatch.setattr(torch.nn.Module, "named_modules", long_names(torch.nn.Module.named_modules))
    spec, folder = resolve_model(str(tiny)), adapter(**config)
    start = time.monotonic()
    one_error(lambda: load_model(spec, torch.float32, "cpu", folder), folder, next(iter(config)))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("config", [{"alora_invocation_tokens": [1, 2]}, {"arrow_config": {}}], ids=str)
def test_an_adapter_that_cannot_be_merged_is_one_error(tiny, adapter, config):
    spec, folder = resolve_model(str(tiny)), adapter(**config)
    one_error(lambda: load_model(spec, torch.float32, "cpu", folder), f"adapter {folder} does not fit")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "XLORA", "hidden_size": 8, "adapters": {"0": "elsewhere"}},
        {"peft_type": "SHADOW", "shadow_model": "elsewhere"},
    ],
    ids=str,
)
def test_an_adapter_that_names_other_folders_is_refused_before_they_are_read(tiny, adapter, config, tmp_path):
    """Without a folder of that name each would be asked of the hub."""
    folder = Path(adapter())
    (folder / "adapter_config.json").write_text(json.dumps(config))
    one_error(
        lambda: load_model(resolve_model(str(tiny)), torch.float32, "cpu", str(folder)),
        f"adapter {folder} does not fit",
        f"peft_type: {config['peft_type']} is none of LORA",
    )


@pytest.mark.parametrize(
    "config",
    [
        {"megatron_config": {"x": 1}, "megatron_core": "megatron.evil"},
        {"layer_replication": [[0, 2], [0, 2]]},
    ],
    ids=str,
)
def test_an_adapter_is_weights_to_be_added_and_nothing_else(tiny, adapter, config, tmp_path, monkeypatch):
    """peft imports what megatron_core names, if it is a module that Python finds; other layers are not those of config.json."""
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    folder = Path(adapter())
    own = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(own | config))
    one_error(
        lambda: load_model(resolve_model(str(tiny)), torch.float32, "cpu", str(folder)),
        f"adapter {folder} does not fit",
        f"{next(iter(config))} is not taken",
    )
    assert not (tmp_path / "ran").exists()


def long_names(named_modules):
    """As if modules had names of many letters."""

    def named(self, *arguments, **options):
        yield from named_modules(self, *arguments, **options)
        yield "x" * 80, torch.nn.Identity()

    return named


# ------------------------------------------------------------------------------------------------------- YAML
def laughs(key: str) -> str:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return "\n".join([*lines, f"{key}: *a39"]) + "\n"


DEEP = {
    "deep list": "text: " + "[" * 5000,
    "deep list, closed": "text: " + "[" * 5000 + "]" * 5000,
    "deep mapping": "text: " + "{a: " * 5000,
    "deep block": "\n".join(" " * i + "a:" for i in range(DEEPEST + 5)),
    "deep dashes": "text:\n " + "- " * 5000 + "a",
    "aliases": laughs("text"),
    "merged aliases": "a: &a {x: 1}\nb: &b {<<: *a}\n",
    "an alias of itself": "a: &a [*a]\n",
    "large": "about: " + "x" * LARGEST,
    "huge whole number": "min_class_count: 18446744073709551616",
    "endless whole number": "min_class_count: " + "9" * 5000,
    "binary": "about: !!binary aGVsbG8=",
    "a set": "drop_labels: !!set {a, b}",
    "python": "about: !!python/object/apply:os.system [echo]",
    "NUL": 'about: "a\\0b"',
    "half a character": 'text: "{text} \\ud800"',
    "half a character in a replacement": 'replace: {a: "\\udfff"}',
    "a key of half a character": '"\\ud800": 1',
    "a list as key": "[a, b]: 1",
    "a number that YAML reads as another": "drop_labels: [01]",
    "a time that YAML reads as a number": "label_names: {12:30: noon}",
    "one key in several types": "label_names: {1: a, true: b}",
    "bytes that are no UTF-8": b"about: \xff",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_yaml_that_is_too_deep_too_large_or_no_text_is_one_error(tmp_path, text, capsys):
    where = tmp_path / "mine.yaml"
    where.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    for call in (load_dataset, resolve_model):
        one_error(lambda call=call: call(str(where)), "mine.yaml")
    assert cli.run(validate.main, [str(where)]) == 1 and capsys.readouterr().err.count("\n") == 1
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ("label_names: {1: null}", "label_names"),
        ("label_names: {1: [a]}", "label_names"),
        ("where: {3: [a]}", "where"),
        ("where: {label: [[1]]}", "where"),
        ("label_ranges: [[0, 1]]", "label_ranges"),
        ("label_ranges: [[2020-01-01, 1, a]]", "label_ranges"),
        ("label_ranges: [[0, 1, null]]", "label_ranges"),
        ("drop_labels: [{a: b}]", "drop_labels"),
        ("size: {1: 1}", "size"),
        ("replace: {a: [b]}", "replace"),
        ("min_class_count: 1.5", "min_class_count"),
        ("deduplicate: 1", "deduplicate"),
    ],
)
def test_a_value_of_another_type_names_its_key(texts, keys, key):
    one_error(
        lambda: texts("files: {train: a.csv, test: a.csv}\ntext: text\nlabel: label\n" + keys),
        f"mine.yaml: {key}: ",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("drop_labels: [1, 010]", "010 is read as 8: write it so, or put it in quotes, in line 1"),
        ("label_names: {0x1F: a}", "0x1F is read as 31"),
        ("size: {train: 1_000}", "1_000 is read as 1000"),
        ("where: {time: [12:30]}", "12:30 is read as 750"),
        ("label_ranges: [[0, 1:30.5, a]]", "1:30.5 is read as 90.5"),
        ("label_names: {1: a, 1.0: b}", "'1.0' stands twice (as '1'), again in line 1"),
        ("label_names: {1: a, true: b}", "'true' stands twice (as '1')"),
        ("label_names: {1.50: a, '1.50': b}", "'1.50' stands twice, again in line 1"),
        ("label_names: {yes: a, 'yes': b}", "'yes' stands twice, again in line 1"),
        ("label_names: {True: a, 'True': b}", "'True' stands twice, again in line 1"),
    ],
)
def test_numbers_that_yaml_reads_as_others_are_refused(tmp_path, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    one_error(lambda: load_dataset(str(tmp_path / "mine.yaml")), "mine.yaml", words)


def test_plain_numbers_are_read(texts):
    data = texts(
        "files: {train: a.csv, test: a.csv}\ntext: text\nlabel: label\nlabel_ranges: [[-1.0e+0, 0, 0], [.5, +1.5e+1, 10]]\n"
    )
    assert data.classes == ["0", "10"]


def test_dates_are_text_wherever_they_stand(texts, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\ngood,2020-01-01\nbad,2020-01-02\nold,2020-01-03\n")
    data = texts(
        "files: {train: a.csv, test: a.csv}\nlabel: label\ntext: {label: {2020-01-01: '{text}!', '*': text}}\n"
        "label_names: {2020-01-01: 2021-02-03}\ndrop_labels: [2020-01-03]\n"
    )
    assert data.classes == ["2020-01-02", "2021-02-03"] and data.splits["train"].texts == ["good!", "bad"]
    json.dumps(data.provenance)


def test_types_of_values():
    kind = str | dict[str, list[tuple[int, float, bool]]]
    assert fits("a", kind) and fits({"a": [[1, 2, True], [1, 2.5, False]]}, kind) and fits({}, kind)
    for value in (
        1,
        None,
        ["a"],
        {1: []},
        {"a": [[1, 2]]},
        {"a": [[1.0, 2, True]]},
        {"a": [[True, 2, True]]},
    ):
        assert not fits(value, kind), value


@pytest.mark.parametrize("keys", ["seed: 18446744073709551616", "seed: 9223372036854775808", 'path: "a\\0b"',
                                  'path: "\\ud800"', 'tokenizer: "a\\0"'])  # fmt: skip
def test_a_model_with_values_that_no_library_takes_is_one_error(tmp_path, keys):
    source = "" if keys.startswith("path") else "random_of: smollm2-135m\n"
    (tmp_path / "m.yaml").write_text(f"{source}{keys}\n")
    one_error(lambda: resolve_model(str(tmp_path / "m.yaml")), "m.yaml", "cannot be read as YAML")


# ------------------------------------------------------------------------------------------------------ files
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "mine.yaml"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(texts, tmp_path, name, kind):
    texts()
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    where = tmp_path / "mine.yaml"
    if name != "mine.yaml":
        where.write_text(f"files: {{train: {name}, test: {name}}}\ntext: text\nlabel: label\n")
    one_error(lambda: load_dataset(str(where)), name, "no regular file")


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_so_is_a_list_of_words(tmp_path, text):
    (tmp_path / "words.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    one_error(lambda: read_words(str(tmp_path / "words.yaml")), "words.yaml")


@pytest.mark.parametrize("main", [validate.main, show.main])
@pytest.mark.parametrize("suffix", [".yaml", ".safetensors", ".json"])
def test_commands_do_not_wait_for_a_pipe(tmp_path, main, suffix, capsys):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert cli.run(main, [str(tmp_path / f"pipe{suffix}")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "value", ["[" * 50000 + "]" * 50000, '{"a":' * 50000 + "1" + "}" * 50000, "[" * 900 + "]" * 900], ids=len
)
@pytest.mark.parametrize("key", ["text", "label", "other"])
def test_json_that_is_nested_too_deep_is_one_error(texts, tmp_path, value, key):
    row = {"text": '"a"', "label": "1"} | {key: value}
    lines = ", ".join(f'"{name}": {part}' for name, part in row.items())
    (tmp_path / "a.jsonl").write_text(f'{{"text": "b", "label": 0}}\n{{{lines}}}\n')
    keys = {"files": {"train": "a.jsonl", "test": "a.jsonl"}, "text": "{text} {other}", "label": "label"}
    (tmp_path / "a.jsonl").open("a").write('{"text": "c", "label": 1, "other": 1}\n')
    limit = sys.getrecursionlimit()
    one_error(lambda: texts(**keys))
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("kind", ["date32", "date64", "timestamp"])
def test_dates_of_parquet_that_no_calendar_has_are_one_error(texts, tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet

    types = {"date32": (pa.int32(), pa.date32()), "date64": (pa.int64(), pa.date64())}
    raw, dates = types.get(kind, (pa.int64(), pa.timestamp("ms")))
    far = {"date32": 2**31 - 1, "date64": 86_400_000 * 10**9, "timestamp": 2**55}[kind]
    column = pa.array([1, far], raw).view(dates)
    table = pa.table({"text": ["a", "b"], "label": ["0", "1"], "day": column})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    files = {"train": "a.parquet", "test": "a.parquet"}
    assert texts(files=files).classes == ["0", "1"]  # a column that is not named is not read
    one_error(
        lambda: texts(files=files, label="day"),
        "mine.yaml: files: ",
        "a.parquet",
    )


@pytest.mark.parametrize("keys", ["path: {}", "random_of: {}", "id: {}", "id: a/b\ntokenizer: {}"])
def test_a_place_too_long_for_the_file_system_is_named_with_its_key(tmp_path, keys):
    (tmp_path / "m.yaml").write_text(keys.format("x" * 300) + "\n")
    one_error(lambda: resolve_model(str(tmp_path / "m.yaml")), "x" * 300)


def test_so_is_one_of_texts(texts, tmp_path):
    one_error(
        lambda: texts(files={"train": "x" * 300 + ".csv"}), "mine.yaml: files: train: cannot read", "x" * 300
    )
    one_error(lambda: load_dataset("x" * 300), "unknown data set")
    one_error(lambda: load_dataset("x" * 300 + ".yaml"), "there is no data set description")


# -------------------------------------------------------------------------------------------- shipped names
@pytest.mark.parametrize("name", ["trec6", "qwen2-0.5b", "mini"])
def test_validate_takes_the_name_of_a_shipped_file(name):
    done = subprocess.run(
        [sys.executable, "-m", "ntps.validate", name],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0 and name in done.stdout.splitlines()[0], done.stderr


def test_validate_suggests_names(capsys):
    assert cli.run(validate.main, ["trec5"]) == 1
    assert "did you mean 'trec50' or 'trec6'" in capsys.readouterr().err


@pytest.mark.parametrize("begin", ["", " \n", "\ufeff"], ids=ascii)
@pytest.mark.parametrize(
    "outside", ["{top}/secret.csv", "../secret.csv", "../*.csv", "https://example.org/x.csv"]
)
def test_a_data_set_names_files_of_its_own_folder_only(tmp_path, monkeypatch, outside, begin):
    (tmp_path / "secret.csv").write_text(ROWS)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text(ROWS)
    files = [{"split": "train", "path": outside.format(top=tmp_path)}]
    front = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / "README.md").write_text(f"{begin}---\n{front}---\n", encoding="utf-8")
    (tmp_path / "d.yaml").write_text("id: data\ntext: text\nlabel: label\n")
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *_, **__: pytest.fail("an address may be asked for")
    )
    with pytest.raises(UserError, match="d.yaml: id: data: .* does not lie in it"):
        load_dataset(str(tmp_path / "d.yaml"))
    monkeypatch.undo()
    (folder / "README.md").unlink()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "d.yaml").write_text("id: link\ntext: text\nlabel: label\n")
    assert load_dataset(str(tmp_path / "d.yaml")).splits["train"].texts


def test_a_folder_puts_no_model_of_its_own_in_the_place_of_a_shipped_one(tmp_path, monkeypatch):
    shipped = find_config("models", "smollm2-135m").read_bytes()
    (tmp_path / "configs/models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "configs/models/smollm2-135m.yaml"
    here.write_text(f"id: a/b\nrevision: {'a' * 40}\ntrust_remote_code: true\n")
    one_error(lambda: resolve_model("smollm2-135m"), "configs/models/smollm2-135m.yaml", "rename yours")
    assert resolve_model(str(here)).trust_remote_code  # by its path
    here.write_bytes(shipped)
    assert not resolve_model("smollm2-135m").trust_remote_code
    here.rename(here.with_name("mine.yaml"))
    assert find_config("models", "mine") is not None


def test_a_number_of_many_digits_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_text("label: " + "1:" * 200_000 + "1\n")
    start = time.monotonic()
    one_error(lambda: read_yaml(tmp_path / "mine.yaml", "x: 1"), "a number of more than 400 characters")
    assert time.monotonic() - start < 5


def test_a_wheel_that_is_no_zip_is_one_error(texts, tmp_path, monkeypatch):
    content = b"PK\x03\x04 and no more"
    folder = tmp_path / "cache/wheels/texty-1.0"
    folder.mkdir(parents=True)
    (folder / "texty-1.0-py3-none-any.whl").write_bytes(content)
    monkeypatch.setattr("ntps.texts.sources.pypi_wheel", lambda *_: folder / "texty-1.0-py3-none-any.whl")
    keys = {"package": "texty", "version": "1.0", "sha256": "0" * 64, "file": "*.txt", "reader": "lines"}
    text = yaml.safe_dump(keys | {"pattern": "(?P<text>.*)", "text": "text", "label": "text"})
    one_error(lambda: texts(text), "mine.yaml: file: cannot read texty-1.0")


def test_what_a_file_says_does_not_reach_the_terminal_raw(tmp_path, capsys):
    console.note("a\x1b]0;x\x07b\u202ec")
    assert "\x1b" not in (told := capsys.readouterr().err) and "\u202e" not in told and r"\x1b" in told
