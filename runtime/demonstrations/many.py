"""Many pairs by many processes, in an order that depends on the seed alone.

Work is cut into chunks of modules, each with a random generator and a count of kinds of its own; their results are
taken in order until there are tokens enough. So the number of processes changes nothing but the time.
"""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.config import ShellScaffold
from runtime.demonstrations.conversation import Speaker
from runtime.demonstrations.held_out import HeldOut
from runtime.demonstrations.kinds import capped
from runtime.demonstrations.pairs import Form, pairs_of
from runtime.demonstrations.sources import Module
from runtime.demonstrations.types import Demonstration
from runtime.proxy.codec import load_codec
from runtime.scaffolds.shell import tool_set

CHUNK = 24
"""Modules of one piece of work."""
NEAR = 2
"""Other modules of its package that are on the screen with one."""
AHEAD = 3
"""Pieces per process that are begun before their turn."""


@dataclass(frozen=True)
class Work:
    """What every process knows."""

    model_folder: Path
    tool_parser: str
    form: Form
    held_out: HeldOut
    seed: int
    kind_share: float


_known: tuple[Work, Speaker] | None = None


def speaker_of(model_folder: Path, tool_parser: str, scaffold: ShellScaffold) -> Speaker:
    return Speaker(load_codec(model_folder, tool_parser, needs_tools=True), tool_set(scaffold.tools).SCHEMAS)


def _begin(work: Work) -> None:
    global _known
    _known = work, speaker_of(work.model_folder, work.tool_parser, work.form.scaffold)


def _chunk(number: int, modules: Sequence[tuple[Module, Sequence[Module]]]) -> list[Demonstration]:
    assert _known is not None
    work, speaker = _known
    rng = random.Random(f"{work.seed}/pairs/{number}")
    used: Counter[str] = Counter()
    made = [
        one for module, near in modules for one in pairs_of(module, near, work.held_out, speaker, work.form, used, rng)
    ]
    rng.shuffle(made)
    return capped(made, lambda one: one.kind, work.kind_share)


def pairs(work: Work, modules: Sequence[Module], *, processes: int) -> Iterator[list[Demonstration]]:
    """Chunk by chunk, in order; whoever has enough stops taking."""
    rng = random.Random(f"{work.seed}/modules")
    packages: dict[str, list[Module]] = {}
    for module in modules:
        packages.setdefault(module.package, []).append(module)
    drawn = []
    for module in modules:
        near = rng.sample(packages[module.package], min(NEAR + 1, len(packages[module.package])))
        drawn.append((module, [one for one in near if one != module][:NEAR]))
    rng.shuffle(drawn)
    chunks = list(enumerate(drawn[start : start + CHUNK] for start in range(0, len(drawn), CHUNK)))
    if processes == 1:
        _begin(work)
        for number, chunk in chunks:
            yield _chunk(number, chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the event loop's and the tokenizer's threads
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(work,)) as pool:
        waiting: list[Future[list[Demonstration]]] = []
        rest = iter(chunks)
        try:
            for number, chunk in rest:
                waiting.append(pool.submit(_chunk, number, chunk))
                if len(waiting) >= AHEAD * processes:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for one in waiting:
                one.cancel()
