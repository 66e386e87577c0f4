"""Wrong versions of a function, found in its tokens: fast, and without a proof that any test would notice.

What a slip takes away can be read elsewhere in the function, or is one of few possibilities: no kind removes code that
a reader would have to invent. Runs nothing; knows no files.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from runtime.tasks.generate.functions import parsed
from runtime.tasks.generate.siblings import siblings

_COMPARISONS = {
    "==": ("!=",),
    "!=": ("==",),
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    ">": (">=", "<"),
    ">=": (">", "<="),
}
_ARITHMETIC = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+", "//"),
    "/": ("*", "//"),
    "//": ("/", "%"),
    "%": ("//",),
    "**": ("*",),
    "<<": (">>",),
    ">>": ("<<",),
    "&": ("|",),
    "|": ("&",),
}
_AUGMENTED = {"+=": ("-=",), "-=": ("+=",), "*=": ("+=",), "//=": ("*=",), "|=": ("&=",), "&=": ("|=",)}
_OTHERS = siblings(
    (
        ("strip", "lstrip"),
        ("values", "items"),
        ("getattr", "hasattr"),
        ("sorted", "list"),
        ("int", "float"),
        ("search", "match"),
    )
)
_EXCEPTIONS = {
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "ValueError": "TypeError",
    "TypeError": "ValueError",
    "AttributeError": "KeyError",
    "StopIteration": "ValueError",
    "OSError": "ValueError",
}
_ORDERED = ("-", "/", "//", "%", "<<")
_OPEN, _CLOSE = {"(", "[", "{"}, {")", "]", "}"}
_SMALL = 10
"""Numbers up to here are counts and indices; others are data that nobody could guess."""


@dataclass(frozen=True)
class Slip:
    """``start`` to ``end`` of the function's text become ``new``."""

    kind: str
    start: int
    end: int
    new: str

    def apply(self, segment: str) -> str:
        return segment[: self.start] + self.new + segment[self.end :]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: int
    text: str
    start: int
    end: int

    @property
    def is_name(self) -> bool:
        return self.kind == tokenize.NAME and not keyword.iskeyword(self.text)

    @property
    def is_atom(self) -> bool:
        return self.is_name or self.kind in (tokenize.NUMBER, tokenize.STRING) or self.text in _CONSTANTS


_CONSTANTS = {"True": "False", "False": "True"}
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def slips_of(segment: str) -> list[Slip]:
    """All slips of a function's text (its lines, however far indented), in order; [] where it cannot be read."""
    try:
        tokens = _tokens(segment)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return []
    body = _body(tokens)
    if body is None:
        return []
    found = [*_defaults(tokens[:body]), *_of_body(segment, tokens, body)]
    return sorted(found, key=lambda slip: (slip.start, slip.end, slip.new))


def is_python(segment: str) -> bool:
    """Whether a function's text, however far indented, can be compiled."""
    try:
        parsed(("if True:\n" if segment[:1] in " \t" else "") + segment, whole=True)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _tokens(segment: str) -> list[_Token]:
    starts = [0]
    for line in io.StringIO(segment, newline="\n"):
        starts.append(starts[-1] + len(line))
    return [
        _Token(one.type, one.string, starts[one.start[0] - 1] + one.start[1], starts[one.end[0] - 1] + one.end[1])
        for one in tokenize.generate_tokens(io.StringIO(segment, newline="\n").readline)
        if one.type not in _NO_CODE
    ]


def _body(tokens: list[_Token]) -> int | None:
    """Index of the first token behind the signature's colon."""
    at = next((n for n, token in enumerate(tokens) if token.text == "def"), None)
    if at is None:
        return None
    depth = 0
    for number in range(at, len(tokens)):
        depth += (tokens[number].text in _OPEN) - (tokens[number].text in _CLOSE)
        if depth == 0 and tokens[number].text == ":":
            return number + 1
    return None


def _defaults(signature: list[_Token]) -> Iterator[Slip]:
    for before, token in pairwise(signature):
        if before.text == "=":
            for new in _other_constants(token):
                yield Slip("default", token.start, token.end, new)


def _other_constants(token: _Token) -> Iterator[str]:
    if token.text in _CONSTANTS:
        yield _CONSTANTS[token.text]
    elif token.kind == tokenize.NUMBER and token.text.isdecimal() and int(token.text) <= _SMALL:
        yield str(int(token.text) + 1)
        if token.text != "0":
            yield str(int(token.text) - 1)


def _of_body(segment: str, tokens: list[_Token], body: int) -> Iterator[Slip]:
    variables = _variables(tokens, body)
    attributes = list(
        dict.fromkeys(
            tokens[n + 2].text
            for n in range(body, len(tokens) - 3)
            if tokens[n].text == "self" and tokens[n + 1].text == "." and tokens[n + 3].text != "("
        )
    )
    nothing = _Token(tokenize.OP, "", 0, 0)
    binds = False
    for n in range(body, len(tokens)):
        before = tokens[n - 1]
        token = tokens[n]
        after = tokens[n + 1] if n + 1 < len(tokens) else nothing
        yield from _of_operator(before, token, after)
        binds = binds or token.text == "for"
        if binds and token.text == "in":  # of the loop
            binds = False
            continue
        yield from _of_word(before, token, after, variables, attributes)
        yield from _of_pair(segment, tokens, n)
        yield from _branches(segment, tokens, n)


