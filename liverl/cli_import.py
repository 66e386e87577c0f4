"""``liverl tasks import``: a published set as task directories. Turns arguments into calls, says what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liverl.options import cache_folder, folder_to_write, new_folder
from liverl.still_there import say, still_there

if TYPE_CHECKING:
    from runtime.tasks.directories import OnProblem

Names = list[str] | None
_OPTIONS = {"terminal-bench": {"--rows"}, "harbor": {"--dataset", "--registry"}}
_OF_THE_HUB = {"--dataset", "--split", "--revision"}


def import_set(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET", help="swe-bench, swe-smith, swe-gym, r2e, swe-rebench, terminal-bench or harbor."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=folder_to_write, help="Folder that receives the task directories.")
    ],
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            help="The set's rows: a parquet, JSON or JSON lines file, or a folder of them (terminal-bench: the folder"
            " of its tasks). Default: fetched from the hub.",
        ),
    ] = None,
    instances: Annotated[Names, typer.Option("--instance", help="Only this task; may be repeated.")] = None,
    repositories: Annotated[
        Names, typer.Option("--repository", metavar="OWNER/NAME", help="Only tasks of this repository; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="At most so many tasks.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Data set of the hub (harbor: of the registry, NAME@VERSION) in place of the usual."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of the data set of the hub.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the data set of the hub.")] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", help="harbor: the registry, an https:// address or a file.")
    ] = None,
) -> None:
    """Write the tasks of a published set as directories in Harbor's format, with images, tests, licence and origin."""
    from runtime.errors import UserError
    from runtime.tasks.sets.load import SETS, Wanted, import_rows

    known = (*SETS, "terminal-bench", "harbor")
    if name not in known:
        raise UserError(f"{name!r}: no set of this name; there are {', '.join(known)}")
    given = {
        "--rows": rows,
        "--repository": repositories,
        "--dataset": dataset,
        "--split": split,
        "--revision": revision,
        "--registry": registry,
    }
    usable = _OPTIONS.get(name) or ({"--rows"} if rows is not None else _OF_THE_HUB) | {"--repository"}
    idle = [option for option, value in given.items() if value and option not in usable]
    if idle:
        where = f"{name} with --rows" if rows is not None and "--rows" in usable else name
        raise UserError(f"{', '.join(idle)}: says nothing for {where}; leave it out")
    new_folder(out)
    left_out: list[str] = []

    def on_problem(problem: str) -> None:
        left_out.append(problem)
        typer.echo(f"left out: {problem}")

    with still_there(f"importing {name}"):
        if name == "harbor":
            made = _harbor(dataset, registry, out, tuple(instances or ()), limit, on_problem)
        elif name == "terminal-bench":
            if rows is None:
                raise UserError("terminal-bench: its tasks are folders; give the folder of them with --rows")
            from runtime.tasks.sets.terminal_bench import import_folders

            made = import_folders(rows, out, instances=tuple(instances or ()), limit=limit, on_problem=on_problem)
        else:
            wanted = Wanted(rows, dataset, split, revision, tuple(instances or ()), tuple(repositories or ()), limit)
            made = import_rows(name, wanted, out, cache=cache_folder(), on_problem=on_problem, say=say)
    if name in SETS and dataset is None:
        typer.echo(f"the set's rows are published under {SETS[name].licence}; each repository has a licence of its own")
    typer.echo(f"{len(made)} tasks in {out}" + (f", {len(left_out)} left out" if left_out else ""))


def _harbor(
    dataset: str | None,
    registry: str | None,
    out: Path,
    names: tuple[str, ...],
    limit: int | None,
    on_problem: OnProblem,
) -> list[Path]:
    import shutil

    from runtime.config import HarborSource
    from runtime.errors import UserError
    from runtime.tasks.harbor_dataset import task_directories

    title, _, version = (dataset or "").partition("@")
    if not title or not version or registry is None:
        raise UserError("harbor: give --dataset NAME@VERSION and --registry ADDRESS")
    try:
        source = HarborSource(dataset=title, version=version, registry=registry, task_names=names)
    except ValueError as error:
        raise UserError(f"harbor: --dataset {dataset!r}, --registry {registry!r}: {error}") from error
    found = task_directories(source, cache=cache_folder(), say=say, on_problem=on_problem)
    made = []
    for folder in found[:limit]:
        if (out / folder.name).exists():
            on_problem(f"{folder}: another task of the dataset has this name")
            continue
        made.append(Path(shutil.copytree(folder, out / folder.name, symlinks=True)))
    return made
