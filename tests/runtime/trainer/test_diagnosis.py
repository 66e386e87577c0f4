"""Known ways of the trainer to die, in words."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from runtime.trainer.diagnosis import SLOW_STARTS, diagnose, ray_was_slow, read_tail


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("runtime.x.WeightMismatch: weight version 3: liverl_engine_0_1 serve(s) other weights", "weight version 3"),
        (
            "x.h:204: Failed to connect to GCS within 20 seconds. GCS may have been killed.\nValueError: so what",
            "(gcs_server) has been gone for 20 s",
        ),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("OSError: AF_UNIX path length cannot exceed 107 bytes", "TMPDIR"),
        (
            "RuntimeError: Sync replay buffer selected terminal groups with no materializable trajectories.",
            "trial.json",
        ),
        (
            "NothingToScore: step 0: no trial left anything to score: 314 overlong\nValueError: Received an empty list",
            "validation at step 0: no trial left anything to score: 314 overlong",
        ),
        (
            "AgentsDied: step 0: every agent died (8 of 8 trials); most often: no python3\nValueError: so what",
            "every agent died",
        ),
        (
            "runtime.trainer.curriculum.OtherTasks: the curriculum counts 4 tasks\n\nThe above exception was the "
            "direct cause:\nray.exceptions.RayTaskError(OtherTasks): ray::run()",
            "the curriculum counts 4 tasks",
        ),
        ("Could not override 'trainer.zzz'.\nKey 'zzz' is not in struct", "verl refused the configuration"),
        ("ModuleNotFoundError: No module named 'verl'", "doctor"),
        ("ray.exceptions.OutOfMemoryError: Task was killed", "out of memory"),
        (
            "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
            "\tclass_name: TaskRunnerV1\n\tactor_id: f3b3\n\tpid: 305\n\tnamespace: 7599\n\tip: 192.0.2.2\n"
            "The actor is dead because its worker process has died.",
            "(TaskRunnerV1, pid 305 on 192.0.2.2) was killed or crashed",
        ),
        ("ValueError: first\nsome text\nKeyError: 'last'", "KeyError: 'last'"),
        ("all quiet", "exit code 1"),
    ],
)
def test_the_cause_is_named(log: str, words: str) -> None:
    assert words in diagnose(log, exit_code=1)


def test_a_signal_is_named_when_the_log_says_nothing() -> None:
    assert diagnose("", exit_code=-9) == "the trainer was killed by signal 9"


def test_colours_and_ray_prefixes_are_stripped(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_text("\x1b[36m(TaskRunnerV1 pid=12)\x1b[0m ValueError: bad\n")
    assert read_tail(log) == "ValueError: bad\n" and read_tail(tmp_path / "none") == ""


def test_every_way_in_which_ray_gives_its_own_node_up_is_tried_again() -> None:
    """The words are Ray's own, of the version that is installed, and each is told as what it is."""
    found = importlib.util.find_spec("ray")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "_private"
    sources = "".join((folder / f"{name}.py").read_text() for name in ("node", "services", "utils"))
    written = re.sub(r"\{'start' if self.head else 'connect to'\}", "start", sources)
    for words in SLOW_STARTS:
        assert words in written
        log = f"RuntimeError: x {words} y"
        assert ray_was_slow(log) and "too busy" in diagnose(log, exit_code=1)
    assert not ray_was_slow("Failed to connect to GCS. Last connection error: it was killed")
