"""``liverl eval`` and ``liverl infer``: trials of one fixed policy without a trainer, in a run directory of their own,
resumable.

Knows the order of things only: tasks, policy, engine, many trials, a table.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml
from rich.console import Console

from runtime import suggest
from runtime.agent_loop.deaths import End, why_all_died
from runtime.config import PretrainedPolicy, RuntimeConfig, TaskSet, TorchRollout, load_runtime_config
from runtime.errors import RunError, Termination, UserError
from runtime.files import write_folder, write_whole
from runtime.grading.base import solved_share
from runtime.launch import gpus, ledger, lifecycle, machine, phases, rundir
from runtime.launch.model import check_policy, check_weights, locate
from runtime.launch.notify import notifying
from runtime.launch.prompt_length import refuse_long
from runtime.launch.rundir import RunDirectory, refuse_living
from runtime.launch.scored import print_scored, scored
from runtime.launch.whole import whole
from runtime.models import store
from runtime.proxy.chat_endpoint import ChatEndpoint
from runtime.rollouter.engine import Engine
from runtime.telemetry.progress import Progress

REQUEST_FILE = "scoring.json"
ENDPOINT_KEY = "LIVERL_ENGINE_KEY"
"""Variable with the key of a server that runs already: never an option, which others could read."""


@dataclass(frozen=True)
class Request:
    """What to score. ``checkpoint`` None means the policy that the spec begins with; ``limit`` bounds the tasks per set
    (0: all); ``endpoint``: a server that serves the model, of which ``checkpoint`` then needs the tokenizer alone, or
    which is asked for ``model`` by chat completions, texts alone."""

    kind: Literal["eval", "infer"]
    checkpoint: str | None
    num_samples: int
    limit: int = 0
    endpoint: str | None = None
    model: str | None = None


def prepare(
    bundle: Mapping[str, str], request: Request, *, runs_dir: Path, spec: str = "", options: Sequence[str] = ()
) -> RunDirectory:
    """A new run directory holding the bundle (file name to text), ready for ``execute``; nothing is written when the
    machine or the checkpoint will not do.

    ``eval`` runs the validation sets as the spec samples them, ``infer`` the training sets at the rollout's
    temperature; ``num_samples`` trials a task."""
    if request.checkpoint is not None:
        request = replace(request, checkpoint=str(_model_of(request, runs_dir)))
    config = RuntimeConfig.model_validate_json(bundle["runtime.json"])
    lifecycle.tidy_all(runs_dir)  # first: what killed runs left may hold what is asked for
    _refuse_unfit(bundle, config, request, runs_dir)
    directory = rundir.create(
        runs_dir, experiment=config.experiment, target="local", kind=request.kind, spec=spec, options=options
    )
    write_folder(directory.bundle, bundle)
    write_whole(directory.path / REQUEST_FILE, orjson.dumps(asdict(request), option=orjson.OPT_INDENT_2) + b"\n")
    return directory


def _refuse_unfit(bundle: Mapping[str, str], config: RuntimeConfig, request: Request, runs_dir: Path) -> None:
    """Raises ``MachineError`` or ``UserError`` where this machine or the policy will not do."""
    if request.endpoint is None:
        gpus.check_bundle(bundle, runs_dir)
    if request.checkpoint is None and request.model is None:
        check_weights(config)
        check_policy(config)
    machine.check_imports(config)
    machine.check_addresses(config)
    machine.check_way_to_the_model(config.environment)
    if request.endpoint is not None:
        asyncio.run(_answers(request, request.endpoint))
    machine.preflight(
        runs_dir, trains=False, bubblewrap=config.environment.type == "bubblewrap", scaffold=config.scaffold
    )


async def _answers(request: Request, url: str) -> None:
    """Raises ``MachineError`` where the server does not answer as this request needs it."""
    from runtime.proxy.upstream import VLLMEngine

    key = os.environ.get(ENDPOINT_KEY)
    endpoint = VLLMEngine(url, api_key=key) if request.model is None else ChatEndpoint(url, request.model, api_key=key)
    try:
        await endpoint.connect()
    finally:
        await endpoint.close()


def reopen(directory: RunDirectory) -> RunDirectory:
    """Ready an unfinished evaluation for ``execute``, where trials that were graded are not run again."""
    record = directory.read()
    refuse_living(directory)
    if not (directory.path / REQUEST_FILE).is_file():
        command = suggest.on_run("run --resume", directory.path)
        raise UserError(f"{record.run}: is a training run; go on with `{command}`")
    bundle = {name: (directory.bundle / name).read_text(encoding="utf-8") for name in ("verl.yaml", "liverl.lock")}
    request = request_of(directory)
    _refuse_unfit(bundle, load_runtime_config(directory.bundle / "runtime.json"), request, directory.runs_dir)
    lifecycle.tidy(directory)
    directory.update(resumed=record.resumed + 1)
    return directory


def request_of(directory: RunDirectory) -> Request:
    """What an evaluation was asked to do."""
    return Request(**orjson.loads((directory.path / REQUEST_FILE).read_bytes()))


def execute(
    directory: RunDirectory,
    *,
    console: Console | None = None,
    ks: Sequence[int] = (),
    against: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run what is missing, print the table unless ``quiet``, and return it (``scored``). Raises as ``local.execute``
    does."""
    console = console or Console()
    config = load_runtime_config(directory.bundle / "runtime.json")
    request = request_of(directory)
    title = f"{request.kind} {config.experiment} {directory.path.name}"
    with (
        notifying(directory, config),
        lifecycle.running(directory) as interrupts,
        Progress(title, console=console) as progress,
    ):
        for problem in machine.warnings(config.environment):
            progress.problem(problem)
        sets, folder = _inputs(directory, config, request, progress)
        with phases.timed(directory, "trials", progress):
            records = interrupts.run(_trials(directory, config, request, sets, folder=folder, progress=progress))
        ends = [End(Termination(record["termination"]), record["reward"], record.get("cause")) for record in records]
        if (why := why_all_died(ends)) is not None:
            raise RunError(f"{why}, so nothing was scored (trials: {directory.trials})")
    if not directory.policy.is_symlink() and request.checkpoint is not None:
        shutil.rmtree(directory.policy, ignore_errors=True)  # a whole model, made of an adapter for these trials alone
    result = scored(directory, ks=sorted({1, *ks}), against=against)
    if not quiet:
        print_scored(result, console=console)
        console.print(f"every trial lies in {directory.trials}", highlight=False, markup=False, soft_wrap=True)
    return result


