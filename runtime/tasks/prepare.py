"""From a task set's description to loaded tasks: generated ones are made once and kept, directories are read and
screened.

A kept set lies below ``cache`` under the digest of its description and its generator, and appears there whole: a run
that is killed while generating leaves nothing that a later one could take for a set.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from runtime.config import (
    Bubblewrap,
    DirectorySource,
    Environment,
    GenerateSource,
    HarborSource,
    HistorySource,
    IndexSource,
    SynthSource,
    TaskSet,
)
from runtime.errors import RunError, TrialError
from runtime.grading.base import Verifier
from runtime.parts import part
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task
from runtime.tasks.directories import OnProblem, find_task_directories, load_tasks

_T = TypeVar("_T")
_ENVIRONMENT: Environment = Bubblewrap()
_PACKAGE = Path(__file__).parent


def prepare(
    task_set: TaskSet,
    *,
    cache: Path,
    on_problem: OnProblem,
    on_progress: Callable[[str], None] | None = None,
    environment: Environment = _ENVIRONMENT,
) -> list[Task]:
    """The usable tasks of ``task_set``, in a fixed order; every unusable directory is named through ``on_problem``.

    Args:
        cache: folder of kept sets, packages and surveys, shared by runs and processes; state of sandboxes goes below
        it. on_progress: told what is being done while tasks are generated.
        environment: where tests run, to generate tasks from packages and to screen directories.

    Raises ``UserError`` for a wrong description (missing folder, duplicate id, wrong hash), ``MachineError`` when the
    machine, the package index or a registry cannot deliver, ``RunError`` when a set comes out empty or the sandboxes
    fail. May be called with or without a running event loop; blocks.
    """
    source = task_set.source
    say = on_progress or (lambda text: None)
    if isinstance(source, DirectorySource):
        tasks = load_tasks(find_task_directories([Path(path) for path in source.paths]), on_problem=on_problem)
        return _screened(tasks, cache=cache, on_problem=on_problem, environment=environment)
    if isinstance(source, IndexSource):
        from runtime.tasks.index import Band, indexed_tasks

        band = Band(source.pass_rate.least, source.pass_rate.most) if source.pass_rate is not None else None
        tasks = load_tasks(indexed_tasks(Path(source.path), band=band), on_problem=on_problem)
        return _screened(tasks, cache=cache, on_problem=on_problem, environment=environment)
    if isinstance(source, HarborSource):
        tasks = load_tasks(_dataset(source, cache=cache, say=say), on_problem=on_problem)
        return _screened(tasks, cache=cache, on_problem=on_problem, environment=environment)
    if isinstance(source, HistorySource):
        folder = _commits(source, name=task_set.name, cache=cache, environment=environment, say=say)
    elif isinstance(source, SynthSource):
        program = part("generators", source.type)
        # Its tasks do not hold the set's name: sets that differ in nothing else share one folder.
        named = {"source": source.model_dump(mode="json"), "version": source_digest(Path(program.__file__).parent)}
        description = json.dumps(named, sort_keys=True)

        def synthesise(out: Path) -> None:
            program.generate(source.count, seed=source.seed, split=source.split, out=out, families=source.families)

        folder = kept(cache, "synth", description, synthesise, flush=False)
    else:
        from runtime.tasks.generate.package_tasks import GENERATOR_VERSION

        description = _description(task_set, version=str(GENERATOR_VERSION))
        folder = kept(
            cache,
            "generate",
            description,
            lambda out: _generate(source, out, name=task_set.name, cache=cache, environment=environment, say=say),
        )
    return load_tasks(sorted(path for path in folder.iterdir() if path.is_dir()), on_problem=on_problem)


def _description(task_set: TaskSet, *, version: str) -> str:
    # The set's name is written into its tasks, as the name under which they are scored.
    source = task_set.source.model_dump(mode="json")
    return json.dumps({"name": task_set.name, "source": source, "version": version}, sort_keys=True)


def source_digest(folder: Path) -> str:
    """SHA-256 over a generator's own modules and the writer: another program, another set."""
    whole = hashlib.sha256()
    for path in [*sorted(folder.rglob("*.py")), _PACKAGE / "write.py", _PACKAGE / "history.py"]:
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def kept(cache: Path, kind: str, description: str, make: Callable[[Path], None], *, flush: bool = True) -> Path:
    """The folder of a described set, made by ``make(empty folder)`` unless it is there. One process makes, others
    wait. ``flush``: so that a power cut cannot leave it half written; False for what belongs to one run and is made
    in seconds, where waiting for all that a machine has yet to write can take longer."""
    home = cache / "tasks"
    folder = home / f"{kind}-{hashlib.sha256(description.encode()).hexdigest()[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home / f".{folder.name}.lock"):
        if not folder.is_dir():
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=home))
            try:
                make(staging)
                (staging / "set.json").write_text(description + "\n")
                staging.chmod(0o755)
                if flush:
                    os.sync()  # hundreds of small files: one flush before the name makes them count
                staging.rename(folder)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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

    async def work() -> None:
        async with graders(environment, state=cache / "sandboxes") as (provider, verifier):
            await generate(
                source,
                out=out,
                name=name,
                provider=provider,
                verifier=verifier,
                cache=cache,
                workers=os.cpu_count() or 1,
                on_progress=say,
            )

    try:
        in_own_loop(work())
    except TrialError as error:
        raise RunError(f"task set {name!r} could not be made: {error}; what other sets have is kept") from error


