"""Evaluation in process: resumable, and scored without hiding what was not graded."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

from runtime.agent_loop.evaluate import EvaluationSet, evaluate, scores
from runtime.proxy.codec import load_codec
from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_config, make_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine


def run(tasks: list[Task], script: Any, folder: Path, out: Path) -> tuple[list[dict[str, Any]], ScriptedEngine]:
    engine = ScriptedEngine(load_codec(folder, "hermes"), script)
    sets = [EvaluationSet("greedy", tasks, temperature=0.0), EvaluationSet("sampled", tasks, temperature=1.0, n=2)]
    return asyncio.run(evaluate(sets, config=make_config(), engine=engine, model_folder=folder, out=out)), engine


def test_what_was_finished_is_not_run_again(tokenizer_folder: Path, tmp_path: Path) -> None:
    tasks = [make_task(tmp_path / "tasks", name) for name in ("one", "two")]
    records, engine = run(tasks, lambda call: "SOLVE", tokenizer_folder, tmp_path)
    assert len(records) == 6 and {record["reward"] for record in records} == {1.0}
    assert {call.params.temperature for call in engine.calls} == {0.0, 1.0}

    lost = next((tmp_path / "trials" / "0").glob("two.sampled-1.0"))
    (lost / "trial.json").unlink()
    again, engine = run(tasks, lambda call: "BREAK", tokenizer_folder, tmp_path)
    assert {call.session for call in engine.calls} == {"two.sampled-1.0"}
    assert sorted(record["reward"] for record in again) == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_scores_average_over_tasks_and_count_the_ungraded() -> None:
    rewards = [("a", 1.0), ("a", 0.0), ("b", 1.0), ("c", None)]
    (score,) = scores([{"task_set": "s", "task": task, "reward": reward} for task, reward in rewards])
    assert (score.trials, score.graded, score.ungraded, score.mean) == (4, 3, 1, 0.75)
    assert score.standard_error == 0.25
    (nothing,) = scores([{"task_set": "s", "task": "a", "reward": None}])
    assert math.isnan(nothing.mean) and nothing.graded == 0


def test_tampering_is_a_failure_in_a_rate_and_no_less() -> None:
    records = [{"task_set": "held-out", "task": task, "reward": reward} for task, reward in (("a", -1.0), ("b", 1.0))]
    (line,) = scores(records)
    assert line.mean == 0.5 and line.graded == 2
