"""A GGUF file as a Hugging Face folder: weights by transformers' own converter, special tokens and template by what the
file itself says.

The converter (transformers 5.10, ``integrations/ggml.py``) names wrong special tokens for some models and asks for
spaces to be cleaned up; here the file's ids decide.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import MachineError, UserError

_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
"""GGUF's ``tokenizer.ggml.<key>_token_id`` -> the name in ``tokenizer_config.json``."""


@dataclass(frozen=True)
class Facts:
    """What a file says of itself. ``special``: name as in ``tokenizer_config.json`` -> token."""

    architecture: str
    licence: str
    context_length: int | None
    special: dict[str, str]
    template: str | None


def read_facts(file: Path) -> Facts:
    """From the file's metadata. Raises ``UserError`` when it is no GGUF file, ``MachineError`` without its library."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise MachineError("reading GGUF files needs the package gguf", fix="pip install gguf") from None
    try:
        fields = GGUFReader(file).fields
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{file}: not a GGUF file: {error}") from None

    def value(key: str) -> Any:
        return fields[key].contents() if key in fields else None

    tokens = fields.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise UserError(f"{file}: no tokenizer in it; take a GGUF file of a whole model")
    architecture = str(value("general.architecture"))
    ids = {name: value(f"tokenizer.ggml.{key}_token_id") for key, name in _SPECIAL.items()}
    return Facts(
        architecture=architecture,
        licence=str(value("general.license") or "unknown"),
        context_length=value(f"{architecture}.context_length"),
        special={name: str(tokens.contents(token)) for name, token in ids.items() if token is not None},
        template=value("tokenizer.chat_template"),
    )


def convert(file: Path, folder: Path, facts: Facts) -> tuple[str, ...]:
    """Write ``folder`` in bf16; returns what was mended, in words. Raises ``UserError`` for a model that transformers
    cannot read out of a GGUF file, ``MachineError`` where torch and transformers are missing."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar per tensor; who called has said what goes on
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise MachineError("converting GGUF files needs torch and transformers", fix="make install") from None
    disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # the converter lets through whatever a tensor or a list of tokens makes it stumble over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{file}: transformers cannot convert {facts.architecture!r}: {reason}") from None
    model.to(torch.bfloat16).save_pretrained(folder)
    return _mend(folder, facts)


def _mend(folder: Path, facts: Facts) -> tuple[str, ...]:
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted: dict[str, Any] = {**facts.special, "clean_up_tokenization_spaces": False}
    if facts.context_length is not None:
        wanted["model_max_length"] = facts.context_length
    changed = tuple(
        f"{name}: {config.get(name)!r} -> {value!r}" for name, value in wanted.items() if config.get(name) != value
    )
    config |= wanted
    # Ids beside the names would contradict them.
    for name in facts.special:
        config.pop(f"{name}_id", None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed
