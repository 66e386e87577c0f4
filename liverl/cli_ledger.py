"""``liverl runs``, ``status``, ``logs``, ``stop``: the ledger on the command line. Knows how to show runs, not how they
work."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liverl.completion import complete_run
from liverl.options import RunsDir

if TYPE_CHECKING:
    from runtime.launch.bucket import Bucket
    from runtime.launch.ledger import Entry

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A path, an id or the beginning of one, or `last`.", autocompletion=complete_run
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(runs)
    app.command()(pull)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)


def runs(
    runs_dir: RunsDir = Path("runs"),
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Those of a bucket or shared folder: a spec's schedule.upload.url."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List all runs, oldest first.

    Example: liverl runs --json"""
    from runtime import suggest
    from runtime.launch import ledger
    from runtime.report.words import visible

    if source is not None:
        _print_uploaded(source, as_json=as_json)
        return
    known = ledger.runs(runs_dir)
    for problem in ledger.unreadable(runs_dir):
        print(visible(f"left out: {problem}"), file=sys.stderr)
    if as_json:
        print(json.dumps([_brief(one) for one in known], indent=2))
        return
    if not known:
        command = suggest.liverl("run", "quickstart", *suggest.elsewhere(runs_dir))
        print(f"no runs below {runs_dir}; start one with: {command}")
    width = max((len(one.name) for one in known), default=0)
    for one in known:
        cause = f"  {one.record.exit_cause.splitlines()[0]}" if one.record.exit_cause else ""
        print(visible(f"{one.name:<{width}}  {one.record.kind:<5}  {one.state:<9}  {_minutes(one.seconds):>8}{cause}"))


