"""The trainer as a child process: a small program stands in for verl and behaves as badly as it can."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from runtime import run_paths, suggest
from runtime.errors import MachineError, RunError, RunHalted, UserError
from runtime.laptop.cpu_platform import CPU
from runtime.processes import marked
from runtime.run_paths import RunPaths
from runtime.sandboxes.state import OwnerState
from runtime.trainer import environment, process, startup
from runtime.trainer.platform import find_platform
from runtime.trainer.process import train

# Starts a grandchild in a session of its own, as Ray does, reports two steps and waits or ends.
PROGRAM = """
import json, os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as rows:
    for step in (1, 2):
        rows.write(json.dumps({"step": step, "data": {"training/global_step": step}}) + chr(10))
print("cwd", os.getcwd(), "safe", sys.flags.safe_path, "arguments", *sys.argv[1:], flush=True)
if MODE == "wait":
    time.sleep(600)
if MODE == "busy" and int(os.environ["LIVERL_ATTEMPT"]) < 2:
    raise Exception("The current node timed out during startup. This could happen because some of the raylet failed")
if MODE == "fail":
    raise ValueError("the learning rate is a fish")
if MODE == "halt":
    print("The actor died because its node has died. Node Id: 4d1a")
    raise Exception("RunHalted: nothing to learn from; the run was ended after the checkpoint of step 2")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "verl.yaml").write_text("{}")
    stand_in(monkeypatch, "end")
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    def command(run: Path, overrides: object = ()) -> list[str]:
        return [sys.executable, "-c", f"MODE = {mode!r}" + PROGRAM, *overrides]  # type: ignore[misc]

    monkeypatch.setattr(process, "trainer_command", command)


def traces(run: Path) -> list[object]:
    found: list[object] = [path for path in (environment.ray_dir(run), RunPaths(run).state) if path.exists()]
    return found + marked(run)


def test_a_run_that_succeeds_leaves_rows_and_nothing_else(run: Path) -> None:
    train(run)
    rows = [orjson.loads(line) for line in RunPaths(run).metrics.read_bytes().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    log = RunPaths(run).trainer_log.read_text()
    assert f"cwd {run} safe True" in log
    assert traces(run) == []


def test_a_run_that_fails_says_why_in_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "fail")
    with pytest.raises(RunError, match=r"ValueError: the learning rate is a fish \(log: .*trainer.log\)"):
        train(run)
    assert traces(run) == []


