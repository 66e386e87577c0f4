"""Starts verl's unmodified trainer on a run directory, follows it, and leaves nothing behind when it ends.

The trainer is a child in a session of its own. Every process of the run, through Ray and whatever else, carries
``LIVERL_RUN_DIR`` in its environment, and that mark is what clearing up goes by: after success, after Ctrl-C, and at
the next start after a kill -9. Knows nothing of tasks, rewards or displays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import yaml

from runtime import run_paths as layout
from runtime.config import load_runtime_config
from runtime.errors import MachineError, RunError, UserError
from runtime.processes import is_same_process, reap, this_process
from runtime.sandboxes.state import reap as reap_sandboxes
from runtime.trainer import stable
from runtime.trainer.diagnosis import diagnose, read_tail
from runtime.trainer.environment import ray_dir, trainer_command, trainer_environment
from runtime.trainer.lost_machines import MachineLost, lost_machine
from runtime.trainer.router import write_router_config
from runtime.trainer.rows import merge_rows, write_metrics

_POLL_SEC = 0.25
_MIN_FREE_BYTES = 64 << 20
_RESERVE_BYTES = 2 << 20
"""Given back when the disk is full, so that the run's end can be written down."""
_PR_SET_PDEATHSIG = 1
_OWNER = "liverl-owner.json"


@dataclass(frozen=True)
class Event:
    """Something a display may want to show: ``kind`` is started, row, resumed or ended."""

    kind: str
    text: str


def train(
    run_dir: Path,
    *,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Run the trainer of ``run_dir`` (``bundle/``, ``policy/`` and ``data/`` must be there) to its end.

    ``resume``: go on from the newest whole checkpoint. What was trained after it is trained again and reported once;
    with ``save_freq`` 1 that is at most the step in flight. ``overrides`` are further Hydra overrides. Raises
    ``RunError`` when the trainer fails (``MachineLost`` when a machine of its cluster did), ``UserError`` when the
    directory is not ready.
    """
    run = run_dir.absolute()
    notify = on_event or (lambda event: None)
    if not (layout.bundle(run) / "verl.yaml").is_file():
        raise UserError(f"{layout.bundle(run) / 'verl.yaml'}: missing; `liverl compile` writes it")
    clear(run)
    clear_orphans()
    arguments = list(overrides)
    attempt = _next_attempt(run)
    log = layout.log_file(run)
    before = log.stat().st_size if log.exists() else 0
    if resume:
        step = _prepare_resume(run, arguments)
        notify(Event("resumed", f"from step {step}" if step else "from the start: there is no whole checkpoint"))
    _prepare(run)
    try:
        code = _follow(run, arguments, attempt=attempt, notify=notify)
    finally:
        # Rows first: a second Ctrl-C may cut clearing up short, and what is left is found at the next start.
        write_metrics(layout.rows_folder(run), layout.metrics_jsonl(run))
        clear(run)
    if code != 0:
        text = read_tail(log, since=before)
        failure = MachineLost if lost_machine(text) else RunError
        raise failure(f"{diagnose(text, exit_code=code)} (log: {log})")


def clear(run: Path) -> None:
    """End every process of the run and remove its scratch and Ray's folder. Harmless when there is nothing."""
    reap(run)
    # Before the scratch goes: it names the control groups that sandboxes of killed owners left.
    reap_sandboxes(layout.state(run))
    shutil.rmtree(ray_dir(run), ignore_errors=True)
    shutil.rmtree(layout.state(run), ignore_errors=True)


def clear_orphans() -> None:
    """Do the same for runs that were killed so hard that nobody cleared up after them: their launcher is gone."""
    for folder in Path("/tmp").glob("lr-????????"):
        try:
            owner = orjson.loads((folder / _OWNER).read_bytes())
            run, pid, start = Path(owner["run"]), int(owner["pid"]), int(owner["start"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not is_same_process(pid, start):
            clear(run)
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(run: Path) -> None:
    for folder in (layout.rows_folder(run), layout.checkpoints(run), layout.trials(run), layout.state(run)):
        folder.mkdir(parents=True, exist_ok=True)
    contract = layout.runtime_json(run)
    # A bundle of verl's alone has no contract: the balancer's own default it is, then.
    routing = load_runtime_config(contract).rollout.routing if contract.is_file() else "least_in_flight"
    write_router_config(layout.router_yaml(run), routing=routing)
    layout.status_json(run).unlink(missing_ok=True)
    folder = ray_dir(run)
    (folder / "tmp").mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    pid, start = this_process()
    (folder / _OWNER).write_bytes(orjson.dumps({"run": str(run), "pid": pid, "start": start}))
    _reserve(run).write_bytes(bytes(_RESERVE_BYTES))


def _reserve(run: Path) -> Path:
    return layout.state(run) / "reserve"


def _check_disk(run: Path) -> None:
    """Raise ``MachineError`` while there is room left to say so: on a full disk every process of the run fails in some
    other place, and none of them can write down why.
    """
    for folder in (run, ray_dir(run)):
        if shutil.disk_usage(folder).free < _MIN_FREE_BYTES:
            _reserve(run).unlink(missing_ok=True)
            raise MachineError(
                f"the disk below {folder} is full: the run was stopped; its checkpoints and rows are kept",
                fix=f"free some space, then go on with `liverl run --resume {run.name}`",
            )


def _prepare_resume(run: Path, arguments: list[str]) -> int | None:
    reported = merge_rows(layout.rows_folder(run))
    step = stable.choose(layout.checkpoints(run), reported=reported)
    stable.prepare_resume(layout.checkpoints(run), step)
    if (step or 0) in reported:
        # That step has been scored already: validation before training would only repeat it.
        arguments.append("trainer.val_before_train=False")
    return step


def _loggers(run: Path) -> list[str]:
    """The trackers that ``verl.yaml`` names."""
    trainer = yaml.safe_load((layout.bundle(run) / "verl.yaml").read_text(encoding="utf-8")).get("trainer") or {}
    return list(trainer.get("logger") or ())


def _next_attempt(run: Path) -> int:
    """One more than the newest start that left rows; the trainer's file logger truncates the file that it opens."""
    numbers = [int(path.stem.rpartition("-")[2]) for path in layout.rows_folder(run).glob("*-[0-9]*.jsonl")]
    return max(numbers, default=-1) + 1


def _follow(run: Path, arguments: Sequence[str], *, attempt: int, notify: Callable[[Event], None]) -> int:
    log = layout.log_file(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    launcher = os.getpid()

    def die_with_launcher() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died between fork and prctl
            os._exit(1)

    with log.open("ab") as output:
        child = subprocess.Popen(
            trainer_command(run, arguments),
            cwd=run,
            env=trainer_environment(run, attempt=attempt, loggers=_loggers(run)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_launcher,
        )
    notify(Event("started", f"trainer pid {child.pid}, log {log}"))
    source = layout.rows_file("verl", run=run, attempt=attempt)
    seen = -1
    try:
        while (code := child.poll()) is None:
            size = source.stat().st_size if source.exists() else 0
            if size != seen and size:
                seen = size
                notify(Event("row", f"{write_metrics(layout.rows_folder(run), layout.metrics_jsonl(run))} steps"))
            _check_disk(run)
            time.sleep(_POLL_SEC)
        notify(Event("ended", f"exit code {code}"))
        return code
    finally:
        # Reached with a living child only through an exception (Ctrl-C): what it holds is rebuilt from its checkpoints.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
