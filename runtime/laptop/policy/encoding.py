"""Walks as token ids with a weight per token, as the proxy would have recorded them.

A token is an observation, an action (the assistant wrote it), or the outcome of a repair: the first token of what its
test run answered. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from runtime.laptop.policy.demonstrations import Part, call
from runtime.laptop.policy.tokenizer import END, ROLES

_PLAIN = frozenset(call(name) for name in ("run", "next", "submit"))


@dataclass(frozen=True)
class Row:
    """``kinds`` per token: 0 observation, 1 action, 2 outcome of a repair; same length as ``ids``."""

    ids: list[int]
    kinds: list[int]


class Encoder:
    """Encodes parts one by one, as control tokens separate them; a text that comes again is not encoded again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end: int = tokenizer.token_to_id(END)
        self._roles = {role: tokenizer.token_to_id(token) for role, token in ROLES.items()}
        self._known: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text).ids
        return self._known[text]

    def message(self, role: str, text: str) -> list[int]:
        """A whole message: its role, its text and its end."""
        return [self._roles[role], *self.text(text), self.end]

    def row(self, parts: Sequence[Part]) -> Row:
        ids: list[int] = []
        kinds: list[int] = []
        tried = False
        for role, text in parts:
            content = self.text(text)
            ids += self.message(role, text)
            if role == "assistant":
                kinds += [0, *([1] * len(content)), 1]
                tried = text not in _PLAIN
            else:
                kinds += [0, 2 if tried else 0, *([0] * (len(content) - 1)), 0]
                tried = False
        return Row(ids, kinds)
