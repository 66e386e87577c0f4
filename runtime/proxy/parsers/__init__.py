"""Formats by name. A further model family adds one module and one entry here; the names are vLLM's tool parsers'."""

from __future__ import annotations

from runtime.parts import names, part
from runtime.proxy.parsers.base import Format
from runtime.proxy.parsers.glm import parse_glm
from runtime.proxy.parsers.harmony import harmony_message, parse_harmony
from runtime.proxy.parsers.hermes import parse_hermes
from runtime.proxy.parsers.llama import parse_llama
from runtime.proxy.parsers.qwen3_coder import parse_qwen3_coder

_FORMATS: dict[str, Format] = {
    "hermes": Format(parse_hermes),
    "qwen3_coder": Format(parse_qwen3_coder),
    "glm45": Format(parse_glm, stops=("<|user|>", "<|observation|>")),
    "llama3_json": Format(parse_llama, stops=("<|eot_id|>", "<|eom_id|>")),
    "openai": Format(
        parse_harmony,
        stops=("<|return|>", "<|call|>"),
        inner=frozenset({"<|end|>"}),
        prepare=harmony_message,
    ),
}


NAMES = (*_FORMATS, *names("formats"))
"""Of every format, those of other rooms (``runtime/parts.py``) too."""


def format_named(name: str) -> Format:
    """Raises ``LookupError`` for a name that is not of ``NAMES``."""
    if name in _FORMATS:
        return _FORMATS[name]
    found: Format = part("formats", name)
    return found