def _inputs(
    directory: RunDirectory, config: RuntimeConfig, request: Request, progress: Progress
) -> tuple[list[Any], Path | None]:
    """The evaluation sets and the model folder, both made or found; no folder where a server has the model."""
    from runtime.agent_loop.evaluate import EvaluationSet

    chosen: tuple[TaskSet, ...] = config.validation if request.kind == "eval" else config.train
    needs_policy = (
        request.checkpoint is None and request.model is None and not isinstance(config.policy, PretrainedPolicy)
    )
    wanted = config.model_copy(
        update={
            "train": chosen if request.kind == "infer" else (),
            "validation": chosen if request.kind == "eval" else (),
        }
    )
    tasks = phases.prepare_tasks(directory, wanted, progress, cache=directory.cache, demonstrations=needs_policy)
    by_name = tasks.train | tasks.validation
    sets = [
        EvaluationSet(
            name=task_set.name,
            tasks=by_name[task_set.name][: request.limit or None],
            temperature=config.rollout.temperature if task_set.temperature is None else task_set.temperature,
            n=request.num_samples,
        )
        for task_set in chosen
    ]
    if request.model is not None:
        return sets, None
    if request.checkpoint is not None:
        model = _model_of(request, directory.runs_dir)
        return sets, model if request.endpoint is not None else whole(model, directory.policy)
    if isinstance(config.policy, PretrainedPolicy):
        return sets, find_model(locate(config.policy.path), named="policy.path")
    phases.make_policy(
        directory, config, progress, tasks, on_tokenizer=lambda folder: refuse_long(folder, config, tasks)
    )
    return sets, directory.policy


