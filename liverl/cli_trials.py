"""``liverl trials``, ``trial`` and ``compare``: what a run's trials did, one of them in full, and runs side by side.
Knows how to print, not what is in a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from liverl.completion import complete_run
from liverl.options import RunsDir

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A path, an id or the beginning of one, or `last`.", autocompletion=complete_run
    ),
]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: liverl trials last --failed --sort seconds --descending")(trials)
    app.command(epilog="Example: liverl trial last 12/calc-3.train-1f0c.2")(trial)
    app.command(epilog="Example: liverl compare runs/base/20260101-000000-000 last")(compare)


def trials(
    run: Run,
    runs_dir: RunsDir = Path("runs"),
    task: Annotated[str | None, typer.Option("--task", help="Of this task; * and ? stand for others.")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Of this step.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Without a grade, or with a dead agent.")] = False,
    reward: Annotated[
        str | None, typer.Option("--reward", metavar="LO:HI", help="Rewards from LO to HI; either may be left out.")
    ] = None,
    termination: Annotated[str | None, typer.Option("--termination", help="Ended so, e.g. timeout.")] = None,
    task_set: Annotated[str | None, typer.Option("--set", help="Of this task set.")] = None,
    held_out: Annotated[bool | None, typer.Option("--held-out/--training", help="Only validation, or none.")] = None,
    words: Annotated[str | None, typer.Option("--search", help="Words in the id or the problem.")] = None,
    sort: Annotated[str, typer.Option("--sort", help="started, step, id, task, reward, termination, ...")] = "started",
    descending: Annotated[bool, typer.Option("--descending", "-d", help="Largest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many (0: all).")] = 50,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Leave out so many before.")] = 0,
    as_json: Json = False,
) -> None:
    """List a run's trials, filtered and sorted."""
    import json
    from dataclasses import asdict

    from runtime.errors import UserError
    from runtime.report.choose import bounds
    from runtime.report.trials import SORTS, TrialFilter, TrialIndex
    from runtime.report.words import table

    if sort not in SORTS:
        raise UserError(f"--sort {sort}: unknown; allowed: {', '.join(SORTS)}")
    low, high = bounds(reward)
    wanted = TrialFilter(
        task=task,
        task_set=task_set,
        step=step,
        failed=failed,
        validation=held_out,
        termination=termination,
        reward_min=low,
        reward_max=high,
        words=words,
    )
    with TrialIndex(_path(run, runs_dir)) as index:
        total = index.count(wanted)
        rows = index.rows(wanted, sort=sort, descending=descending, limit=limit or None, offset=offset)
    if as_json:
        print(json.dumps({"total": total, "trials": [asdict(row) for row in rows]}, indent=2))
        return
    for line in table(rows) if rows else ["no such trial"]:
        print(line)
    if rows and offset + len(rows) < total:
        print(f"{len(rows)} of {total}; the rest: --limit 0, or --offset {offset + len(rows)}")
    elif len(rows) < total:
        print(f"{len(rows)} of {total}; those before: a smaller --offset")


def trial(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="ID", help="A trial's id, STEP/ID, or the beginning of an id.")],
    runs_dir: RunsDir = Path("runs"),
    tokens: Annotated[bool, typer.Option("--tokens", help="Every token with log-probability and weights.")] = False,
    as_json: Json = False,
) -> None:
    """Show one trial: its verdict, every turn, its work as a patch, its tests, the other trials of its group."""
    import json
    from dataclasses import asdict

    from runtime.report.choose import find_trial
    from runtime.report.patch import read_patch
    from runtime.report.trial import read_trial
    from runtime.report.trials import TrialIndex
    from runtime.report.words import pages

    path = _path(run, runs_dir)
    with TrialIndex(path) as index:
        row = find_trial(index, name)
        siblings = index.siblings(row)
        view = read_trial(index.folder(row))
    patch = read_patch(path, view.record)
    if as_json:
        whole = {
            **asdict(view),
            "folder": str(view.folder),
            "patch": patch.text,
            "siblings": [asdict(one) for one in siblings],
        }
        whole["missing"] = [*view.missing, *patch.missing]
        if not tokens:
            del whole["samples"]
        print(json.dumps(whole, default=str))
        return
    _page(pages(view, patch, siblings, tokens=tokens))


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", help="Two or more runs or evaluations.", autocompletion=complete_run),
    ],
    runs_dir: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Runs side by side: curves, held-out scores with a paired test, and what their specs differ in."""
    import json

    from runtime.errors import UserError, each
    from runtime.report.compare import compare as side_by_side
    from runtime.report.compare import letters, words

    if len(runs) < 2:
        raise UserError("compare: needs two runs at least; `last` and paths are runs too")
    paths = each(lambda run: _path(run, runs_dir), runs)
    places = [path.resolve() for path in paths]
    twice = [run for number, run in enumerate(runs) if places[number] in places[:number]]
    if twice:
        raise UserError(
            f"compare: {twice[0]} is a run that was named before, {paths[runs.index(twice[0])]}; name others"
        )
    result = side_by_side(paths)
    differences = [_difference(paths[0], other) for other in paths[1:]]
    if as_json:
        print(json.dumps({**result, "spec_differences": differences}))
        return
    for line in words(result):
        print(line)
    for letter, text in zip(letters(len(paths))[1:], differences, strict=True):
        print(f"\nspec of A against {letter}:\n{text.rstrip() or 'no difference'}")


def _difference(a: Path, b: Path) -> str:
    """What ``liverl diff`` says of two runs' bundles."""
    from compiler.diff import compare as difference
    from compiler.diff import render
    from compiler.errors import SpecError
    from compiler.sides import open_side, target_of

    try:
        sides = [open_side(str(run / "bundle"), target=target_of(str(run / "bundle")) or "local") for run in (a, b)]
        return render(difference(*sides), markdown=False)
    except (SpecError, OSError) as error:
        return f"not to be had: {error}"


def _path(run: str, runs_dir: Path) -> Path:
    from runtime.launch import ledger

    return ledger.find(run, runs_dir=runs_dir).path


def _page(lines: Iterable[str]) -> None:
    """In a pager where a person looks, as lines where a program reads."""
    import sys

    if sys.stdout.isatty():
        import pydoc

        pydoc.pager("\n".join(lines) + "\n")
        return
    for line in lines:
        print(line)
