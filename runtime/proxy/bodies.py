"""Request bodies of one session, parsed without reading the history again.

An agent sends its whole history with every request; almost always the new body is the old one with messages added at
the end of the list. Then only what is new is parsed, and the old messages stay the same Python objects, which also
makes comparing them free. Anything else is parsed as a whole. Knows nothing of what messages mean.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.proxy.characters import whole_characters

_WORTH_BYTES = 16_000
"""Shorter bodies are parsed faster than compared."""
_REMEMBERED = 2
"""Conversations whose last body is kept: an agent and the sub-agent that it waits for."""
_NEAR = 4096
_LIST = "the list that grows"
_OPENING = orjson.dumps({_LIST: []})[:-2]


@dataclass(slots=True)
class _Known:
    """``end``: where the list is closed in ``raw``; None until a second body has shown it."""

    raw: bytes
    body: dict[str, Any]
    end: int | None = None


class Bodies:
    """Parser with a memory. ``parse`` equals ``orjson.loads`` for every body without a repeated key or half a
    character.
    """

    def __init__(self) -> None:
        self._known: deque[_Known] = deque(maxlen=_REMEMBERED)

    def parse(self, raw: bytes, key: str = "messages") -> Any:
        """``key`` names the list that grows. Half a character (one of two surrogates, or bytes that are no UTF-8, where
        an agent cut a text) becomes U+FFFD. Raises ``orjson.JSONDecodeError``. The result must not be changed.
        """
        try:
            return self._parse(raw, key)
        except orjson.JSONDecodeError:
            mended = whole_characters(raw)
            if mended == raw:
                raise
        return self._parse(mended, key)

    def _parse(self, raw: bytes, key: str) -> Any:
        if len(raw) < _WORTH_BYTES:
            return orjson.loads(raw)
        for known in self._known:
            part = _parting(known, raw)
            body = _continued(known, raw, part, key)
            if body is not None:
                tail = known.raw[part:]
                known.raw, known.body = raw, body
                known.end = len(raw) - len(tail) if raw.endswith(tail) else None
                return body
        body = orjson.loads(raw)
        if isinstance(body, dict) and isinstance(body.get(key), list):
            self._known.append(_Known(raw, body))
        return body


def _parting(known: _Known, raw: bytes) -> int:
    """Length of the common beginning, in one comparison without a copy where the known list's end is known."""
    end = known.end
    if end is not None and raw[end : end + 1] == b"," and raw.startswith(memoryview(known.raw)[:end]):
        return end
    return _first_difference(known.raw, raw)


def _continued(known: _Known, raw: bytes, part: int, key: str) -> dict[str, Any] | None:
    """The body, if ``raw`` is the known one but for items added to the list ``key`` and what stands behind it.

    The bytes part where the known list ends, at ``part``: there it has ``]`` and the new one a comma. That this bracket
    closes the list is proved by parsing both ends with a fresh list opened before them: the known one must give an
    empty list and exactly the fields that follow ``key`` in the known body. (A bracket inside of a text or of a deeper
    list cannot: the rest would not be JSON of one object.)
    """
    if known.raw[part : part + 1] != b"]" or raw[part : part + 1] != b",":
        return None
    try:
        old_end = orjson.loads(_OPENING + known.raw[part:])
        new_end = orjson.loads(_OPENING + raw[part + 1 :])
    except orjson.JSONDecodeError:
        return None
    fields = list(known.body)
    position = fields.index(key)
    head, known_list = fields[:position], known.body[key]
    if old_end.pop(_LIST) != [] or fields[position + 1 :] != list(old_end):
        return None
    added = new_end.pop(_LIST)
    if not added or key in new_end or any(field in new_end for field in head):
        return None
    return {**{field: known.body[field] for field in head}, key: known_list + added, **new_end}


def _first_difference(one: bytes, other: bytes) -> int:
    """Length of the common beginning. Whole stretches are compared in C; the end of the old body is looked at first."""
    low, high = 0, min(len(one), len(other))
    near = high - _NEAR
    if near > 0 and one[:near] == other[:near]:
        low = near
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
