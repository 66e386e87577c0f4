"""Trajectories for others: what is written is what was recorded, each token once, and readers of each form take it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runtime.report.trajectories import conversations, export_trajectories
from runtime.report.trial import read_trial
from runtime.report.trials import TrialFilter
from tests.run_directories import HOSTILE, TOOL, MadeRun, make_run
from tests.toolbox import HARBOR, python_tools

SOLVED = TrialFilter(reward_min=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("export") / "runs", steps=1)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _solved(made: MadeRun) -> list[dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in made.path.glob("trials/*/*/trial.json")]
    return [record for record in records if record["reward"] == 1.0]


def test_messages_are_openais(made: MadeRun, tmp_path: Path) -> None:
    from openai.types.chat import ChatCompletionMessageParam
    from pydantic import TypeAdapter

    done = export_trajectories(made.path, tmp_path / "out" / "m.jsonl", form="messages", wanted=SOLVED)
    rows = _lines(done.path)
    # Every trial has a branch: two conversations.
    assert len(rows) == done.rows == 2 * len(_solved(made)) and done.trials == len(_solved(made)) > 0
    for row in rows:
        TypeAdapter(list[ChatCompletionMessageParam]).validate_python(row["messages"])
        assert row["tools"] == [TOOL] and row["metadata"]["reward"] == 1.0
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    call, answer = rows[0]["messages"][2:4]
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] and answer["content"] == f"calc.py {HOSTILE} 0"
    assert rows[1]["messages"][3] == {"role": "user", "content": "Or another way?"}


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        # the last reply may never have come: the conversation ends before it
        ([(0, None, "sent"), (1, 0, "sent"), (2, 1, "unknown")], [[0, 1]]),
        # and what is left of it is the beginning of another one
        ([(0, None, "sent"), (1, 0, "unknown"), (2, 0, "sent")], [[0, 2]]),
        ([(0, None, "sent"), (1, 0, "unknown"), (2, 0, "unknown")], [[0]]),
        ([(0, None, "unknown")], []),
        # the agent went on from it, so it had it
        ([(0, None, "unknown"), (1, 0, "sent")], [[0, 1]]),
        # the turn that it goes on from cannot be read
        ([(1, 0, "sent"), (2, 1, "sent"), (3, None, "sent")], [[3]]),
    ],
)
def test_conversations_are_whole_and_were_heard(
    tmp_path: Path, turns: list[tuple[int, int | None, str]], kept: list[list[int]]
) -> None:
    rows = [{"seq": seq, "parent": parent, "delivery": delivery} for seq, parent, delivery in turns]
    (tmp_path / "trajectory.json").write_text(json.dumps({"turns": rows}))
    assert [[turn.seq for turn in path] for path in conversations(read_trial(tmp_path))] == kept


def test_sharegpt(made: MadeRun, tmp_path: Path) -> None:
    done = export_trajectories(made.path, tmp_path / "s.jsonl", form="sharegpt", wanted=TrialFilter(step=1))
    row = _lines(done.path)[0]
    assert [one["from"] for one in row["conversations"]] == ["system", "human", "gpt", "tool", "gpt"]
    assert '<tool_call>\n{"name": "run", "arguments": {"command": "ls 0"}}' in row["conversations"][2]["value"]
    assert json.loads(row["tools"]) == [TOOL]


def test_tokens_are_those_of_the_trainer(made: MadeRun, tmp_path: Path) -> None:
    done = export_trajectories(made.path, tmp_path / "t.parquet", form="tokens", wanted=TrialFilter(step=1))
    table = pq.read_table(done.path).to_pylist()
    assert len(table) == done.rows == 2 * 15
    for row in table:
        sample = read_trial(made.path / "trials" / "1" / row["trial_id"]).samples[row["sample"]]
        for name in ("prompt_ids", "response_ids", "response_mask", "response_logprobs", "weight_versions"):
            assert row[name] == getattr(sample, name)
    assert {row["reward"] for row in table} == {0.0, 1.0, None}


def test_what_cannot_be_read_is_named(made: MadeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", steps=0, tasks=made.tasks).path
    victim = next(run.glob("trials/0/*"))
    (victim / "trajectory.json").write_text("{")
    done = export_trajectories(run, tmp_path / "m.jsonl", form="messages")
    assert done.trials == 2 and victim.name in done.left_out[0] and "damaged" in done.left_out[0]


def test_atif_trains_no_turn_twice(made: MadeRun, tmp_path: Path) -> None:
    done = export_trajectories(made.path, tmp_path / "atif", form="atif", wanted=TrialFilter(step=0))
    files = sorted(done.path.iterdir())
    assert len(files) == done.rows == 6
    first, branch = (json.loads(path.read_text())["steps"] for path in (files[1], files[0]))
    own = [
        [step for step in steps if step["source"] == "agent" and not step.get("is_copied_context")]
        for steps in (first, branch)
    ]
    tokens = [token for steps in own for step in steps for token in step["metrics"]["completion_token_ids"]]
    assert len(tokens) == len(set(tokens)) == 3 * 6
    assert first[2]["observation"]["results"][0]["source_call_id"] == "call-0"


@pytest.mark.consumers
def test_harbor_takes_it(made: MadeRun, tmp_path: Path) -> None:
    export_trajectories(made.path, tmp_path / "atif", form="atif", wanted=SOLVED)
    program = (
        "import json, sys\nfrom harbor.models.trajectories.trajectory import Trajectory\n"
        "for path in sys.argv[1:]:\n    Trajectory.model_validate(json.load(open(path)))\nprint(len(sys.argv) - 1)"
    )
    python = python_tools(HARBOR) / "python"
    files = [str(path) for path in (tmp_path / "atif").iterdir()]
    done = subprocess.run(
        [str(python), "-c", program, *files], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == f"{len(files)}\n", done.stderr[-2000:]
    assert files
