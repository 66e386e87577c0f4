"""Surveys the repositories that demonstrators walk through, on all cores.

Generated repositories are surveyed in memory by worker processes, all others in sandboxes. Imports nothing heavy: the
workers start from it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from runtime.config import Bubblewrap, NewPolicy, ShellScaffold, SynthSource
from runtime.laptop.policy.demonstrations import Ground, usable
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth.repository import build as build_repository
from runtime.laptop.synth.words import Split
from runtime.laptop.tools.survey import survey
from runtime.task import Task

CHUNK: Final = 50


def survey_grounds(
    config: NewPolicy, tasks: list[Task], shell: ShellScaffold, on_progress: Callable[[str], None]
) -> list[Ground]:
    """What the demonstrators walk through: those of the repositories that an offered repair mends."""
    source = config.warm_start.demonstrations
    grounds: Sequence[Ground | None]
    if isinstance(source, SynthSource):
        grounds = survey_generated(source)
    else:
        from runtime.laptop.policy.fieldwork import survey_tasks
        from runtime.scaffolds.shell import ShellScaffold as Shell

        grounds = survey_tasks(tasks, Shell(shell), environment=Bubblewrap(), on_progress=on_progress)
    return [ground for ground in grounds if ground is not None and usable(ground)]


def survey_generated(source: SynthSource) -> list[Ground]:
    """One ground per repository of ``source``, in order, without writing any."""
    jobs = [(source.split, source.seed, number, source.families) for number in range(source.count)]
    # Spawned, not forked: the caller has threads, and signal handlers that are not for workers.
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0)), _leave_interrupts_to_parent) as pool:
        grounds = pool.starmap(_one, jobs, chunksize=CHUNK)
        pool.close()
        pool.join()
    return grounds


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _one(split: Split, seed: int, number: int, families: Mapping[str, float]) -> Ground:
    repository = build_repository(split, seed=seed, number=number, families=families)
    instruction = f"Tests of {repository.name} fail. Repair it."
    return Ground(instruction, survey(MemoryWorkspace.of(repository)), repository.family)
