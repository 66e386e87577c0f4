"""A recorded trial once more, and a shell in a box: real proxy, boxes (plain processes) and verifier."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import orjson
import pytest

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.errors import UserError
from runtime.launch import rundir
from runtime.launch.rundir import RunDirectory
from runtime.proxy.codec import load_codec
from runtime.report.trial import read_trial
from tests.liverl.test_operating import answer, call
from tests.runtime.agent_loop.conftest import REPAIRED, make_config, make_key, make_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model

NAME = "3/calc.g.0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of one trial, whose policy solves the task in its first turn and breaks it again in its second."""
    folder = tmp_path_factory.mktemp("replay")
    task = make_task(folder / "tasks")
    directory = rundir.create(folder / "runs", experiment="test", target="local")
    write_model(directory.policy, family="chatml")
    config = make_config()
    directory.bundle.mkdir()
    directory.runtime_json.write_text(config.model_dump_json())
    engine = ScriptedEngine(load_codec(directory.policy, "hermes"), ["SOLVE", "BREAK"])

    async def play() -> None:
        opened = open_services(config, engine=engine, model_folder=directory.policy, state=folder / "state")
        async with opened as services:
            await TrialRunner(services, config, trials=directory.trials).run(task, key=make_key(), temperature=1.0)

    asyncio.run(play())
    directory.finish("succeeded", exit_code=0, cause="")
    return directory


def test_the_same_trial_again_ends_the_same(run: RunDirectory) -> None:
    again = answer("replay", run.path, NAME)
    assert (again["turns"], again["served"], again["differences"]) == (2, 2, [])
    assert (again["reward_then"], again["reward_now"]) == (0.0, 0.0) and again["termination"] == "agent_completed"
    # The very tokens: also those that encoding the text again would not give.
    folders = [run.trials / NAME, Path(again["folder"]) / "trials" / NAME]
    first, second = (read_trial(folder) for folder in folders)
    assert first.samples == second.samples and len(first.samples[0].response_ids) > 10


def test_only_up_to_a_turn(run: RunDirectory) -> None:
    half = answer("replay", run.path, NAME, "--until", "1")
    assert (half["served"], half["reward_now"]) == (1, 1.0)
    assert answer("replay", run.path, NAME, "--until", "0")["reward_now"] == 0.0
    text = call("replay", run.path, NAME, "--until", "1")
    assert "then  unsolved  reward 0.0" in text and "now   solved  reward 1.0" in text
    with pytest.raises(UserError, match="allowed: 0 to 2"):
        call("replay", run.path, NAME, "--until", "3")


def test_a_shell_after_a_turn_and_the_agent_goes_on(run: RunDirectory) -> None:
    seen = call(
        "replay", run.path, NAME, "--until", "1", "--shell", "--json", stdin="cat calc.py > seen\ncat seen\nexit\n"
    )
    again = json.loads(seen)
    assert (again["served"], again["reward_now"]) == (2, 0.0)


def test_what_differs_is_told(run: RunDirectory) -> None:
    path = run.trials / NAME / "trajectory.json"
    kept = path.read_bytes()
    trajectory = orjson.loads(kept)
    trajectory["samples"][0]["prompt_ids"][3] += 1
    path.write_bytes(orjson.dumps(trajectory))
    try:
        again = answer("replay", run.path, NAME)
    finally:
        path.write_bytes(kept)
    assert again["served"] == 2 and "turn 0: its prompt of" in again["differences"][0]


def test_a_trial_without_turns_is_refused(run: RunDirectory) -> None:
    path = run.trials / NAME / "trajectory.json"
    kept = path.read_bytes()
    path.write_bytes(b"")
    try:
        with pytest.raises(UserError, match="nothing to play again"):
            call("replay", run.path, NAME)
    finally:
        path.write_bytes(kept)


def test_a_shell_in_a_box_is_judged(tmp_path: Path) -> None:
    task = make_task(tmp_path / "tasks")
    (tmp_path / "fixed").write_bytes(REPAIRED)
    lines = f"mkdir x\ncd x\ncd ..\ncp {tmp_path / 'fixed'} calc.py\npwd; false\nexit\n"
    done = json.loads(call("shell", task.path, "--sandbox", "process", "--json", stdin=lines))
    assert done == {
        "task": "calc",
        "verdict": "solved",
        "reward": 1.0,
        "outcomes": {"tests/test_calc.py::test_add": "passed"},
    }
    assert json.loads(call("shell", task.path, "--sandbox", "process", "--json", stdin=""))["reward"] == 0.0
    with pytest.raises(UserError, match=r"no task\.toml|no instruction"):
        call("shell", tmp_path, "--sandbox", "process")
