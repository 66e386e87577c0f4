"""The documentation site builds without a warning, has every page, and loads nothing from elsewhere; the links of files
that are read on their own lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs import pages

CONFIG = pages.ROOT / "mkdocs.yml"
LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'> ]+)""")
"""What a browser fetches by itself: an address of another host in a tag that is not a link for people."""
REPOSITORY = re.compile(
    r"(?:compiler|runtime|targets|templates|liverl|specs|tests|scripts|benchmarks|docs)/[\w./-]*\.(?:py|\w+sonnet|yaml|md|j2)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode: a dead link or anchor is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(pages.DOCS, folder / "docs")
    text = CONFIG.read_text(encoding="utf-8")
    (folder / "mkdocs.yml").write_text(text.replace("site_dir: build/site", "site_dir: site"), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, re.sub(r"\x1b\[[\d;]*m", "", ended.stdout + ended.stderr)
    return folder / "site"


def named(node: object) -> list[str]:
    """The pages of a navigation, in its order."""
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [page for child in children for page in named(child)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = named(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"])
    there = {page.relative_to(pages.DOCS).as_posix() for page in pages.DOCS.rglob("*.md")}
    assert not there - set(nav), f"add to `nav` of mkdocs.yml: {', '.join(sorted(there - set(nav)))}"
    assert not set(nav) - there, f"`nav` of mkdocs.yml names pages that are not in docs/: {set(nav) - there}"
    assert len(nav) == len(set(nav))


@pytest.mark.deep
def test_the_site_has_all_pages_and_loads_nothing_from_elsewhere(site: Path) -> None:
    built = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    for page in pages.DOCS.rglob("*.md"):
        name = page.relative_to(pages.DOCS).with_suffix("").as_posix()
        assert (f"{name}/index.html" if name != "index" else "index.html") in built, f"{page} was not built"
    assert (site / "search.json").stat().st_size > 10_000
    for name, text in built.items():
        assert not LOADED.findall(text), name
        assert 'class="mermaid"' not in text, f"{name}: mermaid is fetched from elsewhere"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    """Where the Markdown itself is read, too: on a code host, in an editor."""
    dead = []
    for line, target in pages.links(page):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (there.suffix == ".md" and anchor and anchor not in pages.anchors(there)):
            dead.append(f"{page.name}:{line}: {target}")
        elif page.is_relative_to(pages.DOCS) and not there.is_relative_to(pages.DOCS):
            dead.append(f"{page.name}:{line}: {target} is not on the site; name the path as `code`")
    for line, text in pages.code_words(page):
        if REPOSITORY.fullmatch(text) and not (pages.ROOT / text).exists():
            dead.append(f"{page.name}:{line}: no file `{text}` in the repository")
    assert not dead, "\n".join(dead)
