"""Task sets that are generated: from nothing, from packages, from a repository's commits; made once and kept.

Does not know how tasks are found; ``generate/`` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runtime.config import Environment, GenerateSource, HistorySource, SynthSource, TaskSet
from runtime.errors import RunError, TrialError
from runtime.parts import part
from runtime.task_format import packed
from runtime.tasks.graders import graders, in_own_loop
from runtime.tasks.kept import description, kept

GENERATOR = Path(__file__).parent / "generate"


def synth_set(source: SynthSource, *, cache: Path) -> Path:
    """The folder of tasks that are generated from a seed alone. They do not hold the name of their set: sets that
    differ in nothing else share it."""
    program = part("generators", "synth")

    def make(out: Path) -> None:
        program.generate(source.count, seed=source.seed, split=source.split, out=out, families=source.families)
        packed.pack(out)  # they belong to one run, which keeps the one file when it has ended

    said = description(TaskSet(name=source.type, source=source), generator=Path(program.__file__).parent)
    return kept(cache, "synth", said, make, flush=False)


def package_set(
    task_set: TaskSet, source: GenerateSource, *, cache: Path, environment: Environment, say: Callable[[str], None]
) -> Path:
    """The folder of the tasks of pinned packages."""
    said = description(task_set, generator=GENERATOR, environment=environment)

    def make(out: Path) -> None:
        _generate(source, out, name=task_set.name, cache=cache, environment=environment, say=say)

    return kept(cache, "generate", said, make)


def _generate(
    source: GenerateSource,
    out: Path,
    *,
    name: str,
    cache: Path,
    environment: Environment,
    say: Callable[[str], None],
) -> None:
    from runtime.tasks.generate.package_tasks import generate
    from runtime.tasks.generate.processes import at_once, generate_apart

    cores = len(os.sched_getaffinity(0))

    async def work() -> None:
        if at_once(source, cores) > 1:
            await generate_apart(
                source, out=out, name=name, environment=environment, cache=cache, cores=cores, on_progress=say
            )
            return
        async with graders(environment, state=cache / "sandboxes") as (provider, verifier):
            await generate(
                source,
                out=out,
                name=name,
                provider=provider,
                verifier=verifier,
                cache=cache,
                workers=cores,
                on_progress=say,
            )

    try:
        in_own_loop(work())
    except TrialError as error:
        raise RunError(f"task set {name!r} could not be made: {error}; what other sets have is kept") from error


def history_set(
    source: HistorySource, *, name: str, cache: Path, environment: Environment, say: Callable[[str], None]
) -> Path:
    """The folder of the tasks of a history, kept under the commits that its revisions stand for today."""
    from runtime.tasks.generate.commits import resolve
    from runtime.tasks.generate.history_tasks import generate_history
    from runtime.tasks.generate.package_tasks import image_with

    repository = Path(source.repository).expanduser().resolve()
    revision = resolve(repository, source.revision)
    after = resolve(repository, source.after) if source.after is not None else None
    named = source.model_copy(update={"repository": str(repository), "revision": revision, "after": after})
    said = description(TaskSet(name=name, source=named), generator=GENERATOR, environment=environment)

    async def work(out: Path) -> None:
        async with graders(environment, state=cache / "sandboxes") as (provider, verifier):
            made = await generate_history(
                repository,
                out=out,
                name=name,
                limit=source.count,
                max_commits=source.max_commits,
                provider=provider,
                verifier=verifier,
                image=image_with(source.requirements),
                workers=os.cpu_count() or 1,
                on_progress=say,
                revision=revision,
                after=after,
            )
        if not made.tasks:
            reasons = "; ".join(f"{count} because {reason}" for reason, count in made.left_out.items())
            raise RunError(
                f"task set {name!r}: no commit of {repository} became a task; of {made.commits} were left out {reasons}"
            )

    return kept(cache, "history", said, lambda out: in_own_loop(work(out)))
