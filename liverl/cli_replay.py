"""``liverl replay`` and ``liverl shell``: a trial once more, and a box as the agent gets it. Knows how people look
inside, not what a box is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liverl.completion import complete_run
from liverl.options import RunsDir

if TYPE_CHECKING:
    from runtime.sandboxes.base import Sandbox
    from runtime.task import Task

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: liverl replay last 12/calc-3.train-1f0c.2 --until 3 --shell")(replay)
    app.command(epilog="Example: liverl shell tasks/calc-3 --spec quickstart")(shell)


def replay(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A path, an id or the beginning of one, or `last`.", autocompletion=complete_run
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="ID", help="A trial's id, STEP/ID, or the beginning of an id.")],
    runs_dir: RunsDir = Path("runs"),
    until: Annotated[
        int | None, typer.Option("--until", min=0, metavar="K", help="Only the first K replies; default: all.")
    ] = None,
    look: Annotated[bool, typer.Option("--shell", help="Then a shell in the box; after it the agent goes on.")] = False,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="CHECKPOINT", help="What answers after that, not the recording.")
    ] = None,
    task: Annotated[Path | None, typer.Option("--task", metavar="DIR", help="Its task, if it moved.")] = None,
    as_json: Json = False,
) -> None:
    """Play a trial again: the recorded replies through the real proxy, the same task in the same kind of box."""
    import asyncio
    import json

    from runtime.launch import ledger
    from runtime.launch.replay import replay as play
    from runtime.report.choose import find_trial
    from runtime.report.trial import read_trial
    from runtime.report.trials import TrialIndex
    from runtime.report.words import visible

    directory = ledger.find(run, runs_dir=runs_dir)
    with TrialIndex(directory.path) as index:
        view = read_trial(index.folder(find_trial(index, name)))
    looking = _look if look else None
    done = asyncio.run(play(directory, view, until=until, look=looking, policy=policy, task_folder=task))
    if as_json:
        print(json.dumps(done.to_json()))
        return
    facts = done.to_json()
    now = f"now   {facts['verdict_now']}  reward {facts['reward_now']}"
    lines = [
        f"{done.served} of {done.turns} recorded replies were given; the agent ended: {facts['termination']}",
        f"then  {facts['verdict_then']}  reward {facts['reward_then']}",
        now + (f"  {facts['error']}" if facts["error"] else ""),
        *(f"differs  {line}" for line in done.differences),
    ]
    for line in lines:
        print(visible(line))
    print(f"all of it in {done.folder}")


def shell(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="A task directory.")],
    spec: Annotated[
        Path | None, typer.Option("--spec", help="Boxes and agent of this spec or bundle; default: the quickstart's.")
    ] = None,
    sandbox: Annotated[
        str | None, typer.Option("--sandbox", help="bubblewrap or process, instead of the spec's (specs only).")
    ] = None,
    grade: Annotated[bool, typer.Option("--grade/--no-grade", help="Judge what was done, at the end.")] = True,
    as_json: Json = False,
) -> None:
    """A shell in a box as the agent gets it for a task; what is left there is judged as an agent's work.

    Each line is a command of its own; the folder is remembered. Without a terminal lines are read from stdin."""
    import asyncio
    import json

    from liverl.compiled import bundle_files
    from runtime.config import RuntimeConfig
    from runtime.errors import TrialError, UserError
    from runtime.launch.look import look_into
    from runtime.report.words import visible
    from runtime.task import load_task

    files = bundle_files(spec or Path("quickstart"), target="local", sandbox=sandbox)
    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    try:
        loaded = load_task(task.absolute())
    except TrialError as error:
        raise UserError(str(error)) from None
    verdict = asyncio.run(look_into(loaded, config, _look, grade=grade))
    if as_json:
        found = (
            {"verdict": verdict.status, "reward": verdict.reward, "outcomes": dict(verdict.outcomes)} if verdict else {}
        )
        print(json.dumps({"task": loaded.id, **found}))
    elif verdict is not None:
        print(f"{verdict.status}, reward {verdict.reward:g}")
        for test, outcome in verdict.outcomes.items():
            print(visible(f"{outcome:<8} {test}"))


async def _look(sandbox: Sandbox, task: Task) -> Any:
    """A shell for whoever sits here, or the lines of stdin. Prompts and output go to stderr: stdout is for the
    result."""
    import sys

    from runtime.sandboxes.line_shell import line_shell, lines_of

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    def prompt(text: str) -> None:
        if sys.stdin.isatty():
            write(text)

    if sys.stdin.isatty():
        write(f"a box as the agent of {task.id} gets it; `exit` or Ctrl-D leaves it\n")
    workdir = task.config.environment.workdir
    await line_shell(sandbox, workdir=workdir, read=lines_of(sys.stdin, prompt), write=write)
