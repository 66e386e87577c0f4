"""Jsonnet text in, Jsonnet text out: every field of every object literal gets a hidden sibling that names its place
in the source.

``{ lr: 1 }`` becomes ``{ "\\u0001lr":: "exp.jsonnet:1:3", lr: 1 }``. Hidden fields follow Jsonnet's own inheritance,
so after any number of mixins, overrides and functions the sibling beside a value is the one of the definition that
won, and one evaluation gives the position of every value. Standard library only: it runs in the evaluation child.
Knows nothing of specs.

Hidden siblings change no value, but must be collected by Jsonnet itself (``WALK``), field by field. Visible ones come
with the value at hardly any cost; whether a spec that looks at its own fields is changed by them shows when they are
taken out again.

Not covered: objects that a standard library function builds (``std.mergePatch``, ``std.mapWithKey``); their values
have no hidden sibling.
"""

from __future__ import annotations

import bisect
import re

MARK = "\x01"

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
      | (?P<text>\|\|\|-?[ \t]*\n(?:[ \t]*\n)*(?P<indent>[ \t]+).*?\n(?![ \t]*\n)(?!(?P=indent))[ \t]*\|\|\|)
      | (?P<str>@"(?:[^"]|"")*" | @'(?:[^']|'')*' | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*')
      | (?P<id>[A-Za-z_]\w*)
      | (?P<field>\+?:{1,3})
      | (?P<other>.)""",
    re.X | re.S,
)

KEYWORDS = frozenset(
    [
        "assert",
        "else",
        "error",
        "for",
        "function",
        "if",
        "import",
        "importbin",
        "importstr",
        "in",
        "local",
        "then",
        "tailstrict",
    ]
)

WALK = """
local comprehended(star, key) =
  if star == null then null else if std.objectHas(star[1], key) then star else comprehended(star[3], key);
local place(value, key) =
  local own = if std.objectHasAll(value, "\\u0001" + key) then value["\\u0001" + key] else null;
  local star = if std.objectHasAll(value, "\\u0001*") then comprehended(value["\\u0001*"], key) else null;
  if star == null || (own != null && own != star[2](key)) then own else star[0];
local walk(value) =
  if std.isObject(value) then { [key]: [place(value, key), walk(value[key])] for key in std.objectFields(value) }
  else if std.isArray(value) then std.map(walk, value)
  else null;
"""
"""Turns an instrumented value into the tree of its positions: object -> {field: [position, subtree]}, array ->
[subtree]."""


# Plain classes: importing dataclasses would double this process's start.
class Token:
    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, kind: str, text: str, start: int, end: int) -> None:
        self.kind, self.text, self.start, self.end = kind, text, start, end


class Frame:
    """One open bracket.

    ``applied``: it follows a value (``base { ... }``, ``f(x)``, ``xs[0]``) instead of starting one. ``computed``: its
    computed keys as (position in the text, key text, place). ``loop``: where the ``for`` of an object comprehension
    starts.
    """

    __slots__ = ("applied", "bracket", "computed", "loop", "start")

    def __init__(self, bracket: str, start: int, *, applied: bool) -> None:
        self.bracket, self.start, self.applied = bracket, start, applied
        self.computed: list[tuple[int, str, str]] = []
        self.loop: int | None = None


def tokenize(source: str) -> list[Token]:
    """Tokens without white space and comments."""
    found = []
    for match in TOKEN.finditer(source):
        kind = match.lastgroup
        if kind is not None and kind != "skip":
            found.append(Token(kind, match[0], match.start(), match.end()))
    return found


def instrument(source: str, filename: str, *, visible: bool = False) -> str:
    """The source with a position field beside every field. Text that is no valid Jsonnet comes back as invalid as it
    was. A visible place ends in ``MARK``, so that one that the spec computed with is known as such."""
    tokens = tokenize(source)
    colon, end = (":", MARK) if visible else ("::", "")
    lines = [0, *(index + 1 for index, char in enumerate(source) if char == "\n")]
    inserts: list[tuple[int, str]] = []
    stack: list[Frame] = []

    def place(offset: int) -> str:
        line = bisect.bisect_right(lines, offset)
        return quoted(f"{filename}:{line}:{offset - lines[line - 1] + 1}{end}")

    for index, token in enumerate(tokens):
        previous = tokens[index - 1].text if index else ""
        starts_field = bool(stack) and stack[-1].bracket == "{" and previous in ("{", ",")
        if token.kind == "other" and token.text in "{[(":
            if token.text == "[" and starts_field:
                close = _closing(tokens, index)
                if close is not None and close + 1 < len(tokens) and tokens[close + 1].kind == "field":
                    key = source[token.end : tokens[close].start]
                    stack[-1].computed.append((token.start, key, place(token.start)))
            stack.append(Frame(token.text, token.start, applied=_ends_value(tokens[index - 1] if index else None)))
        elif token.kind == "other" and token.text in "}])":
            if stack:
                inserts += _computed(stack.pop(), token, visible=visible)
        elif token.kind == "id" and token.text == "for" and stack and stack[-1].bracket == "{":
            stack[-1].loop = token.start if stack[-1].loop is None else stack[-1].loop
        elif (
            starts_field
            and token.kind in ("id", "str")
            and index + 1 < len(tokens)
            and tokens[index + 1].kind == "field"
        ):
            marked = quoted(MARK + token.text) if token.kind == "id" else f'["\\u0001" + {token.text}]'
            inserts.append((token.start, f"{marked}{colon} {place(token.start)}, "))
    parts: list[str] = []
    done = 0
    # Of several at one place the last comes first, as if each were inserted in turn.
    for offset, _, text in sorted((offset, -order, text) for order, (offset, text) in enumerate(inserts)):
        parts += (source[done:offset], text)
        done = offset
    return "".join(parts) + source[done:]


def quoted(text: str) -> str:
    """A Jsonnet string; ``json`` would cost the child more than all of its strings."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join([char if char >= " " else f"\\u{ord(char):04x}" for char in escaped]) + '"'


def _closing(tokens: list[Token], start: int) -> int | None:
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "other":
            depth += (tokens[index].text in "[{(") - (tokens[index].text in "]})")
            if depth == 0:
                return index
    return None


def _ends_value(token: Token | None) -> bool:
    if token is None:
        return False
    return token.kind in ("str", "text") or token.text in "}])" or (token.kind == "id" and token.text not in KEYWORDS)


def _computed(frame: Frame, close: Token, *, visible: bool) -> list[tuple[int, str]]:
    """Position fields for computed keys.

    A comprehension cannot have hidden fields; what it lacks is added by one object beside it, whose only field holds
    [place, the comprehension for its keys, the place that a key had before, the same of earlier comprehensions]. None
    of this can be made visible, so there the field only says that places are missing.
    """
    found = []
    for offset, key, place in frame.computed:
        if frame.loop is None:
            colon = ":" if visible else "::"
            found.append((offset, f'[if ({key}) == null then null else "\\u0001" + ({key})]{colon} {place}, '))
        elif not frame.applied and visible:
            found.append((frame.start, "("))
            found.append((close.end, ' + { "\\u0001*": true })'))
        elif not frame.applied:
            found.append((frame.start, "(local liverl_keys = "))
            found.append(
                (close.end, f"; liverl_keys + {{ {_STAR} [{place}, liverl_keys, liverl_before, {_EARLIER}] }})")
            )
    return found


_STAR = (
    'local liverl_before = function(key) if ("\\u0001" + key) in super then super["\\u0001" + key] else null, '
    '"\\u0001*"::'
)
_EARLIER = 'if "\\u0001*" in super then super["\\u0001*"] else null'
