"""A policy that plays a scaffold's rehearsal: an ``Engine`` for the probe trial, before there is any model.

Speaks the model's own chat format, so proxy, codec and agent do their real work. Knows no tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.proxy.call_text import call_text
from runtime.proxy.codec import ChatCodec
from runtime.rollouter.engine import Generation, SamplingParams
from runtime.scaffolds.base import Rehearsal

LAST_WORDS = "Done."


class ScriptedPolicy:
    """Implements ``Engine``: every session hears the same replies in turn, then the last words again and again."""

    def __init__(self, codec: ChatCodec, rehearsal: Rehearsal) -> None:
        self._stop = codec.stop_token_ids[0]
        texts = [call_text(codec, rehearsal.tools, name, arguments) for name, arguments in rehearsal.calls]
        self._replies = [codec.tokens.encode(text) for text in texts if text is not None]
        # Where the prompt has begun the model's reasoning, only what follows its end is said aloud.
        words = f"</think>\n\n{LAST_WORDS}" if codec.opens_thinking else LAST_WORDS
        self._last = codec.tokens.encode(words)
        self._turns: dict[str, int] = {}

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        del prompt_ids
        turn = self._turns.get(session, 0)
        self._turns[session] = turn + 1
        ids = [*(self._replies[turn] if turn < len(self._replies) else self._last), self._stop]
        cut = ids[: params.max_tokens]
        reason = "stop" if len(cut) == len(ids) else "length"
        return Generation(cut, [0.0] * len(cut), [0] * len(cut), reason)  # type: ignore[arg-type]

    async def close(self) -> None:
        """Nothing is open."""
