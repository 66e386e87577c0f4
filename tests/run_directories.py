"""Run directories for tests, made by a run's own writers: records, trials, kept work, rows, checkpoints.

``make_run`` makes a small training run of two task sets and some steps, with everything that a report can show: solved
and unsolved trials, tool calls, a branching session, failures, kept work, held-out scores, two checkpoints.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler import compile_in_memory
from compiler.library import find_spec
from runtime.agent_loop.records import TrialFiles, write_trial
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.errors import Termination
from runtime.files import write_folder
from runtime.grading.work import Work, WorkStore
from runtime.launch import rundir
from runtime.launch.rundir import RunDirectory
from runtime.proxy.types import Accounting, Sample, Turn
from runtime.task import LiverlTable, Task, load_task
from runtime.tasks.write import write_task
from runtime.trainer.stable import mark_stable, step_folder
from tests.runtime.rows import append_row

BROKEN = b"def add(a, b):\n    return a - b\n"
REPAIRED = b"def add(a, b):\n    return a + b\n"
TEST_ID = "tests/test_calc.py::test_add"
HOSTILE = "<script>alert('xss')</script> \x1b[31mred\x1b[0m"
"""What an agent may write: shown as text, wherever it is shown."""

TOOL = {
    "type": "function",
    "function": {
        "name": "run",
        "description": "Run a command.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


@dataclass(frozen=True)
class MadeRun:
    """A run directory with the tasks it was of."""

    directory: RunDirectory
    tasks: tuple[Task, ...]

    @property
    def path(self) -> Path:
        return self.directory.path


def make_tasks(folder: Path, count: int = 3) -> tuple[Task, ...]:
    return tuple(
        load_task(
            write_task(
                folder,
                name=f"calc-{number}",
                instruction="Repair calc.add.",
                repository={"calc.py": BROKEN, "notes.txt": b"one\ntwo\n"},
                solution={"calc.py": REPAIRED},
                tests={"tests/test_calc.py": b"from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"},
                liverl=LiverlTable(fail_to_pass=(TEST_ID,), artifacts=("calc.py",)),
                git_history=False,
            )
        )
        for number in range(count)
    )


def make_run(
    runs_dir: Path,
    *,
    experiment: str = "demo",
    steps: int = 3,
    seed: int = 0,
    group_size: int = 4,
    finished: bool = True,
    tasks: tuple[Task, ...] | None = None,
    sets: Sequence[str] | None = None,
) -> MadeRun:
    """A run whose policy gets better: the share of solved trials grows with the step. ``sets``: it has the bundle of
    the quickstart with these values replaced; None: none."""
    tasks = tasks if tasks is not None else make_tasks(runs_dir.parent / "tasks")
    directory = rundir.create(runs_dir, experiment=experiment, target="local", spec=experiment)
    if sets is not None:
        write_folder(
            directory.bundle, compile_in_memory(find_spec(Path("quickstart")), target="local", sets=sets).files
        )
    directory.update(tasks={"train": len(tasks), "held-out": len(tasks)})
    draw = random.Random(seed)
    for step in range(steps + 1):
        chance = (step + 1) / (steps + 2)
        data = {} if step == 0 else _training_step(directory, tasks, step, draw, chance, group_size)
        data |= _validation(directory, tasks, step, draw, chance)
        append_row(directory.metrics, step, data)
    for step in range(1, steps + 1):
        write_checkpoint(directory, step)
    (directory.logs / "trainer.log").write_text("step 1\nstep 2\n")
    if finished:
        directory.finish("succeeded", exit_code=0, cause="")
    return MadeRun(directory, tasks)


def write_checkpoint(directory: RunDirectory, step: int, *, size: int = 1000) -> Path:
    """A checkpoint as the trainer leaves one, but for its content."""
    folder = step_folder(directory.checkpoints, step)
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "optim_world_size_1_rank_0.pt").write_bytes(bytes(size))
    mark_stable(folder)
    return folder


def _training_step(
    directory: RunDirectory, tasks: tuple[Task, ...], step: int, draw: random.Random, chance: float, size: int
) -> dict[str, float]:
    rewards = []
    for task in tasks:
        for index in range(size):
            key = TrialKey(task=task.id, task_set="train", step=step, group=f"train-{step}{task.id[-1]}", index=index)
            solved = draw.random() < chance
            lost = step == 1 and task is tasks[0] and index == size - 1
            write_one(directory, task, key, solved=solved, lost=lost)
            rewards += [] if lost else [float(solved)]
    length = 200.0 - 5 * step
    return {
        "critic/score/mean": sum(rewards) / max(1, len(rewards)),
        "response_length/mean": length,
        "actor/entropy": 1.0 / step,
        "actor/kl_loss": 0.01 * step,
        "actor/grad_norm": 0.5,
        "actor/lr": 1e-5,
        "timing_s/step": 12.0,
        "groups/total": len(tasks),
        "groups/mixed": 1.0,
    }


def _validation(
    directory: RunDirectory, tasks: tuple[Task, ...], step: int, draw: random.Random, chance: float
) -> dict[str, float]:
    solved = []
    for number, task in enumerate(tasks):
        key = TrialKey(
            task=task.id, task_set="held-out", step=step, group=f"held-out-{step}v{number}", index=0, validation=True
        )
        solved.append(draw.random() < chance)
        write_one(directory, task, key, solved=solved[-1])
    return {"val-core/held-out/reward/mean@1": sum(solved) / len(solved)}


def write_one(
    directory: RunDirectory, task: Task, key: TrialKey, *, solved: bool, lost: bool = False, turns: int = 2
) -> Path:
    """One trial: it looks, edits, and branches once; with ``lost`` its box was lost before it was graded."""
    said, samples = conversation(turns, version=max(0, key.step - 1))
    store = WorkStore(directory.path / "artifacts")
    entry = REPAIRED if solved else b"def add(a, b):\n    return 0\n"
    work = store.put(Work(task.id, task.path, {"/app/calc.py": entry}), max_bytes=1 << 20)
    trained = sum(sum(sample.response_mask) for sample in samples)
    result = TrialResult(
        key=key,
        termination=Termination.SANDBOX_LOST if lost else Termination.COMPLETED,
        reward=None if lost else float(solved),
        verdict="no-grade" if lost else "solved" if solved else "unsolved",
        isolation="bubblewrap",
        timings=Timings(
            queue=0.1, setup=0.2, agent=3.0, model=2.0, download=0.1, verifier=0.5, teardown=0.1, total=4.0
        ),
        sampling=Sampling(temperature=0.0 if key.validation else 1.0, seed=7),
        defences=() if lost else ("fresh sandbox",),
        outcomes={} if lost else {TEST_ID: "passed" if solved else "failed"},
        samples=samples,
        metrics={"edits": 1.0},
        model_calls=turns,
        prompt_tokens=sum(turn.prompt_tokens for turn in said),
        accounting=Accounting(sampled=trained, trained=trained),
        error="sandbox: the box is gone" if lost else None,
        started=1_700_000_000.0 + 100 * key.step + key.index,
    )
    files = TrialFiles(
        turns=said,
        verifier=b"" if lost else f'{{"tests": {{"{TEST_ID}": {{"outcome": "{solved}"}}}}}}'.encode(),
        agent={"agent.log": b"looked\n"},
        work=work,
    )
    return write_trial(directory.trials, result, files)


def conversation(turns: int, *, version: int = 0, per_turn: int = 6) -> tuple[tuple[Turn, ...], tuple[Sample, ...]]:
    """A session of ``turns`` turns with a tool call in each but the last, whose first turn is gone on from twice: the
    last turn of all is a branch of its own. Token ids are counted through, so that each is known again."""
    said: list[Turn] = []
    prompt = list(range(100, 120))
    ids, mask, logprobs = list(prompt), [0] * len(prompt), [0.0] * len(prompt)
    first = len(ids)
    for seq in range(turns):
        call = {"id": f"call-{seq}", "name": "run", "arguments": f'{{"command": "ls {seq}"}}'}
        messages = (
            [{"role": "system", "content": "You repair code."}, {"role": "user", "content": "Repair calc.add."}]
            if seq == 0
            else [{"role": "tool", "tool_call_id": f"call-{seq - 1}", "content": f"calc.py {HOSTILE} {seq - 1}"}]
        )
        if seq:
            ids += [7, 8, 9]
            mask += [0] * 3
            logprobs += [0.0] * 3
        said.append(
            _turn(seq, seq - 1 if seq else None, messages, [] if seq == turns - 1 else [call], len(ids), per_turn)
        )
        ids += [1000 * (seq + 1) + number for number in range(per_turn)]
        mask += [1] * per_turn
        logprobs += [-0.25 * (number + 1) for number in range(per_turn)]
    samples = [_sample(prompt, ids, mask, logprobs, version)]
    # The branch: the agent went back to its first turn and said something else.
    start = first + per_turn
    context = [*ids[:start], 5, 6]
    said.append(_turn(turns, 0, [{"role": "user", "content": "Or another way?"}], [], len(context), per_turn))
    own = [5000 + number for number in range(per_turn)]
    samples.append(
        _sample(
            prompt,
            [*context, *own],
            [0] * len(context) + [1] * per_turn,
            [0.0] * len(context) + [-0.5] * per_turn,
            version,
        )
    )
    return tuple(said), tuple(samples)


def _turn(
    seq: int, parent: int | None, messages: list[dict[str, str]], calls: list[dict[str, str]], before: int, count: int
) -> Turn:
    return Turn(
        seq=seq,
        parent=parent,
        dialect="openai",
        kind="policy",
        messages=tuple(messages),
        text=f"turn {seq} {HOSTILE}",
        tool_calls=tuple(calls),
        parse_status="calls" if calls else "text",
        finish_reason="stop",
        prompt_tokens=before,
        completion_tokens=count,
        cached_tokens=before // 2,
        weight_versions=(0, 0),
        started_sec=float(seq),
        generate_sec=0.5,
        gap_sec=0.25 if seq else None,
        tools=() if parent is not None else (TOOL,),
    )


def _sample(prompt: list[int], ids: list[int], mask: list[int], logprobs: list[float], version: int) -> Sample:
    cut = len(prompt)
    return Sample(
        prompt_ids=list(prompt),
        response_ids=ids[cut:],
        response_mask=mask[cut:],
        response_logprobs=logprobs[cut:],
        weight_versions=[version if one else -1 for one in mask[cut:]],
    )
