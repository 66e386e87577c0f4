"""Verdicts from test ids of other runners than Python's: Go, cargo, jest and so on (``runtime/suites``).

Everything of a verdict by test ids holds (``id_verifier.py``): a fresh sandbox, the task's tests over the work, exactly
the expected ids, look-alikes. What differs is who runs the tests, and that code under test always shares a process
with them, or at least a user with whoever writes the report; so there is no ``solution_user`` and no ``reward_file``.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection, own_modules, test_paths
from runtime.grading.canary import Canary
from runtime.grading.difference import put
from runtime.grading.id_verifier import IdVerifier
from runtime.grading.verifier import Apart
from runtime.sandboxes.base import ArtifactsRefused, ExecResult, SandboxProvider
from runtime.suites.base import COMMAND_NOT_FOUND, Report, Suite
from runtime.task import Task

MAX_REPORT_BYTES = 32 << 20
_TAIL = 2000
"""Characters of what a runner printed that are kept for people."""


class SuiteVerifier(IdVerifier):
    """For tasks whose ``runner`` is a suite."""

    MAY_BE_APART = False

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._follows: defaultdict[Path, set[str]] = defaultdict(set)

    def _own_defences(self, task: Task) -> tuple[str, ...]:
        suite = _suite(task)
        names = ["host_verdict"]
        if _restored(task, suite):
            names.append("tests_restored")
        if suite.secret_report and not task.liverl.test_command:
            names.append("report_nonce")
        return tuple(names)

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, Apart | None]:
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests of {task.liverl.runner} are run in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        return await super()._prepare(task, timeout_sec)

    async def _kept_apart(self, task: Task, timeout_sec: float) -> Apart | None:
        return None

    def _spoil(self, task: Task, tests: Mapping[str, bytes], ids: Sequence[str], *, share: float = 1.0) -> Canary:
        suite = _suite(task)
        if suite.language == "python":
            return super()._spoil(task, tests, ids, share=share)
        return spoiled(
            suite, tests, ids, random.Random(secrets.randbits(64)), share=share, follows=self._follows[task.path]
        )

    def _otherwise_alike(self, task: Task, ids: Sequence[str]) -> bool:
        """What the known solution passes although something else is expected there: a failure follows it instead."""
        new = set(ids) - self._follows[task.path]
        self._follows[task.path] |= new
        return bool(new)

    def _says_canary(self, task: Task, canary: Canary) -> bool:
        """Where one test that is to be mended has no look-alike, who passes that one alone is not found out."""
        return bool(canary.files) and set(task.liverl.fail_to_pass) <= set(canary.ids)

    async def _report(
        self,
        task: Task,
        selection: Selection,
        tests: Mapping[str, bytes],
        timeout_sec: float,
        **how: Any,
    ) -> dict[str, Any]:
        """See ``IdVerifier._report``; of ``how``, nothing is left to choose: order and end are the runner's."""
        suite, workdir = _suite(task), task.config.environment.workdir
        own = {f"{workdir}/{name}": _with_noise(suite, name, content) for name, content in tests.items()}
        others = {name: content for name, content in selection.files.items() if name not in own}
        place = f"/tmp/{secrets.token_hex(12)}"
        script = task.liverl.test_command or (suite.script(task.expected_ids) if suite.script is not None else "")
        tools = {"ids": "\n".join(task.expected_ids).encode(), "run.sh": f"{script}\n".encode(), **suite.files}
        tools["modules"] = "\n".join(own_modules(task)).encode()
        uploads = {f"{place}/tools/{name}": content for name, content in tools.items()}
        ended = "returned"
        sandbox = await self._provider.start(self._request(task, limit_address_space=False))
        try:
            await put(sandbox, others, workdir=workdir)
            await sandbox.upload({**own, **uploads, f"{place}/report/.keep": b""})
            try:
                done = await sandbox.exec(
                    ["sh", f"{place}/tools/run.sh"],
                    env=_environment(task, place),
                    timeout_sec=timeout_sec,
                )
            except TimeoutError:
                ended, done = "timeout", ExecResult(-9, b"", b"")
            try:
                written = await sandbox.download([f"{place}/report"], max_bytes=MAX_REPORT_BYTES)
            except ArtifactsRefused:
                written = {}
        finally:
            await sandbox.stop()
        if done.exit_code == COMMAND_NOT_FOUND and not any(written.values()):
            raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: {suite.name} is not there: {_tail(done)}")
        files = {name.removeprefix(f"{place}/report/"): content for name, content in written.items()}
        # A thread: tens of MiB by an adversary's hand, and other trials go on.
        read = await asyncio.to_thread(suite.parse, files, workdir) if ended == "returned" else Report()
        asked = set(task.expected_ids)
        return {
            "runner": suite.name,
            "tests": {name: {"outcome": outcome} for name, outcome in read.outcomes.items() if name in asked},
            "complete": read.complete,
            "ended": ended,
            "exit_code": done.exit_code,
            "said": _tail(done),
        }


def spoiled(
    suite: Suite,
    tests: Mapping[str, bytes],
    ids: Sequence[str],
    draw: random.Random,
    *,
    share: float = 1.0,
    follows: Collection[str] = (),
) -> Canary:
    """Look-alikes of the tests ``ids``; share: of their functions, drawn one by one. See ``canary.spoil``. follows:
    ids of tests that stay as they are, with a failure after them."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for test_id in ids:
        place = suite.file_of(test_id, tests)
        if place is not None:
            wanted.setdefault(place[0], {}).setdefault(place[1], []).append(test_id)
    files, found = {}, []
    for file, names in sorted(wanted.items()):
        chosen = [name for name in names if draw.random() < share]
        try:
            source = tests[file].decode()
        except UnicodeDecodeError:
            continue
        after = [name for name in chosen if any(test_id in follows for test_id in names[name])]
        content, done = suite.look_alike(source, chosen, draw, follows=after)
        if done:
            files[file] = content.encode()
            found += [test_id for name in done for test_id in names[name]]
    return Canary(files, tuple(found))


def _suite(task: Task) -> Suite:
    assert task.suite is not None
    return task.suite


def _restored(task: Task, suite: Suite) -> bool:
    """Whether every expected test and all that steers its runner is the task's own. A test in a file that the agent
    may write, as Rust's beside the code they test, is not; nor is a manifest that the task calls a source file."""
    if any(suite.steers(name) for name in task.liverl.source_files):
        return False
    if suite.name != "cargo":
        return bool(test_paths(task))
    held = test_paths(task)
    return all(test_id.partition("::")[0] in held for test_id in task.expected_ids)


def _environment(task: Task, place: str) -> dict[str, str]:
    workdir = PurePosixPath(task.config.environment.workdir)
    variables = {"REPORT": f"{place}/report", "TOOLS": f"{place}/tools", **task.config.verifier.env}
    if task.liverl.python_path:
        variables["PYTHONPATH"] = ":".join(str(workdir / folder) for folder in task.liverl.python_path)
    return variables


def _with_noise(suite: Suite, name: str, content: bytes) -> bytes:
    """Another digest and length each time, so that what is remembered does not tell real tests from look-alikes."""
    closed = suite.language == "php" and content.rstrip().endswith(b"?>")
    if not name.endswith(suite.suffixes) or closed:
        return content
    return content + f"\n{suite.comment} {secrets.token_hex(4 + secrets.randbelow(12))}\n".encode()


def _tail(done: ExecResult) -> str:
    both = done.stdout + b"\n" + done.stderr
    return both.decode("utf-8", "replace").strip()[-_TAIL:]
