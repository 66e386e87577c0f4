"""The ``local`` launcher: one machine, this process and its children, from a bundle to a trained policy and a closing
table.

Knows the order of things and nothing of how any room does its part.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from runtime import suggest
from runtime.config import RuntimeConfig, load_runtime_config
from runtime.errors import MachineError, RunError, UserError
from runtime.files import write_folder
from runtime.launch import gpus, lifecycle, machine, phases, rundir
from runtime.launch.model import check_layers, check_policy, check_weights
from runtime.launch.notify import notifying
from runtime.launch.rundir import RunDirectory, refuse_living
from runtime.launch.upload import uploading
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.progress import Progress
from runtime.telemetry.summary import RunReport, print_summary

FULL_DISK_BYTES = 64 << 20


def prepare(bundle: Mapping[str, str], *, runs_dir: Path, spec: str = "", options: Sequence[str] = ()) -> RunDirectory:
    """A new run directory holding the bundle (file name to text), ready for ``execute``.

    ``spec`` is what the user named (a name of the library, or an absolute path), and ``options`` what it was compiled
    with, for the record and for the commands suggested at the end. Raises ``MachineError`` when the machine cannot run
    this; then nothing was written. What killed runs left behind is cleaned up first."""
    config = RuntimeConfig.model_validate_json(bundle["runtime.json"])
    lifecycle.tidy_all(runs_dir)  # first: what killed runs left may hold what is asked for
    _preflight(runs_dir, config, bundle)
    directory = rundir.create(runs_dir, experiment=config.experiment, target=config.target, spec=spec, options=options)
    write_folder(directory.bundle, bundle)
    return directory


def reopen(directory: RunDirectory) -> RunDirectory:
    """Ready an unfinished run for ``execute``. Raises ``UserError`` when it goes on already or has nothing left to
    do."""
    record = directory.read()
    if record.kind != "train":
        command = suggest.on_run(f"{record.kind} --resume", directory.path)
        raise UserError(f"{record.run}: is no training run; go on with `{command}`")
    refuse_living(directory)
    if record.state == "succeeded":
        again = suggest.experiment(record.spec, record.options, directory.bundle)
        command = suggest.liverl("run", *again, *suggest.elsewhere(directory.runs_dir))
        raise UserError(f"{record.run}: has succeeded, there is nothing to resume; start a new run with `{command}`")
    names = ("verl.yaml", "liverl.lock", "runtime.json")
    if gone := [name for name in names if not (directory.bundle / name).is_file()]:
        raise UserError(
            f"{directory.bundle}: {', '.join(gone)} missing, without which nothing can go on; start a new run"
        )
    bundle = {name: (directory.bundle / name).read_text(encoding="utf-8") for name in names[:2]}
    lifecycle.tidy_all(directory.runs_dir)
    lifecycle.tidy(directory)
    _preflight(directory.path, load_runtime_config(directory.bundle / "runtime.json"), bundle)
    directory.update(resumed=record.resumed + 1)
    return directory


def execute(directory: RunDirectory, *, console: Console | None = None) -> None:
    """Run every phase that is not finished yet, follow the trainer to its end, print the closing table.

    Raises ``UserError``, ``MachineError``, ``RunError`` and ``KeyboardInterrupt``; in every case ``run.json`` says so
    and no process is left."""
    console = console or Console()
    config = load_runtime_config(directory.bundle / "runtime.json")
    resumed = directory.read().resumed > 0
    with (
        notifying(directory, config),
        Progress(f"{config.experiment} {directory.path.name}", console=console) as progress,
        uploading(directory, config, progress.problem),
        lifecycle.running(directory) as interrupts,
    ):
        _phases(directory, config, progress, interrupts, resume=resumed)
    summarise(directory, console=console)


def summarise(directory: RunDirectory, *, console: Console) -> None:
    """Print the closing table of a run that has come to an end."""
    record = directory.read()
    facts = RunReport(
        path=directory.path,
        experiment=suggest.experiment(record.spec, record.options, directory.bundle),
        runs_dir=directory.runs_dir,
        counts=record.tasks,
        phases=record.phases,
        left_out=record.left_out,
        baselines=directory.baselines,
        metrics=directory.metrics,
    )
    print_summary(facts, load_runtime_config(directory.bundle / "runtime.json"), console=console)


def _preflight(folder: Path, config: RuntimeConfig, bundle: Mapping[str, str]) -> None:
    machine.check_limits(config)
    machine.check_folder(folder)
    gpus.check_bundle(bundle, folder)
    check_weights(config)
    check_policy(config)
    check_layers(config, bundle)
    machine.check_secrets(config.secrets)
    machine.check_addresses(config)
    machine.check_loggers(config.loggers)
    machine.check_imports(config)
    machine.check_way_to_the_model(config.environment)
    machine.preflight(folder, trains=True, bubblewrap=config.environment.type == "bubblewrap", scaffold=config.scaffold)


def _phases(
    directory: RunDirectory,
    config: RuntimeConfig,
    progress: Progress,
    interrupts: lifecycle.Interrupts,
    *,
    resume: bool,
) -> None:
    from runtime.launch.probe import probe
    from runtime.launch.prompt_length import leave_out_long, refuse_long
    from runtime.launch.supervised import train_supervised
    from runtime.trainer.lost_machines import train_through
    from runtime.trainer.process import train
    from runtime.trainer.startup import stages

    for problem in machine.warnings(config.environment):
        progress.problem(problem)
    tasks = phases.prepare_tasks(directory, config, progress, cache=directory.cache)
    phases.make_policy(
        directory, config, progress, tasks, on_tokenizer=lambda folder: refuse_long(folder, config, tasks)
    )
    tasks = leave_out_long(directory, config, progress, tasks)
    with phases.timed(directory, "probe", progress):  # again on every start: it may be another machine
        interrupts.run(probe(directory, config, next(iter(tasks.train.values()))[0]))
    train_supervised(directory, config, progress, tasks)
    phases.score_baselines(directory, config, progress, tasks)
    phases.write_data(directory, config, progress, tasks)
    if not _has_work(directory.verl_yaml):
        return
    steps = total_steps(directory.verl_yaml)
    directory.startup.unlink(missing_ok=True)  # of an earlier attempt: no news
    with (
        phases.timed(directory, "train", progress),
        progress.follow(
            directory.metrics,
            directory.status,
            total_steps=steps,
            startup=lambda: [(stage.name, stage.seconds) for stage in stages(directory.startup)],
        ),
    ):
        try:
            train_through(
                lambda again: train(directory.path, resume=again),
                resume=resume,
                progress=lambda: len(read_rows(directory.metrics)),
            )
        except RunError as error:
            free = shutil.disk_usage(directory.path).free
            if free < FULL_DISK_BYTES:
                raise MachineError(
                    f"the disk of {directory.path} is full ({free >> 20} MiB free)",
                    fix=f"free some space, then go on with: {suggest.on_run('run --resume', directory.path)}",
                ) from error
            raise


def total_steps(verl_yaml: Path) -> int:
    """The trainer's number of steps, 0 when the config leaves it to the length of the data, or asks for none."""
    trainer = yaml.safe_load(verl_yaml.read_text(encoding="utf-8")).get("trainer", {})
    return 0 if trainer.get("val_only") else int(trainer.get("total_training_steps") or 0)


def _has_work(verl_yaml: Path) -> bool:
    """Whether the trainer would do anything."""
    trainer = yaml.safe_load(verl_yaml.read_text(encoding="utf-8")).get("trainer", {})
    return not trainer.get("val_only") or bool(trainer.get("val_before_train"))
