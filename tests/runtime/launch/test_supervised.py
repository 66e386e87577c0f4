"""The supervised stage as a run has it: verl's own SFT trainer on a CPU, killed and taken up again; what must not be
learnt from is refused before it starts."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from compiler import compile_in_memory
from runtime.config import load_runtime_config
from runtime.demonstrations.table import Table
from runtime.demonstrations.types import Demonstration
from runtime.errors import UserError
from runtime.files import write_folder
from runtime.launch import rundir
from runtime.launch.phases import PreparedTasks
from runtime.launch.rundir import RunDirectory
from runtime.launch.supervised import train_supervised
from runtime.models.store import digest
from runtime.processes import marked
from runtime.telemetry.progress import Progress
from runtime.trainer.environment import ray_dir
from runtime.trainer.supervised import table
from tests.run_directories import make_run, make_tasks
from tests.runtime.proxy.tiny_model import write_model, write_policy

ROOT = Path(__file__).parents[3]
STEPS = 40
NOTHING = PreparedTasks({}, {}, [])


def spec_of(policy: Path, source: str, stage: str = "", rest: str = "") -> str:
    return f"""(import 'quickstart.jsonnet') + {{ name: 'stage', policy: {{ type: 'pretrained', path: '{policy}',
      warm_start: {{ demonstrations: [{source}], tokens_per_pass: 256, tokens_per_batch: 512,
        {stage} }} }}, {rest} }}"""


def prepared(folder: Path, spec: str) -> RunDirectory:
    (folder / "spec.jsonnet").write_text(spec)
    directory = rundir.create(folder / "runs", experiment="stage", target="local")
    write_folder(directory.bundle, compile_in_memory(folder / "spec.jsonnet").files)
    return directory


def go(directory: RunDirectory, tasks: PreparedTasks = NOTHING) -> str:
    """Everything that was said."""
    said = io.StringIO()
    with Progress("stage", console=Console(file=said, width=200)) as progress:
        train_supervised(directory, load_runtime_config(directory.runtime_json), progress, tasks)
    return said.getvalue()


def write_demonstrations(file: Path, *, number: int = 60, **columns: str) -> Path:
    """Each says what follows a token: something that is learnt at once."""
    rows = []
    for index in range(number):
        asked = [20 + (index * 7 + at) % 50 for at in range(10 + index % 9)]
        answer = [100 + index % 3, 103, 104, 105, 1]
        rows.append(
            {
                "input_ids": asked + answer,
                "loss_mask": [0] * len(asked) + [1] * len(answer),
                "package": columns.get("package", "toolz"),
                "kind": "swap",
                "task": columns.get("task", f"pair-{index}"),
            }
        )
    table.of_rows(rows).write(file)
    return file


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and no weights."""
    folder = write_model(tmp_path_factory.mktemp("policy"), family="compact")
    (folder / "config.json").write_text('{"vocab_size": 1500}')
    return folder


def test_what_is_held_out_is_refused(tmp_path: Path, policy: Path) -> None:
    """A package that is validated on and not trained on, by name; a task that is validated on, by its id."""
    pins = "[{{ name: '{}', version: '1', sha256: '{}' }}]"
    source = "{{ type: 'generate', packages: {}, per_package: 1, seed: 0, split: 'held_out' }}"
    held = source.format(pins.format("More_Itertools", "0" * 64))
    rest = f"tasks+: {{ validation: [{{ name: 'unseen', source: {held} }}] }}"
    files = [
        write_demonstrations(tmp_path / "a.parquet", number=3, package="more-itertools"),
        write_demonstrations(tmp_path / "b.parquet", number=2, task="calc-1"),
        write_demonstrations(tmp_path / "c.parquet"),
    ]
    sources = ", ".join(f"{{ type: 'parquet', path: '{file}' }}" for file in files)
    directory = prepared(tmp_path, spec_of(policy, sources, rest=rest))
    tasks = PreparedTasks({}, {"unseen": list(make_tasks(tmp_path / "tasks"))}, [])
    with pytest.raises(UserError) as caught:
        go(directory, tasks)
    assert [problem.split("; ")[0] for problem in caught.value.problems] == [
        "policy.warm_start.demonstrations[0]: demonstrates what is held out for validation: package more-itertools (3)",
        "policy.warm_start.demonstrations[1]: demonstrates what is held out for validation: task calc-1 (2)",
    ]
    assert not (directory.supervised / "demonstrations.parquet").exists()


def test_solved_trials_need_the_same_tokenizer(tmp_path: Path, policy: Path) -> None:
    run = make_run(tmp_path / "earlier").path
    (run / "policy").mkdir(exist_ok=True)
    (run / "policy" / "tokenizer.json").write_text("{}")
    directory = prepared(tmp_path, spec_of(policy, f"{{ type: 'trials', run: '{run}' }}"))
    with pytest.raises(UserError, match="another tokenizer than this one's"):
        go(directory)


