"""The Markdown that people read (README.md, CONTRIBUTING.md, docs/): its links, anchors, code, files; by a parser."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One block of code. ``language`` is empty for an indented one, ``title`` is the file that it shows."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def _inline(page: Path) -> Iterator[tuple[int, Token]]:
    line = 1
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or ():
            yield line, child


def links(page: Path) -> list[tuple[int, str]]:
    """Line and target of each link and image."""
    found = ((line, child.attrGet("href") or child.attrGet("src")) for line, child in _inline(page))
    return [(line, str(target)) for line, target in found if target]


def code_words(page: Path) -> list[tuple[int, str]]:
    """Line and text of each piece of code inside a sentence."""
    return [(line, child.content) for line, child in _inline(page) if child.type == "code_inline"]


def blocks(page: Path) -> list[Block]:
    found = []
    for token in _tokens(page):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.partition(" ")
            title = _TITLE.search(rest)
            line = (token.map or [0])[0] + 1
            found.append(Block(page, line, language, title[1] if title else "", token.content))
    return found


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and the site make them."""
    seen: Counter[str] = Counter()
    found = set()
    tokens = _tokens(page)
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in tokens[index + 1].children or ())
            name = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return found
