"""The small policy's tokenizer: a byte-level BPE trained on demonstrations, with the compact chat format's tokens.

Knows text only. Every tool name is one token, so that a decision is one step of sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
ROLES: Final = {name: f"<|{name}|>" for name in ("system", "user", "assistant", "tool")}
CALL: Final = "<call>"


def train_tokenizer(texts: Iterable[str], words: Sequence[str], *, vocabulary_size: int) -> Tokenizer:
    """Train on ``texts``; each of ``words`` becomes one token. ``vocabulary_size`` counts everything."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,
        special_tokens=[PAD, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    samples = list(texts)
    emphasis = max(20, len(samples) // 4)  # a word that stands in no text would otherwise stay in pieces
    weighted = [form for word in words for form in (word, f" {word}")] * emphasis
    tokenizer.train_from_iterator([*samples, *weighted], trainer)
    # Not special: the parser reads it in decoded text.
    tokenizer.add_tokens([AddedToken(CALL, special=False, normalized=False)])
    for word in words:
        if len(tokenizer.encode(word).ids) != 1:
            raise ValueError(f"the vocabulary of {vocabulary_size} is too small: {word!r} is not one token")
    return tokenizer
