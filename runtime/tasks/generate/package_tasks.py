"""Task directories out of verified bugs, and the whole way from pinned packages to tasks. Does not know how bugs are
found."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runtime.config import GeneratedTasks
from runtime.environment.base import SandboxProvider, Verifier
from runtime.errors import TrialError
from runtime.tasks.generate.inject import Bug, Injection, OnProgress, inject
from runtime.tasks.generate.prober import Prober
from runtime.tasks.generate.sources import Package, fetch
from runtime.tasks.generate.split import Split
from runtime.tasks.task import LiverlTable, Task, load_task
from runtime.tasks.write import write_task

IMAGE_REQUIREMENTS = ("freezegun==1.5.5", "hypothesis==6.170.15", "pytest==9.2.0", "text-unidecode==1.3")
"""pytest, and what the suites of well-known pure-Python packages import. Never a package under repair."""

IMAGE = " ".join(IMAGE_REQUIREMENTS)
"""The prepared image of generated tasks."""

GENERATOR_VERSION = 1
"""Part of the cache key: raise it when the same description would give other tasks."""

_LISTED_TESTS = 10


async def generate(
    source: GeneratedTasks,
    *,
    out: Path,
    name: str,
    provider: SandboxProvider,
    verifier: Verifier | None,
    image: str = IMAGE,
    cache: Path,
    workers: int,
    on_progress: OnProgress,
) -> list[Injection]:
    """Write the tasks of ``source`` below ``out``; ``name`` is their score name. One package after the other.

    Raises ``UserError`` or ``MachineError`` for a package that cannot be had, ``TrialError`` when the sandbox fails.
    """
    injections = []
    for pin in source.packages:
        on_progress(f"{pin.name}: fetching {pin.version}")
        package = fetch(pin, cache=cache)
        injections.append(
            await generate_package(
                package,
                out=out,
                name=name,
                split=source.split,
                limit=source.per_package,
                per_kind_fraction=source.per_kind_fraction,
                seed=source.seed,
                split_seed=source.split_seed,
                provider=provider,
                verifier=verifier,
                image=image,
                cache=cache,
                workers=workers,
                on_progress=on_progress,
            )
        )
    return injections


async def generate_package(
    package: Package,
    *,
    out: Path,
    name: str,
    split: Split | None,
    limit: int,
    per_kind_fraction: float,
    seed: int,
    split_seed: int,
    provider: SandboxProvider,
    verifier: Verifier | None,
    image: str = IMAGE,
    cache: Path,
    workers: int,
    on_progress: OnProgress,
) -> Injection:
    """Find the bugs of one package and write their tasks below ``out``.

    With ``verifier``, a task stays only if that grades the repair 1 and the broken package 0: some tests (of processes,
    of warnings) judge otherwise in the verifier's sandbox than in the probe.
    """
    with _pristine_copy(package, cache=cache) as root:
        prober = Prober(
            provider,
            name=f"generate-{package.name}",
            root=root,
            python_path=package.python_path,
            image=image,
            workers=workers,
        )
        async with prober:
            injection = await inject(
                package,
                prober,
                split=split,
                limit=limit,
                per_kind_fraction=per_kind_fraction,
                seed=seed,
                split_seed=split_seed,
                cache=cache,
                on_progress=on_progress,
            )
    gate = asyncio.Semaphore(workers)

    async def stays(bug: Bug) -> bool:
        path = write_bug(bug, out=out, source=name, image=image)
        async with gate:
            if verifier is None or await _proven(bug, load_task(path), verifier):
                return True
        shutil.rmtree(path)
        return False

    on_progress(f"{package.name}: proving {len(injection.bugs)} tasks")
    proven = await asyncio.gather(*(stays(bug) for bug in injection.bugs))
    kept = tuple(bug for bug, stay in zip(injection.bugs, proven, strict=True) if stay)
    return replace(injection, bugs=kept, unproven=len(proven) - len(kept))


async def _proven(bug: Bug, task: Task, verifier: Verifier) -> bool:
    path = bug.mutant.function.path
    repair = {f"{task.config.environment.workdir}/{path}": bug.package.files[path]}
    try:
        return (await verifier.grade(task, {})).reward == 0 and (await verifier.grade(task, repair)).reward == 1
    except TrialError:
        return False


@contextmanager
def _pristine_copy(package: Package, *, cache: Path) -> Iterator[Path]:
    """A folder of exactly the package's files, ours to read and write whoever owns the originals."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pristine-", dir=cache) as folder:
        root = Path(folder)
        for path, content in package.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        yield root


def write_bug(bug: Bug, *, out: Path, source: str, image: str) -> Path:
    """The task of one bug. Its name, history and instruction tell the package and the failing tests, not the
    function."""
    package, function = bug.package, bug.mutant.function
    original = package.files[function.path]
    broken = bug.mutant.apply(original.decode()).encode()
    needed = {test.split("::")[0] for test in (*bug.fail_to_pass, *bug.pass_to_pass)}
    tests = {
        path: package.files[path]
        for path in package.test_files
        if path in needed or path.endswith(("conftest.py", "__init__.py"))
    }
    return write_task(
        out,
        name=f"{package.name}-{bug.digest}",
        description=f"A bug injected into {package.name} {package.version}".rstrip(),
        instruction=_instruction(package, bug.fail_to_pass),
        repository={**package.files, function.path: broken},
        solution={function.path: original},
        tests=tests,
        liverl=LiverlTable(
            source=source,
            fail_to_pass=bug.fail_to_pass,
            pass_to_pass=bug.pass_to_pass,
            test_files=package.test_files,
            artifacts=_top_folders(package.source_files, package.python_path),
            runner="pytest",
            python_path=package.python_path,
            source_files=package.source_files,
            image=image,
            family=bug.mutant.kind,
            split_key=function.name,
        ),
        commit_message=f"Import {package.name} {package.version}".rstrip(),
        requirements=tuple(image.split()),
    )


def _top_folders(files: Sequence[str], python_path: Sequence[str]) -> tuple[str, ...]:
    """The import packages and modules that hold ``files``: what the agent may hand in, new modules included."""
    base = f"{python_path[0]}/" if python_path else ""
    return tuple(dict.fromkeys(base + path.removeprefix(base).split("/")[0] for path in files))


def _instruction(package: Package, failing: Sequence[str]) -> str:
    listed = "\n".join(f"- `{test}`" for test in failing[:_LISTED_TESTS])
    more = f"\n- and {len(failing) - _LISTED_TESTS} more" if len(failing) > _LISTED_TESTS else ""
    return (
        f"The Python package `{package.name}` in this repository is broken: one of its functions does the wrong "
        "thing.\nFind the fault and repair the package's code. Do not change the tests.\n\n"
        f"These tests fail and must pass, and tests that pass must go on passing:\n\n{listed}{more}\n"
    )
