"""Tool calls as each family's models write them, and argument texts that are hard to read: every family's markers,
quotes, white space, JSON as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

Arguments = Mapping[str, Any]

EDITOR: dict[str, Any] = {
    "type": "object",
    "$defs": {"Mode": {"enum": ["append", "replace"]}, "Count": {"type": "integer"}},
    "properties": {
        "path": {"type": "string"},
        "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "note": {"type": ["string", "null"]},
        "any": {},
        "mode": {"$ref": "#/$defs/Mode"},
        "count": {"anyOf": [{"$ref": "#/$defs/Count"}, {"type": "null"}]},
        "share": {"type": "number"},
        "force": {"type": "boolean"},
        "lines": {"type": "array", "items": {"type": "string"}},
        "extra": {"type": "object"},
    },
    "required": ["path"],
}
"""Parameters as pydantic and others declare them."""

MARKERS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=editor>", "</function>"),
    *("<parameter=path>", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *("<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|start|>", "to=functions.editor", "<|python_tag|>"),
    *('{"name": "editor", "parameters": {}}', ";", "<|im_end|>"),
)
PLAIN: tuple[str, ...] = (
    "",
    " ",
    "\n",
    "\t",
    '"',
    "'",
    "\\",
    "\\n",
    "{",
    "}",
    "[1]",
    '{"name": "x"}',
    "42",
    "1.5",
    "true",
    "None",
)
PLAIN += ("größer", "日本", "😀", "a = b", "null ", "- x\n- y")


def texts(*, markers: bool = True) -> st.SearchStrategy[str]:
    """Short texts of the above. Never the word ``null`` alone, which a format without JSON cannot tell from null."""
    pieces = st.sampled_from(PLAIN + (MARKERS if markers else ())) | st.text(max_size=6).map(_encodable)
    return st.lists(pieces, max_size=6).map("".join).filter(lambda text: text != "null")


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\r", "")


def arguments(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    optional = {
        "text": text | st.none(),
        "note": text | st.none(),
        "any": text,
        "mode": st.sampled_from(["append", "replace"]),
        "count": st.integers(-(10**6), 10**20) | st.none(),
        "share": st.integers(-5, 5) | st.floats(-2, 2),
        "force": st.booleans(),
        "lines": st.lists(text, max_size=3),
        "extra": st.dictionaries(text, text, max_size=2),
    }
    return st.fixed_dictionaries({"path": text}, optional=optional)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def hermes(name: str, given: Arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': given}, ensure_ascii=False)}\n</tool_call>"


def qwen3_coder(name: str, given: Arguments) -> str:
    inner = "".join(f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in given.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def glm(name: str, given: Arguments) -> str:
    inner = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{_plain(value)}</arg_value>\n" for key, value in given.items()
    )
    return f"<tool_call>{name}\n{inner}</tool_call>"


def llama(name: str, given: Arguments) -> str:
    return json.dumps({"name": name, "parameters": given}, ensure_ascii=False)


def harmony(name: str, given: Arguments) -> str:
    return (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.{name} "
        f"<|constrain|>json<|message|>{json.dumps(given, ensure_ascii=False)}"
    )


WRITERS: dict[str, Callable[[str, Arguments], str]] = {
    "hermes": hermes,
    "qwen3_coder": qwen3_coder,
    "glm45": glm,
    "llama3_json": llama,
    "openai": harmony,
}
WITHOUT_ESCAPES = ("qwen3_coder", "glm45")
