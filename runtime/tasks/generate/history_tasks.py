"""Tasks out of a repository's own history: the code before a commit, and the tests that came with it.

As in SWE-bench (arXiv 2310.06770): the commit's tests run on the code before and after, both in sandboxes. Those that
fail before and pass after must pass (fail-to-pass); those that pass both times must go on passing (pass-to-pass). After
is measured twice; what differs is no judge. Knows git through ``commits.py`` alone.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import TrialError, UserError
from runtime.grading.base import Verifier
from runtime.grading.outcomes import outcomes_of, report_of
from runtime.sandboxes.base import SandboxProvider
from runtime.task import LiverlTable, load_task
from runtime.tasks.generate.commits import Commit, commits, tree
from runtime.tasks.generate.pace import patience
from runtime.tasks.generate.package_tasks import listed, to_hand_in, why_unproven
from runtime.tasks.generate.sources import Package, repository_name, why_left_out
from runtime.tasks.generate.survey import OnProgress
from runtime.tasks.write import write_task

SUITE_SEC = 300.0
MAX_MESSAGE = 4000


@dataclass(frozen=True)
class GeneratedHistory:
    """What came of a history: the tasks' folders, and how many commits were looked at and left out, by reason."""

    tasks: tuple[Path, ...]
    commits: int
    left_out: Mapping[str, int] = field(default_factory=dict)


class _Unfit(Exception):
    """Why no task can be made of a commit."""


async def generate_history(
    repository: Path,
    *,
    out: Path,
    name: str,
    limit: int,
    max_commits: int,
    provider: SandboxProvider,
    verifier: Verifier,
    image: str,
    workers: int,
    on_progress: OnProgress,
    revision: str = "HEAD",
    after: str | None = None,
) -> GeneratedHistory:
    """Write at most ``limit`` tasks from the newest ``max_commits`` commits of ``repository`` below ``out``.

    name: under which the tasks are scored. revision, after: as of ``commits``. Raises ``UserError`` for a folder that
    is no repository with commits.
    """
    found = await asyncio.to_thread(
        lambda: list(commits(repository, limit=max_commits, revision=revision, after=after))
    )
    if not found:
        raise UserError(f"{repository}: none of its newest {max_commits} commits changes both Python code and tests")
    on_progress(f"{repository}: {len(found)} commits change both code and tests")
    left_out: Counter[str] = Counter()
    tasks: list[Path] = []
    makes = _Maker(repository, out, name, provider, verifier, image)

    async def one(commit: Commit) -> Path | None:
        try:
            made = await makes.task(commit)
        except (_Unfit, TrialError, UserError, OSError, ValueError) as why:  # of one commit: others go on
            left_out[str(why).partition(": ")[0]] += 1
            on_progress(f"{commit.sha[:12]} left out: {why}")
            return None
        on_progress(f"{commit.sha[:12]} {commit.subject[:70]}")
        return made

    # Newest first, a few at a time, so that no more is measured than is asked for.
    tried = 0
    while tried < len(found) and len(tasks) < limit:
        batch = found[tried : tried + max(1, min(workers, limit - len(tasks)))]
        tried += len(batch)
        tasks += [made for made in await asyncio.gather(*map(one, batch)) if made is not None]
    return GeneratedHistory(tuple(tasks), tried, left_out)