def _commits(
    source: HistorySource, *, name: str, cache: Path, environment: Environment, say: Callable[[str], None]
) -> Path:
    """The folder of the tasks of a history, kept under the commits that its revisions stand for today."""
    from runtime.tasks.generate.commits import resolve
    from runtime.tasks.generate.history_tasks import HISTORY_VERSION, generate_history
    from runtime.tasks.generate.package_tasks import image_with

    repository = Path(source.repository).expanduser().resolve()
    revision = resolve(repository, source.revision)
    after = resolve(repository, source.after) if source.after is not None else None
    named = source.model_copy(update={"repository": str(repository), "revision": revision, "after": after})
    description = _description(TaskSet(name=name, source=named), version=str(HISTORY_VERSION))

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

    return kept(cache, "history", description, lambda out: in_own_loop(work(out)))


def _dataset(source: HarborSource, *, cache: Path, say: Callable[[str], None]) -> list[Path]:
    """The task directories of a Harbor dataset. A registry elsewhere is read once: its word is kept with the tasks, so
    that a run can be resumed without it."""
    from runtime.tasks.harbor_dataset import Dataset, fetch_tasks, find_dataset, local_folders, read_registry

    def look_up() -> str:
        say(f"looking up {source.dataset} {source.version}")
        return find_dataset(read_registry(source), source).model_dump_json()

    if "://" in source.registry:
        description = json.dumps({"source": source.model_dump(mode="json"), "version": "1"}, sort_keys=True)
        name = "dataset.json"
        answers = kept(cache, "registry", description, lambda out: _write(out / name, look_up()))
        text = (answers / name).read_text(encoding="utf-8")
    else:
        text = look_up()
    dataset = Dataset.model_validate_json(text)
    fetched: list[Path] = []
    if any(task.git_url is not None for task in dataset.tasks):
        folder = kept(cache, "harbor", text, lambda out: fetch_tasks(dataset, out, on_progress=say))
        fetched = sorted(path for path in folder.iterdir() if path.is_dir())
    return [*fetched, *local_folders(dataset)]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _screened(tasks: list[Task], *, cache: Path, on_problem: OnProblem, environment: Environment) -> list[Task]:
    from runtime.tasks.verify import screen

    async def work() -> list[Task]:
        async with graders(environment, state=cache / "sandboxes") as (provider, verifier):
            return await screen(
                tasks, provider=provider, verifier=verifier, concurrency=os.cpu_count() or 1, on_problem=on_problem
            )

    return in_own_loop(work())


@asynccontextmanager
async def graders(environment: Environment, *, state: Path) -> AsyncIterator[tuple[SandboxProvider, Verifier]]:
    """A provider and a verifier, closed in the end. A proof, or a later verdict, is never an earlier one again."""
    from runtime.grading.make import make_verifier
    from runtime.sandboxes import make_provider

    environment = environment.model_copy(update={"reuse_verdicts": False})
    provider = make_provider(environment, state=state)
    try:
        verifier = make_verifier(environment, provider)
        try:
            yield provider, verifier
        finally:
            await verifier.close()
    finally:
        await provider.close()


def in_own_loop(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in a loop and thread of its own, so that callers may have a running loop.

    An interrupt of the caller (Ctrl-C) cancels the work and waits for its clean-up.
    """
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> _T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        started.set()
        return await work

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, main())
        try:
            return future.result()
        except BaseException:
            if not future.done():
                started.wait()
                loop, task = running[0]
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise
