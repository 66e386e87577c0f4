"""One run's folder and its record, ``run.json``. Does not know what a run does.

``run.json`` is the single word on a run's state and is only ever replaced whole. A run that says ``running`` is
believed only while the process it names (kernel, pid and the pid's start time) is alive. What another kernel runs
cannot be asked: such a run gives signs of life (``heartbeat``), and is lost when they cease."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from runtime import processes, suggest
from runtime.errors import MachineError, UserError
from runtime.files import write_whole
from runtime.run_paths import RunPaths, kept_folder

State = Literal["pending", "running", "succeeded", "failed", "stopped"]
FINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "stopped"})
BEAT_SEC = 15.0
"""How often the owner of a run gives a sign of life."""
SILENT_SEC = 300.0
"""A run of another kernel without a sign of life for so long is lost: machines and shared folders may be slow."""


@dataclass(frozen=True)
class RunRecord:
    """``run.json``. Times are ISO 8601 in UTC; ``pid_start`` is the process's start in clock ticks since boot
    (``/proc/PID/stat``).

    ``host`` is for people; ``kernel`` says which ``/proc`` the pid belongs to, whatever the host is called by now.
    ``spec`` is a name of the library or an absolute path, ``options`` what it was compiled with. ``phases`` maps each
    finished phase to its seconds over all attempts, ``unfinished`` those that were cut short;
    ``ended_by_itself``: its spec's ``health`` ended it, and ``--resume auto`` leaves it alone;
    ``tasks`` maps each task set to the number of usable tasks; ``left_out`` names the task directories that could not
    be used, with the reason.
    """

    run: str
    experiment: str
    target: str
    kind: Literal["train", "eval", "infer"] = "train"
    state: State = "pending"
    host: str = ""
    kernel: str = ""
    pid: int = 0
    pid_start: int = 0
    start: str = ""
    end: str = ""
    exit_code: int | None = None
    exit_cause: str = ""
    ended_by_itself: bool = False
    spec: str = ""
    options: tuple[str, ...] = ()
    resumed: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    unfinished: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def here(self) -> bool:
        """Whether the process that this record names can be asked for from here."""
        return self.host in ("", socket.gethostname()) or self.kernel == processes.kernel()


def record_of(content: bytes) -> RunRecord:
    """The record that a ``run.json`` holds; fields that this version does not know are passed over. Raises
    ``ValueError``, ``TypeError`` and ``AttributeError`` for what is none."""
    raw: dict[str, Any] = orjson.loads(content)
    known = {key: value for key, value in raw.items() if key in RunRecord.__dataclass_fields__}
    lists = {name: tuple(known.get(name, ())) for name in ("left_out", "options")}
    record = RunRecord(**{**known, **lists})
    # Whoever asks for one run, or for all, relies on these.
    for name, default in asdict(RunRecord("", "", "")).items():
        value, kinds = getattr(record, name), (int, type(None)) if name == "exit_code" else type(default)
        if not isinstance(value, kinds):
            raise ValueError(f"{name}: {value!r} is not what a run has there")
        if name in ("start", "end") and value:
            try:
                datetime.fromisoformat(str(value))
            except ValueError:
                raise ValueError(f"{name}: {value!r} is no time") from None
    return record


class RunDirectory(RunPaths):
    """A run's folder with its record."""

    @property
    def runs_dir(self) -> Path:
        """The folder of all runs that this one lies in."""
        return self.path.parents[1]

    @property
    def cache(self) -> Path:
        """See ``kept_folder``."""
        return kept_folder(self.runs_dir)

    @property
    def alive(self) -> bool:
        """Whether the run goes on: its process exists, or, where that cannot be asked, it gave a sign of life of
        late."""
        record = self.read()
        if record.state in FINAL_STATES:
            return False
        if record.here:
            return processes.is_same_process(record.pid, record.pid_start)
        silent = self.silent_sec()
        return silent is not None and silent < SILENT_SEC

    def beat(self) -> None:
        """Give a sign of life."""
        self.heartbeat.touch()

    def silent_sec(self) -> float | None:
        """Seconds since the newest sign of life; None where there was none. By the clock that stamps the files: this
        host's may differ from it, or may have jumped, and a run that lives would seem to be lost."""
        try:
            return max(0.0, _clock_of_files(self.path) - self.heartbeat.stat().st_mtime)
        except OSError:
            return None

    def read(self) -> RunRecord:
        """The record. Raises ``UserError`` when the folder is no run directory."""
        try:
            return record_of(self.record_file.read_bytes())
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path}: not a run directory (run.json: {error}); `{suggest.liverl('runs')}` lists the runs"
            ) from error

    def write(self, record: RunRecord) -> None:
        write_whole(self.record_file, orjson.dumps(asdict(record), option=orjson.OPT_INDENT_2) + b"\n")

    def update(self, **changes: Any) -> RunRecord:
        """Replace fields of the record; returns the new one."""
        record = replace(self.read(), **changes)
        self.write(record)
        return record

    def finish(
        self, state: State, *, exit_code: int, cause: str, ended_by_itself: bool = False, end: str = ""
    ) -> RunRecord:
        """end: when it was; now, where nothing is said."""
        how = {"exit_code": exit_code, "exit_cause": cause, "ended_by_itself": ended_by_itself}
        return self.update(state=state, end=end or now(), **how)

    def last_sign(self) -> str:
        """When the run gave its newest sign of life, as far as files tell."""
        for file in (self.heartbeat, self.record_file):
            with suppress(OSError):
                return datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return now()


def _clock_of_files(folder: Path) -> float:
    try:
        with tempfile.TemporaryFile(dir=folder) as fresh:
            return os.fstat(fresh.fileno()).st_mtime
    except OSError:  # read-only, or full
        return time.time()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def create(
    runs_dir: Path,
    *,
    experiment: str,
    target: str,
    kind: Literal["train", "eval", "infer"] = "train",
    spec: str = "",
    options: Sequence[str] = (),
) -> RunDirectory:
    """A new run directory in state ``pending``, owned by this process.

    Run ids are UTC times to the millisecond: they sort by age, and the exclusive ``mkdir`` makes two that start
    together differ. Raises ``MachineError`` where nothing can be written."""
    parent = runs_dir.absolute() / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(runs_dir, error) from error
    while True:
        moment = datetime.now(UTC)
        run_id = moment.strftime("%Y%m%d-%H%M%S-") + f"{moment.microsecond // 1000:03d}"
        # Another experiment's run of the same millisecond would make the bare id ambiguous.
        if not any(parent.parent.glob(f"*/{run_id}")):
            try:
                (parent / run_id).mkdir()
                break
            except FileExistsError:
                pass
            except OSError as error:
                raise unwritable(runs_dir, error) from error
        time.sleep(0.001)
    directory = RunDirectory(parent / run_id)
    directory.logs.mkdir()
    began = RunRecord(run_id, experiment, target, kind, start=now(), spec=spec, options=tuple(options))
    directory.write(owned(began))
    directory.beat()
    return directory


def owned(record: RunRecord) -> RunRecord:
    """The record with this process as its owner."""
    pid, start = processes.this_process()
    return replace(record, host=socket.gethostname(), kernel=processes.kernel(), pid=pid, pid_start=start)


def owner_of(record: RunRecord) -> tuple[str, int, int]:
    """Which process of which boot of a machine: a host's name may change."""
    return record.kernel, record.pid, record.pid_start


def refuse_living(directory: RunDirectory) -> None:
    """Raise ``UserError`` when the run goes on."""
    if not directory.alive:
        return
    record = directory.read()
    stop = suggest.on_run("stop", directory.path)
    if record.here:
        raise UserError(f"{record.run}: still running (pid {record.pid}); `{stop}` ends it")
    raise UserError(f"{record.run}: still running {_far_away(directory, record)}")


def refuse_far_away(directory: RunDirectory) -> None:
    """Raise ``UserError`` when the run goes on where this process cannot end it."""
    record = directory.read()
    if directory.alive and not record.here:
        raise UserError(f"{record.run}: runs {_far_away(directory, record)}")


def _far_away(directory: RunDirectory, record: RunRecord) -> str:
    return (
        f"on host {record.host}, which gave a sign of life {directory.silent_sec() or 0:.0f} s ago; end it there, or,"
        f" if that host is gone, try again {SILENT_SEC / 60:.0f} minutes after its last sign"
    )


def unwritable(runs_dir: Path, error: OSError) -> MachineError:
    return MachineError(
        f"{error.filename or runs_dir}: {error.strerror}: runs cannot be written below {runs_dir}",
        fix=f"name another folder with --runs-dir or {suggest.RUNS_DIR}, or make this one writable",
    )
