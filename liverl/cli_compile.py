"""The commands about specs: ``compile``, ``check``, ``plan``, ``explain``, ``diff``, ``schema``. Knows how to print,
not how to compile.

Imports stay inside the commands: ``liverl --help`` must not pay for the compiler.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from compiler import Bundle, Sweep

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="Jsonnet spec.")]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="local, docker, k8s, ray, skypilot, or package.module:Class.")
]
Tla = Annotated[list[str] | None, typer.Option("--tla", metavar="K=V", help="Argument of a spec that is a function.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=JSON", help="Override one field; what derives from it follows."),
]
Point = Annotated[str | None, typer.Option("--point", metavar="NAME", help="One point of a sweep.")]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        "--catalog", metavar="CSV", help="Prices: SkyPilot's vms.csv (default: the newest below ~/.sky/catalogs)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the front door's app."""
    app.command("compile")(compile_)
    app.command()(check)
    app.command()(plan)
    app.command()(explain)
    app.command()(diff)
    app.command()(schema)


def compile_(
    spec: Spec,
    target: TargetOption = "local",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the bundle (default build/<name>/<target>)."),
    ] = None,
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
) -> None:
    """Validate a spec and write its bundle; of a sweep, one bundle per point."""
    _without_plugins()
    from compiler import Sweep, compile_all, compile_spec
    from compiler.load import parse_tlas

    tlas = parse_tlas(tla or [])
    if point is not None:
        compiled: Bundle | Sweep = compile_spec(spec, target=target, out=out, tlas=tlas, sets=sets or [], point=point)
    else:
        compiled = compile_all(spec, target=target, out=out, tlas=tlas, sets=sets or [])
    for problem in compiled.warnings:
        typer.echo(str(problem), err=True)
    if isinstance(compiled, Sweep):
        typer.echo(_page(compiled.summary))
        typer.echo(f"{compiled.folder}: {len(compiled.points)} bundles, sweep.json, SUMMARY.md")
        return
    typer.echo(_page(compiled.files["SUMMARY.md"]))
    typer.echo(f"{compiled.folder}: {', '.join(sorted(compiled.files))}")


def check(
    spec: Spec,
    target: TargetOption = "local",
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
    json: Json = False,
) -> None:
    """Every problem of a spec; writes nothing."""
    _without_plugins()
    from compiler import SpecError, check_spec
    from compiler.load import parse_tlas

    problems = check_spec(spec, target=target, tlas=parse_tlas(tla or []), sets=sets or [], point=point)
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
        typer.echo(json_module.dumps({"ok": not fatal, "problems": records}))
        raise typer.Exit(2 if fatal else 0)
    if fatal:
        raise SpecError(problems)
    for problem in problems:
        typer.echo(str(problem), err=True)
    typer.echo(f"{spec}: sound for target {target}")


def plan(
    spec: Spec,
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
    catalog: Catalogue = None,
    json: Json = False,
) -> None:
    """What an experiment will use: batches, tokens, memory, cost."""
    from compiler.cost import find_catalogue
    from compiler.load import parse_tlas
    from compiler.overview import overview

    prices = catalog or find_catalogue()
    found = overview(spec, tlas=parse_tlas(tla or []), sets=sets or [], point=point, catalogue=prices)
    if json:
        import json as json_module

        typer.echo(json_module.dumps(found.numbers))
    else:
        typer.echo(_page(found.page))


def explain(
    what: Annotated[str, typer.Argument(metavar="SPEC|BUNDLE/FILE:LINE")],
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="Spec field, for example trainer.optimizer.learning_rate.")
    ] = None,
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
) -> None:
    """Where a value comes from: SPEC PATH, or the place in a bundle as FILE:LINE."""
    from compiler import explain as explanations
    from compiler.load import parse_tlas

    if path is None:
        typer.echo(explanations.explain_line(what))
    else:
        tlas = parse_tlas(tla or [])
        typer.echo(explanations.explain_field(Path(what), path, tlas=tlas, sets=sets or [], point=point))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Spec, bundle folder, or rev:path.")],
    b: Annotated[str, typer.Argument(metavar="B")],
    target: TargetOption = "local",
    markdown: Annotated[bool, typer.Option("--markdown", help="For a pull request comment.")] = False,
    catalog: Catalogue = None,
) -> None:
    """What changes between two specs or bundles, and what follows from it: numbers, memory, cost, artifacts."""
    from compiler.cost import find_catalogue
    from compiler.diff import compare, open_side, render

    prices = catalog or find_catalogue()
    sides = [open_side(what, target=target, catalogue=prices) for what in (a, b)]
    typer.echo(render(compare(*sides), markdown=markdown), nl=False)


def schema() -> None:
    """JSON Schema of the spec, with a description of every field."""
    from compiler.emit import to_json
    from compiler.schema import spec_schema

    typer.echo(to_json(spec_schema()), nl=False)


def _without_plugins() -> None:
    """pydantic looks for plug-ins in every installed distribution when it starts; these commands end soon and use
    none."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _page(markdown: str) -> str:
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
