"""Groups and tasks of a run: which tasks are solved never, always or now and then, by set, language and family; how
trials ended; what became of the tokens. From the index of trials, the rows, and the tasks' own files."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from runtime.report.trials import TrialFilter, TrialIndex
from runtime.run_paths import RunPaths
from runtime.telemetry.metrics import Row

_LANGUAGES = {
    "py": "Python", "js": "JavaScript", "ts": "TypeScript", "go": "Go", "rs": "Rust", "java": "Java", "c": "C",
    "cc": "C++", "cpp": "C++", "rb": "Ruby", "php": "PHP", "kt": "Kotlin", "cs": "C#", "swift": "Swift", "sh": "Shell",
}  # fmt: skip
TOKENS = ("sampled", "trained", "discarded", "auxiliary", "lost")


@dataclass(frozen=True)
class TaskFacts:
    """What a task's own file says of it; "" where it does not."""

    family: str = ""
    language: str = ""


def groups(paths: RunPaths, index: TrialIndex, rows: Sequence[Row]) -> dict[str, Any]:
    """Ready for JSON. A cell is ``[trials, share solved]`` by step."""
    folders, known = task_folders(paths), _curriculum(paths)
    tasks = []
    for task_set in index.counts("task_set"):
        table: dict[str, dict[int, tuple[int, float]]] = {}
        for task, step, number, share in index.grid(TrialFilter(task_set=task_set)):
            table.setdefault(task, {})[step] = (number, share)
        for task, cells in table.items():
            facts = task_facts(folders[task]) if task in folders else TaskFacts()
            total = sum(number for number, _ in cells.values())
            solved = sum(number * share for number, share in cells.values())
            rate, within = known.get((task_set, task), (None, False))
            tasks.append(
                {
                    "task": task,
                    "set": task_set,
                    "family": facts.family,
                    "language": facts.language,
                    "trials": total,
                    "solved": round(solved, 6),
                    "kind": "never" if solved == 0 else "always" if solved >= total else "flaky",
                    "cells": cells,
                    "rate": rate,
                    "within": within,
                }
            )
    return {
        "tasks": tasks,
        "by": {name: _by(tasks, name) for name in ("set", "language", "family")},
        "terminations": index.counts("termination"),
        "failures": index.counts("termination", TrialFilter(failed=True)),
        "verdicts": index.counts("verdict"),
        "tokens": {
            fate: sum(row.data.get(f"{prefix}proxy_tokens/{fate}", 0.0) for row in rows for prefix in ("", "val-aux/"))
            for fate in TOKENS
        },
    }


def _curriculum(paths: RunPaths) -> dict[tuple[str, str], tuple[float, bool]]:
    """Of each task the rate that a curriculum goes by, and whether that is within its band; empty without one."""
    try:
        tasks = orjson.loads(paths.curriculum.read_bytes())["tasks"]
        return {(str(one["task_set"]), str(one["task"])): (float(one["rate"]), bool(one["within"])) for one in tasks}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _by(tasks: Iterable[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    kinds: dict[str, Counter[str]] = {}
    for task in tasks:
        counter = kinds.setdefault(str(task[name]), Counter())
        counter.update({task["kind"]: 1, "tasks": 1, "trials": task["trials"]})
        counter["solved"] += task["solved"]
    return [{"name": key, **counter} for key, counter in sorted(kinds.items())]


def task_folders(paths: RunPaths) -> dict[str, Path]:
    """Task id -> its folder, from the data that the trainer was given; empty where there is none."""
    import pyarrow.parquet as parquet

    found = {}
    for file in sorted(paths.data.glob("*.parquet")):
        try:
            column = parquet.read_table(file, columns=["extra_info"]).column("extra_info").to_pylist()
        except (OSError, ValueError, KeyError):  # pyarrow's own errors are of these
            continue
        for one in column:
            if isinstance(one, dict) and one.get("task_id") and one.get("task"):
                found[str(one["task_id"])] = Path(str(one["task"]))
    return found


@lru_cache(maxsize=100_000)
def task_facts(folder: Path) -> TaskFacts:
    """A task's family and language: said in its ``task.toml``, or the language of most of its files."""
    try:
        content = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TaskFacts()
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    ours = metadata.get("liverl")
    ours = ours if isinstance(ours, dict) else {}
    said = metadata.get("language")
    files = [str(name) for key in ("source_files", "test_files") for name in ours.get(key) or ()]
    endings = Counter(_LANGUAGES.get(name.rpartition(".")[2], "") for name in files)
    endings.pop("", None)
    language = said if isinstance(said, str) else endings.most_common(1)[0][0] if endings else ""
    return TaskFacts(str(ours.get("family") or metadata.get("category") or ""), language)
