"""The ledger: which runs there are below a runs folder, how each stands, and its logs. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from runtime import suggest
from runtime.errors import UserError
from runtime.launch.rundir import FINAL_STATES, RunDirectory, RunRecord
from runtime.run_paths import RunPaths
from runtime.telemetry.metrics import Row, read_rows
from runtime.telemetry.scores import SCORE, before_and_after, idle_words
from runtime.telemetry.waits import read_waits


@dataclass(frozen=True)
class Entry:
    """One run as the ledger shows it. ``state`` is ``lost`` when the record says running but the process is gone."""

    directory: RunDirectory
    record: RunRecord
    state: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.record.experiment}/{self.record.run}"


def runs(runs_dir: Path) -> list[Entry]:
    """Every run below ``runs_dir``, oldest first; folders that are no runs are passed over."""
    found = []
    for record_file in runs_dir.absolute().glob("*/*/run.json"):
        with suppress(UserError):
            found.append(entry(RunDirectory(record_file.parent)))
    return sorted(found, key=lambda one: one.record.run)


def unreadable(runs_dir: Path) -> list[str]:
    """What ``runs`` passes over although it has a record: each in words, with what is wrong with it."""
    problems = []
    for record_file in sorted(runs_dir.absolute().glob("*/*/run.json")):
        try:
            RunDirectory(record_file.parent).read()
        except UserError as error:
            problems.append(str(error).rpartition(";")[0])
    return problems


def entry(directory: RunDirectory) -> Entry:
    record = directory.read()
    state = record.state if record.state in FINAL_STATES or directory.alive else "lost"
    end = record.end if record.state in FINAL_STATES else ""
    seconds = _moment(end) - _moment(record.start) if state != "lost" else 0.0
    return Entry(directory, record, state, seconds)


def find(run: str, *, runs_dir: Path) -> RunDirectory:
    """The run that ``run`` means: a path, ``experiment/id``, an id or the beginning of one, or ``last``.

    Raises ``UserError`` when there is none or more than one.
    """
    for place in (Path(run), runs_dir / run):
        # A record that cannot be read is no reason to say that nobody knows the run: it says why itself.
        if run and (place / "run.json").is_file():
            return RunDirectory(place.absolute())
    known = runs(runs_dir)
    if not known:
        raise UserError(
            f"{runs_dir}: no runs here; start one with"
            f" `{suggest.liverl('run', 'quickstart', *suggest.elsewhere(runs_dir))}`, or name another folder with"
            f" --runs-dir or {suggest.RUNS_DIR}"
        )
    if run == "last":
        return known[-1].directory
    matches = [one for one in known if one.name == run or one.record.run == run] or [
        one for one in known if one.record.run.startswith(run) or one.name.startswith(run)
    ]
    if len(matches) == 1:
        return matches[0].directory
    names = [one.name for one in matches or known]
    if len(matches) > len(set(names)):  # copies of one run have its name
        names = [str(one.directory.path) for one in matches]
    allowed = ", ".join([*dict.fromkeys(names)][-5:])
    what = "matches no run" if not matches else f"matches {len(matches)} runs"
    raise UserError(f"run {run!r}: {what}; allowed: a path, `last`, or one of {allowed}")


def status(directory: RunDirectory) -> dict[str, Any]:
    """Everything worth knowing about one run, ready for JSON: the record, its liveness, newest step, scores, file
    ages, what it waits for, and why it is about to end by itself."""
    one = entry(directory)
    rows, now = read_rows(directory.metrics), _now(directory)
    return {
        **asdict(one.record),
        "state": one.state,
        "alive": directory.alive,
        "seconds": round(one.seconds, 1),
        "path": str(directory.path),
        "step": rows[-1].step if rows else None,
        "score": newest(rows, SCORE),
        "warning": idle_words(rows),
        "validation": {
            score.name: {
                "first": score.first,
                "first_step": score.first_step,
                "last": score.last,
                "last_step": score.last_step,
            }
            for score in before_and_after(rows)
        },
        "supervised": _supervised(directory),
        "curriculum": _curriculum(rows),
        "metrics_age_sec": _age(directory.metrics),
        "halting": now.get("halting"),
        "workers": now.get("workers", []),
        "waits": [asdict(wait) | {"words": wait.words(time.time())} for wait in read_waits(_paths(directory).waits)],
    }


def _supervised(directory: RunDirectory) -> dict[str, float] | None:
    """How far the supervised stage is, and its newest numbers; None where there is none, or nothing of it yet."""
    found = read_rows(directory.supervised_metrics)
    return {"step": float(found[-1].step), **found[-1].data} if found else None


def _curriculum(rows: list[Row]) -> dict[str, int] | None:
    """Tasks below, within and above the band at the newest step; None without a curriculum."""
    found = {name: newest(rows, f"curriculum/{name}") for name in ("below", "within", "above", "untried")}
    return {name: int(value or 0) for name, value in found.items()} if found["within"] is not None else None


def _paths(directory: RunDirectory) -> RunPaths:
    return RunPaths(directory.path)


def _now(directory: RunDirectory) -> dict[str, Any]:
    """What the agent loop said about a second ago; empty where no run is alive to say it."""
    if not directory.alive:
        return {}
    try:
        told = orjson.loads(_paths(directory).status.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def newest(rows: list[Row], name: str) -> float | None:
    return next((row.data[name] for row in reversed(rows) if name in row.data), None)


def log_files(directory: RunDirectory) -> list[Path]:
    """The run's log files, the one written last at the end."""
    return sorted((path for path in directory.logs.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)


def follow(path: Path, *, directory: RunDirectory, lines: int, forever: bool) -> Iterator[str]:
    """The last ``lines`` lines of a log; with ``forever`` then each new one until the run has ended."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from stream.readlines()[-lines:]
        while forever:
            line = stream.readline()
            if line:
                yield line
            elif not directory.alive:
                return
            else:
                time.sleep(0.3)


def _age(path: Path) -> float | None:
    try:
        return round(time.time() - path.stat().st_mtime, 1)
    except OSError:
        return None


def _moment(text: str) -> float:
    return (datetime.fromisoformat(text) if text else datetime.now(UTC)).timestamp()