def pull(
    source: Annotated[str, typer.Argument(metavar="URL", help="The bucket or folder: a spec's schedule.upload.url.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="EXPERIMENT/RUN, an id, or `last`.")] = "last",
    runs_dir: RunsDir = Path("runs"),
    checkpoints: Annotated[bool, typer.Option(help="With the run's checkpoints.")] = True,
) -> None:
    """Copy a run of another machine here from its bucket, for eval, export, compare and the page.

    Example: liverl pull s3://runs/team last"""
    from runtime.launch import bucket

    with _bucket(source) as there:
        print(bucket.pull(there, bucket.find(there, run), runs_dir, checkpoints=checkpoints))


@contextmanager
def _bucket(url: str) -> Iterator[Bucket]:
    """Raises ``UserError`` for what is no address of a bucket, ``MachineError`` where it does not do what is asked."""
    from runtime.config.base import PATTERNS
    from runtime.config.upload import PLACE
    from runtime.errors import MachineError, UserError
    from runtime.launch import bucket

    if re.fullmatch(PLACE, url) is None:
        raise UserError(f"{url}: {PATTERNS[PLACE]}")
    try:
        yield bucket.Bucket(url)
    except bucket.BucketError as error:
        raise MachineError(str(error), fix="look at the address, and at the keys in the environment") from None


def _print_uploaded(source: str, *, as_json: bool) -> None:
    from runtime.launch import bucket

    with _bucket(source) as there:
        lines = [
            {
                "run": one.record.run,
                "experiment": one.record.experiment,
                "kind": one.record.kind,
                "state": one.record.state,
                "host": one.record.host,
                "start": one.record.start,
                "checkpoints": sorted(there.checkpoints(one.place)),
                "place": f"{there.url}/{one.place}",
            }
            for one in bucket.runs(there)
        ]
    if as_json:
        print(json.dumps(lines, indent=2))
        return
    for line in lines:
        steps = ", ".join(map(str, line["checkpoints"])) or "none"
        print(f"{line['experiment']}/{line['run']}  {line['state']}  on {line['host']}  checkpoints: {steps}")
    if not lines:
        print(f"no runs at {source}")


def status(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A path, an id or the beginning of one; default: the newest run.")
    ] = "last",
    runs_dir: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """How one run stands: state, step, scores, and whether its process lives.

    Example: liverl status last"""
    from runtime import suggest
    from runtime.launch import ledger

    facts = ledger.status(ledger.find(run, runs_dir=runs_dir))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{facts['experiment']}/{facts['run']}  {facts['state']}  {_minutes(facts['seconds'])}")
    if facts["exit_cause"]:
        print(f"  cause   {facts['exit_cause']}")
    if facts["state"] == "lost":
        verb = "run" if facts["kind"] == "train" else facts["kind"]
        command = suggest.on_run(f"{verb} --resume", Path(facts["path"]))
        print(f"  its process {facts['pid']} on {facts['host']} is gone; go on with: {command}")
    if (stage := facts["supervised"]) is not None:
        print(
            f"  supervised step {stage['step']:.0f}   loss {stage.get('supervised/loss', float('nan')):.4f}"
            f"   {stage.get('supervised/tokens_per_sec', 0):,.0f} tokens/s"
        )
    if facts["step"] is not None:
        print(
            f"  step    {facts['step']}"
            + (f"   solved in training {facts['score']:.1%}" if facts["score"] is not None else "")
        )
    for name, score in facts["validation"].items():
        print(
            f"  {name}   {score['first']:.1%} (step {score['first_step']})"
            f" → {score['last']:.1%} (step {score['last_step']})"
        )
    if (tasks := facts["curriculum"]) is not None:
        print(
            f"  curriculum  {tasks['within']} tasks within the band ({tasks['untried']} never tried),"
            f" {tasks['below']} below, {tasks['above']} above"
        )
    if facts["warning"]:
        print(f"  warning {facts['warning']}")
    if facts["halting"]:
        print(f"  ending  after the next checkpoint: {facts['halting']}")
    for wait in facts["waits"]:
        print(f"  {wait['words']}")
    for worker in facts["workers"]:
        print(f"  {_worker(worker)}")
    for name, seconds in facts["phases"].items():
        print(f"  {name:<10} {seconds:8.1f} s")
    print(f"  folder  {facts['path']}")


def _worker(told: dict[str, Any]) -> str:
    """One of several agent-loop workers: what it does, or waits for."""
    name = f"worker {told['worker']} {told['state']}"
    if not told["in_flight"]:
        return f"{name}  {told['node']}".rstrip()
    what = f"{told['in_flight']} trials in flight, waiting {told['oldest_sec']:.0f} s for {told['oldest']}"
    return f"{name}  {what}  {told['node']}"


def logs(
    run: Run,
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[str | None, typer.Option("--file", help="Which log; default: the one written last.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Name the logs, oldest first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show a run's log.

    Example: liverl logs last -f"""
    from runtime.errors import UserError
    from runtime.launch import ledger

    directory = ledger.find(run, runs_dir=runs_dir)
    files = ledger.log_files(directory)
    if names:
        print(json.dumps([str(path) for path in files]) if as_json else "\n".join(str(path) for path in files))
        return
    chosen = [path for path in files if name is None or str(path.relative_to(directory.logs)) == name]
    if not chosen:
        allowed = ", ".join(str(path.relative_to(directory.logs)) for path in files) or "none yet"
        raise UserError(f"{directory.logs}: no log{f' {name!r}' if name else ''}; there are: {allowed}")
    for line in ledger.follow(chosen[-1], directory=directory, lines=lines, forever=follow):
        if as_json:
            print(json.dumps({"file": str(chosen[-1]), "line": line.rstrip("\n")}), flush=follow)
        else:
            print(line, end="", flush=follow)


def stop(run: Run, runs_dir: RunsDir = Path("runs"), as_json: Json = False) -> None:
    """End a run: in order if it listens, by force otherwise. Nothing of it stays behind.

    Example: liverl stop last"""
    from runtime.launch import ledger, lifecycle

    directory = ledger.find(run, runs_dir=runs_dir)
    what = lifecycle.stop(directory)
    print(json.dumps({"run": directory.path.name, "what": what}) if as_json else f"{directory.path.name}: {what}")


def _brief(one: Entry) -> dict[str, Any]:
    record = one.record
    return {
        "run": record.run,
        "experiment": record.experiment,
        "kind": record.kind,
        "target": record.target,
        "state": one.state,
        "start": record.start,
        "end": record.end,
        "seconds": round(one.seconds, 1),
        "exit_code": record.exit_code,
        "exit_cause": record.exit_cause,
        "path": str(one.directory.path),
    }


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
