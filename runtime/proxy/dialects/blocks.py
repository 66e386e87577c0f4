"""Content that the policy cannot see (pictures, documents, sound, newer blocks) as one line of text that says so.

An agent that reads a picture is not at fault: an error would end it, and stand in its history for ever. Knows the block
types of all wire APIs by their fields, not by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.proxy.dialects.base import invalid

_TEXTS = ("text", "refusal", "thinking", "output", "stdout")
"""Fields whose text is what a block says."""
_DATA = ("data", "file_data", "image_url", "image_data", "video_url", "url", "file_url")
_TYPES = ("media_type", "mime_type", "mimeType", "format")
_NAMES = ("title", "filename", "file_name", "name", "tool_name", "file_id", "source", "uri")
_MAX_NAME = 200
_MEDIA_TYPE = re.compile(r"[a-z]+/[\w.+-]+")


def shown_text(block: Mapping[str, Any], where: str) -> str:
    """What the policy reads of a block of any type, which stands at ``where``. Another model's thoughts
    (``redacted_thinking``, ``compaction``) may hold nothing but their type.

    Raises ``Refusal`` of kind ``INVALID`` when it holds nothing and has no type: that is no content but a mistake.
    """
    if not any(block.values()):
        raise invalid("a block without a type and without anything in it", where)
    for field in _TEXTS:
        if isinstance(block.get(field), str):
            return str(block[field])
    source = block.get("source")
    if isinstance(source, Mapping) and isinstance(source.get("data"), str) and source.get("type") == "text":
        return str(source["data"])  # a document that is text
    inside = source.get("content") if isinstance(source, Mapping) else block.get("content")
    if isinstance(inside, str):
        return inside
    if isinstance(inside, list) and inside and all(isinstance(part, Mapping) for part in inside):
        return "\n".join(shown_text(part, where) for part in inside)
    return not_shown(block)


def not_shown(block: Mapping[str, Any]) -> str:
    """The line, for example ``[image/png, 70 bytes: not shown]``."""
    what: list[str] = []
    for part in _parts(block):
        for field in _DATA:
            value = part.get(field)
            if isinstance(value, str):
                what.extend(_described(value, part))
        name = next((part[field] for field in _NAMES if isinstance(part.get(field), str) and part[field]), None)
        if name is not None:
            what.append(_line(name))
    kind = block.get("type")
    if not (what and _MEDIA_TYPE.fullmatch(what[0])):
        what.insert(0, _line(kind) if isinstance(kind, str) and kind else "a block without a type")
    return f"[{', '.join(dict.fromkeys(what))}: not shown]"


def _parts(block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The block and what it nests its data in (``source``, ``image_url``, ``input_audio``, ``file``)."""
    for value in block.values():
        if isinstance(value, Mapping):
            yield value
    yield block


def _described(value: str, part: Mapping[str, Any]) -> Iterator[str]:
    """Type and size of data in place, or where it lies."""
    kind = next((part[field] for field in _TYPES if isinstance(part.get(field), str)), "")
    if value.startswith("data:"):
        head, _, value = value.partition(",")
        kind = head.removeprefix("data:").partition(";")[0] or kind
    elif "://" in value[:16]:
        yield _line(value)
        return
    if kind:
        yield _line(kind)
    yield f"{len(value) * 3 // 4 - value[-2:].count('=')} bytes"


def _line(text: str) -> str:
    return " ".join(text[:_MAX_NAME].split())
