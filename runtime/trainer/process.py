"""Starts verl's unmodified trainer on a run directory, follows it, and leaves nothing behind when it ends.

The trainer is a child in a session of its own. Every process of the run, through Ray and whatever else, carries
``LIVERL_RUN_DIR`` in its environment, and that mark is what clearing up goes by: after success, after Ctrl-C, and at
the next start after a kill -9. Knows nothing of tasks, rewards or displays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import yaml

from runtime import suggest
from runtime.agent_loop.janitor import clear_sandboxes
from runtime.config import load_runtime_config
from runtime.errors import MachineError, RunError, RunHalted, UserError
from runtime.processes import reap, this_process
from runtime.run_paths import RunPaths
from runtime.trainer import stable, startup
from runtime.trainer.adapter_checkpoint import check_base
from runtime.trainer.curriculum_checkpoint import check_curriculum
from runtime.trainer.diagnosis import AGENTS_DIED, diagnose, ended_by_itself, ray_was_slow, read_tail
from runtime.trainer.environment import OWNER, ray_dir, ray_token, runs_here, trainer_command, trainer_environment
from runtime.trainer.joined_ray import check_cluster
from runtime.trainer.lost_machines import MachineLost, lost_machine
from runtime.trainer.platform import device_of, find_platform, rollout_table, trainer_table
from runtime.trainer.router import write_router_config
from runtime.trainer.rows import merge_rows, write_metrics

POLL_SEC = 0.25
_MIN_FREE_BYTES = 64 << 20
_RESERVE_BYTES = 2 << 20
"""Given back when the disk is full, so that the run's end can be written down."""
_PR_SET_PDEATHSIG = 1
RAY_START_SEC = 900.0
"""Ray gives its own node 30 s to come up, a constant, and ends the trainer when the machine is too busy for that.
Within this time the trainer is then started again, each time with more of it in the page cache."""


def train(
    run_dir: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> None:
    """Run the trainer of ``run_dir`` (``bundle/``, ``policy/`` and ``data/`` must be there) to its end.

    ``resume``: go on from the newest whole checkpoint. What was trained after it is trained again and reported once;
    with ``save_freq`` 1 that is at most the step in flight. ``overrides`` are further Hydra overrides. Raises
    ``RunError`` when the trainer fails (``MachineLost`` when a machine of its cluster did, ``RunHalted`` when the run
    ended by itself), ``UserError`` when the directory is not ready.
    """
    paths = RunPaths(run_dir.absolute())
    if not paths.verl_yaml.is_file():
        raise UserError(f"{paths.verl_yaml}: missing; compiling a spec writes it")
    clear(paths.path)
    clear_orphans()
    patience = time.monotonic() + RAY_START_SEC
    while True:
        code, text = _attempt(paths, resume=resume, overrides=overrides)
        if code == 0 and AGENTS_DIED not in text:
            _check_last_step(paths, overrides)
            return
        if not ray_was_slow(text) or time.monotonic() >= patience:
            # The run's own word first: it may have survived the loss of a machine before.
            failure = RunHalted if ended_by_itself(text) else MachineLost if lost_machine(text) else RunError
            raise failure(f"{diagnose(text, exit_code=code)} (log: {paths.trainer_log})")


def _attempt(paths: RunPaths, *, resume: bool, overrides: Sequence[str]) -> tuple[int, str]:
    """One start of the trainer, followed to its end: its exit code and the end of its log."""
    arguments = list(overrides)
    attempt = _next_attempt(paths)
    contract = load_runtime_config(paths.runtime_json) if paths.runtime_json.is_file() else None
    agent_loop = None if contract is None else contract.rollout.agent_loop
    check_cluster(trainer_table(paths), rollout=rollout_table(paths), agent_loop=agent_loop)
    before = paths.trainer_log.stat().st_size if paths.trainer_log.exists() else 0
    if resume:
        _prepare_resume(paths, arguments)
    _prepare(paths)
    try:
        code = _follow(paths, arguments, attempt=attempt)
    finally:
        # Rows first: a second Ctrl-C may cut clearing up short, and what is left is found at the next start.
        write_metrics(paths.rows, paths.metrics)
        clear(paths.path)
    return code, read_tail(paths.trainer_log, since=before)


def _check_last_step(paths: RunPaths, overrides: Sequence[str]) -> None:
    """Raise ``RunError`` when the trainer ended well and yet before the step that was planned as its last. Where verl
    writes no rows to a file, nobody can tell."""
    table = dict(trainer_table(paths))
    for one in overrides:
        name, _, value = one.lstrip("+").partition("=")
        if name in ("trainer.total_training_steps", "trainer.val_only"):
            table[name.removeprefix("trainer.")] = yaml.safe_load(value)
    planned = table.get("total_training_steps")  # null: verl goes by the number of epochs
    if planned is None or table.get("val_only") or "file" not in (table.get("logger") or ()):
        return
    last = max(merge_rows(paths.rows), default=0)
    if last < int(planned):
        again = suggest.on_run("run --resume", paths.path)
        raise RunError(
            f"the trainer ended without an error at step {last}, but {planned} steps were planned; go on with: "
            f"{again} (log: {paths.trainer_log})"
        )


def clear(run: Path) -> None:
    """End every process of the run and remove its scratch and Ray's folder. Harmless when there is nothing."""
    reap(run)
    # Before the scratch goes: it names the control groups that sandboxes of killed owners left. A worker's janitor is
    # of the run as well, and may have been ended before it was done.
    cleared = clear_sandboxes(run, RunPaths(run).sandbox_states)
    shutil.rmtree(ray_dir(run), ignore_errors=True)
    if cleared:
        shutil.rmtree(RunPaths(run).state, ignore_errors=True)


def clear_orphans() -> None:
    """Do the same for runs that were killed so hard that nobody cleared up after them: their launcher is gone."""
    for folder, run, alive in runs_here():
        if not alive:
            clear(run)
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(paths: RunPaths) -> None:
    for folder in (paths.rows, paths.checkpoints, paths.trials, paths.state):
        folder.mkdir(parents=True, exist_ok=True)
    contract = paths.runtime_json
    # A bundle of verl's alone has no contract: the balancer's own default it is, then.
    routing = load_runtime_config(contract).rollout.routing if contract.is_file() else "least_in_flight"
    write_router_config(paths.router_yaml, routing=routing)
    find_platform(device_of(paths)).prepare(paths)
    startup.begin(paths)
    paths.status.unlink(missing_ok=True)
    make_scratch(paths)
    token = ray_token(ray_dir(paths.path))
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))


