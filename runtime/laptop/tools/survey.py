"""What every repair would do to one broken repository: the ground on which demonstrations and scripted baselines stand.

As a program inside a sandbox it prints the survey as JSON: ``python3 survey.py`` with the agent's settings on standard
input. Standard library only. The learning policy never sees a survey.
"""

from __future__ import annotations

import json
import os
import sys

if __package__:
    from . import repairs
    from .debugger import Debugger
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(1, os.environ.get("LIVERL_MOUNT", "/opt/liverl"))
    sys.path.insert(2, os.path.join(sys.path[1], "shell"))
    import repairs  # type: ignore[import-not-found,no-redef]
    from debugger import Debugger  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .debugger import Workspace

MAX_OTHERS = 400


def survey(workspace: Workspace) -> dict[str, Any]:
    """``{"failure": text, "stops": [{"text", "place", "repairs": {tool: solves}}], "others": [place, ...]}``.

    stops: the lines that the debugger visits, in its order, with its own words and whether each repair makes all tests
    pass. others: the further (place, tool) pairs in the files of the stops, which the failing test did not execute and
    which therefore cannot make it pass. A place is [file, 0-based line].
    """
    debugger = Debugger(workspace, max_edits=1 << 30)
    if debugger.call("run") and debugger.failure is None:
        return {"failure": "", "stops": [], "others": []}
    assert debugger.failure is not None
    stops = []
    for position, (path, index) in enumerate(debugger.stops):
        debugger.position = position
        lines = workspace.read(path)
        outcomes = {}
        for tool in debugger.available((path, index)):
            workspace.write(path, [*lines[:index], repairs.apply(tool, lines, index) or "", *lines[index + 1 :]])
            outcomes[tool] = workspace.passes()
            workspace.write(path, lines)
        stops.append({"text": debugger.observe(), "place": [path, index], "repairs": outcomes})
    visited = set(debugger.stops)
    others: list[list[Any]] = []
    for path in sorted({path for path, _ in debugger.stops}):
        lines = workspace.read(path)
        for index in range(len(lines)):
            if (path, index) not in visited and len(others) < MAX_OTHERS:
                others += [
                    [path, index, tool] for tool in repairs.REPAIRS if repairs.apply(tool, lines, index) is not None
                ]
    return {"failure": f"FAIL {debugger.failure.text}", "stops": stops, "others": others}


def main() -> int:
    from workspace import FolderWorkspace  # type: ignore[import-not-found]

    settings = json.loads(sys.stdin.readline())
    workspace = FolderWorkspace(
        os.environ.get("LIVERL_WORKDIR", "/app"),
        runner=settings["runner"],
        ids=settings["ids"],
        sources=settings["sources"],
        python_path=settings["python_path"],
    )
    print(json.dumps(survey(workspace)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
