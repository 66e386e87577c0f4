"""One trial read back: everything that is there, however damaged the rest is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import orjson
import pytest

from runtime.agent_loop.types import TrialKey
from runtime.report.patch import Change, Patch, _change, read_patch
from runtime.report.trial import Span, read_trial
from runtime.report.words import pages, visible
from runtime.sandboxes.entries import Program, Removed
from tests.run_directories import BROKEN, HOSTILE, REPAIRED, TEST_ID, MadeRun, make_run, write_one

KEY = TrialKey(task="calc-0", task_set="train", step=1, group="one", index=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("trial") / "runs", steps=1)


@pytest.fixture
def folder(made: MadeRun) -> Path:
    return write_one(made.directory, made.tasks[0], KEY, solved=True, turns=3)


def test_turns_tools_and_branches(folder: Path) -> None:
    trial = read_trial(folder)
    assert trial.missing == () and trial.record["outcomes"] == {TEST_ID: "passed"}
    assert [(turn.seq, turn.parent, turn.children) for turn in trial.turns] == [
        (0, None, (1, 3)),
        (1, 0, (2,)),
        (2, 1, ()),
        (3, 0, ()),
    ]
    assert [[turn.seq for turn in path] for path in trial.conversations] == [[0, 1, 2], [0, 3]]
    assert [message.role for message in trial.turns[0].messages] == ["system", "user"]
    (use,) = trial.turns[0].tools
    assert (use.name, use.arguments, use.output) == ("run", '{"command": "ls 0"}', f"calc.py {HOSTILE} 0")
    assert trial.logs == {"agent.log": "looked\n"} and TEST_ID in trial.verifier


def test_every_turn_knows_its_tokens(folder: Path) -> None:
    trial = read_trial(folder)
    for turn, first in zip(trial.turns, (1000, 2000, 3000, 5000), strict=True):
        assert turn.span is not None
        sample = trial.samples[turn.span.sample]
        own = slice(turn.span.start, turn.span.end)
        assert sample.response_ids[own] == list(range(first, first + 6))
        assert set(sample.response_mask[own]) == {1}
    assert trial.turns[3].span == Span(1, 8, 14)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("trial.json", None, "trial.json: No such file"),
        ("trial.json", b'{"reward": 1', "trial.json: damaged"),
        ("trial.json", b"[]", "trial.json: not an object"),
        ("trajectory.json", None, "trajectory.json: No such file"),
        ("trajectory.json", b"\xff", "trajectory.json: damaged"),
        ("trajectory.json", b'{"turns": [3, {"seq": 0}], "samples": [{}]}', "turn 0: cannot be read"),
        ("trajectory.json", b'{"turns": 1, "samples": [{"prompt_ids": [1]}]}', "sample 0: its lists"),
        ("verifier/output", None, "verifier/output: not kept"),
    ],
)
def test_what_is_missing_is_named(folder: Path, name: str, content: bytes | None, word: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    trial = read_trial(folder)
    assert any(word in line for line in trial.missing), trial.missing
    assert trial.record or name == "trial.json"
    assert len(trial.turns) == 4 or name == "trajectory.json"


def test_turns_in_a_circle_and_strange_values_end(folder: Path) -> None:
    turns = [
        {"seq": 0, "parent": 1, "prompt_tokens": 1, "completion_tokens": "x", "messages": [{"role": "??"}, 4]},
        {
            "seq": 1,
            "parent": 0,
            "tool_calls": [3, {"name": 5}],
            "text": None,
            "prompt_tokens": 4,
            "completion_tokens": 2,
        },
        {"seq": 2, "parent": 77, "dialect": "martian", "messages": "text"},
    ]
    (folder / "trajectory.json").write_bytes(orjson.dumps({"turns": turns, "samples": []}))
    trial = read_trial(folder)
    assert [turn.parent for turn in trial.turns] == [1, 0, None] and trial.conversations == ((trial.turns[2],),)
    assert "??" in trial.turns[0].messages[0].content


def test_a_folder_that_is_not_there_is_all_missing(tmp_path: Path) -> None:
    trial = read_trial(tmp_path / "3" / "nothing")
    assert trial.turns == () and len(trial.missing) == 2


def test_the_work_is_a_patch_that_git_applies(made: MadeRun, folder: Path, tmp_path: Path) -> None:
    patch = read_patch(made.path, read_trial(folder).record)
    (change,) = patch.changes
    assert (change.path, change.what, patch.missing) == ("app/calc.py", "changed", ())
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "calc.py").write_bytes(BROKEN)
    (tmp_path / "p").write_text(patch.text)
    environment = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "PATH": "/usr/bin:/bin"}
    subprocess.run(["git", "apply", "--unsafe-paths", "p"], cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "app" / "calc.py").read_bytes() == REPAIRED


def test_a_patch_says_what_it_cannot_show(made: MadeRun, tmp_path: Path) -> None:
    record = dict(read_trial(next((made.path / "trials" / "1").glob("calc-1*"))).record)
    assert "not kept" in read_patch(made.path, {}).missing[0]
    work = {**record["work"], "task_path": str(tmp_path / "gone")}
    alone = read_patch(made.path, {"work": work})
    assert "the task that it is compared with" in alone.missing[0] and alone.changes[0].what == "added"
    files = {"/app/a": "l:" + "0" * 64}
    assert "the work" in read_patch(made.path, {"work": {**record["work"], "files": files}}).missing[0]
    removed = read_patch(made.path, {"work": {**record["work"], "files": {"/app/notes.txt": "-:"}}})
    assert removed.changes[0].what == "removed" and "-two\n" in removed.text
    shutil.rmtree(made.path / "artifacts")
    assert read_patch(made.path, record).missing


def test_names_and_modes_in_a_patch_are_gits(tmp_path: Path) -> None:
    names = ["plain", "with blank", "\u00fcmlaut", 'q"uote\\', "line\n--- a", "\x1b[31m", "b\udcff", "\u202erev"]
    mine = [(f"{number}{name}", b"one\n", b"one\ntwo\n") for number, name in enumerate(names)]
    changes = [_change(f"/app/{name}", after, before) for name, before, after in mine]
    changes += [
        _change("/app/mode", Program(b"#!x\n"), b"#!x\n"),
        _change("/app/binary", Program(b"\0\1"), b"\0\1"),
        _change("/app/gone", Removed(), Program(b"x\n")),
        _change("/app/same", b"x\n", b"x\n"),
    ]
    assert changes[-1].text == "" and changes[-1].why
    patch = Patch(tuple(changes))
    assert visible(patch.text) == patch.text  # no name steers a terminal, or a reader of lines
    for name, content in [*((name, one) for name, one, _ in mine), ("mode", b"#!x\n"), ("binary", b"\0\1")]:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone").write_bytes(b"x\n")
    (tmp_path / "gone").chmod(0o755)
    environment = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["git", "apply", "-p2", "-"], cwd=tmp_path, input=patch.text.encode(), capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [(tmp_path / name).read_bytes() for name, _, _ in mine] == [after for _, _, after in mine]
    assert not (tmp_path / "gone").exists()
    assert all((tmp_path / name).stat().st_mode & 0o100 for name in ("mode", "binary"))
    hostile = Change("app/\x1b[31m", "link", "", "a link to 'x'")
    view = read_trial(tmp_path / "0" / "none")
    assert not any("\x1b" in line for line in pages(view, Patch((hostile,)), ()))


@pytest.mark.parametrize(("name", "value"), [("response_ids", "a"), ("weight_versions", None), ("prompt_ids", 1.5)])
def test_a_sample_of_what_are_no_numbers_is_left_out(folder: Path, name: str, value: object) -> None:
    told = orjson.loads((folder / "trajectory.json").read_bytes())
    told["samples"][0][name][0] = value
    told["samples"][1]["response_logprobs"][0] = None  # what JSON makes of what is no number
    (folder / "trajectory.json").write_bytes(orjson.dumps(told))
    view = read_trial(folder)
    assert len(view.samples) == 1 and "sample 0: its lists hold what is no number" in view.missing


def test_fields_of_another_kind_are_named_and_left_out(folder: Path) -> None:
    record = orjson.loads((folder / "trial.json").read_bytes())
    wrong = {"reward": "x", "task": 5, "timings": [], "outcomes": 3, "index": "a", "started": "now", "defences": 5}
    (folder / "trial.json").write_bytes(orjson.dumps({**record, **wrong}))
    view = read_trial(folder)
    assert {f"trial.json: {name}: not what a trial has there" for name in wrong} <= set(view.missing)
    assert not wrong.keys() & view.record.keys() and view.record["verdict"] == "solved"
    assert "no reward" in "\n".join(pages(view, Patch(()), (), tokens=True))
