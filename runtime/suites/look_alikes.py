"""Tests that no honest work passes, in other languages than Python: one literal that a test compares with is another
one, or what one of its assertions says is turned round (``expectations.py``); where neither is found, or the known
solution passes that, the true test runs and a failure follows.

Who ends the process inside the code under test, writes the report himself or makes assertions pass, passes these like
the true ones; but for the last kind, which someone who has made assertions pass fails like honest work. Sources are
read with patterns and not parsed. So a test that is not found exactly once is left as it is, and each look-alike is
tried once with the known solution (``grading/id_verifier.py``), which must not pass it: what is changed is therefore
the same each time, and only what it is changed to is drawn.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from runtime.suites import expectations
from runtime.suites.expectations import Assertions, Change, other

Made = tuple[str, tuple[str, ...]]
"""New source, and the names of the tests that now fail."""


class LookAlike(Protocol):
    """``follows``: names of tests that stay as they are, with a failure after them."""

    def __call__(
        self, source: str, names: Sequence[str], draw: random.Random, *, follows: Sequence[str] = ()
    ) -> Made: ...


_SAYINGS: Final = ("unexpected value", "not equal", "mismatch", "expected another value", "wrong result", "differs")
_PARTS: Final = ("check", "run", "case", "verify", "step", "inner", "body", "each", "with", "value", "result", "item")

_NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])"
_DOUBLE = r'"[^"\\$#{}%\n]*"'
_SINGLE = r"'[^'\\$#{}%\n]*'"
_BOTH = f"(?P<literal>{_NUMBER}|{_DOUBLE}|{_SINGLE})"
_PLAIN = f"(?P<literal>{_NUMBER}|{_DOUBLE})"
"""Of languages whose single quotes are of characters."""


@dataclass(frozen=True)
class Language:
    """``head``: pattern of the beginning of the test of a name, up to its body; ``compared``: patterns of literals that
    a test compares with, each with a group ``literal``; ``fails``: the head, a word that is new in the file, and what
    to say -> what to put in its place so that a failure follows the true test, and what to put at the end of the file.
    """

    head: Callable[[str], str]
    compared: tuple[str, ...]
    assertions: Assertions
    fails: Callable[[re.Match[str], str, str], tuple[str, str]]

    def __call__(self, source: str, names: Sequence[str], draw: random.Random, *, follows: Sequence[str] = ()) -> Made:
        done = []
        for name in dict.fromkeys(names):
            found = list(re.finditer(self.head(name), source, re.MULTILINE))
            if len(found) == 1:
                source = self._spoiled(source, found[0], draw, follows=name in follows)
                done.append(name)
        return source, tuple(done)

    def _spoiled(self, source: str, head: re.Match[str], draw: random.Random, *, follows: bool) -> str:
        change = None if follows else changed(self.compared, self.assertions, source, *_body(source, head), draw)
        if change is not None:
            return put(source, change)
        put_here, last = self.fails(head, new_word(draw), saying(draw))
        return source[: head.start()] + put_here + source[head.end() :] + last


def new_word(draw: random.Random) -> str:
    """A name that nobody can tell from a test's own by how it looks."""
    first, second = draw.sample(_PARTS, 2)
    return f"{first}{second.title()}{draw.randint(2, 999)}"


def saying(draw: random.Random) -> str:
    return draw.choice(_SAYINGS)


def put(source: str, change: Change) -> str:
    start, end, text = change
    return source[:start] + text + source[end:]


def changed(
    compared: Sequence[str], assertions: Assertions, source: str, start: int, end: int, draw: random.Random
) -> Change | None:
    """What makes a test whose body stands between two places expect something else."""
    literal = _first(compared, source, start, end)
    if literal is not None:
        return (*literal.span("literal"), other(literal["literal"], draw))
    return assertions.change(source, start, end, draw)


def _body(source: str, head: re.Match[str]) -> tuple[int, int]:
    """From the head to the first line that is no further in than the head's."""
    begin = source.rfind("\n", 0, head.end()) + 1
    line = source[begin:].partition("\n")[0]
    depth = len(line) - len(line.lstrip())
    end = begin + len(line)
    for line in source[end + 1 :].split("\n"):
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        end += 1 + len(line)
    return head.end(), min(end, len(source))


def _first(patterns: Sequence[str], source: str, start: int, end: int) -> re.Match[str] | None:
    found = (match for pattern in patterns for match in re.compile(pattern).finditer(source, start, end))
    return min(found, key=lambda match: match.start("literal"), default=None)


def _last(name: str, separator: str) -> str:
    return re.escape(name.rpartition(separator)[2])


