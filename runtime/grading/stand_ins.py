"""What of an agent's work in other languages than Python would stand for something else when the tests run: for a
helper or a header that tests include, for a test framework's own classes, for the command that starts the tests, or for
what they expect.

It knows paths, and what the text of tests names; it runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from runtime.grading.named import EXPECTED

_ROOTS: Final = re.compile(r"(?:^|/)src/\w+/(?:java|kotlin|groovy|scala|resources)/(?P<inside>.+)$")
_SERVICE: Final = re.compile(r"^META-INF/(?:services|groovy)/(?P<name>[^/]+)$")
_FRAMEWORKS: Final = (
    *("org/junit", "junit/framework", "junit/extensions", "junit/runner", "org/opentest4j", "org/apiguardian"),
    *("org/hamcrest", "org/assertj", "org/mockito", "org/testng", "org/spockframework", "spock/lang", "kotlin/test"),
    *("io/kotest", "com/google/common/truth", "org/apache/maven", "org/gradle", "mockito-extensions"),
)
"""Packages of Java's test frameworks."""
_IMPORTED: Final = re.compile(rb"^\s*import\s+(?:static\s+)?([\w.]+)", re.MULTILINE)
_INCLUDED: Final = re.compile(rb'^\s*#\s*include\s*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_HEADERS: Final = frozenset(
    f"{name}.h"
    for name in (
        *("assert", "ctype", "errno", "float", "inttypes", "limits", "math", "setjmp", "signal", "stdarg", "stdbool"),
        *("stddef", "stdint", "stdio", "stdlib", "string", "time", "unistd", "check", "cmocka", "unity", "greatest"),
        *("munit", "gtest/gtest", "gmock/gmock"),
    )
) | {"cassert", "cstdio", "cstdlib", "cstring", "doctest/doctest.h", "doctest.h", "catch.hpp"}
_HEADERS_OF: Final = ("catch2/", "gtest/", "gmock/", "boost/test/")
_STARTED: Final = {
    "make": ("Makefile", "makefile", "GNUmakefile", "*.mk"),
    "rake": ("Rakefile", "rakefile", "*.rake"),
    "just": ("justfile", "Justfile", ".justfile"),
    "task": ("Taskfile*",),
    "tox": ("tox.ini", "pyproject.toml"),
    "nox": ("noxfile.py",),
    "ant": ("build.xml",),
    "bazel": ("BUILD", "BUILD.bazel", "WORKSPACE*", "MODULE.bazel", "*.bzl", ".bazelrc"),
    "meson": ("meson.build", "meson.options", "meson_options.txt"),
    "ninja": ("build.ninja",),
    "sbt": ("build.sbt", "project"),
    "mix": ("mix.exs",),
}
"""Program of a ``test_command`` -> what it takes its orders from."""
_GOES_ON: Final = frozenset({"if", "then", "elif", "else", "while", "until", "do", "time", "exec", "env", "!"})
_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "ash", "zsh", "busybox", ".", "source", "timeout", "nice", "xvfb-run"}
)
"""What a command begins with that starts the word after it."""
_QUOTED: Final = re.compile(rb"\"([^\"\\\n]{1,300})\"|'([^'\\\n]{1,300})'|`([^`\\\n]{1,300})`")
_KEPT: Final = (".snap", ".golden", ".approved", ".expected", ".snapshot")
"""How files end in which an approved answer is kept."""


def is_expected(path: PurePosixPath, repository: Path, tests: Iterable[bytes], touched: Collection[str]) -> bool:
    """Whether a file of the repository is one from which tests take what they expect: in a folder called so or with
    such an ending, named by them or below a folder that they name, and left alone by the known solution."""
    if str(path) in touched or not (repository / path).is_file():
        return False
    called = [place for place in path.parents if place.name.lower().strip("_") in EXPECTED]
    kept = any(suffix in _KEPT for suffix in path.suffixes)
    if not called and not kept:
        return False
    words = _words(tests)
    return kept or path.name in words or any(folder.name in words for folder in called)


def _words(tests: Iterable[bytes]) -> set[str]:
    texts = (text.decode("utf-8", "replace") for source in tests for found in _QUOTED.findall(source) for text in found)
    return {part for text in texts for part in text.split("/") if part not in ("", ".", "..")}


def stands_for_header(path: PurePosixPath, repository: Path, tests: Iterable[bytes], touched: Collection[str]) -> bool:
    """Whether a new header would be found in the place of one of the system or of a test framework."""
    if (repository / path).exists() or str(path) in touched:
        return False
    named = {name.decode("utf-8", "replace") for source in tests for name in _INCLUDED.findall(source)}
    named = {name for name in named if name in _HEADERS or name.startswith(_HEADERS_OF)} | {"assert.h"}
    return any(str(path) == name or str(path).endswith(f"/{name}") for name in named)


