"""The task's tests against versions of its files, as a program inside a sandbox: for scripts that rival the agent.

Reads two lines of standard input: the agent's settings and, if there is one, ``{"versions": [{path: text}]}``.
Prints ``{"recent": [[path, line], ...]}``, the source lines that the first failing test executes, the last one first,
and for each version whether all tests pass (``solved``). Standard library and the testkit alone.
"""

from __future__ import annotations

import json
import os
import sys

if __package__:
    from .own_tests import OwnTests, first_failure
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(1, os.environ.get("LIVERL_MOUNT", "/opt/liverl"))
    from own_tests import OwnTests, first_failure  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def executed(tests: OwnTests) -> list[tuple[str, int]]:
    trace = tests.run(trace=True).get("trace") or {}
    return [(path, line) for path, line in trace.get("recent") or [] if tests.is_source(path)]


def solves(tests: OwnTests, version: dict[str, str]) -> bool:
    """Whether all tests pass with these files; the old ones are put back."""
    kept: dict[str, bytes] = {}
    try:
        for path, text in version.items():
            full = os.path.join(tests.root, path)
            with open(full, "rb") as file:
                kept[full] = file.read()
            with open(full, "w", encoding="utf-8", newline="") as file:
                file.write(text)
        return first_failure(tests.run(trace=False)) is None
    finally:
        for full, content in kept.items():
            with open(full, "wb") as file:
                file.write(content)


def main() -> int:
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    asked = json.loads(sys.stdin.read() or "{}")
    tests = OwnTests(
        os.environ.get("LIVERL_WORKDIR", "/app"),
        runner=settings["runner"],
        ids=settings["ids"],
        sources=settings["sources"],
        python_path=settings["python_path"],
    )
    versions = asked.get("versions")
    answer = {"recent": executed(tests)} if versions is None else {"solved": [solves(tests, one) for one in versions]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
