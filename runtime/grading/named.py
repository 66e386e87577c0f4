"""Files from which tests take what they expect: pages, data, examples, wherever in the repository they lie.

An agent who may write them decides what is right. They are known by what the tests' own text names. It knows no tasks
and runs nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath

from runtime.sandboxes.entries import Entry, Link

_PROSE = frozenset({"readme", "changelog", "changes", "news", "history", "authors", "contributors", "license", "todo"})
EXPECTED = frozenset(
    {
        *("expected", "golden", "goldens", "fixture", "fixtures", "snapshot", "snapshots", "baseline", "baselines"),
        *("testdata", "reference", "references", "approved"),
    }
)
"""What a folder is called that holds what is right, where no known solution says so."""
_RUNS_PROSE = re.compile(
    rb"\b(?:doctest|runpy|subprocess|popen|pexpect|timeit|SourceFileLoader|load_source|builtins)\b|\bspec_from_file_location\b"
    rb"|(?<![\w.])(?:exec|eval|compile)\(|\bos\.(?:system|exec|spawn|posix_spawn)|\bInteractive(?:Interpreter|Console)\b"
    rb"|\brun(?:code|source)\b|\bcreate_subprocess_"
)
_MAX_NAME = 300
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def is_prose(name: str) -> bool:
    """Whether a file is one for people: tests look into a README, and nothing runs it."""
    path = PurePosixPath(name)
    named = path.stem.lower() in _PROSE and path.suffix.lower() in ("", ".txt")
    return named or path.suffix.lower() in (".md", ".rst")


def readable_prose(work: Mapping[str, Entry], tests: Iterable[bytes]) -> dict[str, bytes]:
    """What who judges may read of ``work`` although an agent wrote it. Nothing where tests might run it, nor where a
    link would give it another name, by which it is a module."""
    renamed = any(isinstance(entry, Link) and not is_prose(name) for name, entry in work.items())
    if renamed or any(_RUNS_PROSE.search(text) for text in tests):
        return {}
    return {name: entry for name, entry in work.items() if isinstance(entry, bytes) and is_prose(name)}


def words_of(tests: Iterable[bytes]) -> frozenset[str]:
    """The parts of all names that stand in the text of tests: of ``"golden/page.html"`` two."""
    return frozenset[str]().union(*map(_words, tests))


@lru_cache(maxsize=1024)
def _words(source: bytes) -> frozenset[str]:
    try:
        tree = ast.parse(source)
    except _UNREADABLE:
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) <= _MAX_NAME:
            found |= {part for part in node.value.split("/") if part not in ("", ".", "..")}
    return frozenset(found)


def is_named(path: PurePosixPath, words: frozenset[str], repository: Path, touched: Iterable[PurePosixPath]) -> bool:
    """Whether a file of the repository, no module, is one from which tests take what they expect: they name it with its
    folder, or a folder above it without modules; and the known solution, which has ``touched`` other files, leaves it
    alone. Where none is known, only what lies in a folder that is called so."""
    if path.suffix in (".py", ".pyi") or not (repository / path).is_file():
        return False
    known = list(touched)
    if not known and EXPECTED.isdisjoint(part.lower() for part in path.parts[:-1]):
        return False
    if path in known:
        return False
    if path.name in words and (len(path.parts) == 1 or path.parent.name in words):
        return True
    if any(fnmatchcase(path.name, word) for word in words if _is_pattern(word)):
        return True
    for folder in path.parents:
        left_alone = folder.name in words and not any(one.is_relative_to(folder) for one in known)
        if folder.name and left_alone and not any((repository / folder).rglob("*.py")):
            return True
    return False


def _is_pattern(word: str) -> bool:
    """Of names, with more of a name in it than the ending that all have (``*.case``, ``case-*.json``)."""
    return "*" in word and bool(word.strip("*?.")) and not word.endswith((".py", ".*"))


def is_looked_for(
    path: PurePosixPath,
    words: frozenset[str],
    repository: Path,
    touched: Iterable[PurePosixPath],
    tests: Iterable[PurePosixPath],
) -> bool:
    """Whether a file that is not there is one that tests would take what they expect from, if it was: in their own
    folder, by a name that they say, and the known solution does not make it."""
    if path.suffix in (".py", ".pyi") or (repository / path).exists() or path in touched:
        return False
    return path.name in words and any(path.is_relative_to(test.parent) for test in tests if test.parent.name)


@lru_cache(maxsize=1024)
def imports_of(source: bytes) -> tuple[tuple[int, str], ...]:
    """Level and name of all that a module imports, what it takes from others too."""
    try:
        tree = ast.parse(source)
    except _UNREADABLE:
        return ()
    found: dict[tuple[int, str], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found |= dict.fromkeys((node.level, f"{node.module or ''}.{alias.name}".strip(".")) for alias in node.names)
    return (*found, *((0, name) for name in plugins_of([source])))


def plugins_of(sources: Iterable[bytes]) -> frozenset[str]:
    """Names of modules that pytest is told to take as plug-ins: ``pytest_plugins = ["fixtures.core"]``."""
    return frozenset[str]().union(*map(_plugins, sources))


@lru_cache(maxsize=1024)
def _plugins(source: bytes) -> frozenset[str]:
    if b"pytest_plugins" not in source:
        return frozenset()
    try:
        tree = ast.parse(source)
    except _UNREADABLE:
        return frozenset()
    found: set[str] = set()
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "pytest_plugins" for target in targets):
            values = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            found |= {value for value in values if isinstance(value, str)}
    return frozenset(found)
