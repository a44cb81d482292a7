"""Seeded broken inputs of every kind a user can hand in: one error line each, nothing run, nothing left, nothing hung.

The generators draw from kinds (a value of another type, a huge number, a name that is a command, a part cut off), not
from a list of known faults. An input may also turn out to be sound: then the exit code is 0. What ends otherwise and
cannot be mended here is listed by name in KNOWN, at most one in a hundred.
"""

import contextlib
import copy
import json
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import cache
import K_sweep
import linear_sklearn
from ntps.commands import show, validate
from ntps.run import cli
from ntps.system import array_files
from tests.tiny import tiny_dataset, tiny_model

pytestmark = pytest.mark.slow
SEED, SECONDS = 17169, 30  # the longest that one input may take
RAN = "fuzz-has-run"  # a file that appears if a text of an input is ever run
COMMAND = f"$(touch {RAN}); touch {RAN} #"
KNOWN: set[str] = set()
COUNTS = {
    "rows": 80, "description": 60, "config": 50, "tokenizer": 30, "adapter": 30, "model_yaml": 20, "header": 40,
    "array": 30, "bytes": 20, "flags": 20,
}  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 10**6, 10**9, 2**63, -(2**40), 0.5, -0.5, 1e308, float("nan"), float("inf"),
    "", " ", "x", "0", "-1", "nan", "null", "no/such", "../../x", "/etc/passwd", "-r", COMMAND, "{text}", "{0.__class__}",
    "%s", "a" * 5000, "é\u0000", "\u202e", "(", "(a|aa)+$", [], [0], [None], ["x"], [[1]], {}, {"x": 1}, {"": None},
    {"id": "x"}, {"class": COMMAND}, list(range(200)),
]  # fmt: skip


