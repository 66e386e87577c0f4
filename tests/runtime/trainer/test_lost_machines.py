"""A cluster that loses a machine costs a run the steps in flight; any other failure, and one without end, ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import RunError
from runtime.trainer import lost_machines as losses
from runtime.trainer import process
from runtime.trainer.lost_machines import MachineLost, lost_machine, train_through

DIED = """
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: WorkerDict
The actor died because its node has died. Node Id: 4d1a
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERL_RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setenv("LIVERL_RAY_NODES", "3")


def failing(times: int, calls: list[bool]) -> Callable[[bool], None]:
    def train(resume: bool) -> None:
        calls.append(resume)
        if len(calls) <= times:
            raise MachineLost("its node has died")

    return train


@pytest.mark.usefixtures("cluster")
def test_a_lost_machine_is_waited_for_and_the_run_goes_on() -> None:
    calls: list[bool] = []
    waited: list[tuple[str, int]] = []
    train_through(failing(2, calls), resume=False, progress=lambda: 0, wait=lambda *asked: waited.append(asked))
    assert calls == [False, True, True]
    assert waited == [("127.0.0.1:6379", 3)] * 2


@pytest.mark.usefixtures("cluster")
def test_losses_without_a_step_between_them_end_a_run_at_last() -> None:
    calls: list[bool] = []
    with pytest.raises(MachineLost):
        train_through(failing(10**6, calls), resume=False, progress=lambda: 0, wait=lambda *asked: None)
    assert len(calls) == losses.MOST + 1
    calls.clear()
    train_through(failing(200, calls), resume=False, progress=lambda: len(calls), wait=lambda *asked: None)
    assert len(calls) == 201


def test_without_a_cluster_a_loss_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVERL_RAY_NODES", raising=False)
    calls: list[bool] = []
    with pytest.raises(RunError):
        train_through(failing(1, calls), resume=False, progress=lambda: 0)
    assert calls == [False]


def test_the_log_of_this_start_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier start said stays in the file."""
    assert lost_machine(DIED) and lost_machine("Failed to connect to GCS within 60 seconds. GCS may have been killed.")
    assert not lost_machine("ValueError: the learning rate is a fish")
    run = tmp_path / "run"
    (run / "bundle").mkdir(parents=True)
    (run / "bundle" / "verl.yaml").write_text("{}")

    def says(text: str) -> None:
        program = f"print({text!r}); raise SystemExit(1)"
        monkeypatch.setattr(process, "trainer_command", lambda *_: [sys.executable, "-c", program])

    says(DIED)
    with pytest.raises(MachineLost):
        process.train(run)
    says("ValueError: a fish")
    with pytest.raises(RunError, match="a fish") as raised:
        process.train(run)
    assert not isinstance(raised.value, MachineLost)


@pytest.mark.verl
def test_waiting_ends_when_enough_machines_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real Ray; a stand-in for its second machine would only test the stand-in."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, namespace="losses")
    try:
        losses.wait_for_nodes(context.address_info["address"], 1)
    finally:
        ray.shutdown()
