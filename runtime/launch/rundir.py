"""One run's folder and its record, ``run.json``. Does not know what a run does.

``run.json`` is the single word on a run's state and is only ever replaced whole. A run that says ``running`` is
believed only while the process it names (host, pid and the pid's start time) is alive; see ``ledger``."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from runtime import processes
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.run_paths import RunPaths

State = Literal["pending", "running", "succeeded", "failed", "stopped"]
FINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "stopped"})


@dataclass(frozen=True)
class RunRecord:
    """``run.json``. Times are ISO 8601 in UTC; ``pid_start`` is the process's start in clock ticks since boot
    (``/proc/PID/stat``).

    ``phases`` maps each finished phase to its seconds over all attempts, ``unfinished`` those that were cut short;
    ``tasks`` maps each task set to the number of usable tasks; ``left_out`` names the task directories that could not
    be used, with the reason.
    """

    run: str
    experiment: str
    target: str
    kind: Literal["train", "eval", "infer"] = "train"
    state: State = "pending"
    host: str = ""
    pid: int = 0
    pid_start: int = 0
    start: str = ""
    end: str = ""
    exit_code: int | None = None
    exit_cause: str = ""
    spec: str = ""
    resumed: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    unfinished: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the process that this record names still exists (another host's cannot be asked and counts as
        alive)."""
        if self.state not in ("pending", "running"):
            return False
        return self.host != socket.gethostname() or processes.is_same_process(self.pid, self.pid_start)


class RunDirectory(RunPaths):
    """A run's folder with its record."""

    def read(self) -> RunRecord:
        """The record. Raises ``UserError`` when the folder is no run directory."""
        try:
            raw: dict[str, Any] = orjson.loads(self.record_file.read_bytes())
            known = {key: value for key, value in raw.items() if key in RunRecord.__dataclass_fields__}
            return RunRecord(**{**known, "left_out": tuple(known.get("left_out", ()))})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path}: not a run directory (run.json: {error}); `liverl runs` lists the runs"
            ) from error

    def write(self, record: RunRecord) -> None:
        write_whole(self.record_file, orjson.dumps(asdict(record), option=orjson.OPT_INDENT_2) + b"\n")

    def update(self, **changes: Any) -> RunRecord:
        """Replace fields of the record; returns the new one."""
        record = replace(self.read(), **changes)
        self.write(record)
        return record

    def finish(self, state: State, *, exit_code: int, cause: str) -> RunRecord:
        return self.update(state=state, exit_code=exit_code, exit_cause=cause, end=now())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def create(
    runs_dir: Path, *, experiment: str, target: str, kind: Literal["train", "eval", "infer"] = "train", spec: str = ""
) -> RunDirectory:
    """A new run directory in state ``pending``, owned by this process.

    Run ids are UTC times to the millisecond: they sort by age, and the exclusive ``mkdir`` makes two that start
    together differ."""
    parent = runs_dir.absolute() / experiment
    parent.mkdir(parents=True, exist_ok=True)
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
        time.sleep(0.001)
    directory = RunDirectory(parent / run_id)
    directory.logs.mkdir()
    record = RunRecord(run=run_id, experiment=experiment, target=target, kind=kind, start=now(), spec=spec)
    directory.write(owned(record))
    return directory


def owned(record: RunRecord) -> RunRecord:
    """The record with this process as its owner."""
    pid, start = processes.this_process()
    return replace(record, host=socket.gethostname(), pid=pid, pid_start=start)