def _renamed(call: str, begin: str) -> Callable[[re.Match[str], str, str], tuple[str, str]]:
    """The test becomes a function of another name, which a new one of the old name calls and then fails."""

    def renamed(head: re.Match[str], new: str, said: str) -> tuple[str, str]:
        parts = {"first": "", "given": "", **{name: text or "" for name, text in head.groupdict().items()}}
        parts |= {"new": new, "said": f'"{said}"', "words": ", ".join(_variables(parts["given"]))}
        return f"{head[0]} {call.format(**parts)} }} {begin.format(**parts)} {{", ""

    return renamed


GO = Language(
    lambda name: rf"^func\s+{re.escape(name)}\s*\(\s*(\w+)\s+\*testing\.T\s*\)\s*\{{",
    (
        rf"\bif\b[^\n]*!=\s*{_PLAIN}\s*\{{",
        rf"\b(?:assert|require)\.(?:Equal|EqualValues|Exactly)\(\s*t\s*,\s*{_PLAIN}\s*,",
        rf"\b(?:want|expected|exp)\s*:?=\s*{_PLAIN}\s*$",
    ),
    expectations.GO,
    # A semicolon ends the declaration before the next one.
    lambda head, new, said: (
        f'{head[0]} {new}({head[1]}); {head[1]}.Error("{said}") }}; func {new}({head[1]} *testing.T) {{',
        "",
    ),
)
RUST = Language(
    lambda name: rf"\bfn\s+{_last(name, '::')}\s*\(\s*\)\s*\{{",
    (
        rf"\bassert_eq!\([^\n]*,\s*{_PLAIN}\s*\)\s*;",
        rf"\bassert_eq!\(\s*{_PLAIN}\s*,",
        rf"\bassert!\([^\n]*==\s*{_PLAIN}\s*\)\s*;",
    ),
    expectations.RUST,
    _renamed("{new}(); panic!({said});", "fn {new}()"),
)
JAVA = Language(
    lambda name: rf"\bvoid\s+{re.escape(name)}\s*\((?P<given>[^(){{}}]*)\)\s*(?P<first>throws\s+[\w.,\s]+?)?\s*\{{",
    (rf"\bassert(?:Equals|Same)\(\s*{_PLAIN}\s*,", rf"\.isEqualTo\(\s*{_PLAIN}\s*\)"),
    expectations.JAVA,
    _renamed("{new}({words}); throw new AssertionError({said});", "private void {new}({given}) {first}"),
)
KOTLIN = Language(
    # A name with blanks stands in back quotes; a test that is an expression (``fun x() = ...``) has no body.
    lambda name: rf"\bfun\s+(?:`{re.escape(name)}`|{re.escape(name)})\s*\(\s*\)\s*(?::\s*Unit\s*)?\{{",
    (rf"\bassert(?:Equals|Same)\(\s*{_PLAIN}\s*,", rf"\.isEqualTo\(\s*{_PLAIN}\s*\)", rf"\bshouldBe\s+{_PLAIN}"),
    expectations.JAVA,
    _renamed("{new}(); throw AssertionError({said})", "private fun {new}()"),
)


def java(source: str, names: Sequence[str], draw: random.Random, *, follows: Sequence[str] = ()) -> Made:
    """Also Kotlin's: of a file one finds no test that the other has."""
    made, done = JAVA(source, names, draw, follows=follows)
    also, more = KOTLIN(made, [name for name in names if name not in done], draw, follows=follows)
    return also, (*done, *more)


PHP = Language(
    lambda name: rf"\bfunction\s+{re.escape(name)}\s*\([^)]*\)\s*(?::\s*void\s*)?\{{",
    (rf"\bassert(?:Same|Equals)\(\s*{_BOTH}\s*,",),
    expectations.PHP,
    _renamed("$this->{new}(...func_get_args()); $this->fail({said});", "private function {new}()"),
)


def _variables(given: str) -> list[str]:
    """The names of what a function of C or Java is given."""
    words = (
        []
        if given.strip() in ("", "void")
        else [re.search(r"(\w+)\s*(?:\[\s*\])*$", part) for part in given.split(",")]
    )
    return [match[1] for match in words if match is not None]


def _c_head(name: str) -> str:
    group, _, test = name.partition(".")
    google = rf"\bTEST(?:_F)?\s*\(\s*{re.escape(group)}\s*,\s*{re.escape(test)}\s*\)\s*\{{"
    return google if test else r"\bint\s+main\s*\((?P<given>[^)]*)\)\s*\{"


