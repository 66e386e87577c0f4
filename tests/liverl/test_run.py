"""A whole experiment from the command line, in small: real tasks, policy, sandboxes and trainer, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import processes
from runtime.launch import bucket
from runtime.launch.bucket import Bucket
from runtime.launch.rundir import RunDirectory
from runtime.report.trial import read_trial
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.scores import SCORE, before_and_after

ROOT = Path(__file__).parents[2]
SMALL = {
    "schedule.steps": 3,
    "schedule.validate_every": 3,
    "schedule.save_every": 1,
    "schedule.train_batch_size": 2,
    "schedule.mini_batch_size": 2,
    "algorithm.group_size": 4,
    "trainer.micro_batch_size": 4,
    "policy.warm_start.steps": 5,
    "policy.warm_start.demonstrations.count": 50,
    "tasks.train[0].source.count": 16,
    "tasks.validation[0].source.count": 6,
    "tasks.validation[1].source.count": 6,
}

pytestmark = [pytest.mark.sandbox, pytest.mark.torch, pytest.mark.verl, pytest.mark.timeout(1200)]


def _start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "liverl", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _only_run(folder: Path) -> RunDirectory:
    (record,) = (folder / "runs").glob("*/*/run.json")
    return RunDirectory(record.parent)


def _wait_for_step(run: subprocess.Popen[str], folder: Path, step: int) -> RunDirectory:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if list((folder / "runs").glob("*/*/run.json")):
            directory = _only_run(folder)
            if any(row.step >= step for row in read_rows(directory.metrics)):
                return directory
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
    raise AssertionError(f"step {step} never came")


def _owners(directory: RunDirectory) -> set[str]:
    """Names of the processes that keep sandboxes for this run, or died without removing them."""
    return {path.name for folder in directory.sandbox_states for path in folder.glob("owner-*")}


def _cgroups(owners: set[str]) -> list[Path]:
    """Control groups of these: other tests beside this one have sandboxes of their own."""
    return [path for owner in owners for path in Path("/sys/fs/cgroup").glob(f"**/liverl-{owner}")]


def test_a_run_that_is_killed_goes_on_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    settings = [text for path, value in SMALL.items() for text in ("--set", f"{path}={value}")]
    settings += ["--set", f"schedule.upload.url=file://{tmp_path}/bucket"]
    first = _start("run", str(ROOT / "specs" / "quickstart.jsonnet"), *settings, cwd=tmp_path)
    directory = _wait_for_step(first, tmp_path, 1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    owners = _owners(directory)
    assert owners
    rows_before = {row.step: row.data[SCORE] for row in read_rows(directory.metrics) if SCORE in row.data}

    second = _start("run", "--resume", "last", cwd=tmp_path)
    owners |= _owners(_wait_for_step(second, tmp_path, 2))
    text, _ = second.communicate()
    record = directory.read()
    assert second.returncode == 0, text
    assert (record.state, record.exit_code, record.resumed) == ("succeeded", 0, 1)

    rows = read_rows(directory.metrics)
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert {row.step: row.data[SCORE] for row in rows if row.step in rows_before} == rows_before
    scores = before_and_after(rows)
    assert {score.name for score in scores} == {"held-out", "held-out-sampled"}
    assert all((score.first_step, score.last_step) == (0, 3) for score in scores)
    for expected in ("failing lines first", "held-out-sampled", "supervised stage in miniature", "liverl eval"):
        assert expected in text

    # The trainer's own log-probabilities lie beside the rollout's: the same policy, in another program.
    for step in (1, 2, 3):
        views = [read_trial(path.parent) for path in (directory.trials / str(step)).glob("*.train-*/trial.json")]
        samples = [sample for view in views for sample in view.samples if 1 in sample.response_mask]
        assert samples and all(sample.trainer_logprobs is not None for sample in samples)
        for sample in samples:
            both = zip(sample.trainer_logprobs or (), sample.response_logprobs, sample.response_mask, strict=True)
            assert max(abs(ours - theirs) for ours, theirs, mask in both if mask) < 0.05

    assert processes.marked(directory.path) == []
    assert _cgroups(owners) == []
    assert not any(str(directory.path) in line for line in Path("/proc/mounts").read_text().splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket", "runs"]
    (uploaded,) = bucket.runs(there := Bucket(f"file://{tmp_path}/bucket"))
    assert uploaded.record == record and 3 in there.checkpoints(uploaded.place)
    assert (directory.checkpoints / "global_step_3" / "STABLE").is_file()

    again = _start("run", "--resume", "last", cwd=tmp_path)
    assert "nothing to resume" in again.communicate()[0] and again.returncode == 2

    score = _start("eval", str(directory.bundle), "--checkpoint", str(directory.path), "--limit", "2", cwd=tmp_path)
    text, _ = score.communicate()
    assert score.returncode == 0 and "held-out-sampled" in text
    status = _start("status", "last", "--json", cwd=tmp_path)
    facts = json.loads(status.communicate()[0])
    assert (facts["kind"], facts["state"]) == ("eval", "succeeded")
