"""JSON that holds half a character, where a program cut a text: as JSON that every reader takes. Knows nothing else."""

from __future__ import annotations

import re

_ESCAPES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
"""A pair of surrogates, one alone, or any other escape, so that a backslash that is itself escaped begins none."""


def whole_characters(raw: bytes) -> bytes:
    """One surrogate of a pair, and bytes that are no UTF-8, become U+FFFD. Equal beginnings stay equal."""
    text = raw.decode(errors="replace").encode()
    return _ESCAPES.sub(lambda found: found[0] if found[2] is None else b"\\ufffd", text)
