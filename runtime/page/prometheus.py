"""The newest figures of runs for Prometheus, in its text format."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runtime.errors import UserError
from runtime.page.library import Run
from runtime.report.curves import derived

log = logging.getLogger(__name__)

NEWEST = 20
"""Runs that are told of: those that go on, and the newest."""
_LAMPS = {"ok": 0, "warn": 1, "ill": 2}
_HELP = {
    "liverl_run_state": "1 for the state that the run is in.",
    "liverl_run_step": "Newest step.",
    "liverl_run_total_steps": "Steps that the run will take; 0: not known.",
    "liverl_metric": "Newest value of each metric, by its name in metrics.jsonl, and of what follows from them.",
    "liverl_lamp": "Health: 0 well, 1 watch, 2 ill; absent where it is not known.",
    "liverl_finding": "1 for each known failure that the run shows.",
}
Sample = tuple[str, Mapping[str, str], float]


def render(runs: Iterable[Run]) -> str:
    """The whole answer. ``runs``: oldest first."""
    lines: dict[str, list[str]] = {name: [] for name in _HELP}
    for run in _chosen(list(runs)):
        try:
            samples = list(_samples(run))
        except Exception as error:  # one run with files that none of ours wrote hides none of the others
            log.debug("%s: %s", run.directory.path, error)
            continue
        for name, labels, value in samples:
            words = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines[name].append(f"{name}{{{words}}} {value!r}")
    parts = [
        f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in found)
        for name, found in lines.items()
    ]
    return "".join(parts)


def _chosen(runs: list[Run]) -> list[Run]:
    newest = runs[-NEWEST:]
    return [run for run in runs if run in newest or _alive(run)]


def _alive(run: Run) -> bool:
    try:
        return run.directory.alive
    except (UserError, TypeError, ValueError):  # it went since the list was made, or is none of ours
        return False


def _samples(run: Run) -> Iterator[Sample]:
    facts: Mapping[str, Any] = run.overview()
    labels = {"experiment": str(facts["experiment"]), "run": str(facts["run"])}
    yield "liverl_run_state", {**labels, "state": str(facts["state"])}, 1.0
    yield "liverl_run_step", labels, float(facts["step"])
    yield "liverl_run_total_steps", labels, float(facts["total_steps"])
    newest: dict[str, float] = {}
    counts = run.counts()
    for row in run.rows():
        newest.update(row.data)
        newest.update(derived(row, counts=counts))
    for key, value in sorted(newest.items()):
        yield "liverl_metric", {**labels, "key": key}, value
    for lamp in facts["lamps"]:
        if lamp["state"] in _LAMPS:
            yield "liverl_lamp", {**labels, "lamp": lamp["name"]}, float(_LAMPS[lamp["state"]])
    for rule in run.diagnosis()["rules"]:
        if rule["evidence"] is not None:
            yield "liverl_finding", {**labels, "rule": rule["id"]}, 1.0


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
