"""The site of `make docs`: its pages are all in the navigation, and every relative link leads to a page or file of it."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COPIED = re.search(r"^PAGES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[
    1
].split()


def named(entries):
    """The pages of a part of the navigation."""
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else named(value)


def test_every_page_is_in_the_navigation_once():
    assert sorted(named(SITE["nav"])) == sorted(PAGES)
    assert SITE["strict"] and set(SITE["validation"]["links"].values()) == {"warn"}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            assert target.is_file(), f"{page}: {link}"
            where = target.relative_to(ROOT).as_posix()
            assert any(f"{where}/".startswith(f"{part}/") for part in COPIED), f"{page}: {link} is not copied"
