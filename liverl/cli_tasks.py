"""``liverl tasks``: verify, regrade, generate, synth, index, prepare, demonstrate.

Turns arguments into calls, prints reports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from liverl.cli_demonstrate import demonstrate
from liverl.cli_import import import_set
from liverl.cli_prepare import prepare
from liverl.options import RunsDir, cache_folder, folder_to_write, new_folder, to_write
from liverl.still_there import say, still_there

if TYPE_CHECKING:
    from runtime.agent_loop.regrade import Regraded
    from runtime.config import Environment
    from runtime.tasks.generate.inject import Injection
    from runtime.tasks.generate.sources import Package
    from runtime.tasks.verify import TaskReport, VerifyReport

Directories = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Task directories, or folders of them.")]
Sandbox = Annotated[
    str,
    typer.Option(
        "--sandbox",
        help="bubblewrap (plain processes where the machine cannot), process, docker:IMAGE or "
        "kubernetes:NAMESPACE:IMAGE (an image with Python).",
    ),
]
SplitName = Annotated[str, typer.Option("--split", help="train, held_out, demonstrations, or all.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Fetched packages and surveys. Default: ~/.cache/liverl.")]

_SPLITS = ("train", "held_out", "demonstrations")


def register(app: typer.Typer) -> None:
    tasks = typer.Typer(help="Make, prove and list tasks.", no_args_is_help=True, rich_markup_mode=None)
    tasks.command("verify")(verify)
    tasks.command("regrade")(regrade)
    tasks.command("generate")(generate)
    tasks.command("synth")(synth)
    tasks.command("index")(index)
    tasks.command("import")(import_set)
    tasks.command("prepare")(prepare)
    tasks.command("demonstrate")(demonstrate)
    app.add_typer(tasks, name="tasks")


def _environment(sandbox: str) -> Environment:
    from runtime.config import Bubblewrap, Docker, Kubernetes, KubernetesCluster, PlainProcess
    from runtime.errors import UserError

    kind, _, image = sandbox.partition(":")
    namespace, _, pod_image = image.partition(":")
    wanted = {"bubblewrap": not image, "process": not image, "docker": bool(image), "kubernetes": bool(pod_image)}
    if not wanted.get(kind):
        known = "bubblewrap, process, docker:IMAGE or kubernetes:NAMESPACE:IMAGE"
        raise UserError(f"--sandbox {sandbox!r}: not a sandbox; use {known}")
    # Tests decide here, not agents under a deadline: let slow machines finish.
    given: dict[str, Any] = {"agent_timeout_sec": 600.0, "verifier_timeout_sec": 600.0}
    if kind == "docker":
        return Docker(base_image=image, **given)
    if kind == "kubernetes":
        try:
            pods = KubernetesCluster(image=pod_image, namespace=namespace)
        except ValueError as error:
            raise UserError(f"--sandbox {sandbox!r}: {error}") from error
        return Kubernetes(kubernetes=pods, **given)
    return Bubblewrap(**given) if kind == "bubblewrap" else PlainProcess(**given)


def verify(
    directories: Directories,
    sandbox: Sandbox = "bubblewrap",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Sandboxes at once.")] = os.cpu_count() or 1,
    build: Annotated[
        bool, typer.Option("--build", help="Build Dockerfiles: their instructions run here as root; trust the authors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove each task: solution/ scores more than doing nothing, honest/*.sh as much, cheat/*.sh no more."""
    import asyncio
    import tempfile

    from runtime.errors import RunError, UserError
    from runtime.tasks import verify as room
    from runtime.tasks.directories import find_task_directories, load_tasks
    from runtime.tasks.graders import graders
    from runtime.tasks.images import with_images

    environment = _environment(sandbox)
    environment = environment.model_copy(update={"images": environment.images.model_copy(update={"build": build})})
    invalid: list[str] = []
    tasks = load_tasks(find_task_directories(directories), on_problem=invalid.append)
    tasks = with_images(tasks, environment=environment, on_problem=invalid.append, say=say)
    if not tasks:
        if as_json:
            typer.echo(json.dumps(room.VerifyReport((), tuple(invalid), environment.type).to_json()))
        raise UserError(*invalid)

    asked = (task.config.environment.memory_mb or 0 for task in tasks)
    environment = environment.model_copy(update={"memory_mib": max(environment.memory_mib, *asked)})

    async def work() -> VerifyReport:
        with tempfile.TemporaryDirectory(prefix="liverl-verify-") as state:
            async with graders(environment, state=Path(state)) as (provider, verifier):
                return await room.verify(
                    tasks,
                    provider=provider,
                    verifier=verifier,
                    concurrency=jobs,
                    memory_mib=environment.memory_mib,
                    pids=environment.pids,
                    invalid=invalid,
                    on_report=show,
                )

    done: list[str] = []

    def show(one: TaskReport) -> None:
        done.append(one.task)
        if not as_json:
            _print_report(one)

    with still_there("proving tasks", lambda: f"{len(done)} of {len(tasks)}"):
        report = asyncio.run(work())
    proven = sum(task.ok for task in report.tasks)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        for problem in report.invalid:
            typer.echo(f"left out: {problem}")
        left_out = f", {len(report.invalid)} left out" if report.invalid else ""
        flaky = f", {len(report.flaky)} flaky: {', '.join(report.flaky)}" if report.flaky else ""
        typer.echo(f"{proven} of {len(report.tasks)} tasks proven{flaky}{left_out} (isolation: {report.isolation})")
    if not report.ok:
        raise RunError(f"{len(report.tasks) - proven} tasks not proven, {len(report.invalid)} left out")


