"""An inference server of this run seen from the agent loop: vLLM behind the run's own gate.

Weights are the trainer's business: they reach the server by another way. Knows nothing of Ray or verl.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from runtime.proxy.upstream import GENERATE, ServedModel, VLLMEngine
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.trainer.cuda.gate import IDENTITY
from runtime.trainer.startup import reached


class _Identity(msgspec.Struct):
    version: int
    fingerprint: str


class GatedEngine(VLLMEngine):
    """Implements ``runtime.rollouter.engine.Replica``."""

    _first = True

    async def connect(self) -> ServedModel:
        """The gate serves one policy in one way: nothing is asked."""
        self.open()
        self.model = ServedModel("policy", None, GENERATE)
        return self.model

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``."""
        generation = await super().generate(prompt_ids, params, session=session)
        if self._first:
            self._first = False
            reached("the first tokens")
        return generation

    async def identity(self) -> WeightIdentity:
        """What the server holds, as it was found when it last took weights. Raises ``TrialError(MODEL_UNAVAILABLE)``
        when it is gone, or holds other weights than it was sent."""
        await self.connect()
        found = msgspec.json.decode(await self.get(IDENTITY), type=_Identity)
        return WeightIdentity(found.version, found.fingerprint)

    async def abort_all(self) -> int:
        """The server itself aborts what runs when weights change: nothing to do."""
        return 0