def _of_operator(before: _Token, token: _Token, after: _Token) -> Iterator[Slip]:
    for new in _COMPARISONS.get(token.text, ()):
        yield Slip("comparison", token.start, token.end, new)
    binary = before.is_atom or before.text in _CLOSE
    if binary and before.kind != tokenize.STRING:
        for new in _ARITHMETIC.get(token.text, ()):
            yield Slip("arithmetic", token.start, token.end, new)
    for new in _AUGMENTED.get(token.text, ()):
        yield Slip("augmented", token.start, token.end, new)
    if token.text == "-" and not binary and after.kind == tokenize.NUMBER:
        yield Slip("dropped_sign", token.start, after.start, "")


def _of_word(
    before: _Token, token: _Token, after: _Token, variables: list[str], attributes: list[str]
) -> Iterator[Slip]:
    text, start, end = token.text, token.start, token.end
    if text in ("and", "or"):
        yield Slip("boolean", start, end, "or" if text == "and" else "and")
    elif text == "not" and after.text != "in" and before.text != "is":
        yield Slip("dropped_not", start, after.start, "")
    elif text == "not" and after.text == "in":
        yield Slip("membership", start, after.start, "")
    elif text == "in" and before.is_name and token.kind == tokenize.NAME:
        yield Slip("membership", start, end, "not in")
    elif text == "is":
        new = "is" if after.text == "not" else "is not"
        yield Slip("identity", start, after.end if after.text == "not" else end, new)
    elif text in ("if", "elif", "while") and after.is_name:
        yield Slip("negated_condition", after.start, after.start, "not ")
    elif text in ("break", "continue"):
        yield Slip("loop_control", start, end, "continue" if text == "break" else "break")
    elif text in _EXCEPTIONS and before.text in ("except", "(", ","):
        yield Slip("wrong_exception", start, end, _EXCEPTIONS[text])
    elif after.text == "(" and text in _OTHERS:
        for new in _OTHERS[text]:
            yield Slip("sibling_call", start, end, new)
    elif before.text != "=" or after.text not in (",", ")"):
        for new in _other_constants(token):
            yield Slip("constant", start, end, new)
    if not token.is_name:
        return
    if before.text in ("[", ":") and after.text in ("]", ":"):
        for sign in "+-":
            yield Slip("off_by_one", end, end, f" {sign} 1")
    if before.text == "." and text in attributes and after.text not in ("(", "="):
        at = attributes.index(text)
        for new in attributes[max(0, at - 1) : at] + attributes[at + 1 : at + 2]:
            yield Slip("wrong_attribute", start, end, new)
    reads = before.text != "." and after.text not in ("=", "(", ".", ":=", "for", "in") and before.text not in _BINDS
    if reads and text in variables and after.text not in _AUGMENTED:
        at = variables.index(text)
        for new in variables[max(0, at - 1) : at] + variables[at + 1 : at + 2]:
            yield Slip("wrong_variable", start, end, new)


_BINDS = {"for", "as", "import", "def", "class", "global", "nonlocal", "del", "lambda", "from"}


def _variables(tokens: list[_Token], body: int) -> list[str]:
    """Parameters and local names, in order of appearance."""
    names: list[str] = []
    depth = 0
    for n, token in enumerate(tokens[:-1]):
        depth += (token.text in _OPEN) - (token.text in _CLOSE)
        after = tokens[n + 1].text
        before = tokens[n - 1].text
        parameter = n < body and depth == 1 and after in (",", ")", "=", ":") and before in ("(", ",", "*")
        local = n >= body and ((after == "=" and depth == 0 and before != ".") or before == "for")
        if token.is_name and (parameter or local) and token.text not in ("self", "cls"):
            names.append(token.text)
    return list(dict.fromkeys(names))


def _of_pair(segment: str, tokens: list[_Token], n: int) -> Iterator[Slip]:
    """Two neighbours in the wrong order: (before, one, between, two, after) by their tokens."""
    if n + 4 > len(tokens) - 1:
        return
    before, one, between, two, after = tokens[n : n + 5]
    if not (one.is_atom and two.is_atom) or one.text == two.text:
        return
    swapped = Slip("", one.start, two.end, two.text + segment[one.end : two.start] + one.text)
    if between.text == ",":
        call = before.text == "(" and n > 0 and tokens[n - 1].is_name and after.text in (",", ")")
        if call or (before.text == "," and after.text == ")"):
            yield Slip("swapped_arguments", swapped.start, swapped.end, swapped.new)
        elif before.text == "return":
            yield Slip("swapped_result", swapped.start, swapped.end, swapped.new)
    elif between.text in _ORDERED and before.text in ("(", "=", "return", "[", ",") and one.kind != tokenize.STRING:
        yield Slip("swapped_operands", swapped.start, swapped.end, swapped.new)


def _branches(segment: str, tokens: list[_Token], n: int) -> Iterator[Slip]:
    """``a if condition else b`` of two atoms, turned round."""
    if tokens[n].text != "if" or not tokens[n - 1].is_atom or tokens[n - 2].text not in ("=", "return", "(", ","):
        return
    for at in range(n + 1, min(n + 12, len(tokens) - 1)):
        if tokens[at].text == "else":
            one, two = tokens[n - 1], tokens[at + 1]
            after = tokens[at + 2].text if at + 2 < len(tokens) else ""
            # Behind the atom the statement, or what holds it, must end: there is no token for a line's end here.
            ends = after in (")", ",", "]") or "\n" in segment[two.end : two.end + 1]
            if two.is_atom and one.text != two.text and ends:
                yield Slip(
                    "swapped_branches", one.start, two.end, f"{two.text}{segment[one.end : two.start]}{one.text}"
                )
            return