class _Maker:
    def __init__(
        self, repository: Path, out: Path, name: str, provider: SandboxProvider, verifier: Verifier, image: str
    ) -> None:
        self._repository = repository
        self._out = out
        self._name = name
        self._provider = provider
        self._verifier = verifier
        self._image = image

    async def task(self, commit: Commit) -> Path:
        """The proven task of one commit. Raises ``_Unfit``."""
        with tempfile.TemporaryDirectory(prefix="liverl-commit-") as folder:
            before = await asyncio.to_thread(self._tree, commit.parent, Path(folder) / "before")
            after = await asyncio.to_thread(self._tree, commit.sha, Path(folder) / "after")
            broken, repair = _split(commit, before, after)
            ids = await self._ids(Path(folder), broken, repair, commit, after)
            path = self._write(commit, after, broken, repair, *ids)
        why = await why_unproven(load_task(path), repair, self._verifier)
        if why is None:
            return path
        shutil.rmtree(path)
        raise _Unfit(f"the verifier does not confirm it: {why}")

    def _tree(self, revision: str, into: Path) -> Package:
        return tree(self._repository, revision, into, name=repository_name(self._repository))

    async def _ids(
        self, folder: Path, broken: Mapping[str, bytes], repair: Mapping[str, bytes], commit: Commit, after: Package
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(fail-to-pass, pass-to-pass) of the commit's test files."""
        root = folder / "work"
        for path, content in broken.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        files = [path for path in commit.test_files if path in after.files and path.endswith(".py")]

        async def outcomes(changed: Mapping[str, bytes]) -> dict[str, str]:
            report = await report_of(
                self._provider,
                root,
                changed,
                files,
                runner="pytest",
                image=self._image,
                python_path=after.python_path,
                timeout_sec=patience() * SUITE_SEC,
            )
            if report.get("runner_error") is not None:
                raise _Unfit("its tests cannot be run")
            return outcomes_of(report)

        try:
            old, new, again = await outcomes({}), await outcomes(repair), await outcomes(repair)
        except (TrialError, TimeoutError) as error:
            raise _Unfit("its tests cannot be run") from error
        passing = [test for test in new if new[test] == again.get(test) == "passed" and test.isprintable()]
        fixed = tuple(test for test in passing if old.get(test) != "passed")
        if not passing:
            raise _Unfit("none of its tests passes after it")
        if not fixed:
            raise _Unfit("its tests pass before it too")
        return fixed, tuple(test for test in passing if test not in fixed)

    def _write(
        self,
        commit: Commit,
        after: Package,
        broken: Mapping[str, bytes],
        repair: Mapping[str, bytes],
        fail_to_pass: tuple[str, ...],
        pass_to_pass: tuple[str, ...],
    ) -> Path:
        needed = {test.partition("::")[0] for test in (*fail_to_pass, *pass_to_pass)} | set(commit.test_files)
        tests = {
            path: after.files[path]
            for path in after.test_files
            if path in needed or path.endswith(("conftest.py", "__init__.py"))
        }
        return write_task(
            self._out,
            name=f"{after.name}-{commit.sha[:12]}",
            description=f"Commit {commit.sha} of {after.name}",
            instruction=_instruction(after.name, commit, fail_to_pass),
            repository=broken,
            solution=repair,
            tests=tests,
            liverl=LiverlTable(
                source=self._name,
                fail_to_pass=fail_to_pass,
                pass_to_pass=pass_to_pass,
                test_files=after.test_files,
                artifacts=to_hand_in(after.source_files, after.python_path),
                runner="pytest",
                python_path=after.python_path,
                source_files=after.source_files,
                image=self._image,
                family="commit",
                split_key=commit.sha,
            ),
            commit_message=f"Import {after.name} before {commit.sha[:12]}",
            requirements=tuple(self._image.split()),
        )


def _split(commit: Commit, before: Package, after: Package) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(the code before with the tests after it, the files that the commit brings). Raises ``_Unfit``."""
    code = {path: content for path, content in before.files.items() if path not in before.test_files}
    tests = {path: after.files[path] for path in after.test_files}
    repair = {path: after.files[path] for path in commit.changed if path in after.files and path not in tests}
    if any(path.endswith(".py") and why_left_out(path, size=0) is not None for path in commit.changed):
        raise _Unfit("it changes a file whose name tasks cannot have")
    gone = [path for path in commit.code_files if path not in after.files]
    if gone:
        raise _Unfit("it removes code, which a repair that only adds and replaces files cannot do")
    # Only modules may be handed in, so what else the commit changes (documents, settings) is there from the start.
    modules = {path: content for path, content in repair.items() if path in after.source_files}
    if not modules:
        raise _Unfit("it changes no module of the package")
    others = {path: content for path, content in repair.items() if path not in modules}
    return {**code, **others, **tests}, modules


def _instruction(name: str, commit: Commit, fail_to_pass: Sequence[str]) -> str:
    message = f"{commit.subject}\n\n{commit.body}".strip()[:MAX_MESSAGE]
    quoted = "\n".join(f"> {line}".rstrip() for line in message.splitlines())
    return (
        f"The Python package `{name}` in this repository lacks the following change:\n\n{quoted}\n\n"
        "Make it in the package's code. Do not change the tests.\n\n"
        f"These tests fail and must pass, and tests that pass must go on passing:\n\n{listed(fail_to_pass)}\n"
    )
