"""prescreen's page in a browser: the answer first, no network, any width, light, dark and printed, by keyboard."""

import shlex
from pathlib import Path

import pytest

import prescreen
from ntps.models.description import output_name, resolve_model
from ntps.prescreening import page as pages
from ntps.run import cli
from tests import browser
from tests.tiny import tiny_model, tiny_texts

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium")
LONG = "a-model-of-some-organisation-with-a-rather-long-name-7b-instruct-v0.3"
OPEN = "document.querySelectorAll('details').forEach(one => one.open = {})"
TOP = "[...document.querySelectorAll('{}')].map(one => one.getBoundingClientRect().top)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two tiny models, one of a long name, and of one that is not there, opened."""
    folder = tmp_path_factory.mktemp("page")
    texts, labels = tiny_texts(240, 3, 0)
    names = {"class0": "a-class-of-a-long-name-that-has-no-space-anywhere" * 2}
    rows = "".join(f"{text},{names.get(label, label)}\n" for text, label in zip(texts, labels))
    (folder / "mine.csv").write_text("text,label\n" + rows)
    for seed, name in enumerate(("tiny", LONG)):
        tiny_model(folder / name, seed=seed)
    models = ["--models", *(str(folder / name) for name in ("tiny", LONG)), "nowhere"]
    few = ["--label_permutations", "0", "--layers", "0,1"]
    flags = [*models, *few, "--train", str(folder / "mine.csv"), "--output", str(folder / "out")]
    assert cli.run(prescreen.main, flags) == 1
    with browser.Page(folder / "out/mine.html", folder / "profile") as opened:
        yield opened


@pytest.fixture(autouse=True)
def as_opened(page):
    page.size(1100)
    page.media()
    page.value(OPEN.format("false"))
    page.value("document.activeElement.blur(); scrollTo(0, 0)")


def test_nothing_is_fetched(page):
    page.value(OPEN.format("true"))
    page.value("scrollTo(0, document.body.scrollHeight)")
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert page.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")


def test_the_answer_comes_first(page):
    (first,), (table, *_), folded = (
        page.value(TOP.format(name)) for name in (".verdict", "table", "details")
    )
    answers = page.value(TOP.format(".answers li"))
    assert 0 < first < min(answers) <= max(answers) < table < folded[0] < 900
    assert max(answers) < page.value(TOP.format(".answers + .note"))[0] < table
    said = page.value("[...document.querySelectorAll('.answers li')].map(one => one.innerText)")
    assert len(said) == 2 and all(" usable: " in one and " by guessing; " in one for one in said)
    assert all("twice as many" in one or "more labels" in one for one in said)
    assert page.value("document.querySelectorAll('details[open]').length") == 0 and len(folded) >= 7
    assert 3 <= page.value("document.querySelectorAll('.first th').length") <= 5


@pytest.mark.parametrize("width", [400, 850, 950, 1100, 1600])
@pytest.mark.parametrize("opened", ["false", "true"])
def test_no_width_needs_scrolling_sideways(page, width, opened):
    page.size(width)
    page.value(OPEN.format(opened))
    assert page.value("document.documentElement.scrollWidth") <= width
    over = "[...document.body.querySelectorAll('*')].filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
    assert page.value(over) == []
    shown = page.value("getComputedStyle(document.querySelector('.first td')).display")
    assert shown == ("table-cell" if width > 900 else "flex")
    assert page.value("parseFloat(getComputedStyle(document.querySelector('.first td')).fontSize)") >= 12
    if width == 400:  # a name of a value is not broken within its words
        names = "[...document.querySelectorAll('td')].map(one => parseFloat(getComputedStyle(one, '::before').width))"
        assert min(wide for wide in page.value(names) if wide) > 30


def test_a_model_that_failed_is_no_loser_of_a_race(page):
    said = page.value("document.body.innerText")
    assert "Not measured on all rows" in said and "unknown model" in said and "such races" not in said


LIGHTNESS = """
(colour => { const part = colour.match(/[\\d.]+/g).slice(0, 3).map(one => (one /= 255) <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
return .2126 * part[0] + .7152 * part[1] + .0722 * part[2] })(getComputedStyle(document.querySelector('%s')).%s)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(page, scheme):
    page.media(prefers_color_scheme=scheme)
    paper = page.value(LIGHTNESS % ("body", "backgroundColor"))
    assert paper < 0.05 if scheme == "dark" else paper > 0.9
    for text in ("body", ".note", "small", ".first th", "summary"):
        light, dark = sorted((paper, page.value(LIGHTNESS % (text, "color"))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text  # WCAG 2.1, level AA
    assert page.value("getComputedStyle(document.images[0]).filter") == (
        "none" if scheme == "light" else "invert(1) hue-rotate(180deg)"
    )


def test_every_detail_is_reached_and_opened_by_keyboard(page):
    summaries = page.value("document.querySelectorAll('summary').length")
    for place in range(summaries):
        page.press("Tab", 9)
        focused = "[...document.querySelectorAll('summary')].indexOf(document.activeElement)"
        assert page.value(focused) == place
        assert page.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
        page.press("Enter", 13, "\r")
        assert page.value("document.activeElement.parentElement.open")
    assert page.value("document.querySelectorAll('details[open]').length") == summaries


def test_details_are_printed_though_folded(page):
    inside = "[...document.querySelectorAll('details > :not(summary)')].filter(one => one.checkVisibility() && one.getBoundingClientRect().height > 0).length"
    assert page.value(inside) == 0
    page.media("print", prefers_color_scheme="dark")
    assert (
        page.value(inside) == page.value("document.querySelectorAll('details > :not(summary)').length") > 20
    )
    assert page.value(LIGHTNESS % ("body", "color")) < 0.05  # black on white
    assert len(page.ask("Page.printToPDF")["data"]) > 30_000


def test_the_command_that_settles_it_names_the_users_model_and_rows(monkeypatch):
    flags = {"models": ["a/mine.yaml", "other"], "train": "x.csv", "output": "my out"}
    facts = {"flags": flags, "name": "x", "texts": {"train": 90, "test": 30}}
    monkeypatch.setattr(pages, "name_in_tables", lambda name: Path(name).stem)
    for model, given in (("mine", "a/mine.yaml"), ("third", "third")):
        words = shlex.split(pages.settled(model, facts))
        assert words[:2] == ["python", "lora_finetuning.py"]
        assert words[-4:] == ["--models", given, "--datasets", "my out/data/x.yaml"]
    shipped = pages.settled("other", facts | {"flags": flags | {"train": None}, "name": "trec6"})
    assert shipped.endswith("--models other --datasets trec6")
    limited = flags | {"limit": 90, "max_length": 32, "dtype": None}
    assert "--limit 90 --max_length 32 --models" in pages.settled("other", facts | {"flags": limited})
    assert "--limit" not in pages.settled("other", facts | {"flags": limited | {"limit": 2000}})


def test_the_command_that_settles_it_names_folders_and_hub_ids_as_they_were_given(tmp_path):
    folder = tiny_model(tmp_path / "my.model")
    given = [str(folder), "Qwen/Qwen2-0.5B"]
    facts = {"flags": {"models": given, "train": None, "output": "o"}, "name": "x", "texts": {}}
    for name in given:
        words = shlex.split(pages.settled(output_name(resolve_model(name)), facts))
        assert words[-4:-2] == ["--models", name]
