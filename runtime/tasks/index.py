"""The task index: one parquet row per task, thin pointers plus what is known of its difficulty.

The index points at task directories and never copies them. Pass rates come from the trial records of earlier runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from runtime import suggest
from runtime.errors import TrialError, UserError
from runtime.grading.base import solved_share
from runtime.suites.table import language_of
from runtime.task import Task, load_task

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),  # absolute
        ("source", pa.string()),
        ("family", pa.string()),
        ("split_key", pa.string()),
        ("runner", pa.string()),
        ("language", pa.string()),  # of the tests, or as a published set says; empty where a script judges
        ("image", pa.string()),
        ("root_image", pa.string()),  # the task's own image, by digest
        ("root_image_bytes", pa.int64()),
        ("fail_to_pass", pa.int32()),  # number of test ids
        ("pass_to_pass", pa.int32()),
        ("instruction_chars", pa.int32()),
        ("difficulty", pa.string()),
        ("licence", pa.string()),  # of the repository
        ("oracle_sec", pa.float64()),  # of the known solution with its verdict, as it was verified last; null: unknown
        ("trials", pa.int32()),  # graded trials behind pass_rate
        ("pass_rate", pa.float64()),  # mean reward of graded trials; null without any
    ]
)


@dataclass(frozen=True)
class PassRate:
    """Mean reward over ``trials`` graded trials."""

    trials: int
    mean: float


@dataclass(frozen=True)
class Band:
    """A closed interval of pass rates within [0, 1]."""

    low: float
    high: float

    def __contains__(self, rate: float) -> bool:
        return self.low <= rate <= self.high


def parse_band(text: str) -> Band:
    """``LO:HI``; either side may be empty. Raises ``UserError``."""
    low, colon, high = text.partition(":")
    try:
        band = Band(float(low or 0), float(high or 1))
    except ValueError:
        band = Band(1, 0)
    if not colon or not 0 <= band.low <= band.high <= 1:
        raise UserError(
            f"--pass-rate {text!r}: two numbers LO:HI with 0 <= LO <= HI <= 1 are wanted, for example 0.1:0.9"
        )
    return band


def pass_rates(run_directories: Sequence[Path]) -> dict[str, PassRate]:
    """Pass rate by task id over all graded trials in ``trials/*/*/trial.json`` of the given run directories."""
    rewards: dict[str, list[float]] = {}
    for run in run_directories:
        records = sorted(run.glob("trials/*/*/trial.json"))
        if not records:
            raise UserError(
                f"{run}: no trials/<step>/<trial>/trial.json; give run directories (runs/<experiment>/<run-id>)"
            )
        for record in records:
            try:
                trial = json.loads(record.read_bytes())
            except (ValueError, OSError, RecursionError):
                continue  # a trial that was being written when its run was killed, or that a disk has lost
            if isinstance(trial, dict) and "task" in trial and _is_reward(trial.get("reward")):
                rewards.setdefault(str(trial["task"]), []).append(solved_share(float(trial["reward"])))
    return {task: PassRate(len(values), sum(values) / len(values)) for task, values in rewards.items()}


def _is_reward(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def oracle_seconds(reports: Sequence[Path]) -> dict[str, float]:
    """Seconds of the known solution by the task's folder, of reports that ``tasks verify --json`` wrote; later reports
    before earlier ones. Raises ``UserError`` for a file that is none."""
    found: dict[str, float] = {}
    for report in reports:
        try:
            for task in json.loads(report.read_bytes())["tasks"]:
                seconds = [one["seconds"] for one in task["checks"] if one["name"] == "oracle" and one["ok"]]
                found |= {str(Path(task["path"]).resolve()): float(one) for one in seconds}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            writes = suggest.liverl("tasks", "verify", "DIR", "--json")
            why = f"no {error}" if isinstance(error, LookupError) else str(error)
            raise UserError(f"{report}: not a report of `{writes}`: {why}") from error
    return found


def rows(
    tasks: Iterable[Task], rates: Mapping[str, PassRate], seconds: Mapping[str, float] = MappingProxyType({})
) -> list[dict[str, object]]:
    return [
        {
            "id": task.id,
            "path": str(task.path.resolve()),
            "source": task.liverl.source,
            "family": task.liverl.family,
            "split_key": task.liverl.split_key,
            "runner": task.liverl.runner,
            "language": _language(task),
            "image": task.liverl.image,
            "root_image": task.work.image.reference if task.work.image is not None else None,
            "root_image_bytes": task.work.image.bytes if task.work.image is not None else None,
            "fail_to_pass": len(task.liverl.fail_to_pass),
            "pass_to_pass": len(task.liverl.pass_to_pass),
            "instruction_chars": len(task.instruction),
            "difficulty": _difficulty(task),
            "licence": task.liverl.published.licence if task.liverl.published is not None else "",
            "oracle_sec": seconds.get(str(task.path.resolve())),
            "trials": rates[task.id].trials if task.id in rates else 0,
            "pass_rate": rates[task.id].mean if task.id in rates else None,
        }
        for task in tasks
    ]


def _language(task: Task) -> str:
    if task.liverl.published is not None:
        return task.liverl.published.language
    return language_of(task.liverl.runner) if task.expected_ids else ""


def _difficulty(task: Task) -> str:
    said = task.config.metadata.get("difficulty", "")
    return said if isinstance(said, str) else str(said)


def write_index(
    tasks: Iterable[Task],
    out: Path,
    *,
    rates: Mapping[str, PassRate],
    band: Band | None = None,
    seconds: Mapping[str, float] = MappingProxyType({}),
) -> int:
    """Write the index and return its number of rows. With ``band``, only tasks whose known pass rate lies in it."""
    kept = [row for row in rows(tasks, rates, seconds) if band is None or _in_band(row["pass_rate"], band)]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        pq.write_table(pa.Table.from_pylist(kept, schema=SCHEMA), partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(kept)


def write_tried(run: Path, out: Path) -> int:
    """Write the index of the tasks that a run tried, as its trials' kept work names them, with their pass rates."""
    folders: dict[str, Path] = {}
    for record in sorted(run.glob("trials/*/*/trial.json")):
        with suppress(ValueError, OSError, KeyError, TypeError):
            work = json.loads(record.read_bytes())["work"]
            folders.setdefault(str(work["task"]), Path(work["task_path"]))
    loaded = []
    for folder in folders.values():
        with suppress(TrialError):
            loaded.append(load_task(folder))
    return write_index(loaded, out, rates=pass_rates([run]))


