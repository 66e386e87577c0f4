"""The host's side of the probe: batches of test runs against versions of a package's files, inside a sandbox.

Knows no mutants and no tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import Mount, Sandbox, SandboxProvider, SandboxRequest
from runtime.tasks.generate.pace import patience

PROBE = Path(__file__).with_name("probe.py")
_START_ATTEMPTS = 3
_PROBE_INSIDE = "/opt/liverl/probe.py"


@dataclass(frozen=True)
class Run:
    """One run of some tests, by id or by file. ``tests`` empty: all. ``files``: changed files by path. Limits in
    seconds, ``wall_sec`` on a machine that does nothing else."""

    tests: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    calls: bool = False
    cpu_sec: float = 60.0
    wall_sec: float = 120.0
    share: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one test ended: ``passed``, ``failed`` or ``skipped``; ``seconds`` on the clock, without those in which it
    waited for a processor; ``random``: its inputs are drawn anew in every run."""

    result: str
    seconds: float
    random: bool


@dataclass(frozen=True)
class Report:
    """What one ``Run`` gave. ``error`` is None, ``timeout``, ``crashed`` or a message; then ``outcomes`` is
    incomplete."""

    outcomes: Mapping[str, Outcome]
    calls: Mapping[str, tuple[tuple[str, int], ...]]
    cpu_sec: float
    error: str | None

    def passed(self, tests: Sequence[str]) -> tuple[str, ...]:
        return tuple(test for test in tests if test in self.outcomes and self.outcomes[test].result == "passed")

    def failed(self, tests: Sequence[str]) -> tuple[str, ...]:
        return tuple(test for test in tests if test in self.outcomes and self.outcomes[test].result == "failed")


class Prober:
    """``workers`` sandboxes around one package; ``async with`` starts and stops them.

    ``image``: host folder of the installed packages that the tests need; ``python_path``: folders below the package's
    root to import from. Sandboxes belong to ``provider``, which the caller closes.
    """

    def __init__(
        self,
        provider: SandboxProvider,
        *,
        name: str,
        root: Path,
        python_path: Sequence[str],
        image: str,
        workers: int = 2,
    ) -> None:
        self._provider = provider
        self._request = SandboxRequest(
            name=name, lower=root, mounts=(Mount(PROBE, _PROBE_INSIDE),), memory_mib=4096, pids=256, image=image
        )
        self._python_path = tuple(python_path)
        self._workers = workers
        self._boxes: list[Sandbox] = []

    @property
    def depends_on(self) -> tuple[str, ...]:
        """What outcomes depend on besides the package's files: packages, Python, kind of box, and the probe itself."""
        how = self._provider.capabilities.how
        probe = hashlib.sha256(PROBE.read_bytes()).hexdigest()
        return (self._request.image or "", *self._python_path, sys.version, how, probe)

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._workers):
                self._boxes.append(await self._start())
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _start(self) -> Sandbox:
        """A box; on a machine so busy that it does not come up in time, another try or two: much work hangs on it."""
        for _ in range(_START_ATTEMPTS - 1):
            with contextlib.suppress(TrialError):
                return await self._provider.start(self._request)
        return await self._provider.start(self._request)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(box.stop() for box in self._boxes))
        self._boxes.clear()

    async def run(self, runs: Sequence[Run], *, hash_seed: int = 0) -> list[Report]:
        """The reports of ``runs``, in their order; the runs are spread over the sandboxes.

        ``hash_seed`` is Python's: two runs of one test under two seeds show a dependence on the order of sets. Raises
        ``TrialError(ENV_SETUP_FAILED)`` when the probe itself does not answer.
        """
        shares = [list(range(i, len(runs), self._workers)) for i in range(self._workers)]
        answers = await asyncio.gather(
            *(
                self._batch(box, [runs[i] for i in share], hash_seed)
                for box, share in zip(self._boxes, shares, strict=True)
                if share
            )
        )
        reports: dict[int, Report] = {}
        for share, batch in zip([share for share in shares if share], answers, strict=True):
            reports.update(zip(share, batch, strict=True))
        return [reports[i] for i in range(len(runs))]

    async def _batch(self, box: Sandbox, runs: Sequence[Run], hash_seed: int) -> list[Report]:
        # A first run loads what the package imports from elsewhere into the process that the others are forked from.
        warm = 1 if len(runs) > 1 else 0
        runs = [Run(tests=runs[0].tests, share=True)] * warm + list(runs)
        lines = [
            json.dumps(
                {
                    "tests": run.tests,
                    "files": dict(run.files),
                    "calls": run.calls,
                    "cpu_sec": run.cpu_sec,
                    "wall_sec": patience() * run.wall_sec,
                    "share": run.share,
                }
            )
            for run in runs
        ]
        env = {
            "PYTHONHASHSEED": str(hash_seed),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        limit = patience() * (60.0 + sum(run.wall_sec for run in runs))
        try:
            result = await box.exec(
                ["python3", "-s", _PROBE_INSIDE, *self._python_path],
                cwd=self._request.workdir,
                env=env,
                stdin="\n".join(lines).encode(),
                timeout_sec=limit,
                max_output=256 << 20,
            )
        except TimeoutError as error:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"the test probe gave no answer in {limit:.0f} s") from error
        answers = result.stdout.splitlines()
        if len(answers) != len(runs):
            tail = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
            why = f"the test probe ended with {result.exit_code}: {' '.join(tail)}"
            raise TrialError(Termination.ENV_SETUP_FAILED, why)
        return [_report(json.loads(answer)) for answer in answers[warm:]]


def _report(answer: dict[str, object]) -> Report:
    outcomes, calls = answer["outcomes"], answer["calls"]
    assert isinstance(outcomes, dict) and isinstance(calls, dict)
    error, seconds = answer["error"], answer["cpu_sec"]
    assert isinstance(seconds, int | float)
    return Report(
        outcomes={test: Outcome(*row) for test, row in outcomes.items()},
        calls={test: tuple((path, line) for path, line in rows) for test, rows in calls.items()},
        cpu_sec=float(seconds),
        error=None if error is None else str(error),
    )
