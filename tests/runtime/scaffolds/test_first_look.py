"""What the built-in agent is shown before its first turn and after its edits, in real trials of its program."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey
from runtime.config import ShellScaffold as ShellSettings
from runtime.errors import Termination
from runtime.laptop.synth import write
from runtime.proxy.codec import load_codec
from runtime.sandboxes.base import ExecResult
from runtime.scaffolds.base import AgentFailure
from runtime.scaffolds.shell import ShellScaffold
from runtime.scaffolds.shell.free_tools import TRIED, FreeTools
from runtime.scaffolds.shell.looks import Looks
from runtime.scaffolds.shell.own_tests import cut
from runtime.task import load_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.scaffolds.shell_trials import REPOSITORY, config, free_repair, hermes, trial

LOOK = {"functions": 1, "max_chars": 4000}
(PATH,) = REPOSITORY.repaired
BROKEN, RIGHT = (text.split("\n")[REPOSITORY.line - 1] for text in (REPOSITORY.broken[PATH], REPOSITORY.repaired[PATH]))


def played(folder: Path, replies: list[str], **scaffold: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """(Result, the program's report, what the model was shown: the first message and each tool's text.)"""
    result, report = asyncio.run(trial(folder, config("free", **scaffold), replies))
    (file,) = folder.glob("trials/1/*/trajectory.json")
    sessions = json.dumps(json.loads(file.read_text()), ensure_ascii=False)
    return result, report, [sessions]


def test_the_broken_function_is_shown_before_the_first_turn(tmp_path: Path) -> None:
    edit, _, submit = free_repair()[2:]
    result, report, (seen,) = played(tmp_path, [edit, submit], first_look=LOOK, test_after_edit=True)
    assert result.reward == 1.0 and report["calls"] == ["edit_file", "submit"]
    assert "The tests were run." in seen and "fails:" in seen and "It executed last:" in seen
    assert f"{REPOSITORY.line:5d}  {BROKEN}" in seen, "the line is there, with its number"
    assert "tests: all pass" in seen


def test_a_wrong_edit_is_told(tmp_path: Path) -> None:
    wrong = hermes("edit_file", path=PATH, old=BROKEN, new=f"{BROKEN}  # no change")
    result, report, (seen,) = played(tmp_path, [wrong, hermes("submit")], test_after_edit=True)
    assert result.reward == 0.0 and report["edits"] == 1
    assert "tests: tests/" in seen and " fails: " in seen


def test_an_edit_that_fails_is_put_back_where_that_is_asked_for(tmp_path: Path) -> None:
    wrong = hermes("edit_file", path=PATH, old=BROKEN, new=f"{BROKEN}  # no change")
    new = hermes("write_file", path="new.py", content="x = 1")
    edit, _, submit = free_repair()[2:]
    result, report, (seen,) = played(
        tmp_path, [wrong, new, edit, submit], test_after_edit=True, undo_failed_edits=True, max_edits=5
    )
    assert result.reward == 1.0 and report["edits"] == 3
    assert seen.count("The edit was put back.") == 2, "each but the one after which the tests pass"


def test_what_the_first_trial_of_a_task_saw_is_told_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("free", first_look=LOOK, test_after_edit=True)
    model = write_model(tmp_path / "model", family="chatml")
    task = load_task(write(REPOSITORY, "train", 4, out=tmp_path / "tasks"))
    looked: list[str] = []
    look = ShellScaffold._look

    async def counted(self: ShellScaffold, *given: Any, **named: Any) -> str | None:
        looked.append("look")
        return await look(self, *given, **named)

    monkeypatch.setattr(ShellScaffold, "_look", counted)

    async def group() -> list[float | None]:
        engine = ScriptedEngine(load_codec(model, settings.rollout.tool_parser), [hermes("submit")] * 4)
        async with open_services(settings, engine=engine, model_folder=model, state=tmp_path / "state") as services:
            runner = TrialRunner(services, settings, trials=tmp_path / "trials")
            keys = [TrialKey(task=task.id, task_set="train", step=1, group="g", index=index) for index in range(4)]
            return [
                one.reward for one in await asyncio.gather(*(runner.run(task, key=k, temperature=1.0) for k in keys))
            ]

    assert asyncio.run(group()) == [0.0] * 4 and looked == ["look"]
    files = list(tmp_path.glob("trials/1/*/trajectory.json"))
    texts = [file.read_text() for file in files]
    assert len(files) == 4 and all("It executed last:" in text for text in texts)


def test_a_long_look_is_handed_on() -> None:
    """As one line of standard input: Linux starts no program with a variable of 128 KiB."""
    started: list[dict[str, Any]] = []

    class Box:
        async def exec(self, command: Any, *, stdin: bytes, timeout_sec: float) -> ExecResult:
            assert stdin.endswith(b"\n") and stdin.count(b"\n") == 1
            started.append(json.loads(stdin))
            said = json.dumps("\u2026" * 30_000 if started[-1].get("look") else "no report")
            return ExecResult(0, said.encode(), b"")

    settings = config("free", first_look={"functions": 1, "max_chars": 100_000}, test_after_edit=True).scaffold
    assert isinstance(settings, ShellSettings)
    scaffold, task = ShellScaffold(settings), SimpleNamespace(path=Path("/t"), liverl=SimpleNamespace(image=None))
    scaffold.settings_for = lambda *_: {}  # type: ignore[method-assign]
    box, endpoint = Box(), None
    with pytest.raises(AgentFailure, match="no report"):
        asyncio.run(scaffold.run(task, box, endpoint, timeout_sec=9.0))  # type: ignore[arg-type]
    assert [one.get("look") for one in started] == [True, None] and len(started[1]["opening"]) == 30_000


def test_a_look_that_failed_is_tried_again_and_holds_nobody_up() -> None:
    async def scenario() -> list[str | None]:
        looks, begun = Looks(), asyncio.Event()

        async def fails() -> str | None:
            begun.set()
            await asyncio.sleep(0.01)
            raise RuntimeError("the box is gone")

        async def never() -> str | None:
            raise AssertionError("somebody looks already")

        async def works() -> str | None:
            return "seen"

        first = asyncio.create_task(looks.of("task", fails, timeout_sec=9))
        await begun.wait()
        waited = await looks.of("task", never, timeout_sec=9)
        with pytest.raises(RuntimeError, match="the box is gone"):
            await first
        again = await looks.of("task", works, timeout_sec=9)
        return [waited, again, await looks.of("task", never, timeout_sec=9)]

    assert asyncio.run(scenario()) == [None, "seen", "seen"]


class CountedTests:
    """Fail unless ``a.py`` holds what is right."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, 0

    def run(self, *, trace: bool) -> dict[str, Any]:
        self.runs += 1
        failed = (self.root / "a.py").read_text() != "right"
        error = {"type": "AssertionError", "message": "no", "frames": []} if failed else None
        test = {"outcome": "failed" if failed else "passed", "error": error}
        return {"collect_errors": {}, "tests": {"t": test}, "ended": "exit", "complete": True}


