"""The runs below a folder, by name, with what has been read of each. A name is looked up, never made into a path: so no
request leaves the folder."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.launch.ledger import entry
from runtime.launch.rundir import FINAL_STATES, RunDirectory
from runtime.page.trials import Tokenizer, choices_of, everything, listing, tokens
from runtime.report import curves
from runtime.report.diagnosis import RULES, diagnose
from runtime.report.facts import gather
from runtime.report.groups import groups
from runtime.report.overview import overview
from runtime.report.trial import TrialView, read_trial
from runtime.report.trials import TrialIndex
from runtime.telemetry.metrics import Follower, Row, read_rows
from runtime.telemetry.scores import SCORE, before_and_after

log = logging.getLogger(__name__)

_OF_ROWS = ("step", "score", "held_out")
_STANDS_SEC = 30.0
"""How long a diagnosis stands although nothing has changed: some rules look at how long nothing has."""


class Run:
    """One run directory and the rows that were read of it. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        self._follower = Follower(self.directory.metrics)
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._index: TrialIndex | None = None
        self._indexed = False
        self._choices: tuple[int, dict[str, Any]] | None = None
        self._diagnosed: tuple[object, float, dict[str, Any]] | None = None
        self._readable: tuple[int, int, int] | None = None
        self._brief: tuple[tuple[tuple[int, int], ...], bool, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return f"{self.directory.path.parent.name}/{self.directory.path.name}"

    def check(self) -> None:
        """Raise ``UserError`` unless there is a record that can be read. It is only ever replaced whole."""
        try:
            status = self.directory.record_file.stat()
        except OSError:
            self._readable = None
        else:
            if self._readable == (status.st_ino, status.st_mtime_ns, status.st_size):
                return
            self._readable = (status.st_ino, status.st_mtime_ns, status.st_size)
        try:
            self.directory.read()
        except UserError:
            self._readable = None
            raise

    def rows(self) -> list[Row]:
        with self._lock:
            self._follower.poll()
            return self._follower.rows

    def counts(self) -> Mapping[str, int]:
        return self.directory.read().tasks

    def brief(self) -> dict[str, Any]:
        """One line of the list of runs. Asked for all runs with every change of one, so what stands is kept: of a run
        that has ended everything, of one that goes on what follows from its rows."""
        stamp = self._stamp(self.directory.record_file, self.directory.metrics)
        known = self._brief if self._brief is not None and self._brief[0][1:] == stamp[1:] else None
        if known is not None and known[1] and known[0] == stamp:
            return known[2]
        one = entry(self.directory)
        ended = one.record.state in FINAL_STATES
        facts = {
            "name": self.name,
            "experiment": one.record.experiment,
            "run": one.record.run,
            "kind": one.record.kind,
            "state": one.state,
            "seconds": round(one.seconds, 1),
            **({name: known[2][name] for name in _OF_ROWS} if known is not None else self._of_rows()),
        }
        self._brief = (stamp, ended, facts)
        if ended:
            with self._lock:  # its rows are read again if somebody opens it
                self._follower = Follower(self.directory.metrics)
        return facts

    def _of_rows(self) -> dict[str, Any]:
        rows = self.rows()
        return {
            "step": rows[-1].step if rows else None,
            "score": curves.newest(rows, SCORE),
            "held_out": {score.name: score.last for score in before_and_after(rows)},
        }

    def unreadable(self) -> dict[str, Any]:
        """The line of a run whose files say what none of ours does."""
        path = self.directory.path
        line: dict[str, Any] = {"name": self.name, "experiment": path.parent.name, "run": path.name, "kind": "unknown"}
        return {**line, "state": "unreadable", "seconds": 0.0, "step": None, "score": None, "held_out": {}}

    def overview(self) -> dict[str, Any]:
        one = entry(self.directory)
        return overview(
            self.directory,
            self.rows(),
            record=asdict(one.record),
            state=one.state,
            seconds=one.seconds,
            total_steps=self._total_steps,
        )

    def groups(self) -> dict[str, Any]:
        with self.index() as index:
            return groups(self.directory, index, self.rows())

    def diagnosis(self) -> dict[str, Any]:
        """Every rule, and what those that fire have found: as of half a minute ago where no file has changed."""
        stamp, now = self.stamp(), time.monotonic()
        if self._diagnosed is None or self._diagnosed[0] != stamp or now - self._diagnosed[1] > _STANDS_SEC:
            self._diagnosed = (stamp, now, self._diagnose())
        return self._diagnosed[2]

    def _diagnose(self) -> dict[str, Any]:
        one = entry(self.directory)
        alive = one.state in ("pending", "running")
        with self.index() as index:
            facts = gather(
                self.directory, self.rows(), counts=self.counts(), alive=alive, cause=one.record.exit_cause, index=index
            )
        found = {finding.rule: finding.evidence for finding in diagnose(facts)}
        return {
            "rules": [
                {
                    "id": rule.id,
                    "title": rule.title,
                    "look": rule.look,
                    "advice": rule.advice,
                    "evidence": found.get(rule.id),
                }
                for rule in RULES
            ]
        }

    def trials(self, query: Mapping[str, str]) -> dict[str, Any]:
        with self.index() as index:
            total = index.count()
            if self._choices is None or self._choices[0] != total:
                self._choices = (total, choices_of(index))
            return listing(index, query, self._choices[1])

    def trial(self, step: str, trial_id: str) -> dict[str, Any] | None:
        with self.index() as index:
            row = index.one(f"{step}/{trial_id}")
            return None if row is None else everything(self.directory.path, index, row)

    def tokens(self, step: str, trial_id: str, sample: int) -> dict[str, Any] | None:
        with self.index() as index:
            row = index.one(f"{step}/{trial_id}")
            view = None if row is None else read_trial(index.folder(row))
        return None if view is None else self.tokens_of(view, sample)

    def tokens_of(self, view: TrialView, sample: int) -> dict[str, Any]:
        return tokens(view, sample, self._texts)

    @cached_property
    def _total_steps(self) -> int:
        return _total_steps(self.directory.verl_yaml)

    @cached_property
    def _texts(self) -> Tokenizer | None:
        return Tokenizer.of_run(self.directory.policy)

    @contextmanager
    def index(self) -> Iterator[TrialIndex]:
        """The index of trials as of now, for one thread at a time."""
        with self._reading:
            if self._index is None or not self._indexed:
                # Before the first trial there is no place for its file.
                self._indexed = self.directory.trials.is_dir()
                if self._index is not None:
                    self._index.close()
                self._index = TrialIndex(self.directory.path)
            else:
                self._index.refresh()
            yield self._index

    def close(self) -> None:
        with self._reading:
            if self._index is not None:
                self._index.close()
                self._index = None

    def curves(self, *, since: int = -1) -> dict[str, Any]:
        return curves.table(self.rows(), counts=self.counts(), since=since)

    def supervised(self) -> dict[str, Any]:
        """Curves of the supervised stage, by its own steps."""
        return curves.table(read_rows(self.directory.supervised_metrics), counts={})

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever a file does that the page shows."""
        one = self.directory
        return self._stamp(one.record_file, one.metrics, one.status, one.trials, one.supervised_metrics)

    @staticmethod
    def _stamp(*paths: Path) -> tuple[tuple[int, int], ...]:
        stamps = []
        for path in paths:
            try:
                status = path.stat()
                stamps.append((status.st_mtime_ns, status.st_size))
            except OSError:
                stamps.append((0, 0))
        return tuple(stamps)


class Library:
    """All runs below ``runs_dir``; or, where that is itself a run directory, this one."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir.absolute()
        self._runs: dict[Path, Run] = {}

    def runs(self) -> list[Run]:
        """Oldest first. Folders without a readable record are passed over."""
        found = []
        for run in self._sorted():
            with suppress(UserError):
                run.check()
                found.append(run)
        return found

    def _sorted(self) -> list[Run]:
        return sorted(self._here(), key=lambda run: (run.directory.path.name, run.name))

    def close(self) -> None:
        for run in self._runs.values():
            run.close()

    def run(self, name: str) -> Run | None:
        known = next((run for run in [*self._runs.values()] if run.name == name), None)
        if known is not None and known.directory.record_file.is_file():
            return known
        return next((run for run in self._here() if run.name == name), None)

    def briefs(self, names: Collection[str] = ()) -> list[dict[str, Any]]:
        """The lines of these runs, or of all. One that cannot be read hides none of the others."""
        found = []
        for run in self._sorted():
            if names and run.name not in names:
                continue
            try:
                run.check()
                found.append(run.brief())
            except Exception as error:
                log.debug("%s: %s", run.directory.path, error)
                found.append(run.unreadable())
        return found

    def _here(self) -> Iterator[Run]:
        single = (self.runs_dir / "run.json").is_file()
        for record_file in [self.runs_dir / "run.json"] if single else self.runs_dir.glob("*/*/run.json"):
            if record_file.parent not in self._runs:
                self._runs[record_file.parent] = Run(record_file.parent)
            yield self._runs[record_file.parent]


def _total_steps(verl_yaml: Path) -> int:
    import yaml

    from runtime.launch.local import total_steps

    try:
        return total_steps(verl_yaml)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return 0  # of an evaluation, or a bundle that cannot be read: the page does without
