"""The commands about specs: ``compile``, ``check``, ``plan``, ``explain``, ``diff``, ``schema``. Knows how to print,
not how to compile.

Imports stay inside the commands: ``liverl --help`` must not pay for the compiler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="Jsonnet spec.")]
TargetOption = Annotated[
    str,
    typer.Option("--target", "-t", help="local, docker, k8s (or kubernetes), ray, skypilot, or package.module:Class."),
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
    from liverl.compiling import compile_command

    compile_command(spec, target=target, out=out, tla=tla, sets=sets, point=point)


def check(
    spec: Spec,
    target: TargetOption = "local",
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
    json: Json = False,
) -> None:
    """Every problem of a spec; writes nothing."""
    from liverl.compiling import check_command

    check_command(spec, target=target, tla=tla, sets=sets, point=point, json=json)


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
    from compiler.overrides import parse_tlas
    from compiler.overview import overview
    from liverl.compiling import plain

    prices = catalog or find_catalogue()
    found = overview(spec, tlas=parse_tlas(tla or []), sets=sets or [], point=point, catalogue=prices)
    if json:
        import json as json_module

        for problem in found.warnings:
            typer.echo(problem, err=True)
        typer.echo(json_module.dumps(found.numbers))
    else:
        typer.echo(plain(found.page))


def explain(
    what: Annotated[str, typer.Argument(metavar="SPEC|BUNDLE/FILE:LINE")],
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="Spec field, for example trainer.optimizer.learning_rate.")
    ] = None,
    target: TargetOption = "local",
    tla: Tla = None,
    sets: Set = None,
    point: Point = None,
) -> None:
    """Where a value comes from: SPEC PATH, or the place in a bundle as FILE:LINE."""
    from compiler import explain as explanations
    from compiler.overrides import parse_tlas

    if path is None:
        typer.echo(explanations.explain_line(what))
    else:
        tlas = parse_tlas(tla or [])
        typer.echo(explanations.explain_field(Path(what), path, tlas=tlas, sets=sets or [], point=point, target=target))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Spec, bundle folder, or rev:path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="What specs are compiled for (default: the target of a bundle, or local)."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a pull request comment.")] = False,
    catalog: Catalogue = None,
) -> None:
    """What changes between two specs or bundles, and what follows from it: numbers, memory, cost, artifacts."""
    from compiler.cost import find_catalogue
    from compiler.diff import compare, render
    from compiler.errors import SpecError
    from compiler.sides import open_side, target_of

    prices = catalog or find_catalogue()
    there = target or target_of(a) or target_of(b) or "local"
    sides, problems = [], []
    for what in (a, b):
        try:
            sides.append(open_side(what, target=there, catalogue=prices))
        except SpecError as error:
            problems += [one for one in error.problems if one not in problems]
    if problems:
        raise SpecError(problems)
    one, other = sides
    typer.echo(render(compare(one, other, catalogue=prices), markdown=markdown), nl=False)


def schema() -> None:
    """JSON Schema of the spec, with a description of every field."""
    from compiler.emit import to_json
    from compiler.schema import spec_schema

    typer.echo(to_json(spec_schema()), nl=False)
