"""Task directories out of verified bugs, and the whole way from pinned packages to tasks. Does not know how bugs are
found."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.config import GenerateSource
from runtime.errors import TrialError
from runtime.grading.base import Verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.task import LiverlTable, Task, load_task
from runtime.tasks.generate.caps import DEFAULT, Caps
from runtime.tasks.generate.combine import broken_files, combine
from runtime.tasks.generate.inject import Bug, Injection, Search
from runtime.tasks.generate.prober import Prober
from runtime.tasks.generate.sources import Package, fetch
from runtime.tasks.generate.split import Split
from runtime.tasks.generate.survey import OnProgress, survey
from runtime.tasks.write import write_task

IMAGE_REQUIREMENTS = ("freezegun==1.5.5", "hypothesis==6.170.15", "pytest==9.2.0", "text-unidecode==1.3")
"""pytest, and what the suites of well-known pure-Python packages import. Never a package under repair."""

IMAGE = " ".join(IMAGE_REQUIREMENTS)
"""The prepared image of generated tasks."""

SPARE = 2
"""Bugs that are found for each that a task of several needs: not all fit together (one function, unstable outcomes)."""

MAX_LOST = 20
MAX_LOST_PER_TASK = 4
"""Tasks that the verifier does not confirm are replaced, up to so many: then it is not chance."""

_LISTED_TESTS = 10
_LISTED_CHARACTERS = 600
"""Ids of parametrised tests can be very long, and the first prompt must fit into a small policy's context."""


async def generate(
    source: GenerateSource,
    *,
    out: Path,
    name: str,
    provider: SandboxProvider,
    verifier: Verifier | None,
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
                image=image_with(source.requirements),
                cache=cache,
                workers=workers,
                on_progress=on_progress,
                bugs_per_task=source.bugs,
                caps=Caps(source.per_function, source.tests_per_task, source.slow_test_sec),
            )
        )
    return injections


def image_with(requirements: Sequence[str]) -> str:
    """The prepared image of generated tasks whose tests need more than it holds."""
    return " ".join([IMAGE, *requirements])


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
    bugs_per_task: int = 1,
    caps: Caps = DEFAULT,
) -> Injection:
    """Find the bugs of one package and write their tasks below ``out``, at most ``limit``, each with
    ``bugs_per_task``.

    With ``verifier``, a task stays only if that grades the repair 1 and the broken package 0: some tests (of processes,
    of warnings) judge otherwise in the verifier's sandbox than in the probe.
    """
    for path, why in package.left_out.items():
        on_progress(f"{package.name}: {path!a} left out: {why}")
    gate = asyncio.Semaphore(workers)

    async def stays(bug: Bug) -> bool:
        path = write_bug(bug, out=out, source=name, image=image)
        async with gate:
            repair = {name: bug.package.files[name] for name in {one.function.path for one in bug.mutants}}
            why = None if verifier is None else await why_unproven(load_task(path), repair, verifier)
        if why is None:
            return True
        on_progress(f"{package.name}: {path.name} left out: the verifier does not confirm it: {why}")
        shutil.rmtree(path)
        return False

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
            found = await survey(package, prober, cache=cache, on_progress=on_progress, slow_sec=caps.slow_sec)
            on_progress(f"{package.name}: {len(found.calls)} of {found.tests} tests usable")
            search = Search(
                package,
                prober,
                found,
                split=split,
                limit=limit if bugs_per_task == 1 else SPARE * limit * bugs_per_task,
                per_kind_fraction=per_kind_fraction,
                seed=seed,
                split_seed=split_seed,
                on_progress=on_progress,
                caps=caps,
            )
            kept: list[Bug] = []
            unproven = 0
            while len(kept) < limit and unproven <= MAX_LOST + MAX_LOST_PER_TASK * limit:
                missing = limit - len(kept)
                bugs = singles = await search.find(missing if bugs_per_task == 1 else SPARE * missing * bugs_per_task)
                if not singles:
                    break
                if bugs_per_task > 1:
                    on_progress(f"{package.name}: measuring them {bugs_per_task} at a time")
                    bugs = await combine(singles, prober, size=bugs_per_task, limit=missing, seed=seed)
                on_progress(f"{package.name}: proving {len(bugs)} tasks")
                stayed = await asyncio.gather(*map(stays, bugs))
                new = [bug for bug, stay in zip(bugs, stayed, strict=True) if stay]
                unproven += len(bugs) - len(new)
                used = {mutant for bug in new for mutant in bug.mutants}
                search.give_back(bug.mutant for bug in singles if bug.mutant not in used)
                kept += new
            if len(kept) < limit:
                on_progress(f"{package.name}: {len(kept)} of {limit} tasks: {_why_fewer(search, unproven, limit)}")
    return search.injection(kept, unproven=unproven)