def test_a_run_that_ended_by_itself_is_not_started_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a machine that it had lost before."""
    stand_in(monkeypatch, "halt")
    with pytest.raises(RunHalted, match=r"^nothing to learn from; .* step 2 "):
        train(run)


def test_a_run_that_ends_before_its_last_step_has_failed(run: Path) -> None:
    (run / "bundle" / "verl.yaml").write_text("trainer: {total_training_steps: 2, logger: [console, file]}")
    train(run)
    with pytest.raises(RunError, match=r"ended without an error at step 2, but 3 steps were planned; .*run --resume"):
        train(run, overrides=["trainer.total_training_steps=3"])
    assert traces(run) == []


@pytest.mark.parametrize("override", ["trainer.total_training_steps=null", "trainer.val_only=True"])
def test_a_run_without_a_planned_last_step_may_end_anywhere(run: Path, override: str) -> None:
    (run / "bundle" / "verl.yaml").write_text("trainer: {total_training_steps: 3, logger: [console, file]}")
    process._check_last_step(RunPaths(run), [override])
    with pytest.raises(RunError, match="3 steps were planned"):
        process._check_last_step(RunPaths(run), [])


def test_a_ray_that_came_up_too_slowly_is_started_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "busy")
    train(run)
    rows = [orjson.loads(line) for line in RunPaths(run).metrics.read_bytes().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and traces(run) == []


def test_patience_with_a_busy_machine_ends(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "busy")
    monkeypatch.setattr(process, "RAY_START_SEC", 0.0)
    with pytest.raises(RunError, match="the machine is too busy"):
        train(run)


def test_without_a_bundle_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"verl.yaml: missing; compiling a spec writes it"):
        train(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_everything(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "wait")

    def interrupt() -> None:
        while not RunPaths(run).metrics.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert traces(run) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_up_ends_the_run_with_the_fix_and_room_to_write_it_down(
    small_disk: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "wait")
    moved = Path(shutil.copytree(run, small_disk / "run"))

    def fill() -> None:
        while not RunPaths(moved).metrics.exists():
            time.sleep(0.02)
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1 << 20))

    threading.Thread(target=fill, daemon=True).start()
    with pytest.raises(MachineError, match=r"the disk below .* is full") as raised:
        train(moved)
    assert raised.value.fix == f"free some space, then go on with: {suggest.on_run('run --resume', moved)}"
    assert traces(moved) == []
    (moved / "run.json").write_bytes(bytes(100_000))


def test_after_a_kill_of_the_launcher_the_next_start_of_any_run_clears_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = f"""
import sys
from pathlib import Path
from runtime.trainer import process
process.trainer_command = lambda run, overrides=(): [sys.executable, "-c", {"MODE = 'wait'" + PROGRAM!r}]
process.train(Path({str(run)!r}))
"""
    child = subprocess.Popen([sys.executable, "-c", launcher])
    while not RunPaths(run).metrics.exists():
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert traces(run)

    other = tmp_path / "other"
    (other / "bundle").mkdir(parents=True)
    (other / "bundle" / "verl.yaml").write_text("{}")
    train(other)
    assert traces(run) == [] and traces(other) == []


def test_control_groups_of_every_dead_owner_go_before_the_scratch_that_names_them(run: Path, tmp_path: Path) -> None:
    """Also those of a worker whose janitor was ended with the run. Folders stand in for groups."""
    paths, groups = RunPaths(run), list[Path]()
    for number, folder in enumerate((paths.state, paths.probe_state, paths.worker_state("1.0"))):
        owner = OwnerState(folder)
        groups.append(tmp_path / f"group-{number}")
        groups[-1].mkdir()
        owner.record_cgroup(groups[-1])
        owner.close(forget=False)
    process.clear(run)
    assert [group for group in groups if group.exists()] == [] and not paths.state.exists()


def test_each_start_has_rows_of_its_own_and_a_resume_skips_what_was_scored(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run)
    train(run, resume=True, overrides=["trainer.test_freq=5"])
    assert sorted(path.name for path in RunPaths(run).rows.iterdir()) == ["verl-000.jsonl", "verl-001.jsonl"]
    assert "arguments trainer.test_freq=5" in RunPaths(run).trainer_log.read_text()
    # There is no checkpoint: the run starts over, and step 0 was never scored.
    assert "val_before_train" not in RunPaths(run).trainer_log.read_text()


def test_the_environment_carries_the_mark_and_no_import_paths(tmp_path: Path) -> None:
    inherited = {"PYTHONPATH": "/evil", "RAY_ADDRESS": "elsewhere", "PATH": "/bin"}
    found = environment.trainer_environment(RunPaths(tmp_path), platform=CPU, attempt=3, inherited=inherited)
    assert "PYTHONPATH" not in found and "RAY_ADDRESS" not in found and found["PATH"] == "/bin"
    assert found[run_paths.RUN_DIR] == str(tmp_path) and found["PYTHONSAFEPATH"] == "1"
    assert found["VERL_FILE_LOGGER_PATH"].endswith("logs/rows/verl-003.jsonl")
    assert len(found[run_paths.RAY_DIR]) < 20


def test_trackers_report_only_when_they_are_named(tmp_path: Path) -> None:
    found = environment.trainer_environment(
        RunPaths(tmp_path), platform=CPU, attempt=0, loggers=["console", "wandb"], inherited={}
    )
    assert "WANDB_MODE" not in found and found["WANDB_DIR"].startswith(str(tmp_path))
    silent = environment.trainer_environment(
        RunPaths(tmp_path), platform=CPU, attempt=0, loggers=["console", "file"], inherited={}
    )
    assert silent["WANDB_MODE"] == "disabled" and silent["TENSORBOARD_DIR"].startswith(str(tmp_path))


def test_a_step_that_is_taken_again_holds_the_trials_of_one_attempt(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no checkpoint, so a resume takes both steps again; what was scored at step 0 stays scored."""
    train(run)
    paths = RunPaths(run)
    for number, text in ((0, "scored"), (1, "first"), (2, "first")):
        (paths.trials / str(number) / "trial").mkdir(parents=True)
        (paths.trials / str(number) / "trial" / "trial.json").write_text(text)
    rows = paths.rows_file("verl", attempt=0)
    rows.write_text('{"step": 0, "data": {"val-core/x": 1}}\n' + rows.read_text())
    for attempt in range(2):
        train(run, resume=True)
        assert sorted(path.name for path in paths.trials.iterdir()) == ["0"]
        assert sorted(path.name for path in (paths.abandoned / f"{attempt:03d}").iterdir()) == ["1", "2"]
        for number in (1, 2):
            (paths.trials / str(number) / "trial").mkdir(parents=True)


def test_stages_of_the_start_count_once_and_from_the_newest_start(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup.reached("outside a run nothing is said")
    monkeypatch.setenv(run_paths.RUN_DIR, str(run))
    startup.reached("before any start")
    assert startup.stages(RunPaths(run).startup) == []
    for _ in range(2):
        startup.begin(RunPaths(run))
        for name in ("verl", "verl", "vLLM"):
            startup.reached(name)
        found = startup.stages(RunPaths(run).startup)
        assert [stage.name for stage in found] == ["verl", "vLLM"]
        assert 0 <= found[0].seconds <= found[1].seconds
    # verl's driver, its task runner and its worker import verl in this order.
    startup.begin(RunPaths(run))
    for name in ("", "RAY_RAYLET_PID", "RANK"):
        if name:
            monkeypatch.setenv(name, "1")
        startup.imported()
    assert [stage.name for stage in startup.stages(RunPaths(run).startup)] == [
        "verl",
        "the task runner",
        "the trainer's process",
    ]


def test_the_platform_is_that_of_the_device(tmp_path: Path) -> None:
    inherited = {"CUDA_VISIBLE_DEVICES": "3", "VLLM_API_KEY": "another's"}
    paths = RunPaths(tmp_path / "runs" / "experiment" / "1")

    def found(device: str) -> dict[str, str]:
        platform = find_platform(device)
        return environment.trainer_environment(paths, platform=platform, attempt=0, inherited=inherited)

    cpu, cuda = found("cpu"), found("cuda")
    assert cpu["VERL_PLATFORM"] == "cpu" and "CUDA_VISIBLE_DEVICES" not in cpu
    assert cuda["VERL_PLATFORM"] == "nvidia" and cuda["CUDA_VISIBLE_DEVICES"] == "3"
    assert "VERL_ENGINE_DEVICE" not in cuda and cuda["VERL_USE_EXTERNAL_MODULES"] == "runtime.trainer.cuda.plugin"
    assert cuda["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0" and "VLLM_API_KEY" not in cuda
    # Kernels that one run has compiled are found by the next.
    assert cuda["VLLM_CACHE_ROOT"].startswith(str(tmp_path / "runs" / ".cache"))
    assert cuda["VLLM_DISABLE_COMPILE_CACHE"] == "0"  # verl leaves it alone where it is set
    with pytest.raises(LookupError, match="cpu, cuda"):
        find_platform("tpu")
