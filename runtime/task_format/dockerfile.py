"""Which files a Dockerfile puts where, for Dockerfiles that only start from an image and copy files.

Nothing is built here: an instruction that would change more than files, variables and the work directory (``RUN``,
``ADD``, a second stage, another user) is a problem with its line. The image of ``FROM`` is not looked at either: what a
task needs of it is found out by running the task's own solution. It does not know where files are put in the end.
Format: Docker's Dockerfile reference; ``COPY`` as its classic builder does it.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HONOURED = "FROM, WORKDIR, COPY and ENV"
_NO_EFFECT = {"LABEL", "MAINTAINER", "EXPOSE", "CMD", "STOPSIGNAL", "SHELL", "HEALTHCHECK"}
"""Of no effect on a box whose commands are started from outside."""
_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)\s+(.*)", re.DOTALL)
_GLOB = re.compile(r"[*?\[]")


class NotHonoured(Exception):
    """Why an instruction cannot be done here."""


@dataclass
class Recipe:
    """``files``: absolute path inside -> file or link of the build context; ``folders``: those that are made, empty
    ones too; ``roots``: what ``COPY`` named as targets (files, or folders with all below them)."""

    workdir: str | None = None
    files: dict[str, Path] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)
    env: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    stages: int = 0


def read_recipe(dockerfile: Path, *, context: Path) -> Recipe:
    """What ``dockerfile`` does to the files of ``context``; what is not honoured is in ``problems``, line by line."""
    recipe = Recipe()
    for number, text in _instructions(dockerfile.read_text(encoding="utf-8", errors="replace")):
        match = _INSTRUCTION.fullmatch(text)
        name, rest = (match[1].upper(), match[2].strip()) if match is not None else (text.strip().upper(), "")
        try:
            _apply(recipe, name, rest, context)
        except (NotHonoured, ValueError, OSError) as why:  # names that no file can have, patterns that are none
            shown = " ".join(text.split())[:80]
            recipe.problems.append(f"{context.name}/{dockerfile.name}:{number}: {shown}: {why}")
    return recipe


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """(line of its beginning, text) of every instruction, with continued lines joined and comments left out."""
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue  # also within a continued instruction
        start = start if parts else number
        continued = line.rstrip().endswith("\\")
        parts.append(line.rstrip()[:-1] if continued else line)
        if not continued:
            yield start, " ".join(parts)
            parts = []
    if parts:
        yield start, " ".join(parts)


def _apply(recipe: Recipe, name: str, rest: str, context: Path) -> None:
    if name == "FROM":
        recipe.stages += 1
        if recipe.stages > 1:
            raise NotHonoured("a second stage is not built here")
    elif name == "WORKDIR":
        path = _unquoted(_plain(rest))
        recipe.workdir = _place(recipe, path)
        _make_folder(recipe, recipe.workdir)
    elif name == "COPY":
        _copy(recipe, rest, context)
    elif name == "ENV":
        recipe.env.update(_variables(_plain(rest)))
    elif name == "USER":
        if rest not in ("root", "0", "root:root", "0:0"):
            raise NotHonoured("boxes know root only")
    elif name not in _NO_EFFECT:
        raise NotHonoured(f"not done here, where no image is built; {HONOURED} are")


def _plain(text: str) -> str:
    if "$" in text:
        raise NotHonoured("variables are not replaced here; write the value")
    return text


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _variables(text: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise NotHonoured(f"cannot be read: {error}") from error
    if words and "=" not in words[0]:  # the old form: ENV NAME the rest of the line
        name, _, value = text.partition(" ")
        return {name: value.strip()}
    pairs = [word.partition("=") for word in words]
    if not pairs or not all(equals for _, equals, _ in pairs):
        raise NotHonoured("cannot be read; write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _copy(recipe: Recipe, rest: str, context: Path) -> None:
    _plain(rest)
    if "<<" in rest:
        raise NotHonoured("files written in the Dockerfile itself are not read here")
    try:
        words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
    except ValueError as error:
        raise NotHonoured(f"cannot be read: {error}") from error
    if not all(isinstance(word, str) for word in words):
        raise NotHonoured("cannot be read: a list of names is wanted")
    flags = [word for word in words if word.startswith("--") and word not in ("--link", "--chown=root:root")]
    words = [word for word in words if not word.startswith("--")]
    if flags:
        raise NotHonoured(f"{flags[0]} is not done here")
    if len(words) < 2:
        raise NotHonoured("wants a source and a target")
    if (context / ".dockerignore").exists():
        raise NotHonoured(".dockerignore is not read here; name the files to copy")
    *patterns, written = words
    target = _place(recipe, written)
    sources = [source for pattern in patterns for source in _sources(context, pattern)]
    into = written.endswith(("/", "/.")) or written == "." or len(sources) > 1 or target in recipe.folders
    for source in sources:
        if source.is_dir() and not source.is_symlink():
            _make_folder(recipe, target)
            recipe.roots.add(target)
            for path in sorted(source.rglob("*")):
                inside = posixpath.join(target, path.relative_to(source).as_posix())
                if path.is_dir() and not path.is_symlink():
                    _make_folder(recipe, inside)
                else:
                    recipe.files[inside] = path
        else:
            place = posixpath.join(target, source.name) if into else target
            _make_folder(recipe, posixpath.dirname(place))
            recipe.roots.add(place)
            recipe.files[place] = source


def _sources(context: Path, pattern: str) -> list[Path]:
    relative = posixpath.normpath("/" + pattern).lstrip("/")  # as Docker has it, nothing lies outside of the context
    if not relative:
        return [context]
    found = sorted(context.glob(relative)) if _GLOB.search(relative) else [context / relative]
    found = [path for path in found if path.exists() or path.is_symlink()]
    if not found:
        raise NotHonoured(f"{pattern}: no such file in {context.name}/")
    return found


def _place(recipe: Recipe, path: str) -> str:
    """Its whole name. Two slashes at the start are one, which ``normpath`` leaves to the system."""
    if "\0" in path:
        raise NotHonoured("a name with a NUL, which no file can have")
    return "/" + posixpath.normpath(posixpath.join(recipe.workdir or "/", path)).lstrip("/")


def _make_folder(recipe: Recipe, path: str) -> None:
    while path != "/":
        recipe.folders.add(path)
        path = posixpath.dirname(path)