@pytest.mark.parametrize("undo", [True, False])
def test_an_edit_that_was_tried_is_not_tested_again_unless_a_command_ran(tmp_path: Path, undo: bool) -> None:
    (tmp_path / "a.py").write_text("wrong")
    tools = FreeTools(str(tmp_path), {**SETTINGS, "test_after_edit": True, "undo_failed_edits": undo})
    tests = tools._tests = CountedTests(tmp_path)  # type: ignore[assignment]

    def put(text: str, path: str = "a.py") -> str:
        return tools.call("write_file", json.dumps({"path": path, "content": text}))

    first = put("x")
    again = put("x", path="./a.py")
    assert again.replace("./a.py", "a.py", 1).replace(f"\n{TRIED}", "") == first and TRIED in again
    assert tests.runs == 1, "the same work, however its path is written"
    put("y")
    assert tests.runs == 2
    assert "all pass" in put("right") and tests.runs == 3
    assert TRIED not in put("right") and tests.runs == 3
    tools.call("run_command", json.dumps({"command": "true"}))
    put("x")
    put("x")
    assert tests.runs == 5, "nobody knows what a command changes"


def test_an_edit_of_what_cannot_be_read_back_is_tested_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("wrong")
    (tmp_path / "pipe").symlink_to("/dev/zero")
    tools = FreeTools(str(tmp_path), {**SETTINGS, "test_after_edit": True})
    tests = tools._tests = CountedTests(tmp_path)  # type: ignore[assignment]
    for number in (1, 2):
        said = tools.call("write_file", json.dumps({"path": "pipe", "content": "x"}))
        assert said.startswith("wrote pipe") and tests.runs == number