def _why_fewer(search: Search, unproven: int, limit: int) -> str:
    if unproven > MAX_LOST + MAX_LOST_PER_TASK * limit:
        return f"the verifier does not confirm {unproven} others; its sandbox runs these tests in another way"
    return search.why_no_more


async def why_unproven(task: Task, repair: Mapping[str, bytes], verifier: Verifier) -> str | None:
    """None where the verifier gives 0 for no work and 1 for ``repair`` (path below the work directory -> content)."""
    files = {f"{task.config.environment.workdir}/{path}": content for path, content in repair.items()}
    try:
        if (await verifier.grade(task, {})).reward != 0:
            return "its tests pass there without a repair"
        repaired = await verifier.grade(task, files)
    except TrialError as error:
        return f"no grade: {error}"
    if repaired.status == "tampered":
        return "look-alike tests pass with the repair, so that cheats could not be told"
    wrong = [test for test, outcome in repaired.outcomes.items() if outcome != "passed"]
    return None if repaired.reward == 1 else f"repaired, {len(wrong)} tests do not pass there, such as {wrong[:1]}"


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
    package = bug.package
    broken = broken_files(package.files, bug.mutants)
    needed = {test.split("::")[0] for test in (*bug.fail_to_pass, *bug.pass_to_pass)}
    tests = {
        path: package.files[path]
        for path in package.test_files
        if path in needed or path.endswith(("conftest.py", "__init__.py"))
    }
    return write_task(
        out,
        name=f"{package.name}-{bug.digest}",
        description=f"{_count(bug)} injected into {package.name} {package.version}".rstrip(),
        instruction=instruction(package.name, bug.fail_to_pass, count=len(bug.mutants)),
        repository={**package.files, **broken},
        solution={path: package.files[path] for path in broken},
        tests=tests,
        liverl=LiverlTable(
            source=source,
            fail_to_pass=bug.fail_to_pass,
            pass_to_pass=bug.pass_to_pass,
            test_files=package.test_files,
            artifacts=to_hand_in(package.source_files, package.python_path),
            runner="pytest",
            python_path=package.python_path,
            source_files=package.source_files,
            image=image,
            family="+".join(sorted(mutant.kind for mutant in bug.mutants)),
            split_key="+".join(sorted(mutant.function.name for mutant in bug.mutants)),
        ),
        commit_message=f"Import {package.name} {package.version}".rstrip(),
        requirements=tuple(image.split()),
    )


def top_folders(files: Sequence[str], python_path: Sequence[str]) -> tuple[str, ...]:
    """The import packages and modules that hold ``files``."""
    base = f"{python_path[0]}/" if python_path else ""
    return tuple(dict.fromkeys(base + path.removeprefix(base).split("/")[0] for path in files))


def to_hand_in(files: Sequence[str], python_path: Sequence[str]) -> tuple[str, ...]:
    """What the agent may hand in: ``top_folders``, or all that lies beside a module that is in no package, because the
    new module of its repair lies there too. (): the whole work directory."""
    tops = top_folders(files, python_path)
    return tuple(python_path[:1]) if any(top.endswith(".py") for top in tops) else tops


def _count(bug: Bug) -> str:
    return "A bug" if len(bug.mutants) == 1 else f"{len(bug.mutants)} bugs"


def instruction(package: str, failing: Sequence[str], *, count: int = 1) -> str:
    """What the agent is asked: which package is broken by ``count`` bugs, and which tests fail."""
    what = "one of its functions does the wrong thing" if count == 1 else f"{count} of its functions do the wrong thing"
    find = "Find the fault and repair" if count == 1 else "Find all faults and repair"
    return (
        f"The Python package `{package}` in this repository is broken: {what}.\n"
        f"{find} the package's code. Do not change the tests.\n\n"
        f"These tests fail and must pass, and tests that pass must go on passing:\n\n{listed(failing)}\n"
    )


def listed(tests: Sequence[str]) -> str:
    """Test ids as a list for people, the first ones only; at least one, whole."""
    lines: list[str] = []
    for test in tests[:_LISTED_TESTS]:
        if lines and sum(map(len, lines)) + len(test) > _LISTED_CHARACTERS:
            break
        lines.append(f"- `{test}`")
    rest = len(tests) - len(lines)
    return "\n".join([*lines, f"- and {rest} more"] if rest else lines)
