"""A Dockerfile as text, for a builder that is some years behind: which images it stands on, and the same in words that
buildah 1.28 knows.

Files that stand in the Dockerfile itself (``<<EOF``) become a command's own text or files of a second build context;
``--link`` and ``--network=default`` say nothing here. What cannot be said otherwise is refused with its line. Nothing
is built here. Format: Docker's Dockerfile reference, syntax 1.4 and later.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

SECOND_CONTEXT = "liverl-files"
_HEREDOC = re.compile(r"<<(-?)([\"']?)([A-Za-z_][A-Za-z0-9_.]*)\2")
_ESCAPE = re.compile(r"#\s*escape\s*=\s*([`\\])\s*", re.IGNORECASE)
_DIRECTIVE = re.compile(r"#\s*\w+\s*=.*")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?([-+])([^}]*))?\})")
_SCRIPT = """file=/tmp/.liverl-script; mkdir -p /tmp
cat > "$file" <<'{end}'
{body}{end}
chmod 755 "$file"; "$file"; code=$?; rm -f "$file"; exit "$code"
"""


class NotBuilt(Exception):
    """Why an instruction cannot be built, with its line."""

    def __init__(self, line: int, why: str, fix: str) -> None:
        super().__init__(why)
        self.line, self.fix = line, fix


@dataclass(frozen=True)
class Heredoc:
    """A file that stands in the Dockerfile: ``quoted``: its variables are not replaced."""

    name: str
    quoted: bool
    body: str


@dataclass(frozen=True)
class Instruction:
    """``line``: of its beginning; ``text``: with continued lines joined and without comments; ``raw``: as written."""

    line: int
    text: str
    raw: str
    files: tuple[Heredoc, ...] = ()

    @property
    def name(self) -> str:
        return self.text.split()[0].upper()

    @property
    def flags(self) -> list[str]:
        return list(takewhile(lambda word: word.startswith("--"), self.text.split()[1:]))

    @property
    def rest(self) -> str:
        """What follows the name and its flags, blanks as they are."""
        return re.sub(r"^\s*\S+(?:\s+--\S+)*\s*", "", self.text)


@dataclass(frozen=True)
class Buildable:
    """``text``: what to build; ``files``: of the second context, path -> content."""

    text: str
    files: Mapping[str, str] = field(default_factory=dict)


def instructions(text: str) -> Iterator[Instruction]:
    lines = text.splitlines()
    escape = _escape_of(lines)
    at = 0
    while at < len(lines):
        start, parts = at, list[str]()
        while at < len(lines):
            line = lines[at]
            at += 1
            if line.lstrip().startswith("#") or not line.strip():
                start = start if parts else at
                continue  # also within a continued instruction
            continued = line.rstrip().endswith(escape)
            parts.append(line.rstrip()[:-1] if continued else line)
            if not continued:
                break
        whole = " ".join(parts)
        if not whole.strip():
            continue
        files = []
        if whole.split()[0].upper() in ("RUN", "COPY", "ADD"):
            for strip, quote, name in _HEREDOC.findall(whole):
                body = list[str]()
                while at < len(lines) and (lines[at].lstrip("\t") if strip else lines[at]) != name:
                    body.append(lines[at].lstrip("\t") if strip else lines[at])
                    at += 1
                at += 1
                files.append(Heredoc(name, bool(quote), "".join(f"{line}\n" for line in body)))
        yield Instruction(start + 1, whole, "\n".join(lines[start:at]), tuple(files))


def _escape_of(lines: list[str]) -> str:
    for line in takewhile(_DIRECTIVE.fullmatch, map(str.strip, lines)):
        if (match := _ESCAPE.fullmatch(line)) is not None:
            return match[1]
    return "\\"


def stands_on(text: str) -> list[str]:
    """The images that a Dockerfile takes from elsewhere, variables replaced as the defaults of ``ARG`` before the first
    ``FROM`` have them. Raises ``NotBuilt`` for a name that is put together of others."""
    stages, found, given, begun = set[str](), list[str](), dict[str, str](), False
    for one in instructions(text):
        words = one.text.split()
        if one.name == "ARG" and not begun:
            given |= _arguments(words[1:], given)
        elif one.name == "FROM":
            begun = True
            named = [word for word in words[1:] if not word.startswith("--")][:1]
        elif one.name == "COPY":
            named = [flag.removeprefix("--from=") for flag in one.flags if flag.startswith("--from=")]
        elif one.name == "RUN":
            options = [part for flag in one.flags if flag.startswith("--mount=") for part in flag[8:].split(",")]
            named = [option.removeprefix("from=") for option in options if option.startswith("from=")]
        if one.name not in ("FROM", "COPY", "RUN"):
            continue
        for name in named:
            # Outside of FROM a variable is the stage's own, which is not followed.
            plain = _replaced(name, given) if one.name == "FROM" else name
            if plain is None or "$" in plain:
                why = f"the image {name} is put together of variables that no ARG before the first FROM gives a value"
                raise NotBuilt(one.line, why, "write the image's whole name")
            if plain.lower() not in stages and plain != "scratch" and not plain.isdecimal():
                found.append(plain)
        if one.name == "FROM" and len(words) > 3 and words[-2].upper() == "AS":
            stages.add(words[-1].lower())
    return list(dict.fromkeys(found))


def _arguments(words: list[str], before: Mapping[str, str]) -> dict[str, str]:
    found = dict[str, str]()
    for word in words:
        name, equals, value = word.partition("=")
        value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
        plain = _replaced(value, {**before, **found})
        if equals and plain is not None:
            found[name] = plain
    return found


def _replaced(text: str, given: Mapping[str, str]) -> str | None:
    """None where a variable has no value: a name with a hole in it is another one."""
    lacking = False

    def value(match: re.Match[str]) -> str:
        nonlocal lacking
        name, how, other = match[1] or match[2], match[3], match[4] or ""
        there = given.get(name) or ""
        if how == "-":
            return there or other
        if how == "+":
            return other if there else ""
        lacking |= not there
        return there

    found = _VARIABLE.sub(value, text)
    return None if lacking else found


def buildable(text: str) -> Buildable:
    """The same in words that an older builder knows. Raises ``NotBuilt``."""
    said, files, changed = list[str](), dict[str, str](), False
    shell = ["/bin/sh", "-c"]
    given = list(instructions(text))
    volumes = _late_volumes(given)
    for one in given:
        if one.name == "FROM":
            shell = ["/bin/sh", "-c"]
        elif one.name == "SHELL":
            with contextlib.suppress(ValueError):  # the builder says what is wrong with it
                shell = [str(word) for word in json.loads(one.rest)]
        elif one in volumes:
            changed = True
            continue
        flags = [flag for flag in one.flags if flag not in _OF_NO_EFFECT.get(one.name, ())]
        if not one.files and flags == one.flags:
            said.append(one.raw)
            continue
        changed = True
        head = " ".join([one.name, *flags])
        if not one.files:
            said.append(f"{head} {one.rest}")
        elif one.name == "RUN":
            said.append(f"{head} {json.dumps([*shell, _command(one)], ensure_ascii=False)}")
        else:
            said.append(f"{head} {_copied(one, files)}")
    if not changed:
        return Buildable(text)
    directives = list(takewhile(_DIRECTIVE.fullmatch, map(str.strip, text.splitlines())))
    return Buildable("\n".join([*directives, *said, *(one.raw for one, last in volumes.items() if last), ""]), files)


def _late_volumes(given: list[Instruction]) -> dict[Instruction, bool]:
    """Volumes that something is written to after them, which buildah throws away and Docker's builder keeps: they are
    left out, and those of the last stage, or of what it stands on, come at its end (True)."""
    stage, found, written = -1, dict[Instruction, int](), False
    parents, names = dict[int, int](), dict[str, int]()
    for one in given:
        if one.name == "FROM":
            stage += 1
            words = [word for word in one.text.split()[1:] if not word.startswith("--")]
            parents[stage] = names.get(words[0].lower(), -1) if words else -1
            if len(words) > 2 and words[-2].upper() == "AS":
                names[words[-1].lower()] = stage
        elif one.name == "VOLUME" and "$" not in one.text:
            found[one] = stage
        elif one.name == "RUN":
            written |= bool(found)
    last = set[int]()
    while stage >= 0 and stage not in last:
        last.add(stage)
        stage = parents[stage]
    return {one: at in last for one, at in found.items()} if written else {}


_OF_NO_EFFECT = {
    "COPY": ("--link", "--link=true", "--link=false"),
    "ADD": ("--link", "--link=true", "--link=false"),
    "RUN": ("--network=default",),
}


def _command(one: Instruction) -> str:
    """What the shell is given: it knows such files itself; one without a command is the command."""
    alone = _HEREDOC.fullmatch(one.rest.strip())
    if alone is None:
        ends = "".join(f"{file.body}{file.name}\n" for file in one.files)
        return re.sub(r"<<-", "<<", one.rest) + "\n" + ends
    body = one.files[0].body
    return _SCRIPT.format(body=body, end=f"END_OF_{one.line}") if body.startswith("#!") else body


def _copied(one: Instruction, files: dict[str, str]) -> str:
    *sources, target = one.rest.split()
    if one.name == "ADD" or any(_HEREDOC.fullmatch(word) is None for word in sources):
        raise NotBuilt(
            one.line, "a file that stands in the Dockerfile goes with COPY, and alone", "an instruction for each"
        )
    if any(flag.startswith("--from") for flag in one.flags):
        raise NotBuilt(one.line, "COPY --from with a file that stands in the Dockerfile", "two instructions")
    paths = []
    for number, file in enumerate(one.files):
        if not file.quoted and "$" in file.body:
            why = f"variables in the file {file.name} would have to be replaced"
            raise NotBuilt(one.line, why, f"write <<'{file.name}', or a RUN that writes the file")
        paths.append(f"{one.line}/{number}/{file.name}")
        files[paths[-1]] = file.body
    return " ".join([f"--from={SECOND_CONTEXT}", *paths, target])
