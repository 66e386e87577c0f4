"""Text to token ids and back, with control tokens that only the template's own text can produce.

Text of users and tools may spell control tokens (``<|im_end|>`` in a file); ``Guard`` takes such spellings out before
the template is rendered and ``Guard.encode`` puts them back as plain pieces. Knows nothing of chat templates or
messages.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

_MARKUP = re.compile(r"<[^\s<>]+>|\[[A-Z_/]+\]", re.ASCII)


class Tokens:
    """One model's tokenizer. Safe to use from several threads: nothing is changed after loading."""

    def __init__(self, path: Path) -> None:
        """``path`` is a ``tokenizer.json``. Raises ``OSError``, or ``ValueError`` when it is no tokenizer."""
        # Batches here hold one text: worker threads would only add overhead, and a warning in every later fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        source = path.read_bytes()
        try:
            self._tokenizer = Tokenizer.from_str(source.decode())
            added = self._tokenizer.get_added_tokens_decoder()
            # Added tokens that look like markup (<tool_call>, <think>) are control tokens even where the model's
            # authors did not flag them as special; runs of white space and the like are vocabulary.
            self.control = {
                token.content: token_id
                for token_id, token in added.items()
                if token.special or _MARKUP.fullmatch(token.content)
            }
            self._plain = _without_control(source, self.control)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{path}: not a tokenizer that the library `tokenizers` can read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocabulary_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        spellings = sorted(self.control, key=len, reverse=True)
        self.control_starts = sorted({spelling[0] for spelling in spellings})
        self.control_pattern = re.compile("|".join(map(re.escape, spellings)) if spellings else r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Control tokens in ``text`` become their ids. Releases the GIL."""
        if not text:
            return []
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Control tokens in ``text`` become ordinary pieces."""
        if not text:
            return []
        ids: list[int] = self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _without_control(source: bytes, control: dict[str, int]) -> Any:
    """The same tokenizer, in which no control token is recognised in text."""
    data: dict[str, Any] = orjson.loads(source)
    for token in data.get("added_tokens") or []:
        token["special"] = token["content"] in control
    tokenizer = Tokenizer.from_str(orjson.dumps(data).decode())
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class Guard:
    """Takes control-token spellings out of the texts of one rendering and remembers them.

    A spelling becomes a place holder of private-use characters around a nonce that no agent can know.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._nonce = ""
        self._taken: list[str] = []

    def text(self, text: str) -> str:
        if not any(start in text for start in self._tokens.control_starts):
            return text
        return self._tokens.control_pattern.sub(self._take, text)

    def value(self, value: Any) -> Any:
        """``value`` (JSON-like) with every string in it guarded; the same object when nothing had to be taken out."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
        return value

    def _take(self, match: re.Match[str]) -> str:
        if not self._taken:
            self._nonce = secrets.token_hex(6)
        self._taken.append(match[0])
        return f"\ue000{self._nonce}.{len(self._taken) - 1}\ue001"

    def encode(self, rendered: str) -> list[int]:
        """Token ids of a rendered template whose texts went through this guard."""
        tokens = self._tokens
        if not self._taken:
            return tokens.encode(rendered)
        place = re.compile(f"\ue000{self._nonce}\\.(\\d+)\ue001")
        ids: list[int] = []
        position = 0
        # Control tokens cut text before any merging, so encoding the stretches between them one by one changes nothing.
        for control in [*tokens.control_pattern.finditer(rendered), None]:
            stretch = rendered[position : control.start() if control else len(rendered)]
            if place.search(stretch):
                ids += tokens.encode_plain(place.sub(lambda match: self._taken[int(match[1])], stretch))
            else:
                ids += tokens.encode(stretch)
            if control:
                ids.append(tokens.control[control[0]])
                position = control.end()
        return ids