def _print_report(report: TaskReport) -> None:
    if report.ok:
        scores = {check.name: check.reward or 0 for check in report.checks}
        usual = (scores["oracle"], scores["no-op"]) == (1, 0)
        graded = "" if usual else f"; the solution scores {scores['oracle']:g}, doing nothing {scores['no-op']:g}"
        typer.echo(f"ok    {report.task} ({len(report.checks)} checks{graded})")
        return
    typer.echo(f"{'FLAKY' if report.flaky else 'WRONG'} {report.task}")
    for check in report.checks:
        if not check.ok:
            scored = "no grade" if check.reward is None else f"scored {check.reward:g}"
            causes = [check.problem, f"the tests said last: {check.said}" if check.said else None]
            why = "; ".join(cause for cause in causes if cause) or "it ran"
            typer.echo(f"      {check.name}: {scored}, expected {check.expected}; {why}")


def regrade(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A path, an id or the beginning of one, or `last`.")],
    runs_dir: RunsDir = Path("runs"),
    directories: Annotated[
        list[Path] | None,
        typer.Option("--tasks", metavar="DIR", help="Take tasks of the same ids from here; may be repeated."),
    ] = None,
    sandbox: Annotated[str | None, typer.Option("--sandbox", help="As for verify; default: what the run used.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Verdicts at once.")] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """Judge the kept work of a run's trials again; verdicts go beside the run, whose records stay as they are."""
    import asyncio
    import tempfile

    from runtime.agent_loop import regrade as room
    from runtime.config import load_runtime_config
    from runtime.tasks.directories import find_task_directories, load_tasks
    from runtime.tasks.graders import graders

    folder = _with_trials(run, runs_dir)
    contract = folder / "bundle" / "runtime.json"
    environment = (
        load_runtime_config(contract).environment
        if sandbox is None and contract.is_file()
        else _environment(sandbox or "bubblewrap")
    )
    problems: list[str] = []
    found = load_tasks(find_task_directories(directories), on_problem=problems.append) if directories else []
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)

    judged: list[str] = []

    def show(trial: room.Regraded) -> None:
        judged.append(trial.trial)
        if trial.changed and not as_json:
            typer.echo(f"changed {trial.step}/{trial.trial}: {_verdicts(trial)}")

    async def work() -> room.Regrade:
        with tempfile.TemporaryDirectory(prefix="liverl-regrade-") as state:
            async with graders(environment, state=Path(state)) as (_, verifier):
                return await room.regrade(
                    folder,
                    verifier=verifier,
                    tasks={task.id: task for task in found},
                    concurrency=jobs,
                    on_trial=show,
                )

    with still_there("judging work again", lambda: f"{len(judged)} trials so far"):
        result = asyncio.run(work())
    if as_json:
        typer.echo(json.dumps({**result.summary(), "folder": str(result.folder)}))
        return
    for reason, count in result.left_out.items():
        typer.echo(f"left out {count}: {reason}")
    typer.echo(f"{len(result.changed)} of {len(result.trials)} verdicts changed; all of them in {result.folder}")


def _with_trials(run: str, runs_dir: Path) -> Path:
    """A folder with trials in it (what ``eval`` wrote is no run of the ledger), or the run that the ledger knows."""
    from runtime.launch import ledger

    return Path(run) if run and (Path(run) / "trials").is_dir() else ledger.find(run, runs_dir=runs_dir).path


def _verdicts(trial: Regraded) -> str:
    def text(verdict: str, reward: float | None) -> str:
        return verdict if reward is None else f"{verdict} ({reward:g})"

    now = text(trial.verdict_now, trial.reward_now)
    return f"{text(trial.verdict_then, trial.reward_then)} -> {now}" + (f": {trial.problem}" if trial.problem else "")


