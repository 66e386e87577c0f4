"""The tool set ``repair`` of the shell scaffold: the debugger's tools, each without arguments.

Standard library and the testkit alone: runs inside sandboxes. Knows no models and no HTTP.
"""

from __future__ import annotations

if __package__:
    from . import repairs
    from .debugger import Debugger
    from .workspace import FolderWorkspace
else:  # a program in a mounted folder
    import repairs  # type: ignore[import-not-found,no-redef]
    from debugger import Debugger  # type: ignore[import-not-found,no-redef]
    from workspace import FolderWorkspace  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _schemas() -> list[dict[str, Any]]:
    """Tools without arguments: a decision is one word."""
    texts = {"run": "Run the tests.", "next": "Go to the next line.", "submit": "Finish."}
    for name, repair in repairs.REPAIRS.items():
        texts[name] = repair.__doc__ or name
    parameters: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    return [
        {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}
        for name, text in texts.items()
    ]


SCHEMAS = _schemas()
NAMES = ("run", "next", *repairs.REPAIRS)
REHEARSAL: tuple[tuple[str, dict[str, str]], ...] = (("run", {}), ("submit", {}))


class RepairTools:
    """One debugging session on one work directory; see ``runtime.scaffolds.shell.agent.Tools``."""

    def __init__(self, root: str, settings: dict[str, Any]) -> None:
        workspace = FolderWorkspace(
            root,
            runner=settings["runner"],
            ids=settings["ids"],
            sources=settings["sources"],
            python_path=settings["python_path"],
        )
        self._debugger = Debugger(workspace, max_edits=settings["max_edits"])

    @property
    def edits(self) -> int:
        return self._debugger.edits

    @property
    def exhausted(self) -> bool:
        """Whether the budget of edits is spent in vain."""
        return self._debugger.exhausted and not self._debugger.solved

    def opening(self) -> str:
        return ""  # its first call is a look

    def call(self, name: str, arguments: str) -> str:
        del arguments
        return self._debugger.call(name) if name in NAMES else f"no tool {name}"


open_tools = RepairTools
