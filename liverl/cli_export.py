"""``liverl export``: a run as a page (``export RUN``), its trajectories, a step's model. Each of the three is a command
of this group; the page's has no name that a person types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from liverl.completion import complete_run
from liverl.options import RunsDir, folder_to_write, to_write
from liverl.still_there import still_there

PAGE = "page"
"""The command that ``export RUN`` means."""

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A path, an id or the beginning of one, or `last`.", autocompletion=complete_run
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class ExportGroup(TyperGroup):
    """A first word that names none of its commands is a run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if PAGE in self.commands and args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [PAGE, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        cls=ExportGroup,
        no_args_is_help=True,
        help="Hand a run on: its page (export RUN -o DIR), its trajectories, a step's model.",
        epilog="Example: liverl export trajectories last --format messages -o solved.jsonl --reward 1:1",
    )
    group.command(PAGE, hidden=True, epilog="Example: liverl export last -o page/")(page)
    group.command(epilog="Example: liverl export trajectories last --format atif -o atif/ --reward 1:")(trajectories)
    group.command(epilog="Example: liverl export model last 20 -o model/")(model)
    app.add_typer(group, name="export")


def page(
    run: Run,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=folder_to_write, help="The folder to write; an earlier page is replaced."),
    ],
    runs_dir: RunsDir = Path("runs"),
    trials: Annotated[
        int, typer.Option("--trials", min=0, help="How many trials can be opened in it, the newest first.")
    ] = 500,
    over: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="A run to lay over it, without its trials; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's page as files that open without a server: curves, tasks, trials, diagnosis."""
    import json
    from contextlib import ExitStack, closing

    from liverl.cli_page import differences
    from runtime.launch import ledger
    from runtime.page.library import Run as Shown
    from runtime.page.static import write_static

    # Each once, the page's own run first.
    paths = dict.fromkeys(ledger.find(one, runs_dir=runs_dir).path for one in (run, *(over or ())))
    with ExitStack() as stack:
        shown, *others = [stack.enter_context(closing(Shown(path))) for path in paths]
        done = write_static(shown, out, trials=trials, over=others, compare=differences)
    if as_json:
        print(json.dumps({"folder": str(done.folder), "trials": done.trials, "of": done.of, "bytes": done.bytes}))
        return
    print(f"{done.folder / 'index.html'}: {done.trials} of {done.of} trials can be opened, {done.bytes / 1e6:.1f} MB")


def trajectories(
    run: Run,
    form: Annotated[str, typer.Option("--format", help="messages, atif, tokens (Parquet) or sharegpt.")],
    out: Annotated[Path, typer.Option("--out", "-o", callback=to_write, help="A file; for atif a folder.")],
    runs_dir: RunsDir = Path("runs"),
    reward: Annotated[str | None, typer.Option("--reward", metavar="LO:HI", help="Rewards from LO to HI.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Of this task; * and ? stand for others.")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Of this step.")] = None,
    held_out: Annotated[bool | None, typer.Option("--held-out/--training", help="Only validation, or none.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's trajectories for other programs, one conversation a row or document."""
    import json
    import sys

    from runtime.errors import UserError
    from runtime.launch import ledger
    from runtime.report.choose import bounds
    from runtime.report.trajectories import FORMATS, export_trajectories
    from runtime.report.trials import TrialFilter

    if form not in FORMATS:
        raise UserError(f"--format {form}: unknown; allowed: {', '.join(FORMATS)}")
    low, high = bounds(reward)
    wanted = TrialFilter(task=task, step=step, validation=held_out, reward_min=low, reward_max=high)
    chosen: Any = form
    with still_there("writing trajectories"):
        done = export_trajectories(ledger.find(run, runs_dir=runs_dir).path, out, form=chosen, wanted=wanted)
    for line in done.left_out:
        print(f"left out  {line}", file=sys.stderr)
    facts = {"path": str(done.path), "trials": done.trials, "rows": done.rows, "left_out": list(done.left_out)}
    what = {"tokens": "training samples", "atif": "documents"}.get(form, "conversations")
    print(json.dumps(facts) if as_json else f"{done.path}: {done.rows} {what} of {done.trials} trials")
    if not done.trials:
        print("no trial of the run is wanted by --reward, --task, --step and --held-out", file=sys.stderr)


def model(
    run: Run,
    step: Annotated[int, typer.Argument(metavar="STEP", min=0, help="Of its checkpoint; 0: the first policy.")],
    out: Annotated[Path, typer.Option("--out", "-o", callback=folder_to_write, help="A folder that does not exist.")],
    runs_dir: RunsDir = Path("runs"),
    adapters: Annotated[str, typer.Option("--adapters", help="merged into the weights, or apart.")] = "merged",
    licence: Annotated[str | None, typer.Option("--licence", help="Of the model, where its origin names none.")] = None,
    as_json: Json = False,
) -> None:
    """Write a step's policy as a folder that transformers and vLLM load, with a model card."""
    import json

    from runtime.errors import UserError
    from runtime.launch import ledger
    from runtime.launch.export_model import export_model

    if adapters not in ("merged", "apart"):
        raise UserError(f"--adapters {adapters}: unknown; allowed: merged, apart")
    directory = ledger.find(run, runs_dir=runs_dir)
    with still_there("writing the model"):
        done = export_model(directory, step, out, keep_adapters=adapters == "apart", licence=licence)
    facts = {"path": str(done.path), "step": done.step, "form": done.form, "licence": done.licence}
    print(json.dumps(facts) if as_json else f"{done.path}: step {done.step}, {done.form}; README.md is its card")
