"""One test run of a repository with some files replaced, in a fresh sandbox: for whoever makes tasks, not for verdicts.

The code under test shares a process with its tests here, so it must be trusted not to lie about them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.sandboxes.base import SandboxProvider, SandboxRequest

_NAMES = itertools.count()


async def report_of(
    provider: SandboxProvider,
    repository: Path,
    files: Mapping[str, bytes],
    ids: Sequence[str] | None = None,
    *,
    runner: str,
    image: str | None = None,
    python_path: Sequence[str] = (),
    timeout_sec: float,
    test_timeout_sec: float = 5.0,
    memory_mib: int = 2048,
    **options: Any,
) -> dict[str, Any]:
    """The test kit's report (``testkit/report.py``). files: path below ``repository`` -> content. ids: tests or test
    files; None: all. options: further arguments of the kit's ``run``. Raises ``TrialError``.
    """
    name = f"outcomes-{next(_NAMES)}"
    request = SandboxRequest(name=name, lower=repository, image=image, memory_mib=memory_mib, pids=256)
    sandbox = await provider.start(request)
    try:
        if files:
            await sandbox.upload({f"{request.workdir}/{path}": content for path, content in files.items()})
        return await sandbox.run_tests(
            runner,
            timeout_sec=timeout_sec,
            ids=None if ids is None else list(ids),
            test_timeout=min(test_timeout_sec, timeout_sec),
            python_path=list(python_path),
            **options,
        )
    finally:
        await sandbox.stop()


def outcomes_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Test id -> passed, failed, error or skipped, of the tests that came to an end."""
    return {test_id: str(entry["outcome"]) for test_id, entry in report["tests"].items()}
