"""What diagnosis and the view of groups read from a run directory's files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.launch.rundir import RunDirectory
from runtime.report.diagnosis import diagnose
from runtime.report.facts import Facts, gather
from runtime.report.groups import groups
from runtime.report.trials import TrialIndex
from runtime.telemetry.metrics import read_rows
from tests.runtime.page.made import make_run


def facts_of(run: RunDirectory, *, alive: bool = True) -> Facts:
    with TrialIndex(run.path) as index:
        rows = read_rows(run.metrics)
        return gather(run, rows, counts={"held-out": 40}, alive=alive, cause="", index=index)


def _silence(run: RunDirectory) -> None:
    for file in run.trials.glob("*/*/trajectory.json"):
        content = json.loads(file.read_bytes())
        for sample in content["samples"]:
            sample["response_logprobs"] = [0.0] * len(sample["response_logprobs"])
        file.write_text(json.dumps(content))


def test_a_run_directory_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.verl_yaml.write_text(
        "data: {train_batch_size: 3}\nactor_rollout_ref: {rollout: {n: 2}}\n"
        "trainer: {v1: {sampler: {max_off_policy_threshold: 4}}}\n"
    )
    run.status.write_text('{"sandboxes": 3, "tokens_per_sec": 9.0}')
    run.trainer_log.write_text("fine\n")
    facts = facts_of(run)
    assert (facts.batch, facts.staleness_bound, facts.log) == (6, 4, "fine\n")
    assert facts.silent_logprobs == (0, 8) and facts.status["sandboxes"] == 3
    assert facts.disk_used is not None and 0 < facts.disk_used < 1
    assert facts.starting_sec is None
    assert [one.rule for one in diagnose(facts) if one.rule != "disk-full"] == []


def test_silent_logprobs_are_found_in_the_trials(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1)
    _silence(run)
    facts = facts_of(run, alive=False)
    assert facts.silent_logprobs == (6, 6)
    assert "logprobs-zero" in [one.rule for one in diagnose(facts)]


def test_a_start_without_engines_is_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=0)
    run.metrics.unlink()
    run.startup.write_text(json.dumps({"time": time.time() - 4000}) + "\n")
    assert [one.rule for one in diagnose(facts_of(run)) if one.rule != "disk-full"] == ["no-engine"]
    with run.startup.open("a") as stream:
        stream.write(json.dumps({"stage": "vLLM", "time": time.time() - 3900}) + "\n")
    assert [one.rule for one in diagnose(facts_of(run)) if one.rule != "disk-full"] == []


def test_stuck_sandboxes_are_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=0)
    os.utime(run.metrics, (time.time() - 4000,) * 2)
    run.status.write_text('{"sandboxes": 64, "tokens_per_sec": 0.0}')
    assert [one.rule for one in diagnose(facts_of(run)) if one.rule != "disk-full"] == ["sandbox-stuck"]


def test_damaged_files_say_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1)
    for file in (run.verl_yaml, run.status, run.startup, next(run.trials.glob("*/*/trajectory.json"))):
        file.write_bytes(b"\xff{ [")
    facts = facts_of(run)
    assert facts.batch is None and facts.status == {}


def test_tasks_have_a_family_and_a_language(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2)
    rows = []
    for name, text in {
        "never": '[metadata]\nlanguage = "Go"\n[metadata.liverl]\nfamily = "bound"\n',
        "always": '[metadata.liverl]\nfamily = "bound"\nsource_files = ["a.py", "b.py"]\ntest_files = ["x.js"]\n',
        "sometimes": "not toml [",
    }.items():
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        (folder / "task.toml").write_text(text)
        rows.append({"extra_info": {"task": str(folder), "task_id": name}})
    run.data.mkdir()
    known = {"task_set": "train", "task": "never", "rate": 0.1, "trials": 4, "within": False}
    run.curriculum.write_bytes(orjson.dumps({"tasks": [known]}))
    pq.write_table(pa.Table.from_pylist(rows), run.data / "train.parquet")
    with TrialIndex(run.path) as index:
        found = groups(run, index, read_rows(run.metrics))
    tasks = {task["task"]: task for task in found["tasks"]}
    assert {name: (task["family"], task["language"], task["kind"]) for name, task in tasks.items()} == {
        "never": ("bound", "Go", "never"),
        "always": ("bound", "Python", "always"),
        "sometimes": ("", "", "flaky"),
    }
    assert (tasks["never"]["rate"], tasks["never"]["within"], tasks["always"]["rate"]) == (0.1, False, None)
    assert tasks["sometimes"]["cells"] == {1: (2, 0.5), 2: (2, 0.5)}
    assert found["tokens"]["trained"] == 2 * 6 * 5
    by_family = {row["name"]: row for row in found["by"]["family"]}
    assert (by_family["bound"]["tasks"], by_family["bound"]["trials"], by_family["bound"]["solved"]) == (2, 8, 4.0)
