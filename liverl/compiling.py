"""What ``liverl compile`` and ``liverl check`` do once their arguments are read, and how a summary looks in a terminal.

Loads neither the command line's library nor anything else that these two can do without: they run in editors, hooks and
loops.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler import Bundle, Sweep


def compile_command(
    spec: Path,
    *,
    target: str = "local",
    out: Path | None = None,
    tla: list[str] | None = None,
    sets: list[str] | None = None,
    point: str | None = None,
) -> None:
    """Write the bundle of a spec, or the bundles of a sweep, and print the summary."""
    _without_plugins()
    from compiler import Sweep, compile_all, compile_spec
    from compiler.overrides import parse_tlas

    tlas = parse_tlas(tla or [])
    if point is not None:
        compiled: Bundle | Sweep = compile_spec(spec, target=target, out=out, tlas=tlas, sets=sets or [], point=point)
    else:
        compiled = compile_all(spec, target=target, out=out, tlas=tlas, sets=sets or [])
    for problem in compiled.warnings:
        print(problem, file=sys.stderr)
    if isinstance(compiled, Sweep):
        print(plain(compiled.summary))
        print(f"{compiled.folder}: {len(compiled.points)} bundles, sweep.json, SUMMARY.md")
        return
    print(plain(compiled.files["SUMMARY.md"]))
    print(f"{compiled.folder}: {', '.join(sorted(compiled.files))}")


def check_command(
    spec: Path,
    *,
    target: str = "local",
    tla: list[str] | None = None,
    sets: list[str] | None = None,
    point: str | None = None,
    json: bool = False,
) -> None:
    """Print every problem of a spec. Raises ``SpecError``, with ``json`` ``SystemExit``, when one is fatal."""
    _without_plugins()
    from compiler import SpecError, check_spec
    from compiler.overrides import parse_tlas

    try:
        problems = check_spec(spec, target=target, tlas=parse_tlas(tla or []), sets=sets or [], point=point)
    except SpecError as error:
        problems = list(error.problems)
    fatal = any(problem.severity == "fatal" for problem in problems)
    if json:
        import json as json_module

        from compiler.errors import dotted

        records = [
            {
                "path": dotted(problem.path),
                "what": problem.what,
                "allowed": problem.allowed,
                "fix": problem.fix,
                "severity": problem.severity,
                "position": problem.position,
            }
            for problem in problems
        ]
        print(json_module.dumps({"ok": not fatal, "problems": records}))
        raise SystemExit(2 if fatal else 0)
    if fatal:
        raise SpecError(problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{spec}: sound for target {target}")


def _without_plugins() -> None:
    """pydantic looks for plug-ins in every installed distribution when it starts; these commands end soon and use
    none."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def plain(markdown: str) -> str:
    """The Markdown page as plain text: tables become columns."""
    lines: list[str] = []
    table: list[list[str]] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            cells = line.replace("\\|", "\0").strip("|").split("|")
            table.append([cell.strip().replace("\0", "|") for cell in cells])
            continue
        if table:
            lines += _columns(table)
            table = []
        if line:
            lines.append(line.lstrip("# "))
    return "\n".join(lines)


def _columns(table: list[list[str]]) -> list[str]:
    rows = [row for row in table if any(cell.strip("-") for cell in row)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if len(widths) == 2:
        widths[0] = max(widths[0], 42)
    return [
        ("  " + " ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip() for row in rows
    ]