def make_scratch(paths: RunPaths) -> None:
    """What every program of verl's needs beside the run directory: a folder with a short path, and some room to write
    down its end. ``clear`` removes it."""
    paths.state.mkdir(parents=True, exist_ok=True)
    folder = ray_dir(paths.path)
    (folder / "tmp").mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    pid, start = this_process()
    (folder / OWNER).write_bytes(orjson.dumps({"run": str(paths.path), "pid": pid, "start": start}))
    _reserve(paths).write_bytes(bytes(_RESERVE_BYTES))


def _reserve(paths: RunPaths) -> Path:
    return paths.state / "reserve"


def check_disk(paths: RunPaths) -> None:
    """Raise ``MachineError`` while there is room left to say so: on a full disk every process of the run fails in some
    other place, and none of them can write down why.
    """
    for folder in (paths.path, ray_dir(paths.path)):
        if shutil.disk_usage(folder).free < _MIN_FREE_BYTES:
            _reserve(paths).unlink(missing_ok=True)
            raise MachineError(
                f"the disk below {folder} is full: the run was stopped; its checkpoints and rows are kept",
                fix=f"free some space, then go on with: {suggest.on_run('run --resume', paths.path)}",
            )


def _prepare_resume(paths: RunPaths, arguments: list[str]) -> None:
    reported = merge_rows(paths.rows)
    step = stable.choose(paths.checkpoints, reported=reported)
    if step is not None:
        check_base(stable.step_folder(paths.checkpoints, step), paths.policy)
        if paths.runtime_json.is_file() and load_runtime_config(paths.runtime_json).curriculum is not None:
            check_curriculum(stable.step_folder(paths.checkpoints, step), paths)
    stable.prepare_resume(paths.checkpoints, step)
    _set_aside(paths, after=step or 0, scored=(step or 0) in reported)
    if (step or 0) in reported:
        # That step has been scored already: validation before training would only repeat it.
        arguments.append("trainer.val_before_train=False")


def _set_aside(paths: RunPaths, *, after: int, scored: bool) -> None:
    """Trials of steps that are taken again leave their places, so that a step's folder holds those of one attempt."""
    target = paths.abandoned / f"{len(list(paths.abandoned.glob('*'))):03d}"
    for folder in paths.trials.glob("*"):
        if folder.name.isdigit() and (int(folder.name) > after or (int(folder.name) == after and not scored)):
            target.mkdir(parents=True, exist_ok=True)
            folder.replace(target / folder.name)


def _next_attempt(paths: RunPaths) -> int:
    """One more than the newest start that left rows; the trainer's file logger truncates the file that it opens."""
    numbers = [int(path.stem.rpartition("-")[2]) for path in paths.rows.glob("*-[0-9]*.jsonl")]
    return max(numbers, default=-1) + 1


def _environment(paths: RunPaths, *, attempt: int) -> dict[str, str]:
    platform = find_platform(device_of(paths))
    loggers = list(trainer_table(paths).get("logger") or ())
    given = load_runtime_config(paths.runtime_json).env if paths.runtime_json.is_file() else {}
    return trainer_environment(paths, platform=platform, attempt=attempt, loggers=loggers, given_by_spec=given)


def _follow(paths: RunPaths, arguments: Sequence[str], *, attempt: int) -> int:
    environment = _environment(paths, attempt=attempt)
    child = start_child(trainer_command(paths, arguments), paths, environment=environment, log=paths.trainer_log)
    source = paths.rows_file("verl", attempt=attempt)
    seen = -1
    try:
        while (code := child.poll()) is None:
            size = source.stat().st_size if source.exists() else 0
            if size != seen and size:
                seen = size
                write_metrics(paths.rows, paths.metrics)
            check_disk(paths)
            time.sleep(POLL_SEC)
        return code
    finally:
        # Reached with a living child only through an exception (Ctrl-C): what it holds is rebuilt from its checkpoints.
        end_child(child)


def start_child(
    command: Sequence[str], paths: RunPaths, *, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """A program of verl's in a session of its own, which ends when this process does; what it says goes to ``log``."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    launcher = os.getpid()

    def die_with_launcher() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died between fork and prctl
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=paths.path,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_launcher,
        )


def end_child(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