# -------------------------------------------------------------------------------------------------- generators
def mutated(draw: random.Random, tree: Any) -> Any:
    """A JSON tree with one to three places given another value, taken out, or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice([1, 1, 2, 3])):
        node, places = tree, []
        while isinstance(node, dict | list) and node and (not places or draw.random() < 0.5):
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            places.append((node, key))
            node = node[key]
        if not places:
            return draw.choice(VALUES)
        holder, key = places[-1]
        action = draw.random()
        if action < 0.7:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif action < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(["x", "", "id", "path", "adapter", "files"])] = copy.deepcopy(
                draw.choice(VALUES)
            )
    return tree


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bytes flipped, cut off, put in or repeated."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 2, 8])):
        place = draw.randrange(len(data) or 1)
        match draw.randrange(5):
            case 0 if data:
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data = data[:place]
            case 2:
                data[place:place] = draw.choice(
                    [b"\0", b"\xff\xfe", b'"', b"\n\n", b",,,", b"[" * 9000, b"\r", b"{", b"\xed\xa0\x80"]
                )
            case 3:
                end = draw.randrange(place, len(data) + 1)
                data[place:end] = data[place:end] * 2
            case 4:
                del data[place : place + draw.randrange(40)]
    return bytes(data)


def table(draw: random.Random) -> tuple[str, str]:
    """A file of rows in one of the formats, with awkward cells; its ending and its text."""
    cells = [
        "good",
        "bad",
        "",
        " ",
        "1",
        "1.0",
        "NA",
        "None",
        "x|y",
        "é",
        "\u2028",
        '"',
        "'",
        COMMAND,
        "0.25",
        "a,b",
        "-",
    ]
    names = draw.choice(
        [["text", "label"], ["text", "text"], ["Text ", " label"], ["text"], ["", "label"], ["label"]]
    )
    rows = [
        [draw.choice(cells) for _ in range(draw.choice([2, 2, 2, 1, 3]))] for _ in range(draw.randrange(30))
    ]
    match draw.randrange(4):
        case 0:
            comma = draw.choice([",", ";", "\t", "|"])
            quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
            return ".csv", "\n".join(comma.join(row) for row in [names, *quoted])
        case 1:
            return ".jsonl", "\n".join(json.dumps(dict(zip(names, row))) for row in rows)
        case 2:
            return draw.choice([".json", ".jsonl"]), json.dumps([dict(zip(names, row)) for row in rows])
        case _:
            return draw.choice([".tsv", ".csv", ".txt", ".parquet", ".gz", ".csv.gz", ".xlsx"]), "\n".join(
                "\t".join(row) for row in [names, *rows]
            )


# ------------------------------------------------------------------------------------------------------ inputs
@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """What the inputs are made from: a model, an adapter, a data set, and the moments of both."""
    folder = tmp_path_factory.mktemp("sound")
    tiny_model(folder / "model", d=16, blocks=2)
    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModel.from_pretrained(folder / "model"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    adapted.save_pretrained(folder / "adapter")
    tiny_dataset(folder / "data", n=12, classes=2)
    assert cli.run(cache.main, pairs(folder, folder)) == 0
    return folder


def pairs(source: Path, out: Path, *more: str) -> list[str]:
    words = ["--models", str(source / "model"), "--datasets", str(source / "data" / "tiny.yaml")]
    return [*words, "--output", str(out / "out"), *more]


Case = tuple[Callable[..., int], list[str]]


def rows(draw: random.Random, here: Path, sound: Path) -> Case:
    ending, text = table(draw)
    content = text.encode(draw.choice(["utf-8", "utf-8", "utf-16", "cp1252"]), "replace")
    (here / "data" / f"a{ending}").write_bytes(damaged(draw, content) if draw.random() < 0.5 else content)
    spec = {"files": {"train": f"a{ending}"}, "text": "text", "label": "label"}
    (here / "data" / "mine.yaml").write_text(yaml.safe_dump(spec))
    return validate.main, [str(here / "data" / "mine.yaml")]


def description(draw: random.Random, here: Path, sound: Path) -> Case:
    where = here / "data" / "tiny.yaml"
    more = {
        "where": {"label": ["class0"]}, "replace": {"a": "b"}, "label_pattern": "class(.)", "target": "classes",
        "stratify": "label", "text": "{text} {label}", "columns": ["text"], "names": {"class0": "zero"},
    }  # fmt: skip
    spec = yaml.safe_load(where.read_text())
    spec |= {key: more[key] for key in draw.sample(list(more), draw.randrange(3))}
    text = yaml.safe_dump(mutated(draw, spec))
    if draw.random() < 0.3:
        text = damaged(draw, text.encode()).decode("utf-8", "replace")
    if draw.random() < 0.1:
        text += f"\nx: !!python/object/apply:os.system ['touch {RAN}']\n"
    where.write_text(text)
    return validate.main, [str(where)]


def edit_json(draw: random.Random, where: Path) -> None:
    text = json.dumps(mutated(draw, json.loads(where.read_text())))
    where.write_bytes(damaged(draw, text.encode()) if draw.random() < 0.15 else text.encode())


def config(draw: random.Random, here: Path, sound: Path) -> Case:
    edit_json(draw, here / "model" / "config.json")
    return cache.main, pairs(here, here)


def tokenizer(draw: random.Random, here: Path, sound: Path) -> Case:
    edit_json(draw, here / "model" / draw.choice(["tokenizer.json", "tokenizer_config.json"]))
    return cache.main, pairs(here, here)


def adapter(draw: random.Random, here: Path, sound: Path) -> Case:
    edit_json(draw, here / "adapter" / "adapter_config.json")
    return cache.main, pairs(here, here, "--adapter", str(here / "adapter"))


def model_yaml(draw: random.Random, here: Path, sound: Path) -> Case:
    sources: list[dict[str, Any]] = [
        {"path": "model"}, {"random_of": "model", "seed": 1}, {"id": "org/name", "revision": "main"},
        {"pypi": {"package": "p", "version": "1.0", "sha256": "ab" * 32}}, {"path": "model", "lora_targets": ["q_proj"]},
        {"path": "model", "dtype": "float32"}, {"path": "model", "tokenizer": "model"},
    ]  # fmt: skip
    (here / "mine.yaml").write_text(yaml.safe_dump(mutated(draw, draw.choice(sources))))
    return validate.main, [str(here / "mine.yaml")]


def moments(here: Path) -> Path:
    return next((here / "out" / "moments").glob("*/tiny/train.safetensors"))


def header_of(where: Path, draw: random.Random) -> dict[str, str]:
    """Mostly without the hash, as files of earlier versions are: no broken one would come further than the hash."""
    content = where.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return header if draw.random() < 0.2 else {key: header[key] for key in header if key != array_files.HASH}


def reader(draw: random.Random, here: Path, sound: Path) -> Case:
    """One of the commands that read stored moments."""
    if draw.random() < 0.2:
        return show.main, [str(moments(here))]
    return draw.choice([K_sweep, linear_sklearn]).main, pairs(sound, here, "--overwrite")


def header(draw: random.Random, here: Path, sound: Path) -> Case:
    where = moments(here)
    known, arrays = header_of(where, draw), load_file(where)
    if draw.random() < 0.3:
        changed = mutated(draw, known)
        known = {
            str(key): str(value) for key, value in (changed if isinstance(changed, dict) else {}).items()
        }
    else:
        key = draw.choice(sorted(known.keys() - {array_files.HASH}))
        known[key] = json.dumps(mutated(draw, json.loads(known[key])))
    save_file(arrays, where, known)
    return reader(draw, here, sound)


def array(draw: random.Random, here: Path, sound: Path) -> Case:
    where = moments(here)
    known, arrays = header_of(where, draw), load_file(where)
    name = draw.choice(list(arrays))
    found = arrays[name]
    match draw.randrange(6):
        case 0:
            del arrays[name]
        case 1:
            arrays[name] = -found
        case 2:
            arrays[name] = found.flatten()[: draw.randrange(found.numel() + 1)].clone()
        case 3:
            arrays[name] = torch.full_like(found.double(), draw.choice([float("nan"), float("inf"), 1e300]))
        case 4:
            arrays[name] = torch.cat([found, found])
        case 5:
            arrays[name] = found.to(draw.choice([torch.float16, torch.int64, torch.bool]))
    save_file(arrays, where, known)
    return reader(draw, here, sound)


def raw_bytes(draw: random.Random, here: Path, sound: Path) -> Case:
    where = moments(here)
    where.write_bytes(damaged(draw, where.read_bytes()))
    return reader(draw, here, sound)


def flags(draw: random.Random, here: Path, sound: Path) -> Case:
    main = draw.choice([cache, K_sweep, linear_sklearn]).main
    names = [name for name in cli.flags_of(main) if name not in ("output", "models", "datasets", "config")]
    words = [f"--{name}={draw.choice(VALUES)}" for name in draw.sample(sorted(names), draw.choice([1, 1, 2]))]
    return main, pairs(sound, here, *words)


KINDS: dict[str, Callable[[random.Random, Path, Path], Case]] = {
    "rows": rows, "description": description, "config": config, "tokenizer": tokenizer, "adapter": adapter,
    "model_yaml": model_yaml, "header": header, "array": array, "bytes": raw_bytes, "flags": flags,
}  # fmt: skip


# -------------------------------------------------------------------------------------------------- the outcome
STARTED: list[str] | None = None


def _listen(event: str, arguments: tuple) -> None:
    if STARTED is not None and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        STARTED.append(f"{event} {arguments}"[:200])


sys.addaudithook(_listen)


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"over {seconds} s")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def tree(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def fault(case: Case, here: Path, printed: Callable[[], Any]) -> str:
    """What is wrong with how this input was met; empty if nothing is."""
    global STARTED
    main, words = case
    before, STARTED = tree(here), []
    printed()
    try:
        with bounded(SECONDS):
            code = cli.run(main, words)
    except SystemExit as ended:  # argparse's own way of refusing a flag
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        started, STARTED = STARTED, None
    out, err = printed()
    if any(here.rglob(RAN)) or Path(RAN).exists() or started:
        return f"something was run: {started}"
    if "Traceback" in out + err:
        return err[-300:]
    errors = [line for line in err.splitlines() if "error:" in line]
    if code not in (0, 1, 2) or (code != 0) != bool(errors) or len(errors) > 1:
        return f"exit {code}, {len(errors)} error lines: {err[-300:]}"
    left = {path for path in tree(here).keys() - before.keys() if path.parts[0] != "out"}
    if code != 0:
        left |= tree(here).keys() - before.keys()
    return f"left: {sorted(map(str, left))}" if left else ""


@pytest.mark.parametrize("kind", KINDS)
def test_broken_inputs_end_in_one_error_line(sound, tmp_path, capsys, kind):
    faults, known = {}, 0
    for number in range(COUNTS[kind]):
        draw, here = random.Random(f"{SEED} {kind} {number}"), tmp_path / str(number)
        shutil.copytree(sound, here)
        if kind not in ("header", "array", "bytes", "flags"):
            shutil.rmtree(here / "out")
        found = fault(KINDS[kind](draw, here, sound), here, capsys.readouterr)
        if found and f"{kind}/{number}" in KNOWN:
            known += 1
        elif found:
            faults[f"{kind}/{number}"] = found
        shutil.rmtree(here)
    assert not faults, "\n".join(f"{name}: {found}" for name, found in faults.items())


def test_there_are_enough_of_them():
    assert COUNTS.keys() == KINDS.keys() and sum(COUNTS.values()) >= 300
    assert len(KNOWN) <= 0.01 * sum(COUNTS.values())