async def _trials(
    directory: RunDirectory,
    config: RuntimeConfig,
    request: Request,
    sets: Sequence[Any],
    *,
    folder: Path | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    from runtime.agent_loop.evaluate import evaluate

    total = sum(len(one.tasks) * one.n for one in sets)
    finished, solved = 0, 0.0

    def one_more(record: Mapping[str, Any]) -> None:
        nonlocal finished, solved
        finished += 1
        solved += solved_share(float(record["reward"] or 0.0))
        progress.update(f"{finished} of {total}, {solved / finished:.0%} solved", finished / total)
        if record["error"]:
            progress.problem(f"{record['trial_id']}: {record['error']}")

    async with AsyncExitStack() as stack:
        engine: Engine | ChatEndpoint
        if folder is None:
            assert request.endpoint is not None and request.model is not None
            engine = ChatEndpoint(request.endpoint, request.model, api_key=os.environ.get(ENDPOINT_KEY))
            stack.push_async_callback(engine.close)
        else:
            engine = await stack.enter_async_context(open_engine(directory, config, folder, endpoint=request.endpoint))
        return await evaluate(
            sets, config=config, engine=engine, model_folder=folder, out=directory.path, on_trial=one_more
        )


@asynccontextmanager
async def open_engine(
    directory: RunDirectory, config: RuntimeConfig, folder: Path, *, endpoint: str | None = None
) -> AsyncIterator[Engine]:
    """The spec's: in this process, or vLLM servers of this machine; or a server that runs already."""
    rollout = config.rollout
    engine: Engine
    async with AsyncExitStack() as stack:
        if endpoint is not None:
            from runtime.proxy.upstream import connect

            engine, _ = await connect([endpoint], api_key=os.environ.get(ENDPOINT_KEY))
        elif not isinstance(rollout, TorchRollout):
            from runtime.proxy.upstream import connect
            from runtime.rollouter.vllm_servers import vllm_servers
            from runtime.trainer.cuda.cards import Wanted, taken, wanted_by
            from runtime.trainer.cuda.platform import vllm_environment

            settings = directory.bundle / "vllm.yaml"
            each = int(yaml.safe_load(settings.read_text(encoding="utf-8"))["tensor-parallel-size"])
            share = wanted_by(yaml.safe_load((directory.bundle / "verl.yaml").read_text(encoding="utf-8"))).share
            servers = vllm_servers(
                settings,
                folder,
                replicas=rollout.replicas,
                gpus_per_replica=each,
                logs=directory.logs,
                environment={
                    **vllm_environment(directory.cache),
                    **taken(Wanted(rollout.replicas * each, share)),
                },
            )
            engine, _ = await connect(await stack.enter_async_context(servers))
        else:
            from runtime.rollouter.make import make_engine

            engine = make_engine(
                folder,
                slots=rollout.slots,
                max_len=rollout.prompt_length + rollout.response_length,
                seed=config.seed,
                import_path=rollout.import_path,
                kwargs=rollout.kwargs,
            )
        stack.push_async_callback(engine.close)
        yield engine


def _model_of(request: Request, runs_dir: Path) -> Path:
    """The folder that a checkpoint means. What a server serves needs no weights here."""
    folder = Path(str(request.checkpoint))
    if request.endpoint is not None and (folder / "tokenizer.json").is_file():
        return folder.absolute()
    return find_policy(str(request.checkpoint), runs_dir=runs_dir, option="--checkpoint")


def find_policy(named: str, *, runs_dir: Path, option: str) -> Path:
    """The Hugging Face folder that a person means: a path (``find_model``), a run's id or the beginning of one,
    ``last`` (the newest training run), or a model that was taken in or lies in the hub's cache. Raises ``UserError``
    naming the ``option``."""
    path = Path(named).expanduser()
    if path.exists():
        return find_model(path, named=option)
    if named == "last":
        trained = [entry for entry in ledger.runs(runs_dir) if entry.record.kind == "train"]
        if trained:
            return find_model(trained[-1].directory.path, named=option)
        raise UserError(f"{option} last: no training run in {runs_dir}")
    if (kept := store.find(named)) is not None:
        return find_model(kept, named=option)
    found: Path | None = None
    with suppress(UserError):
        found = ledger.find(named, runs_dir=runs_dir).path
    if found is None and not named.startswith(("/", "./", "../", "~")):
        with suppress(UserError):
            found = locate(named)
    if found is not None:
        return find_model(found, named=option)
    raise UserError(
        f"{option} {named}: no folder, no run of {runs_dir}, and no model of this machine; allowed: a Hugging Face"
        " folder, checkpoints/global_step_N, a run (a path, an id, `last`), or a name of"
        f" `{suggest.liverl('models', 'list')}`"
    )


def find_model(path: Path, *, named: str) -> Path:
    """The Hugging Face folder that ``path`` means: itself, or the actor of a checkpoint (``global_step_N``) or of a
    run's newest one.

    Raises ``UserError`` saying what was looked for; ``named``: what named the path.
    """
    steps = sorted(
        (step for step in (path / "checkpoints").glob("global_step_*") if step.name.rpartition("_")[2].isdecimal()),
        key=lambda step: int(step.name.rpartition("_")[2]),
        reverse=True,
    )
    candidates = [path, path / "actor" / "huggingface", path / "huggingface"]
    candidates += [step / "actor" / "huggingface" for step in steps]
    candidates.append(path / "policy")
    for candidate in candidates:
        if (candidate / "config.json").is_file() and any(candidate.glob("*.safetensors")):
            return candidate.absolute()
    raise UserError(
        f"{named} {path}: no model here; allowed: a Hugging Face folder (config.json and *.safetensors),"
        " a checkpoint folder (checkpoints/global_step_N), or a run directory"
    )