def generate(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="A repository's folder, or NAME==VERSION with --sha256.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=folder_to_write, help="Folder that receives the task directories.")
    ],
    count: Annotated[int, typer.Option("-n", min=1, help="At most so many tasks.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Draws which bugs are tried.")] = 0,
    split: SplitName = "all",
    split_seed: Annotated[int, typer.Option("--split-seed", help="Draws which function names are in a split.")] = 0,
    per_kind_fraction: Annotated[
        float, typer.Option("--per-kind-fraction", min=0.01, max=1, help="Largest share of one kind of bug.")
    ] = 0.25,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Digest of the source distribution.")] = None,
    requirements: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME==VERSION", help="Another package that the tests need; may be repeated."),
    ] = None,
    per_function: Annotated[int, typer.Option("--per-function", min=1, help="Most bugs of one function.")] = 4,
    tests_per_task: Annotated[int, typer.Option("--tests", min=1, help="Most tests that judge one task.")] = 30,
    slow_test_sec: Annotated[
        float, typer.Option("--slow-test-sec", min=0.001, help="Tests that take longer are left out.")
    ] = 0.5,
    bugs: Annotated[int, typer.Option("--bugs", min=1, max=8, help="Bugs per task, of different functions.")] = 1,
    from_history: Annotated[
        bool,
        typer.Option("--from-history", help="Make tasks of the repository's own commits that change code and tests."),
    ] = False,
    max_commits: Annotated[
        int, typer.Option("--commits", min=1, help="With --from-history: look at so many commits, newest first.")
    ] = 200,
    name: Annotated[str, typer.Option("--name", help="Name under which the tasks are scored.")] = "real",
    sandbox: Sandbox = "bubblewrap",
    cache: Cache = None,
) -> None:
    """Write tasks from a real repository or source distribution: verified bugs injected, or commits of its history."""
    import asyncio
    import tempfile

    from runtime.errors import RunError, UserError
    from runtime.tasks.generate.caps import Caps
    from runtime.tasks.generate.package_tasks import generate_package, image_with
    from runtime.tasks.graders import graders

    environment = _environment(sandbox)
    if split not in (*_SPLITS, "all"):
        raise UserError(f"--split {split!r}: not a split; use {', '.join(_SPLITS)} or all")
    new_folder(out)
    if from_history:
        if bugs != 1 or split != "all" or sha256 is not None:
            raise UserError("--from-history: commits are taken as they are; leave out --bugs, --split and --sha256")
        _generate_history(repository, out, count, max_commits, name, environment, requirements or [])
        return
    package = _package(repository, sha256, cache_folder(cache))

    async def work() -> Injection:
        with tempfile.TemporaryDirectory(prefix="liverl-generate-") as state:
            async with graders(environment, state=Path(state)) as (provider, verifier):
                return await generate_package(
                    package,
                    out=out,
                    name=name,
                    split=None if split == "all" else cast(Literal["train", "held_out", "demonstrations"], split),
                    limit=count,
                    per_kind_fraction=per_kind_fraction,
                    seed=seed,
                    split_seed=split_seed,
                    provider=provider,
                    verifier=verifier,
                    image=image_with(requirements or []),
                    cache=cache_folder(cache),
                    workers=os.cpu_count() or 1,
                    on_progress=say,
                    bugs_per_task=bugs,
                    caps=Caps(per_function, tests_per_task, slow_test_sec),
                )

    with still_there(f"looking for tasks in {package.name}"):
        injection = asyncio.run(work())
    found = injection.survey
    typer.echo(
        f"{len(injection.bugs)} tasks in {out}\n"
        f"tests: {found.tests}, of which {len(found.calls)} usable"
        f" ({found.failing} not passing, {found.flaky} flaky, {found.slow} slow, {found.random} with drawn inputs)\n"
        f"functions that they call: {injection.functions}; mutants: {injection.mutants}, tried {injection.tried},"
        f" {injection.survived} unnoticed, {injection.timeouts} endless, {injection.unstable} not the same twice,"
        f" {injection.unproven} not confirmed by the verifier"
    )
    if not injection.bugs:
        why = "no bug that its tests tell from the original"
        if not found.calls:
            why = "no usable test; the lines above say why. What tests import and is not there comes with --with"
        raise RunError(f"{package.name}: {why}")