def stands_for_class(path: PurePosixPath, repository: Path, tests: Iterable[bytes], touched: Collection[str]) -> bool:
    """Whether a new class or resource of Java is in a package that tests take from elsewhere, or makes some part of the
    build or the runner load a class of the work's."""
    found = _ROOTS.search(str(path))
    if found is None or (repository / path).exists() or str(path) in touched:
        return False
    service = _SERVICE.match(found["inside"])
    inside = PurePosixPath(service["name"].replace(".", "/") if service else found["inside"])
    if any(inside.is_relative_to(name) for name in _FRAMEWORKS):
        return True
    package = "/".join(inside.parts[:2])
    if len(inside.parts) < 3 or _has(package, repository, touched):
        return False
    imported = {name.decode().replace(".", "/") for source in tests for name in _IMPORTED.findall(source)}
    return service is not None or any(PurePosixPath(name).is_relative_to(package) for name in imported)


def _has(package: str, repository: Path, touched: Iterable[str]) -> bool:
    """Whether the repository or the known solution has such a package."""
    return _found(package, repository) or any(f"/{package}/" in name for name in touched)


@lru_cache(maxsize=256)  # a repository is walked once for each of the packages that an agent makes, not for each file
def _found(package: str, repository: Path) -> bool:
    return any(repository.glob(f"**/src/*/*/{package}/"))


def stands_beside(path: PurePosixPath, repository: Path, tests: Collection[str], folders: Collection[str]) -> bool:
    """Whether a new file has the name of a test or of a test's helper but for its ending: which of them is meant by
    that name is the language's choice."""
    if (repository / path).exists() or not (repository / path.parent).is_dir():
        return False
    helpers = not set(folders).isdisjoint(path.parts[:-1])
    for entry in (repository / path.parent).iterdir():
        if entry.name != path.name and path.stem in (entry.stem if entry.is_file() else entry.name,):
            return helpers or str(path.with_name(entry.name)) in tests
    return False


def started_by(command: str, repository: Path, *, known: bool) -> tuple[str, ...]:
    """Patterns of what a task's own command is told by: files of the repository that it names, and those from which
    the programs in it take their orders. known: it is known what the solution changes. Where it is not, of the files
    those that the command starts alone: what it only looks at may be what is to be repaired."""
    words, started = _words_of(command)
    named = [str(PurePosixPath(word)) for word in (words if known else started) if word and not word.startswith("/")]
    found = [name for name in named if ".." not in name and (repository / name).is_file()]
    return (*found, *(name for word in words for name in _STARTED.get(PurePosixPath(word).name, ())))


def _words_of(command: str) -> tuple[list[str], list[str]]:
    """The words of a command of a shell, and those of them that it starts: programs, and scripts of a shell."""
    words: list[str] = []
    started: list[str] = []
    for line in command.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            found = list(lexer)
        except ValueError:
            found = line.split()
        first = True
        for word in found:
            if set(word) <= set("();<>|&{}!") or word in _GOES_ON:
                first = not set(word) & set("<>")
                continue
            words.append(word)
            if first:
                started.append(word)
            name = PurePosixPath(word).name
            first = first and (name in _SHELLS or word.startswith("-") or "=" in word or word.isdigit())
    return words, started


def builds(language: str, repository: Path) -> tuple[str, ...]:
    """Paths and folders that the repository's own manifests name as parts of its build: a build script of cargo's with
    another name, builds that Gradle includes."""
    found = []
    for manifest in _manifests(repository, "Cargo.toml") if language == "rust" else ():
        folder = manifest.parent.relative_to(repository)
        text = manifest.read_text("utf-8", "replace")
        found += [
            str(PurePosixPath(folder, name)) for name in re.findall(r'^build\s*=\s*"([^"]+)"', text, re.MULTILINE)
        ]
    for manifest in (*repository.glob("settings.gradle"), *repository.glob("settings.gradle.kts")):
        text = manifest.read_text("utf-8", "replace")
        found += [str(PurePosixPath(name)) for name in re.findall(r"includeBuild\s*\(?\s*[\"']([\w./-]+)[\"']", text)]
    return tuple(name for name in found if name != "." and ".." not in name)


def _manifests(repository: Path, name: str) -> Iterable[Path]:
    return [path for path in repository.rglob(name) if not {"target", "node_modules"} & set(path.parts)]


def is_one_of(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Whether a path is one of these, lies below one, or has a name like one that has no slash."""
    for pattern in patterns:
        if path.is_relative_to(pattern) or ("/" not in pattern and fnmatchcase(path.name, pattern)):
            return True
    return False
