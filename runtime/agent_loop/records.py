"""Trial folders: ``trials/<step>/<trial-id>/`` written whole, and read back for resuming an evaluation.

A folder appears under its final name only when every file in it is complete (temporary folder, then rename). Files are
not fsynced: a trial that a power cut loses is run again. Knows nothing of how a trial runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from runtime.agent_loop.types import TrialResult
from runtime.grading.work import MANIFEST
from runtime.proxy.types import Turn
from runtime.report import trials as index


@dataclass(frozen=True)
class TrialFiles:
    """What goes into a trial's folder beside ``trial.json``: turns, verifier's raw output, the agent's logs by file
    name."""

    turns: Sequence[Turn] = ()
    verifier: bytes = b""
    agent: Mapping[str, bytes] = field(default_factory=dict)
    work: Mapping[str, Any] | None = None
    """Manifest of the work that is kept for a later verdict (``grading/work.py``)."""


def trial_folder(trials: Path, *, step: int, trial_id: str) -> Path:
    return trials / str(step) / trial_id


def write_trial(trials: Path, result: TrialResult, files: TrialFiles) -> Path:
    """Write one trial's folder below ``trials``, note it in their index, and return it. An existing folder of the same
    trial is replaced."""
    final = trial_folder(trials, step=result.key.step, trial_id=result.key.trial_id)
    partial = final.parent / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    record = {**result.record(), **({MANIFEST: dict(files.work)} if files.work is not None else {})}
    try:
        _fill(partial, result, files, record)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    index.add(trials, record, final)
    return final


def _fill(partial: Path, result: TrialResult, files: TrialFiles, record: Mapping[str, Any]) -> None:
    partial.mkdir(parents=True)
    (partial / "trial.json").write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
    trajectory = {
        "turns": list(files.turns),
        "samples": [sample.record() for sample in result.samples],
    }
    (partial / "trajectory.json").write_bytes(orjson.dumps(trajectory, default=str))
    if files.verifier:
        (partial / "verifier").mkdir()
        (partial / "verifier" / "output").write_bytes(files.verifier)
    # A run has thousands of trials, and most agents leave an empty log: it would be a file that says nothing.
    logs = {name: content for name, content in files.agent.items() if content}
    if logs:
        (partial / "agent").mkdir()
        for name, content in logs.items():
            # The agent chose these names: the last component alone is used, so that none leaves the folder.
            (partial / "agent" / (PurePosixPath(name).name or "log")).write_bytes(content)


def read_record(trials: Path, *, step: int, trial_id: str) -> dict[str, Any] | None:
    """The ``trial.json`` of a finished trial, or None when there is none."""
    try:
        record = orjson.loads((trial_folder(trials, step=step, trial_id=trial_id) / "trial.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None