def _in_band(rate: object, band: Band) -> bool:
    return isinstance(rate, float) and rate in band


def indexed_tasks(path: Path, *, band: Band | None) -> list[Path]:
    """Directories of the tasks in an index, in its order; with ``band``, only those whose known pass rate lies in it.
    Raises ``UserError`` for a file that is no index, or when none is left."""
    found = read_index(path)
    kept = [Path(str(row["path"])) for row in found if band is None or _in_band(row.get("pass_rate"), band)]
    if not kept:
        known = sum(isinstance(row.get("pass_rate"), float) for row in found)
        raise UserError(
            f"{path}: none of its {len(found)} tasks is wanted: {known} have a pass rate; measure them with"
            f" `{suggest.liverl('infer', 'SPEC')}` and write the index again with"
            f" `{suggest.liverl('tasks', 'index', 'DIR', '--trials', 'RUN', '-o', path)}`, or widen pass_rate"
        )
    return kept


def pinned_images(path: Path) -> dict[Path, str]:
    """Directory of a task -> the image that it had when the index was written, by digest."""
    rows = ((row["path"], row.get("root_image")) for row in read_index(path))
    return {Path(str(folder)): str(image) for folder, image in rows if image and "@sha256:" in str(image)}


def _writes(path: Path) -> str:
    return suggest.liverl("tasks", "index", "DIR", "-o", path)


def read_index(path: Path) -> list[dict[str, object]]:
    """The rows of an index. Raises ``UserError`` for a file that is none."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a task index: {error}; write one with `{_writes(path)}`") from error
    missing = [name for name in ("id", "path") if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; write an index with `{_writes(path)}`")
    found: list[dict[str, object]] = table.to_pylist()
    return found
