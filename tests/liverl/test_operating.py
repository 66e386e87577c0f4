"""The commands that look into runs, on run directories made by a run's own writers; in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from liverl.cli import build_app
from runtime.errors import UserError
from runtime.launch.rundir import create
from tests.run_directories import MadeRun, make_run, make_tasks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeRun, MadeRun]:
    folder = tmp_path_factory.mktemp("operating")
    tasks = make_tasks(folder / "tasks")
    return make_run(folder / "runs", steps=2, tasks=tasks), make_run(folder / "runs", steps=2, seed=3, tasks=tasks)


def call(*words: str | Path, stdin: str | None = None) -> str:
    """What a command prints; what it raises is raised here."""
    result = CliRunner().invoke(build_app(), [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*words: str | Path) -> Any:
    return json.loads(call(*words, "--json"))


def test_trials_are_listed_for_people_and_programs(runs: tuple[MadeRun, MadeRun]) -> None:
    run = runs[0].path
    listed = answer("trials", run, "--step", "1", "--training", "--limit", "5", "--sort", "id")
    assert listed["total"] == 12 and len(listed["trials"]) == 5
    assert [row["trial_id"] for row in listed["trials"]] == sorted(row["trial_id"] for row in listed["trials"])
    (lost,) = answer("trials", run, "--failed")["trials"]
    assert lost["termination"] == "sandbox_lost" and lost["reward"] is None
    text = call("trials", run, "--failed")
    assert lost["trial_id"] in text and "the box is gone" in text
    total = answer("trials", run)["total"]
    assert f"2 of {total}; the rest: --limit 0, or --offset 3" in call("trials", run, "--limit", "2", "--offset", "1")
    assert f"1 of {total}; those before" in call("trials", run, "--offset", str(total - 1))
    assert "50 of" not in call("trials", run, "--limit", "0") and "5 of 12" in call(
        "trials", run, "--step", "1", "--training", "-n", "5"
    )
    assert {row["reward"] for row in answer("trials", run, "--reward", "0.5:")["trials"]} == {1.0}
    assert call("trials", run, "--task", "nothing*") == "no such trial\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trials", "RUN", "--sort", "luck"], "--sort luck"),
        (["trials", "RUN", "--reward", "much"], "--reward much"),
        (["trials", "RUN", "--reward", "1:0.5"], "--reward 1:0.5: no reward lies there"),
        (["trials", "RUN", "--reward", "nan:"], "no reward lies there"),
        (["trial", "RUN", "calc"], "matches several trials"),
        (["trial", "RUN", "x"], "matches no trial"),
        (["compare", "RUN"], "needs two runs"),
        (["compare", "no-such", "RUN", "nor-such", "--runs-dir", "RUNS"], r"run 'no-such'.*\n.*run 'nor-such'"),
    ],
)
def test_wrong_words_are_told(runs: tuple[MadeRun, MadeRun], words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        named = {"RUN": str(runs[0].path), "RUNS": str(runs[0].path.parents[1])}
        call(*[named.get(word, word) for word in words])


def test_copies_of_a_run_are_told_apart_by_their_folders(runs: tuple[MadeRun, MadeRun], tmp_path: Path) -> None:
    folders = [tmp_path / "small" / name for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        shutil.copy(runs[0].path / "run.json", folder)
    with pytest.raises(UserError) as told:
        call("status", runs[0].path.name, "--runs-dir", str(tmp_path))
    assert all(str(folder) in str(told.value) for folder in folders)
    assert "no step" in call("compare", *map(str, folders))


def test_one_trial_in_full(runs: tuple[MadeRun, MadeRun]) -> None:
    run = runs[0].path
    row = answer("trials", run, "--reward", "1:1", "--training")["trials"][0]
    name = f"{row['step']}/{row['trial_id']}"
    text = call("trial", run, name)
    for part in (
        "solved  reward 1",
        "call run: ",
        "-    return a - b",
        "+    return a + b",
        "passed   tests/test_calc.py::test_add",
    ):
        assert part in text, part
    assert "\x1b" not in text and "\\x1b[31m" in text  # an agent's escape codes do not reach the terminal
    whole = answer("trial", run, name, "--tokens")
    assert whole["record"]["reward"] == 1.0 and len(whole["turns"]) == 3 and len(whole["siblings"]) == 4
    assert len(whole["samples"][0]["response_ids"]) == len(whole["samples"][0]["response_logprobs"])
    assert "samples" not in answer("trial", run, name)
    assert "token 1000  logprob -0.2500" in call("trial", run, name, "--tokens")


def test_runs_side_by_side(runs: tuple[MadeRun, MadeRun]) -> None:
    paths = [one.path for one in runs]
    result = answer("compare", *paths)
    assert result["paired"][0]["tasks"] == 3 and "not to be had" in result["spec_differences"][0]
    assert "held-out tasks" in call("compare", *paths)


def test_shells_complete_runs(runs: tuple[MadeRun, MadeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    from liverl.completion import complete_run

    monkeypatch.setenv("LIVERL_RUNS_DIR", str(runs[0].path.parents[1]))
    assert complete_run("la") == ["last"]
    assert complete_run("demo/") == [f"demo/{one.path.name}" for one in reversed(runs)]


def test_trajectories_and_models_are_handed_on(runs: tuple[MadeRun, MadeRun], tmp_path: Path) -> None:
    run = runs[0].path
    words = ["export", "trajectories", run, "--format", "messages", "-o", tmp_path / "m.jsonl", "--reward", "1:"]
    facts = answer(*words)
    assert facts["rows"] == len((tmp_path / "m.jsonl").read_text().splitlines()) > 0
    with pytest.raises(UserError, match="--format csv"):
        call("export", "trajectories", run, "--format", "csv", "-o", tmp_path / "x")
    with pytest.raises(UserError, match="no whole model of step 7"):
        call("export", "model", run, "7", "-o", tmp_path / "x")


def test_space_is_freed_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = make_run(tmp_path / "runs", steps=3, tasks=make_tasks(tmp_path / "tasks", 1), group_size=1)
    words = ["gc", "--runs-dir", tmp_path / "runs", "--only", "checkpoints", "--older-than", "0"]
    before = sorted(path.name for path in made.directory.checkpoints.iterdir())
    assert (
        "to be freed" in call(*words) and sorted(path.name for path in made.directory.checkpoints.iterdir()) == before
    )
    assert answer(*words, "--yes")["removed"]
    assert len(list(made.directory.checkpoints.iterdir())) < 3 and "nothing to free" in call(*words)
    with pytest.raises(UserError, match="--only dust"):
        call("gc", "--only", "dust")


def test_logs_and_stop_speak_to_programs(runs: tuple[MadeRun, MadeRun]) -> None:
    run = runs[0].path
    lines = [json.loads(line) for line in call("logs", run, "--json").splitlines()]
    assert [line["line"] for line in lines] == ["step 1", "step 2"]
    assert answer("logs", run, "--list") == [str(run / "logs" / "trainer.log")]
    assert answer("stop", run) == {"run": run.name, "what": "was not running (succeeded)"}


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--pass", "1,x"], "not numbers"), (["--pass", "4", "-n", "2"], "needs --samples 4")],
)
def test_wrong_numbers_of_passes_are_told(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call("eval", "quickstart", "--checkpoint", "x", *words)
    for more in ([], ["--checkpoint", "x", "--model", "x"]):
        with pytest.raises(UserError, match="--endpoint: needs one of --checkpoint"):
            call("infer", "quickstart", "--endpoint", "http://127.0.0.1:9", *more)
    with pytest.raises(UserError, match="--endpoint here: not an address"):
        call("eval", "quickstart", "--endpoint", "here", "--model", "x")
    with pytest.raises(UserError, match="--model: needs --endpoint"):
        call("infer", "quickstart", "--model", "x")


def test_passes_of_a_resumed_evaluation_are_held_against_its_own_samples(tmp_path: Path) -> None:
    run = create(tmp_path / "runs", experiment="x", target="local", kind="eval")
    (run.path / "scoring.json").write_text(json.dumps({"kind": "eval", "checkpoint": "x", "num_samples": 4}))
    with pytest.raises(UserError, match="pass@8 needs --samples 8 or more, not 4"):
        call("eval", "--resume", run.path, "--pass", "8")
    with pytest.raises(UserError, match="still running"):  # this process has it
        call("eval", "--resume", run.path, "--pass", "4")
    assert run.read().resumed == 0


def test_what_a_person_mistypes_is_told(runs: tuple[MadeRun, MadeRun], tmp_path: Path) -> None:
    run = runs[0].path
    for step in ("9" * 20, "²"):
        with pytest.raises(UserError, match="matches no trial"):
            call("trial", run, f"{step}/x")
    assert answer("trials", run, "--step", "9" * 20)["total"] == 0
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a folder; name a file"):
        call("export", "trajectories", run, "--format", "messages", "-o", tmp_path / "folder")
    with pytest.raises(UserError, match="is a file; name a folder"):
        call("export", "trajectories", run, "--format", "atif", "-o", tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with pytest.raises(UserError, match="is a link"):
        call("export", run, "-o", tmp_path / "link")
    assert (tmp_path / "folder").is_dir()
    for named in ("qwen/", "a b/c", "a/--"):
        with pytest.raises(UserError, match="no name of the hub"):
            call("models", "add", named)
