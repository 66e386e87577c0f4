"""A served model is scored: real proxy, boxes (plain processes) and verifier; and what an evaluation came to."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from runtime.config import DirectorySource, TaskSet
from runtime.errors import MachineError, UserError
from runtime.launch import score
from runtime.launch.rundir import RunDirectory, create
from runtime.launch.scored import print_scored, scored
from runtime.models import store
from runtime.proxy.codec import load_codec
from runtime.report.trajectories import export_trajectories
from runtime.tasks.index import write_tried
from tests.run_directories import make_run, make_tasks
from tests.runtime.agent_loop.conftest import make_config, make_task
from tests.runtime.proxy.fake_chat import FakeChatServer, said
from tests.runtime.proxy.fake_vllm import FakeVLLM
from tests.runtime.proxy.tiny_model import write_model


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server whose model solves the task at once."""
    write_model(tmp_path / "model", family="chatml")
    codec = load_codec(tmp_path / "model", "hermes")
    reply = [*codec.tokens.encode("SOLVE"), codec.stop_token_ids[0]]
    with _serving(FakeVLLM(lambda prompt: reply, generate=True)) as url:
        yield url


@contextmanager
def _serving(fake: FakeVLLM | FakeChatServer) -> Iterator[str]:
    addresses: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with fake.serve() as url:
            addresses.append(url)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    yield addresses[0]
    done.set()
    thread.join()


def _prepared(tmp_path: Path, endpoint: str, model: str | None = None) -> RunDirectory:
    task = make_task(tmp_path / "tasks")
    sets = (TaskSet(name="held-out", source=DirectorySource(paths=(str(task.path.parent),)), temperature=1.0),)
    config = make_config().model_copy(update={"validation": sets})
    bundle = {"runtime.json": config.model_dump_json(), "verl.yaml": "{}\n", "liverl.lock": "{}\n"}
    checkpoint = str(tmp_path / "model") if model is None else None
    request = score.Request("eval", checkpoint, 2, 0, endpoint, model)
    return score.prepare(bundle, request, runs_dir=tmp_path / "runs")


def test_a_served_model_is_scored_and_resumed(tmp_path: Path, served: str) -> None:
    directory = _prepared(tmp_path, served)
    result = score.execute(directory, console=Console(quiet=True), ks=[2])
    (line,) = result["sets"]
    assert (line["name"], line["trials"], line["graded"], line["mean"]) == ("held-out", 2, 2, 1.0)
    assert [(one["k"], one["value"]) for one in line["pass"]] == [(1, 1.0), (2, 1.0)]
    # What was graded is not run again.
    before = {path: path.stat().st_mtime_ns for path in directory.trials.glob("*/*/trial.json")}
    again = score.execute(score.reopen(directory), console=Console(quiet=True), ks=[2])
    assert again["sets"] == result["sets"]
    assert before == {path: path.stat().st_mtime_ns for path in directory.trials.glob("*/*/trial.json")}
    assert write_tried(directory.path, tmp_path / "index.parquet") == 1
    (row,) = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert (row["id"], row["trials"], row["pass_rate"]) == ("calc", 2, 1.0)


def test_a_server_that_does_not_answer_is_said_before_anything_is_made(tmp_path: Path) -> None:
    write_model(tmp_path / "model", family="compact")
    with pytest.raises(MachineError, match=r"no engine answers at http://127\.0\.0\.1:9"):
        _prepared(tmp_path, "http://127.0.0.1:9")
    assert not (tmp_path / "runs").exists()


def test_a_model_of_any_chat_server_is_scored(tmp_path: Path) -> None:
    """Without its tokenizer; what is kept are the turns."""
    fake = FakeChatServer(lambda body: said("SOLVE"), key="sesame")
    with _serving(fake) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVERL_ENGINE_KEY", "sesame")
        directory = _prepared(tmp_path, url, model="gpt-x")
        (line,) = score.execute(directory, console=Console(quiet=True))["sets"]
        assert (line["trials"], line["graded"], line["mean"]) == (2, 2, 1.0)
        assert {body["model"] for body in fake.requests} == {"gpt-x"}
        patch.setenv("LIVERL_ENGINE_KEY", "wrong")
        with pytest.raises(MachineError, match="answered 401"):
            _prepared(tmp_path / "other", url, model="gpt-x")
    assert not (tmp_path / "other" / "runs").exists()
    done = export_trajectories(directory.path, tmp_path / "rows.jsonl", form="messages")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert done.rows == 2 and all(row["messages"][1]["content"] == "SOLVE" for row in rows)


def test_an_earlier_one_is_paired(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "tasks")
    one, other = (make_run(tmp_path / "runs", steps=0, seed=seed, tasks=tasks) for seed in (1, 2))
    result = scored(other.directory, against=one.path)
    assert result["against"]["tasks"] == 3 and result["sets"][0]["pass"][0]["k"] == 1
    nothing = scored(other.directory, against=tmp_path)
    assert nothing["against"] == {"run": str(tmp_path), "tasks": 0} and nothing["sets"] == result["sets"]
    console = Console(record=True, file=io.StringIO(), width=200)
    print_scored(nothing, console=console)
    assert "no kept validation trial of any task that was scored here" in console.export_text()


def test_a_checkpoint_is_found_by_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    run = create(runs, experiment="x", target="local")
    create(runs, experiment="x", target="local", kind="eval")
    taken = store.models_folder() / "tiny"
    for folder in (run.checkpoints / "global_step_9" / "actor" / "huggingface", taken):
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", store.RECORD):
            (folder / name).touch()
    newest = run.checkpoints / "global_step_9" / "actor" / "huggingface"
    for named in ("last", run.path.name, f"x/{run.path.name}", str(run.path), f"runs/x/{run.path.name}"):
        assert score.find_policy(named, runs_dir=runs, option="--checkpoint") == newest
    assert score.find_policy("tiny", runs_dir=runs, option="--policy") == taken
    with pytest.raises(UserError, match=r"^--policy nothing: no folder, no run"):
        score.find_policy("nothing", runs_dir=runs, option="--policy")
    with pytest.raises(UserError, match=r"^--policy .*: no model here"):
        score.find_policy(str(tmp_path), runs_dir=runs, option="--policy")
    with pytest.raises(UserError, match="no training run"):
        score.find_policy("last", runs_dir=tmp_path / "none", option="--checkpoint")