def test_files_that_this_policy_cannot_learn_from_are_refused_all_at_once(tmp_path: Path, policy: Path) -> None:
    """One that is none, tokens of another tokenizer, tokens that the policy does not have; then one that teaches
    nothing."""
    (tmp_path / "a.parquet").write_text("nothing")
    with Table(tmp_path / "b.parquet", tokenizer="0" * 64) as other:
        other.add([Demonstration([1, 2], [0, 1], "toolz", "swap", "t")])
    row = {"input_ids": [1, 1500], "loss_mask": [0, 1], "package": "toolz", "kind": "swap", "task": "t"}
    table.of_rows([row]).write(tmp_path / "c.parquet")
    sources = ", ".join(f"{{ type: 'parquet', path: '{tmp_path / name}.parquet' }}" for name in "abc")
    with pytest.raises(UserError) as caught:
        go(prepared(tmp_path, spec_of(policy, sources)))
    for problem, (at, words) in zip(
        caught.value.problems,
        enumerate(("no file of demonstrations", "made for another tokenizer", "the policy knows 0 to 1499")),
        strict=True,
    ):
        assert problem.startswith(f"policy.warm_start.demonstrations[{at}].path: {tmp_path}") and words in problem
    table.of_rows([{**row, "input_ids": [1, 2], "loss_mask": [0, 0]}]).write(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="no token of 1 is to be written by the policy"):
        go(prepared(tmp_path, spec_of(policy, f"{{ type: 'parquet', path: '{tmp_path / 'c.parquet'}' }}")))


def test_demonstrations_that_no_trial_could_be_as_long_as_are_left_out(tmp_path: Path, policy: Path) -> None:
    file = write_demonstrations(tmp_path / "d.parquet", number=4)
    directory = prepared(tmp_path, spec_of(policy, f"{{ type: 'parquet', path: '{file}' }}", "max_length: 3,"))
    with pytest.raises(UserError, match="none is left of 4, of at most 3 tokens"):
        go(directory)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("model"), family="compact", kind="Llama", length=512)


def rows_of(directory: RunDirectory) -> dict[int, dict[str, Any]]:
    lines = (directory.supervised / "rows.jsonl").read_bytes().splitlines()
    return {row["step"]: row["data"] for row in map(orjson.loads, lines)}


@pytest.mark.verl
@pytest.mark.torch
@pytest.mark.timeout(600)
def test_it_learns_survives_a_kill_and_is_served(tmp_path: Path, model: Path) -> None:
    file = write_demonstrations(tmp_path / "d.parquet")
    stage = f"steps: {STEPS}, learning_rate: 2e-2, save_every: 8"
    directory = prepared(tmp_path, spec_of(model, f"{{ type: 'parquet', path: '{file}' }}", stage))
    directory.policy.symlink_to(model)
    program = f"""
import os
os.environ["LIVERL_RUN_DIR"] = {str(directory.path)!r}
from pathlib import Path
from tests.runtime.launch.test_supervised import go
from runtime.launch.rundir import RunDirectory
go(RunDirectory(Path({str(directory.path)!r})))
"""
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    pointer = directory.supervised / "checkpoints" / "latest_checkpointed_iteration.txt"
    deadline = time.monotonic() + 400
    while not pointer.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    assert child.poll() is None, "it ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    reached = int(pointer.read_text())
    assert 0 < reached < STEPS
    before = rows_of(directory)

    said = go(directory)

    rows = rows_of(directory)
    assert list(rows) == list(range(1, STEPS + 1)), "every step is there once"
    kept = [step for step in before if step <= reached]
    assert [before[step] for step in kept] == [rows[step] for step in kept]
    losses = [data["supervised/loss"] for data in rows.values()]
    assert losses[-1] < 0.3 * losses[0]
    assert rows[STEPS]["supervised/tokens_per_sec"] > 0
    assert f"step {STEPS}/{STEPS}  loss {losses[-1]:.4f}" in said
    assert not (directory.supervised / "checkpoints").exists()
    assert directory.policy.resolve() == directory.supervised / "result"
    record = orjson.loads((directory.supervised / "record.json").read_bytes())
    weights = directory.policy / "model.safetensors"
    assert record["files"]["model.safetensors"] == digest(weights) != digest(model / "model.safetensors")
    assert record["steps"] == STEPS and record["demonstrations"] == 60
    assert (directory.policy / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    os.environ.pop("LIVERL_RUN_DIR", None)
    assert marked(directory.path) == [] and not ray_dir(directory.path).exists()
    assert "supervised" in said and "supervised" not in go(directory), "what is done is not done again"
    asyncio.run(says_what_it_was_shown(directory.policy))


async def says_what_it_was_shown(folder: Path) -> None:
    from runtime.rollouter.engine import SamplingParams
    from runtime.rollouter.make import make_engine

    engine = make_engine(folder, slots=2, max_len=256, seed=0)
    try:
        prompt = [20 + (3 * 7 + at) % 50 for at in range(13)] + [100]
        found = await engine.generate(prompt, SamplingParams(max_tokens=4, temperature=0.0), session="s")
        assert list(found.token_ids)[:3] == [103, 104, 105]
    finally:
        await engine.close()
