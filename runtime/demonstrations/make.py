"""The whole way from tasks and source code to a file of demonstrations."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.config import RuntimeConfig, ShellScaffold
from runtime.config.demonstrations import MadeDemonstrations, Pairs
from runtime.demonstrations.conversation import Speaker
from runtime.demonstrations.held_out import HeldOut
from runtime.demonstrations.kinds import capped
from runtime.demonstrations.many import Work, pairs, speaker_of
from runtime.demonstrations.pairs import Form
from runtime.demonstrations.sources import modules
from runtime.demonstrations.table import Table
from runtime.demonstrations.trials import demonstrate
from runtime.errors import RunError, UserError
from runtime.models.store import digest
from runtime.task import Task
from runtime.tasks.graders import in_own_loop

Say = Callable[[str], None]
GONE = ("wrong_return", "missing_statement", "missing_argument")
"""Kinds of bugs in which code is gone: who imitates their repair learns to invent."""
GONE_SHARE = 0.02
"""Most of each of them."""


@dataclass
class Made:
    """What came of it. ``left_out``: tasks and trials that gave none, by why."""

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    trials: int = 0
    pairs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    packages: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def make(
    wanted: MadeDemonstrations,
    out: Path,
    *,
    config: RuntimeConfig,
    model_folder: Path,
    tasks: Sequence[Task],
    held_out: HeldOut,
    processes: int | None = None,
    say: Say = lambda text: None,
) -> Made:
    """Write ``out`` (Parquet). ``tasks`` are those of ``wanted.tasks``; what of them is held out is left out. The same
    arguments give the same file, whatever the number of ``processes`` (None: one per core).

    Raises ``UserError`` for an agent that cannot be demonstrated, ``RunError`` when nothing came of it.
    """
    scaffold = refuse(config, wanted)
    # A model that will not do is refused here, and not by every process that finds it out.
    speaker = speaker_of(model_folder, config.rollout.tool_parser, scaffold)
    processes = processes or len(os.sched_getaffinity(0))
    made = Made()
    allowed = []
    for task in tasks:
        why = held_out.why_not(task)
        if why is None:
            allowed.append(task)
        else:
            made.left_out[why] += 1
    with Table(out, tokenizer=digest(model_folder / "tokenizer.json")) as table:
        if allowed:
            _trials(wanted, allowed, table, made, config, speaker, model_folder, processes, say)
        made.trials = table.rows
        if wanted.pairs is not None:
            _pairs(wanted.pairs, wanted, table, config, scaffold, model_folder, held_out, processes, say)
        made.rows, made.tokens, made.trained = table.rows, table.tokens, table.trained
        made.pairs = made.rows - made.trials
        made.kinds, made.packages = dict(table.kinds.most_common()), len(table.packages)
        if not made.rows:
            why_none = "no source code that a pair of so few tokens could be made of" if wanted.pairs else "no task"
            reasons = "; ".join(f"{count}: {why}" for why, count in made.left_out.most_common(3)) or why_none
            raise RunError(f"{out}: not one demonstration could be made ({reasons})")
    say(f"{made.rows} demonstrations, {made.tokens:,} tokens")
    return made


def refuse(config: RuntimeConfig, wanted: MadeDemonstrations) -> ShellScaffold:
    """The agent; raises ``UserError`` for one in whose form nothing can be demonstrated."""
    scaffold = config.scaffold
    if not isinstance(scaffold, ShellScaffold) or scaffold.tools != "free":
        raise UserError("scaffold: demonstrations are made for the shell scaffold with free tools alone")
    lacking = [name for name in ("first_look", "test_after_edit") if not getattr(scaffold, name)]
    if lacking:
        why = "demonstrations edit what the first look shows, and end when the tests pass"
        raise UserError(*(f"scaffold.{name}: is off, but {why}; set it" for name in lacking))
    if wanted.tasks is None and wanted.pairs is None:
        raise UserError("demonstrations: neither tasks nor pairs; name one of them")
    return scaffold


def _trials(
    wanted: MadeDemonstrations,
    tasks: Sequence[Task],
    table: Table,
    made: Made,
    config: RuntimeConfig,
    speaker: Speaker,
    model_folder: Path,
    processes: int,
    say: Say,
) -> None:
    total = len(tasks) * wanted.trials_per_task

    def progress(done: int, kept: int) -> None:
        if done % 20 == 0 or done == total:
            say(f"demonstrating tasks: {done} of {total}, {kept} kept")

    with tempfile.TemporaryDirectory(prefix="liverl-demonstrate-") as state:
        found, why = in_own_loop(
            demonstrate(
                tasks,
                config,
                speaker=speaker,
                model_folder=model_folder,
                state=Path(state),
                times=wanted.trials_per_task,
                second_try=wanted.second_try,
                concurrency=processes,
                on_trial=progress,
            )
        )
    made.left_out.update(why)
    few = max(1, int(GONE_SHARE * len(found)))
    taken: Counter[str] = Counter()
    rare = []
    for one in found:
        taken[one.kind] += 1
        if one.kind not in GONE or taken[one.kind] <= few:
            rare.append(one)
    kept = capped(rare, lambda one: one.kind, wanted.kind_share)
    if len(kept) < len(found):
        made.left_out["of a kind of which there are enough"] += len(found) - len(kept)
    table.add(kept)


def _pairs(
    asked: Pairs,
    wanted: MadeDemonstrations,
    table: Table,
    config: RuntimeConfig,
    scaffold: ShellScaffold,
    model_folder: Path,
    held_out: HeldOut,
    processes: int,
    say: Say,
) -> None:
    say("looking for source code")
    found = modules(asked.sources, held_out)
    form = Form(
        scaffold=scaffold,
        max_tokens=config.rollout.prompt_length + config.rollout.response_length,
        per_function=asked.per_function,
        second_try=wanted.second_try,
        miscopied=wanted.miscopied,
    )
    work = Work(model_folder, config.rollout.tool_parser, form, held_out, config.seed, wanted.kind_share)
    before = table.tokens
    for chunk in pairs(work, found, processes=processes):
        room = asked.tokens - (table.tokens - before)
        fitting = []
        for one in chunk:
            if len(one.input_ids) > room:
                break
            room -= len(one.input_ids)
            fitting.append(one)
        table.add(fitting)
        say(f"pairs: {table.tokens - before:,} of {asked.tokens:,} tokens")
        if len(fitting) < len(chunk):
            break


def summary(made: Made, out: Path) -> dict[str, object]:
    """For machines."""
    return {"file": str(out), **vars(made)}