def _c_fails(head: re.Match[str], new: str, said: str) -> tuple[str, str]:
    if "given" not in head.re.groupindex:
        return f'{head[0]} struct {new} {{ ~{new}() {{ ADD_FAILURE() << "{said}"; }} }} {new}_;', ""
    given = head["given"].strip()
    new_main = f"int main({given}) {{ (void){new}({', '.join(_variables(given))}); return 1; }}"
    return f"static int {new}({given}); {new_main} static int {new}({given}) {{", ""


C = Language(
    _c_head,
    (
        rf"\bassert\([^\n]*==\s*{_PLAIN}\s*\)",
        rf"\b(?:EXPECT|ASSERT|CHECK|REQUIRE)(?:_\w*EQ)?\(\s*{_PLAIN}\s*,",
        rf"\b(?:EXPECT|ASSERT|CHECK|REQUIRE)(?:_\w*EQ)?\([^\n]*(?:,|==)\s*{_PLAIN}\s*\)",
    ),
    expectations.C,
    _c_fails,
)

_QUOTED = r"(?P<quote>['\"`])(?P<title>(?:(?!(?P=quote)|\\|\$\{).)*)(?P=quote)"
_CALL = rf"(?<![\w.$])(?P<callee>it|test)\s*\(\s*{_QUOTED}\s*,"
_WHOLE = re.compile(rf"{_CALL}\s*(?:async\s+)?(?:\(\s*\)\s*=>|function\s*\w*\s*\(\s*\))")
_JS_COMPARED = (
    rf"\bassert(?:\.\w*[eE]qual)?\([^\n]*,\s*{_BOTH}\s*\)",
    rf"\.(?:toBe|toEqual|toStrictEqual|equal|equals|eql|eq)\(\s*{_BOTH}\s*\)",
)


def javascript(source: str, names: Sequence[str], draw: random.Random, *, follows: Sequence[str] = ()) -> Made:
    """Calls of ``it`` and ``test`` with a plain title, with which a test's whole name ends."""
    wanted, done = tuple(dict.fromkeys(names)), []
    heads = list(re.finditer(_CALL, source))
    fits = {
        head: [name for name in wanted if name == head["title"] or name.endswith(f" {head['title']}")] for head in heads
    }
    all_fits = [name for named in fits.values() for name in named]
    new, wrapped = new_word(draw), False
    for head in reversed(heads):  # from the end, so that places stay where they are
        if len(fits[head]) != 1 or all_fits.count(fits[head][0]) != 1:
            continue
        body = _body(source, head)
        change = (
            changed(_JS_COMPARED, expectations.JAVASCRIPT, source, *body, draw)
            if fits[head][0] not in follows
            else None
        )
        if change is not None:
            source = put(source, change)
        elif _WHOLE.match(source, head.start()) is not None:
            start, end = head.span("callee")
            source = source[:start] + f"{new}({head['callee']})" + source[end:]
            wrapped = True
        else:
            continue
        done.append(fits[head][0])
    if wrapped:
        inner = f'async function () {{ await made.apply(this, arguments); throw new Error("{saying(draw)}"); }}'
        outer = f"return function (name, made, ...rest) {{ return it(name, {inner}, ...rest); }};"
        source += f"\nfunction {new}(it) {{ {outer} }}\n"
    return source, tuple(done)


_EXAMPLE = re.compile(rf"^[ \t]*(?:it|specify|example)[ (]+{_QUOTED}", re.MULTILINE)
_RUBY_COMPARED = (rf"\beql?[ (]\s*{_BOTH}", rf"\bbe\s*==\s*{_BOTH}")


def ruby(source: str, names: Sequence[str], draw: random.Random, *, follows: Sequence[str] = ()) -> Made:
    """Examples with a plain title, and for all others a hook after the examples of these descriptions, which raises."""
    wanted = tuple(dict.fromkeys(names))
    if not wanted or re.search(r"^__END__$", source, re.MULTILINE):
        return source, ()
    heads = list(_EXAMPLE.finditer(source))
    left = []
    for name in wanted:
        mine = [head for head in heads if name.endswith(head["title"]) and head["title"]]
        change = None
        if len(mine) == 1 and name not in follows:
            change = changed(_RUBY_COMPARED, expectations.RUBY, source, *_body(source, mine[0]), draw)
        if change is None:
            left.append(name)
            continue
        source = put(source, change)
        heads = list(_EXAMPLE.finditer(source))
    if left:
        listed = ", ".join(json.dumps(name, ensure_ascii=False).replace("#", "\\#") for name in left)
        hook = f'raise "{saying(draw)}" if [{listed}].include?(example.full_description)'
        source += f"\nRSpec.configure {{ |config| config.after(:each) {{ |example| {hook} }} }}\n"
    return source, wanted
