"""What a Hugging Face model folder says about text: tokenizer, chat template, the names of special tokens, what ends a
reply.

Needs no weights. Knows nothing of messages or tool calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.errors import UserError
from runtime.proxy.tokens import Tokens

_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class ModelFolder:
    """``template`` is Jinja source, ``names`` are its variables for special tokens, ``stop_tokens`` the texts of the
    model's end-of-sequence tokens.
    """

    path: Path
    tokens: Tokens
    template: str
    names: dict[str, str]
    stop_tokens: list[str]

    @staticmethod
    def read(folder: Path) -> ModelFolder:
        """Raises ``UserError`` naming the file that is missing or unreadable."""
        path = folder / "tokenizer.json"
        try:
            tokens = Tokens(path)
            config = _read_json(folder / "tokenizer_config.json")
            generation = _read_json(folder / "generation_config.json")
            template = _template_source(folder, config)
        except OSError as error:
            raise UserError(f"{error.filename or path}: {error.strerror}; a model folder needs this file") from None
        except ValueError as error:
            raise UserError(str(error)) from None
        names = {name: text for name in _TOKEN_NAMES if (text := _token_text(config.get(name)))}
        return ModelFolder(folder, tokens, template, names, _stop_tokens(tokens, names, generation))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _template_source(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text()
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("tool_use", named.get("default"))
    if not isinstance(source, str):
        raise ValueError(f"{folder}: no chat_template.jinja, and no chat_template in tokenizer_config.json")
    return source


def _token_text(value: Any) -> str:
    """A special token in ``tokenizer_config.json`` is text or an AddedToken object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _stop_tokens(tokens: Tokens, names: dict[str, str], generation: dict[str, Any]) -> list[str]:
    ids = generation.get("eos_token_id", [])
    wanted = set(ids if isinstance(ids, list) else [ids])
    found = [text for text, token_id in tokens.control.items() if token_id in wanted]
    eos = names.get("eos_token")
    return found if eos is None or eos in found else [*found, eos]
