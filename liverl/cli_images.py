"""``liverl images``: the store of task images of this machine. Turns arguments into calls, prints tables."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    images = typer.Typer(help="Images of tasks on this machine.", no_args_is_help=True, rich_markup_mode=None)
    images.command("pull")(pull)
    images.command("list")(list_images)
    images.command("prune")(prune)
    app.add_typer(images, name="images")


def pull(
    references: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="[registry/]repository[:tag][@digest].")],
    plaintext: Annotated[list[str], typer.Option("--plaintext", help="A registry to ask without TLS.")] = [],  # noqa: B006
    disk_gib: Annotated[int | None, typer.Option("--disk-gib", min=1, help="Most that all layers may take.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch images by what their names mean today; what is here already is not fetched again."""
    from runtime.oci.store import ImageStore

    store = ImageStore(plaintext=plaintext, budget=disk_gib << 30 if disk_gib is not None else None)
    pulled = []
    for reference in references:
        image = store.pull(reference, again=True)
        pulled.append({"asked": reference, "reference": image.reference, "bytes": image.bytes})
        if not as_json:
            typer.echo(f"{image.reference}  {_size(image.bytes)}, {len(image.layers)} layers")
    if as_json:
        counts = vars(store.counts)
        typer.echo(json.dumps({"images": pulled, **counts}))


def list_images(as_json: AsJson = False) -> None:
    """All images, the one used last first; layers that images share count once in the sum."""
    from runtime.oci.store import ImageStore

    store = ImageStore()
    found = store.images()
    if as_json:
        rows = [
            {
                "reference": one.image.reference,
                "bytes": one.image.bytes,
                "own_bytes": one.own_bytes,
                "used": one.used,
                "in_use": one.in_use,
            }
            for one in found
        ]
        typer.echo(json.dumps({"store": str(store.root), "bytes": store.size(), "images": rows}))
        return
    for one in found:
        days = (time.time() - one.used) / 86400
        state = "in use" if one.in_use else f"{days:.1f} days ago"
        typer.echo(f"{_size(one.image.bytes):>9}  {state:<14}  {one.image.reference}")
    typer.echo(f"{len(found)} images, {_size(store.size())} in {store.root}")


def prune(
    keep_gib: Annotated[
        float, typer.Option("--keep-gib", min=0, max=1 << 30, help="Remove until layers take no more.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Remove the least recently used images; never one that a box is made of."""
    from runtime.oci.store import ImageStore

    store = ImageStore()
    before = store.size()
    removed = store.prune(int(keep_gib * (1 << 30)))
    if as_json:
        freed = {"removed": [image.reference for image in removed], "freed_bytes": before - store.size()}
        typer.echo(json.dumps({**freed, "bytes": store.size()}))
        return
    for image in removed:
        typer.echo(f"removed {image.reference}")
    typer.echo(f"{len(removed)} images removed, {_size(before - store.size())} freed, {_size(store.size())} left")


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.2f} GiB"
