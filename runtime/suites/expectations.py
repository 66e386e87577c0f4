"""What a test expects, read from its text without a parser, and made false: the assertion stays the same function.

A look-alike whose failure only follows the true test cannot tell who has made assertions do nothing. So what is
compared with is changed where it stands: a literal within it, or the whole put into a list, or a condition turned
round. Work that passes the true test gives what it gave there, and fails here. It knows assertions by their names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Change = tuple[int, int, str]
"""Start, end, and what to put there."""
MAX_LENGTH = 4000
"""Of one assertion; of a longer one nothing is read."""

_OPEN: Final = {"(": ")", "[": "]", "{": "}"}
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`(?:\\.|[^`\\])*`')
LITERAL = re.compile(
    r"(?P<number>(?<![\w.$\"'])-?\d+(?:\.\d+)?(?=(?:[lLfFdD]|[iuf]\d+|[iu]size)?(?![\w.])))"
    r"|(?P<text>\"[^\"\\$#{}%\n]*\"|'[^'\\$#{}%\n]*')"
    r"|(?P<word>(?<![\w.$])(?:true|false|True|False)\b)"
)
_TURNED: Final = {"true": "false", "false": "true", "True": "False", "False": "True"}


_MADE: Final = re.compile(
    r"vec!|Some|Ok|Err|None|String::from|List\.of|Set\.of|Map\.of|Arrays\.asList|new|int|long|double|String|array"
    r"|to_string|to_owned|into|null|nil|undefined|[\[\](){}&,;:.!\s]|=>"
)
"""What may stand around literals in a value that is nothing but literals."""


@dataclass(frozen=True)
class Expected:
    """An assertion: the pattern of its beginning, up to and with the parenthesis, and which argument is changed. As a
    ``value`` (also another than that, where it is one of literals alone) or as a ``condition``; ``leading``: so many
    arguments come before what is compared. skips_text: a message may come before."""

    begin: str
    argument: int
    how: Literal["value", "condition"]
    leading: int = 0
    skips_text: bool = False


@dataclass(frozen=True)
class Assertions:
    """Of a language. ``wraps``: how any value becomes another one (None: types forbid it); ``compares``: two arguments
    of a comparison -> two that are equal where those are not; ``other``: what else can be turned round between two
    places; ``single_quotes``: texts stand in those, too."""

    known: Sequence[Expected]
    wraps: str | None = None
    compares: str | None = None
    single_quotes: bool = False
    other: Callable[[str, int, int], Iterator[Change]] | None = None

    def change(self, source: str, start: int, end: int, draw: random.Random) -> Change | None:
        """How an assertion between two places can be made false. What a value is compared with goes before conditions:
        whoever reads his test and gives what stands there gives the other value, too."""
        for expected in self.known:
            for match in re.compile(expected.begin).finditer(source, start, end):
                given = arguments(source, match.end(), end)
                made = self._of(source, expected, given, draw) if given else None
                if made is not None:
                    return made
        return next(self.other(source, start, end), None) if self.other is not None else None

    def _of(self, source: str, expected: Expected, given: list[tuple[int, int]], draw: random.Random) -> Change | None:
        given = given[expected.leading :]
        compared = 2 if expected.how == "value" else 1
        if expected.skips_text and len(given) == compared + 1 and source[slice(*given[0])].strip()[0] == '"':
            given = given[1:]
        if expected.argument >= len(given):
            return None
        start, end = given[expected.argument]
        text = source[start:end].strip()
        if expected.how == "condition":
            return start, end, f"{source[start : source.index(text, start)]}!({text})"
        also = given[:2] if self.compares is not None else []
        for place in (given[expected.argument], *also):
            literal = self._literal(source, *place)
            if literal is not None:
                return (*literal.span(), other(literal[0], draw))
        if self.wraps is not None:
            return start, end, self.wraps.format(text)
        if self.compares is not None and len(given) == 2:
            return given[0][0], given[1][1], self.compares.format(*(source[slice(*place)].strip() for place in given))
        return None

    def _literal(self, source: str, start: int, end: int) -> re.Match[str] | None:
        """The first literal of a value that is made of literals alone."""
        found = [match for match in LITERAL.finditer(source, start, end) if self._is_text(match)]
        rest = LITERAL.sub("", source[start:end])
        return found[0] if found and not _MADE.sub("", rest) else None

    def _is_text(self, match: re.Match[str]) -> bool:
        return match["text"] is None or match["text"][0] == '"' or self.single_quotes


def other(literal: str, draw: random.Random) -> str:
    """Another number, near enough to be of the same type; another text; the other truth."""
    if literal in _TURNED:
        return _TURNED[literal]
    if literal[0] in "\"'":
        return literal[:-1] + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) + literal[-1]
    return f"{float(literal) + draw.randint(1, 40):g}" if "." in literal else str(int(literal) + draw.randint(1, 40))


def arguments(source: str, start: int, end: int) -> list[tuple[int, int]] | None:
    """The places of what stands between commas, from behind an opening parenthesis to its end; None where that is not
    found."""
    inside: list[str] = [")"]
    places, begin, at = [], start, start
    end = min(end, start + MAX_LENGTH)
    while at < end:
        letter = source[at]
        text = _STRING.match(source, at, end) if letter in "\"'`" else None
        if text is not None:
            at = text.end()
            continue
        if letter in _OPEN:
            inside.append(_OPEN[letter])
        elif letter in ")]}":
            if inside.pop() != letter:
                return None
            if not inside:
                places.append((begin, at))
                return [place for place in places if source[slice(*place)].strip()]
        elif letter == "," and len(inside) == 1:
            places.append((begin, at))
            begin = at + 1
        at += 1
    return None


_GO_IF = re.compile(r"\bif\s+(?:[^\n{}]*;\s*)?(?P<condition>[^\n;]+?)\s*\{[ \t]*(?:\n|[^\n]*\bt\.)")
_GO_FAILS = re.compile(r"\w+\.(?:Error|Fatal|Fail)\w*\(")


def _go_ifs(source: str, start: int, end: int) -> Iterator[Change]:
    """``if got != want {`` before a block that fails the test."""
    for match in _GO_IF.finditer(source, start, end):
        block = source[match.end("condition") : min(end, match.end() + MAX_LENGTH)].partition("}")[0]
        if _GO_FAILS.search(block):
            yield (*match.span("condition"), f"!({match['condition']})")
            return


_C_IF = re.compile(r"\bif\s*\(")
_C_FAILS = re.compile(r"\s*\{?[^{}]{0,300}?\b(?:return\s+(?:[1-9-]|EXIT_FAILURE)|abort\s*\(|exit\s*\(\s*[1-9])")


def _c_ifs(source: str, start: int, end: int) -> Iterator[Change]:
    """``if (f(1) != x) return 1;``"""
    for match in _C_IF.finditer(source, start, end):
        given = arguments(source, match.end(), end)
        if given is not None and len(given) == 1 and _C_FAILS.match(source, given[0][1] + 1):
            yield (*given[0], f"!({source[slice(*given[0])]})")
            return


_NOT = r"(?<!not\.)(?<!doesNot\.)"
JAVASCRIPT = Assertions(
    (
        Expected(r"\bassert\.(?:deepStrictEqual|deepEqual|strictEqual|equal|deepEquals?|eql|same)\(", 1, "value"),
        Expected(rf"{_NOT}\b(?:to(?:Be|Equal|StrictEqual|MatchObject|Contain|ContainEqual|HaveLength|Match|Throw)"
                 r"|toThrowError|toBeCloseTo|equals?|eql|eq|include|members|lengthOf|throw)\(", 0, "value"),
        Expected(r"\bassert(?:\.ok|\.isTrue|\.isOk)?\(", 0, "condition"),
        Expected(r"\bassert\.(?:throws|rejects)\(", 0, "condition"),
        Expected(r"\bexpect\((?=[^\n]*\)\.(?:to\.)?(?:be\.)?(?:toBeTruthy|true\b|ok\b))", 0, "condition"),
    ),
    wraps="[{}]",
    single_quotes=True,
)  # fmt: skip
RUBY = Assertions(
    (
        Expected(r"\.to\s+(?:eql?|equal|match_array|contain_exactly|include|match)\(", 0, "value"),
        Expected(r"\bexpect\((?=[^\n]*\)\.to\s)", 0, "condition"),
    ),
    wraps="[{}]",
    single_quotes=True,
)
PHP = Assertions(
    (
        Expected(r"\bassert(?:Same|Equals|Count|EqualsCanonicalizing|Contains|ArrayHasKey)\(", 0, "value"),
        Expected(r"\bassertStringContainsString\(", 0, "value"),
        Expected(r"\bassert(?:True|False)\(", 0, "condition"),
    ),
    wraps="[{}]",
    single_quotes=True,
)
JAVA = Assertions(
    (
        Expected(r"\bassert(?:Equals|Same|ArrayEquals|IterableEquals|LinesMatch)\(", 0, "value", skips_text=True),
        Expected(r"\.(?:isEqualTo|isSameAs|containsExactly|containsExactlyInAnyOrder|hasSize|contains)\(", 0, "value"),
        Expected(r"\bassert(?:True|False)\(", 0, "condition", skips_text=True),
    ),
    compares="false, java.util.Objects.equals({0}, {1})",
)
RUST = Assertions(
    (
        Expected(r"\bassert_eq!\(", 1, "value"),
        Expected(r"\bassert!\(", 0, "condition"),
    ),
    compares="({0}) == ({1}), false",
)
GO = Assertions(
    (
        Expected(r"\b(?:assert|require)\.(?:Equal|EqualValues|Exactly|ElementsMatch)\(", 0, "value", leading=1),
        Expected(r"\b(?:assert|require)\.(?:True|False)\(", 0, "condition", leading=1),
    ),
    compares="assert.ObjectsAreEqual({0}, {1}), false",
    other=_go_ifs,
)
C = Assertions(
    (
        Expected(r"\b(?:assert|CHECK|REQUIRE|(?:EXPECT|ASSERT)_TRUE|TEST_ASSERT(?:_TRUE)?)\(", 0, "condition"),
        Expected(r"\b(?:EXPECT|ASSERT)_FALSE\(", 0, "condition"),
        Expected(r"\b(?:EXPECT|ASSERT)_EQ\(", 1, "value"),
    ),
    compares="({0}) == ({1}), false",
    other=_c_ifs,
)  # fmt: skip
