"""The index of a run's trials: one row for each ``trials/<step>/<trial-id>/``, in ``trials/index.sqlite``.

Writers add a row as each trial's folder appears (``add``). The folders are the truth: a reader (``TrialIndex``) looks
which of them the index does not know or knows wrongly, and reads those alone; an index that is missing, damaged or of
another version is made anew. So a run of 100,000 trials is listed at once. Knows nothing of what is in a trial beside
``trial.json``.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

log = logging.getLogger(__name__)

INDEX = "index.sqlite"
_VERSION = 1
_WAIT_SEC = 5.0
_SETTLED_NS = 2_000_000_000
"""A folder that changed within this time may change again without another time of change."""
_NOT_OURS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""A folder that cannot be written, or a writer that does not let go: nothing is wrong with the index."""
_LONGEST = 500
"""Characters of an error that are kept: a list shows one line of it."""

_COLUMNS: Mapping[str, str] = {
    "step": "INTEGER NOT NULL",
    "trial_id": "TEXT NOT NULL",
    "inode": "INTEGER NOT NULL",
    "task": "TEXT",
    "task_set": "TEXT",
    "grp": "TEXT",
    "idx": "INTEGER",
    "attempt": "INTEGER",
    "validation": "INTEGER",
    "reward": "REAL",
    "verdict": "TEXT",
    "termination": "TEXT",
    "trainable": "INTEGER",
    "isolation": "TEXT",
    "started": "REAL",
    "seconds": "REAL",
    "model_calls": "INTEGER",
    "completion_tokens": "INTEGER",
    "version_min": "INTEGER",
    "version_max": "INTEGER",
    "problem": "TEXT",
}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS trials ({", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())},
    PRIMARY KEY (step, trial_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_task ON trials (task, step);
CREATE TABLE IF NOT EXISTS steps (step INTEGER PRIMARY KEY, changed INTEGER NOT NULL);
PRAGMA user_version = {_VERSION};
"""
_PUT = f"INSERT OR REPLACE INTO trials VALUES ({', '.join('?' * len(_COLUMNS))})"

_DIGITS = 19
"""A folder whose name is a longer number is no step: SQLite would not take it."""
_MOST = (1 << 63) - 1
"""The largest number that SQLite takes: what is asked for beyond it is not there."""

SORTS: Mapping[str, str] = {
    "started": "started",
    "step": "step",
    "id": "trial_id",
    "task": "task",
    "reward": "reward",
    "termination": "termination",
    "seconds": "seconds",
    "turns": "model_calls",
    "tokens": "completion_tokens",
}
"""What a list can be sorted by -> its column."""


@dataclass(frozen=True)
class TrialRow:
    """What a list shows of one trial. ``problem``: why it has no grade, or how its agent died; None where all went
    well. Fields that ``trial.json`` does not have are None."""

    step: int
    trial_id: str
    task: str | None
    task_set: str | None
    group: str | None
    index: int | None
    attempt: int | None
    validation: bool
    reward: float | None
    verdict: str | None
    termination: str | None
    trainable: bool
    isolation: str | None
    started: float | None
    seconds: float | None
    model_calls: int | None
    completion_tokens: int | None
    version_min: int | None
    version_max: int | None
    problem: str | None


@dataclass(frozen=True)
class TrialFilter:
    """Which trials are wanted; what is None or False does not matter. ``task`` may hold ``*`` and ``?``; ``failed``:
    without a grade, or with a dead agent; rewards are inclusive bounds; ``words`` stand somewhere in id or problem."""

    task: str | None = None
    task_set: str | None = None
    step: int | None = None
    group: str | None = None
    failed: bool = False
    validation: bool | None = None
    verdict: str | None = None
    termination: str | None = None
    reward_min: float | None = None
    reward_max: float | None = None
    words: str | None = None

    def clause(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its values."""
        wanted: list[tuple[str, Any]] = []
        if self.task is not None:
            wanted.append((f"task {'GLOB' if set(self.task) & set('*?') else '='} ?", self.task))
        for column, value in (
            ("task_set", self.task_set),
            ("step", None if self.step is None else min(self.step, _MOST)),
            ("grp", self.group),
            ("verdict", self.verdict),
            ("termination", self.termination),
        ):
            if value is not None:
                wanted.append((f"{column} = ?", value))
        if self.validation is not None:
            wanted.append(("validation = ?", int(self.validation)))
        if self.reward_min is not None:
            wanted.append(("reward >= ?", self.reward_min))
        if self.reward_max is not None:
            wanted.append(("reward <= ?", self.reward_max))
        texts = [text for text, _ in wanted]
        values = [value for _, value in wanted]
        if self.words:
            texts.append("(instr(trial_id, ?) OR instr(coalesce(problem, ''), ?))")
            values += [self.words, self.words]
        if self.failed:
            texts.append("(reward IS NULL OR problem IS NOT NULL)")
        return " AND ".join(texts) or "1", values


def add(trials: Path, record: Mapping[str, Any], folder: Path) -> None:
    """Note a trial whose folder has just got its final name. Never raises: the next reader finds what is not here."""
    try:
        row = _row(record, step=int(folder.parent.name), trial_id=folder.name, inode=folder.stat().st_ino)
        with closing(_connect(trials / INDEX)) as database, database:
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    return  # of another version of LiveRL: its next reader makes it anew
                database.executescript(_SCHEMA)
            database.execute(_PUT, row)
    except (sqlite3.Error, OSError, ValueError) as error:
        log.debug("%s: not noted in the index: %s", folder, error)


class TrialIndex:
    """The trials of a run directory. Use as a context manager; ``refresh`` takes in what came since it was opened."""

    def __init__(self, run: Path) -> None:
        self._trials = run / "trials"
        self._database = self._open()
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def refresh(self) -> None:
        """Make the index say what the folders say. A damaged one is made anew; where none can be written, it is kept in
        memory."""
        try:
            self._refresh()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _NOT_OURS:
                log.debug("%s: %s: its index is read into memory", self._trials, error)
                self._use(self._copied())
            else:
                log.debug("%s: %s: its index is made anew", self._trials, error)
                self._database.close()
                with suppress(OSError):
                    (self._trials / INDEX).unlink(missing_ok=True)
                self._use(self._open())
            self._refresh()

    def count(self, wanted: TrialFilter | None = None) -> int:
        where, values = (wanted or TrialFilter()).clause()
        return int(self._select(f"SELECT count(*) FROM trials WHERE {where}", values).fetchone()[0])

    def rows(
        self,
        wanted: TrialFilter | None = None,
        *,
        sort: str = "started",
        descending: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[TrialRow]:
        """A page of the trials in order of ``sort`` (one of ``SORTS``). Trials without that value come last."""
        where, values = (wanted or TrialFilter()).clause()
        column, way = SORTS[sort], "DESC" if descending else "ASC"
        found = self._select(
            f"SELECT * FROM trials WHERE {where} ORDER BY {column} IS NULL, {column} {way}, step, trial_id"
            " LIMIT ? OFFSET ?",
            [*values, -1 if limit is None else min(limit, _MOST), min(offset, _MOST)],
        )
        return [_shown(row) for row in found]

    def one(self, name: str) -> TrialRow | None:
        """The trial called ``name``: ``STEP/ID``, or an id (of several steps' trials of that name, the newest)."""
        step, slash, trial_id = name.partition("/")
        given = (min(int(step), _MOST), trial_id) if slash and step.isdecimal() and len(step) < 100 else None
        where = "step = ? AND trial_id = ?" if given else "trial_id = ?"
        found = self._select(
            f"SELECT * FROM trials WHERE {where} ORDER BY step DESC LIMIT 1", given or (name,)
        ).fetchone()
        return None if found is None else _shown(found)

    def beginning(self, name: str, *, limit: int = 6) -> list[TrialRow]:
        """Trials whose id begins with ``name``, at most ``limit``."""
        found = self._select(
            "SELECT * FROM trials WHERE substr(trial_id, 1, ?) = ? ORDER BY step, trial_id LIMIT ?",
            (len(name), name, limit),
        )
        return [_shown(row) for row in found]

    def siblings(self, row: TrialRow) -> list[TrialRow]:
        """All trials of the row's group and step, itself among them."""
        if row.group is None:
            return [row]
        return self.rows(TrialFilter(step=row.step, group=row.group, task=row.task), sort="id")

    def counts(self, column: str, wanted: TrialFilter | None = None) -> dict[str, int]:
        """How many trials have each value of ``termination``, ``verdict``, ``task``, ``task_set`` or ``step``."""
        assert column in ("termination", "verdict", "task", "task_set", "step")
        where, values = (wanted or TrialFilter()).clause()
        found = self._select(
            f"SELECT {column}, count(*) FROM trials WHERE {where} GROUP BY {column} ORDER BY count(*) DESC, {column}",
            values,
        )
        return {"" if value is None else str(value): number for value, number in found}

    def grid(self, wanted: TrialFilter | None = None) -> list[tuple[str, int, int, float]]:
        """For every task and step that have graded trials: (task, step, trials, share solved)."""
        where, values = (wanted or TrialFilter()).clause()
        return self._select(
            f"SELECT task, step, count(*), avg(max(0.0, reward)) FROM trials WHERE {where} AND reward IS NOT NULL"
            " AND task IS NOT NULL GROUP BY task, step ORDER BY task, step",
            values,
        ).fetchall()

    def folder(self, row: TrialRow) -> Path:
        return self._trials / str(row.step) / row.trial_id

    def _select(self, query: str, values: Sequence[object]) -> sqlite3.Cursor:
        """What people ask for may hold bytes that are no UTF-8, which no row does and SQLite does not take."""
        known = [one.encode(errors="backslashreplace").decode() if isinstance(one, str) else one for one in values]
        return self._database.execute(query, known)

    def _open(self) -> sqlite3.Connection:
        if not self._trials.is_dir():
            return sqlite3.connect(":memory:", check_same_thread=False)
        try:
            return _connect(self._trials / INDEX)
        except sqlite3.Error:
            return sqlite3.connect(":memory:", check_same_thread=False)

    def _use(self, database: sqlite3.Connection) -> None:
        self._database.close()
        self._database = database

    def _copied(self) -> sqlite3.Connection:
        memory = sqlite3.connect(":memory:", check_same_thread=False)
        with suppress(sqlite3.Error):
            self._database.backup(memory)
        return memory

    def _refresh(self) -> None:
        database = self._database
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            database.executescript(f"DROP TABLE IF EXISTS trials; DROP TABLE IF EXISTS steps; {_SCHEMA}")
        known = dict(database.execute("SELECT step, changed FROM steps").fetchall())
        there = dict(_steps(self._trials))
        gone = {step for (step,) in database.execute("SELECT DISTINCT step FROM trials")} - there.keys()
        if gone - known.keys():
            known = {}  # rows of steps that never were: whatever wrote them may have taken others away
        changed = {step: path for step, path in there.items() if known.get(step) != path.stat().st_mtime_ns}
        if not changed and not gone:
            return
        with database:
            for step in gone:
                database.execute("DELETE FROM trials WHERE step = ?", (step,))
                database.execute("DELETE FROM steps WHERE step = ?", (step,))
            for step, path in changed.items():
                _take_in(database, step, path)


def _connect(path: Path) -> sqlite3.Connection:
    # Connections are used by one thread at a time, not always by the one that opened them.
    database = sqlite3.connect(path, timeout=_WAIT_SEC, check_same_thread=False)
    # What a power cut loses is read from the folders again.
    database.execute("PRAGMA synchronous = OFF")
    return database


def _steps(trials: Path) -> Iterator[tuple[int, Path]]:
    with suppress(OSError), os.scandir(trials) as entries:
        for entry in entries:
            if entry.name.isdecimal() and len(entry.name) < _DIGITS and entry.is_dir():
                yield int(entry.name), Path(entry.path)


def _take_in(database: sqlite3.Connection, step: int, path: Path) -> None:
    """Make the rows of one step those of its folders. Other trials than those of before have other inodes."""
    changed = path.stat().st_mtime_ns
    with os.scandir(path) as entries:
        there = {entry.name: entry.inode() for entry in entries if not entry.name.startswith(".") and entry.is_dir()}
    known = dict(database.execute("SELECT trial_id, inode FROM trials WHERE step = ?", (step,)))
    database.executemany(
        "DELETE FROM trials WHERE step = ? AND trial_id = ?", [(step, name) for name in known.keys() - there.keys()]
    )
    missing = [(name, inode) for name, inode in there.items() if known.get(name) != inode]
    database.executemany(_PUT, (_read(path / name, step=step, inode=inode) for name, inode in missing))
    settled = time.time_ns() - changed > _SETTLED_NS
    database.execute("INSERT OR REPLACE INTO steps VALUES (?, ?)", (step, changed if settled else -1))


def _read(folder: Path, *, step: int, inode: int) -> Sequence[Any]:
    try:
        record = orjson.loads((folder / "trial.json").read_bytes())
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        record = {"error": f"trial.json cannot be read: {why}"}
    return _row(record, step=step, trial_id=folder.name, inode=inode)


def _row(record: Mapping[str, Any], *, step: int, trial_id: str, inode: int) -> Sequence[Any]:
    timings, versions = (_table(record.get(name)) for name in ("timings", "weight_versions"))
    problem = record.get("error") or record.get("cause")
    return (
        step,
        trial_id,
        inode,
        _text(record.get("task")),
        _text(record.get("task_set")),
        _text(record.get("group")),
        _whole(record.get("index")),
        _whole(record.get("attempt")),
        int(bool(record.get("validation"))),
        _number(record.get("reward")),
        _text(record.get("verdict")),
        _text(record.get("termination")),
        int(bool(record.get("trainable"))),
        _text(record.get("isolation")),
        _number(record.get("started")),
        _number(timings.get("total")),
        _whole(record.get("model_calls")),
        _whole(record.get("completion_tokens")),
        _whole(versions.get("min")),
        _whole(versions.get("max")),
        None if not problem else str(problem)[:_LONGEST],
    )


def _shown(row: Sequence[Any]) -> TrialRow:
    step, trial_id, _, task, task_set, group, index, attempt, validation, *rest = row
    reward, verdict, termination, trainable, *others = rest
    return TrialRow(
        step, trial_id, task, task_set, group, index, attempt, bool(validation), reward, verdict, termination,
        bool(trainable), *others,
    )  # fmt: skip


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None
