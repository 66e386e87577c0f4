"""Structured repairs: real programs that edit one line of Python, so that a small policy decides where and which.

Standard library only: this file also runs inside sandboxes. It knows lines of text; it knows no tests, views or models.

Every repair is total and deterministic: ``apply`` returns the edited line, or None where there is nothing to edit.
``flip``, ``widen``, ``reverse``, ``negate`` and ``swap`` undo themselves; ``raise`` and ``lower`` undo each other.
"""

from __future__ import annotations

import keyword
import re

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs milliseconds in every sandbox
    from collections.abc import Callable, Mapping, Sequence


LEX = re.compile(
    r"""(?P<string>(?:\b[rbfuRBFU]{1,2})?(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))
      | (?P<comment>\#.*$)
      | (?P<number>(?<![\w.])\d+(?![\w.]))
      | (?P<name>[A-Za-z_]\w*)
      | (?P<op>\*\*|//|==|!=|<=|>=|<<|>>|->|:=|[-+*/%&|^@]=|//=|[-+*/%<>=&|^~@.,:;(){}\[\]])
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.X,
)

FLIP = {"+": "-", "-": "+", "*": "//", "//": "*", "+=": "-=", "-=": "+=", "*=": "//=", "//=": "*=", "/": "*", "%": "//"}
WIDEN = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
REVERSE = {
    "<": ">",
    ">": "<",
    "<=": ">=",
    ">=": "<=",
    "==": "!=",
    "!=": "==",
    "min": "max",
    "max": "min",
    "and": "or",
    "or": "and",
}
KEYWORDS = frozenset(keyword.kwlist)


if TYPE_CHECKING:
    Tokens = list[list[str]]
    Repair = Callable[[Sequence[str], int], str | None]


def lex(line: str) -> Tokens:
    """The line as a list of [kind, text]; joined texts give the line back."""
    return [[match.lastgroup or "", match.group()] for match in LEX.finditer(line)]


def join(tokens: Tokens) -> str:
    return "".join(text for _, text in tokens)


def previous(tokens: Tokens, index: int) -> int:
    """Index of the nearest token before ``index`` that is not white space, or -1."""
    index -= 1
    while index >= 0 and tokens[index][0] == "space":
        index -= 1
    return index


def following(tokens: Tokens, index: int) -> int:
    index += 1
    while index < len(tokens) and tokens[index][0] == "space":
        index += 1
    return index


def is_binary(tokens: Tokens, index: int) -> bool:
    """Whether the operator at ``index`` has a left operand."""
    before = previous(tokens, index)
    if before < 0:
        return False
    kind, text = tokens[before]
    return kind in ("number", "string") or (kind == "name" and text not in KEYWORDS) or text in (")", "]", "}")


def exchange(line: str, table: Mapping[str, str], *, binary: bool = False) -> str | None:
    tokens = lex(line)
    if any(text == "def" or text == "class" or text == "import" for kind, text in tokens if kind == "name"):
        return None
    for index, (kind, text) in enumerate(tokens):
        if kind in ("op", "name") and text in table and (not binary or text.endswith("=") or is_binary(tokens, index)):
            tokens[index][1] = table[text]
            return join(tokens)
    return None


def flip(lines: Sequence[str], index: int) -> str | None:
    """Exchange the first arithmetic operator: + and -, * and //."""
    return exchange(lines[index], FLIP, binary=True)


def widen(lines: Sequence[str], index: int) -> str | None:
    """Toggle whether the first comparison's bound is included: < and <=, > and >=."""
    return exchange(lines[index], WIDEN)


def reverse(lines: Sequence[str], index: int) -> str | None:
    """Turn the first comparison or choice around: < and >, == and !=, min and max, and / or."""
    return exchange(lines[index], REVERSE)


def negate(lines: Sequence[str], index: int) -> str | None:
    """Put ``not`` in front of the line's condition or returned value, or take it away."""
    tokens = lex(lines[index])
    for at, (kind, text) in enumerate(tokens):
        if kind == "name" and text in ("if", "elif", "while", "return", "assert"):
            after = following(tokens, at)
            if after >= len(tokens) or tokens[after][0] == "comment":
                return None
            if tokens[after][1] == "not":
                end = following(tokens, after)
                return join(tokens[:after]) + join(tokens[end:])
            if text == "return" and not re.search(
                r"(==|!=|<|>|\b(in|and|or|is|not|True|False)\b)", join(tokens[after:])
            ):
                return None
            return join(tokens[:after]) + "not " + join(tokens[after:])
    return None


def swap(lines: Sequence[str], index: int) -> str | None:
    """Exchange the first two arguments of the first call on the line."""
    tokens = lex(lines[index])
    if any(text in ("def", "class") for _, text in tokens):
        return None
    for at, (_, text) in enumerate(tokens):
        before = previous(tokens, at)
        if text != "(" or before < 0 or tokens[before][0] != "name" or tokens[before][1] in KEYWORDS:
            continue
        depth, commas, close = 0, [], None
        for j in range(at, len(tokens)):
            piece = tokens[j][1] if tokens[j][0] == "op" else ""
            if piece and piece in "([{":
                depth += 1
            elif piece and piece in ")]}":
                depth -= 1
                if depth == 0:
                    close = j
                    break
            elif piece == "," and depth == 1:
                commas.append(j)
        if close is None or not commas:
            continue
        end = commas[1] if len(commas) > 1 else close
        first, second = join(tokens[at + 1 : commas[0]]).strip(), join(tokens[commas[0] + 1 : end]).strip()
        if not first or not second or first == second or "=" in first or "=" in second:
            continue
        return join(tokens[: at + 1]) + second + ", " + first + join(tokens[end:])
    return None


def shift(line: str, by: int) -> str | None:
    tokens = lex(line)
    for index, (kind, text) in enumerate(tokens):
        if kind == "number":
            value = int(text) + by
            if value < 0:
                return None
            tokens[index][1] = str(value)
            return join(tokens)
    return None


def raise_(lines: Sequence[str], index: int) -> str | None:
    """Add one to the first whole number."""
    return shift(lines[index], 1)


def lower(lines: Sequence[str], index: int) -> str | None:
    """Take one from the first whole number."""
    return shift(lines[index], -1)


def rename(lines: Sequence[str], index: int) -> str | None:
    """Put the function's first unused parameter in place of the line's last repeated (or else last) parameter."""
    start = index
    while start >= 0 and not lines[start].lstrip().startswith("def "):
        start -= 1
    if start < 0 or start == index:
        return None
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    header = re.match(r"\s*def\s+\w+\(([^)]*)\)", lines[start])
    if header is None:
        return None
    names = [part.split(":")[0].split("=")[0].strip(" *") for part in header.group(1).split(",")]
    used = {text for line in lines[start + 1 : end] for kind, text in lex(line) if kind == "name"}
    unused = [name for name in names if name and name not in ("self", "cls") and name not in used]
    if not unused:
        return None
    tokens = lex(lines[index])
    places = [at for at, (kind, text) in enumerate(tokens) if kind == "name" and text in names]
    texts = [tokens[at][1] for at in places]
    repeated = [at for at in places if texts.count(tokens[at][1]) > 1]
    if not places:
        return None
    tokens[(repeated or places)[-1]][1] = unused[0]
    return join(tokens)


REPAIRS: dict[str, Repair] = {
    "flip": flip,
    "widen": widen,
    "reverse": reverse,
    "negate": negate,
    "swap": swap,
    "raise": raise_,
    "lower": lower,
    "rename": rename,
}


def apply(tool: str, lines: Sequence[str], index: int) -> str | None:
    """The edited text of ``lines[index]`` under repair ``tool``, or None if there is nothing to edit."""
    edited = REPAIRS[tool](lines, index)
    return edited if edited != lines[index] else None