def test_without_it_nothing_is_shown(tmp_path: Path) -> None:
    _, _, (seen,) = played(tmp_path, [hermes("submit")])
    assert "The tests were run" not in seen


def test_edits_are_counted_when_they_are_made_and_end_the_trial(tmp_path: Path) -> None:
    vain = hermes("edit_file", path=PATH, old="no such text", new="")
    made = [hermes("write_file", path=f"new{number}.py", content="") for number in range(3)]
    result, report, _ = played(tmp_path, [vain, *made, hermes("submit")], max_edits=2)
    assert (report["edits"], report["calls"]) == (2, ["edit_file", "write_file", "write_file"])
    assert result.termination is Termination.MAX_TURNS


SETTINGS = {"max_edits": 9, "max_observation": 300, "first_look": None, "test_after_edit": False, "ids": None}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_keeps_its_line_ends(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.py").write_bytes(f"one{end}two{end}three{end}".encode())
    tools = FreeTools(str(tmp_path), SETTINGS)
    said = tools.call("edit_file", json.dumps({"path": "a.py", "old": "one\ntwo\n", "new": "1\n2\n"}))
    assert said == "wrote a.py" and tools.edits == 1
    assert (tmp_path / "a.py").read_bytes() == f"1{end}2{end}three{end}".encode()


def test_a_tool_shows_no_more_than_it_may(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 10_000)
    shown = FreeTools(str(tmp_path), SETTINGS).call("read_file", json.dumps({"path": "long.txt"}))
    assert len(shown) < 400 and "characters left out" in shown


@given(st.text(st.sampled_from("ab\n🙂👩\u200d💻🏽e\u0301ü"), max_size=80), st.integers(10, 40))
@example("👩\u200d💻" * 20, 21)
@example("e\u0301" * 30, 21)
def test_a_cut_never_takes_a_part_of_a_character(text: str, limit: int) -> None:
    shown = cut(text, limit)
    if len(text) <= limit:
        assert shown == text
        return
    head, rest = shown.split("\n... ", 1)
    tail = rest.split(" characters left out ...\n", 1)[1]
    assert text.startswith(head) and text.endswith(tail)
    after, joins = text[len(head) : len(head) + 1], "\u200d\u0301\U0001f3fd"
    assert after not in joins or after == "", "what was cut off begins with a character of its own"
    assert tail[:1] == "" or tail[0] not in joins


def test_a_call_that_is_refused_again_and_again_ends_the_trial(tmp_path: Path) -> None:
    vain = hermes("edit_file", path=PATH, old="nowhere", new="x")
    other = hermes("edit_file", path=PATH, old="not here", new="x")
    edit, _, submit = free_repair()[2:]
    result, report, _ = played(tmp_path / "ends", [vain, other, vain, vain, edit, submit], max_refusals=2)
    assert report["calls"] == ["edit_file"] * 4 and result.reward == 0.0
    assert result.termination is Termination.COMPLETED and result.trainable
    result, report, _ = played(tmp_path / "goes-on", [vain, vain, edit, submit])
    assert result.reward == 1.0


def test_an_edit_with_a_slip_is_done_where_that_is_asked_for(tmp_path: Path) -> None:
    slip = hermes("edit_file", path="no/such.py", line=REPOSITORY.line, old=BROKEN.strip(), new=RIGHT.strip())
    result, _, (seen,) = played(tmp_path, [slip, hermes("submit")], edit_match="closest", test_after_edit=True)
    assert result.reward == 1.0 and f"wrote {PATH}" in seen