def _generate_history(
    repository: str,
    out: Path,
    count: int,
    max_commits: int,
    name: str,
    environment: Environment,
    requirements: list[str],
) -> None:
    import asyncio
    import tempfile

    from runtime.errors import RunError
    from runtime.tasks.generate.history_tasks import GeneratedHistory, generate_history
    from runtime.tasks.generate.package_tasks import image_with
    from runtime.tasks.graders import graders

    async def work() -> GeneratedHistory:
        with tempfile.TemporaryDirectory(prefix="liverl-generate-") as state:
            async with graders(environment, state=Path(state)) as (provider, verifier):
                return await generate_history(
                    Path(repository),
                    out=out,
                    name=name,
                    limit=count,
                    max_commits=max_commits,
                    provider=provider,
                    verifier=verifier,
                    image=image_with(requirements),
                    workers=os.cpu_count() or 1,
                    on_progress=say,
                )

    with still_there(f"looking for tasks in the history of {repository}"):
        made = asyncio.run(work())
    typer.echo(f"{len(made.tasks)} tasks in {out} from {made.commits} commits that change code and tests")
    for reason, number in made.left_out.items():
        typer.echo(f"left out {number}: {reason}")
    if not made.tasks:
        raise RunError(f"{repository}: no commit whose tests tell the code before from the code after")


def _package(repository: str, sha256: str | None, cache: Path) -> Package:
    from runtime.config import PackagePin
    from runtime.errors import UserError
    from runtime.tasks.generate.sources import fetch, open_repository

    name, pinned, version = repository.partition("==")
    if not pinned:
        return open_repository(Path(repository))
    if sha256 is None:
        raise UserError(f"{repository}: --sha256 is missing; give the digest of its source distribution (.tar.gz)")
    return fetch(PackagePin(name=name, version=version, sha256=sha256), cache=cache)


def synth(
    count: Annotated[int, typer.Option("-n", min=1, help="Number of tasks.")],
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same tasks.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=folder_to_write, help="Folder that receives the task directories.")
    ],
    split: Annotated[str, typer.Option("--split", help="train, held_out or demonstrations.")] = "train",
) -> None:
    """Write generated repositories, each broken once, whose repair can be read from code and test output."""
    from runtime.errors import UserError
    from runtime.laptop.synth import generate as synthesise

    if split not in _SPLITS:
        raise UserError(f"--split {split!r}: not a split; use {', '.join(_SPLITS)}")
    new_folder(out)
    made = synthesise(count, seed=seed, split=cast(Literal["train", "held_out", "demonstrations"], split), out=out)
    typer.echo(f"{len(made)} tasks in {out}")


def index(
    directories: Directories,
    out: Annotated[Path, typer.Option("--out", "-o", callback=to_write, metavar="FILE.parquet", help="The index.")],
    pass_rate: Annotated[
        str | None, typer.Option("--pass-rate", metavar="LO:HI", help="Only tasks whose known pass rate lies within.")
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--trials",
            metavar="RUN",
            help="Take pass rates from this run: a path, an id or the beginning of one, or `last`; may be repeated.",
        ),
    ] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option(
            "--verified",
            metavar="REPORT.json",
            help="What tasks verify --json wrote: seconds of solutions; repeatable.",
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write a parquet index of tasks, with pass rates from earlier runs, filtered by difficulty if asked."""
    from runtime import suggest
    from runtime.errors import UserError
    from runtime.tasks.directories import find_task_directories, load_tasks
    from runtime.tasks.index import oracle_seconds, parse_band, pass_rates, write_index

    band = parse_band(pass_rate) if pass_rate is not None else None
    if band is not None and not runs:
        raise UserError(
            "--pass-rate: no pass rates known; add --trials RUN with a run directory that tried these tasks"
        )
    rates = pass_rates([_with_trials(run, runs_dir) for run in runs or []])
    left_out: list[str] = []
    tasks = load_tasks(find_task_directories(directories), on_problem=left_out.append)
    written = write_index(tasks, out, rates=rates, band=band, seconds=oracle_seconds(reports or []))
    for problem in left_out:
        typer.echo(f"left out: {problem}")
    away = [task for task in tasks if task.image_missing is not None]
    if away:
        proves = suggest.liverl("tasks", "verify", away[0].path)
        typer.echo(
            f"{len(away)} tasks without digest and size of their image, which is not here: `{proves}` fetches that of "
            "the first; write the index again then, so that runs from it use that very image"
        )
    if rates and not any(task.id in rates for task in tasks):
        typer.echo("no task has a pass rate: none of the ids in --trials is among these tasks")
    outside = f", {len(tasks) - written} outside {pass_rate}" if band is not None else ""
    typer.echo(f"{written} tasks in {out}{outside}" + (f", {len(left_out)} left out" if left_out else ""))
