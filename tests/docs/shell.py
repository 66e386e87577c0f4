"""The commands that pages show: found, split into words, and held against the parser that will read them."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from liverl.cli_export import PAGE
from tests.docs import pages

LANGUAGES = {"sh", "bash", "shell", "console"}
_ASSIGNMENT = re.compile(r"\w+=")
_OURS = re.compile(r"(benchmarks|scripts)/\w+\.py")
_ENDS = {";", "&&", "||", "|", "&"}


@dataclass(frozen=True)
class Command:
    """One command of a block: its program (without the folder) and the words after it."""

    place: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join([self.program, *self.words])}"


def split(place: str, text: str) -> Iterator[Command]:
    """The simple commands of a shell text: no variables set before them, no redirections, no comments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _ENDS:
                words.append(word)
                continue
            if ">" in words:
                del words[words.index(">") :]
            while words and _ASSIGNMENT.match(words[0]):
                del words[0]
            if words:
                yield Command(place, words[0].rpartition("/")[2], tuple(words[1:]))
            words = []


def in_block(block: pages.Block) -> list[Command]:
    """The commands of a block. One without a language is shell if it begins like a command of ours."""
    if block.language in LANGUAGES or (not block.language and re.match(r"(\S*/)?(liverl|make) \S", block.text)):
        return list(split(block.place, block.text))
    return []


@cache
def tree() -> Any:
    """The command line's own tree of commands."""
    from typer.main import get_command

    from liverl.cli import build_app

    return get_command(build_app())


def find(words: Sequence[str]) -> tuple[str, Any, list[str]]:
    """Name, command and the words left for it. Raises LookupError for a command that does not exist."""
    node, rest, name = tree(), list(words), ""
    while hasattr(node, "commands") and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        if word not in node.commands and PAGE in node.commands:
            rest.insert(0, word)  # `liverl export RUN`
            word = PAGE
        if word not in node.commands:
            raise LookupError(f"no command {name} {word}")
        node, name = node.commands[word], f"{name} {word}".strip()
    return name, node, rest


def problems_of_a_mention(text: str) -> list[str]:
    """What is wrong with a command in a sentence, which may be a synopsis: `liverl run SPEC [--resume RUN]`."""
    words = text.replace("[", " ").replace("]", " ").split()
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == "make":
        return [f"no target {word}" for word in rest if re.fullmatch(r"[a-z-]+", word) and word not in targets()]
    if program == "python":
        if rest[:1] == ["-m"]:
            return [] if importlib.util.find_spec(rest[1]) else [f"no module {rest[1]}"]
        return [f"no file {word}" for word in rest if _OURS.fullmatch(word) and not (pages.ROOT / word).is_file()]
    try:
        name, command, left = find(rest)
    except LookupError as error:
        return [str(error)]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"-h", "--help"}
    given = [word.partition("=")[0] for word in left if re.match(r"--?[a-z]", word)]
    missing = [f"liverl {name} has no {option}" for option in given if option not in known]
    specs = [word for word in left if re.fullmatch(r"specs/[\w-]+\.jsonnet", word)]
    return missing + [f"no file {word}" for word in specs if not (pages.ROOT / word).is_file()]


@cache
def targets() -> frozenset[str]:
    """What `make` can be asked for."""
    return frozenset(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
