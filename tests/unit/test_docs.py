"""What the documentation names is there, and the page that is made from the code is up to date."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import serve

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    path
    for path in (
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "README.md",
        ROOT / "examples" / "README.md",
    )
    if path.exists()
]
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
# `serve/api.py`, and the same before a bracket or a comma.
SOURCE = re.compile(r"`((?:serve|observability|tools|tests|examples|benchmarks)/[\w/.-]*\.\w+)`")
MEMBER = re.compile(r"`(serve/[\w/]+\.py)`\s*\(((?:`\w+`(?:, )?)+)\)")
MEMBER_BEFORE = re.compile(r"`(\w+)` in\s`(serve/[\w/]+\.py)`")
OPTION = re.compile(r"`(BackendConfig|HTTPOptions)\.(\w+)`")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text()))):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    named = SOURCE.findall(page.read_text())

    assert [file for file in named if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_function_that_is_named_with_its_file_is_in_it(page: Path) -> None:
    missing = []
    text = page.read_text()
    before = [(file, word) for word, file in MEMBER_BEFORE.findall(text)]
    for file, members in MEMBER.findall(text) + before:
        source = (ROOT / file).read_text()
        words = re.findall(r"\w+", members)
        missing += [f"{file}: {word}" for word in words if f"def {word}(" not in source]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_that_is_named_exists(page: Path) -> None:
    named = OPTION.findall(page.read_text())

    assert [f for cls, f in named if f not in getattr(serve, cls).model_fields] == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    links = set(LINK.findall(index.read_text()))
    pages = {page.name for page in index.parent.glob("*.md")} - {index.name}

    assert pages - links == set()


def test_the_api_page_is_what_the_code_says() -> None:
    generator = load_generator()

    assert (ROOT / "docs" / "api.md").read_text() == generator.make_page(), (
        "Run: python tools/generate_api_docs.py"
    )


def test_the_api_page_describes_every_public_name() -> None:
    assert set(serve.__all__) - load_generator().named() == set()


def test_the_tables_of_the_docs_are_what_the_code_says() -> None:
    generator = load_generator("generate_tables")

    pages = {page.name: page.read_text() for page in generator.pages()}

    assert {"logs.md", "metrics.md"} <= set(pages)
    stale = [name for name, text in pages.items() if generator.fill(text) != text]
    assert stale == [], "Run: python tools/generate_tables.py"
    for name in generator.TABLES:
        assert any(f"<!-- table: {name} -->" in page for page in pages.values()), name


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.strip().replace(" ", "-") for text in plain}


def load_generator(name: str = "generate_api_docs") -> ModuleType:
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
