"""Every command that our output suggests works when it is pasted where it was printed, exactly as it stands there.

Real processes in a folder with an unkind name, called by the program's path as somebody does whose shell does not find
``liverl``. What would take long is interrupted as soon as it is under way."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import processes
from runtime.launch import rundir
from runtime.launch.rundir import RunDirectory
from tests.runtime.rows import append_row

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).with_name("liverl")
SPEC = "my spec's.jsonnet"
SETS = ["--set", "schedule.steps=3", "--set", 'tasks.train[0].name="it-is"', "--sandbox", "process"]
COMMAND = re.compile(rf"{re.escape(str(BIN))} [^`;\n]*")
"""A suggestion ends with its line, its sentence or its quotes."""
LONG = ("run", "eval", "infer")
SERVED = "dashboard"

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not BIN.exists(), reason="LiveRL is not installed here"),
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the user stands."""
    folder = tmp_path / "home müller's"
    folder.mkdir()
    (folder / SPEC).write_text("(import 'quickstart.jsonnet') + { name: 'mine' }\n")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    return folder


def _environment(here: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("TMPDIR", "LANG", "LC_ALL")}
    return {**kept, "PATH": f"{here}/bin:/usr/bin:/bin", "HOME": str(here), "COLUMNS": "300"}


def _paste(command: str, here: Path) -> tuple[int, str]:
    """Run a command line as a shell does. A run is interrupted when its first phase has begun, a page when it is there
    (on whatever port is free)."""
    page = shlex.split(command)[1] == SERVED
    command = f"{command} --port 0" if page else command
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=here,
        env=_environment(here),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "tasks …" in line or (page and "http://" in line):
                process.send_signal(signal.SIGINT)
        return process.wait(), said


def _type(*words: str, here: Path) -> tuple[int, str]:
    return _paste(shlex.join([str(BIN), *words]), here)


def _suggested(text: str) -> list[str]:
    return [found.strip() for found in COMMAND.findall(text)]


def _all_work(said: str, here: Path, *, count: int) -> str:
    """Paste each suggestion; returns what the last one said."""
    commands = _suggested(said)
    assert len(commands) == count, said
    for command in commands:
        code, answer = _paste(command, here)
        verb = shlex.split(command)[1]
        ends = (0, 130) if verb == SERVED else (130,) if verb in LONG and "--target" not in command else (0,)
        assert code in ends, f"{command}\n{answer}"
        said = said if verb == SERVED else answer
    return said


def _run(here: Path, **changes: object) -> RunDirectory:
    """A run of the spec, as the ledger knows it, that was killed."""
    directory = rundir.create(here / "runs", experiment="mine", target="local", spec=str(here / SPEC), options=SETS)
    code, said = _type("compile", SPEC, "-o", str(directory.bundle), here=here)
    assert code == 0, said
    directory.write(replace(directory.read(), **{"state": "running", "pid": 0, **changes}))  # type: ignore[arg-type]
    return directory


@pytest.mark.parametrize("words", [["runs"], ["status"], ["run"]], ids=" ".join)
def test_with_nothing_there_yet(here: Path, words: list[str]) -> None:
    _all_work(_type(*words, here=here)[1], here, count=1)


def test_an_interrupted_run_goes_on(here: Path) -> None:
    code, said = _type("run", SPEC, *SETS, here=here)
    assert code == 130, said
    again = _all_work(said, here, count=2)
    assert _suggested(again) == _suggested(said)


def test_a_wrong_spec_gets_no_advice_to_go_on(here: Path) -> None:
    code, said = _type("run", SPEC, "--set", "rollout.prompt_length=1000000", here=here)
    assert code == 2 and _suggested(said) == []


@pytest.mark.parametrize("words", [["nonsense"], ["run", "--nonsense"], ["tasks", "synth"]], ids=" ".join)
def test_help_is_where_an_error_says(here: Path, words: list[str]) -> None:
    code, said = _type(*words, here=here)
    (command,) = re.findall("Try '(.*)' for help", said)
    assert code == 2 and _paste(command, here)[0] == 0


def test_a_lost_run(here: Path) -> None:
    directory = _run(here)
    _all_work(_type("status", here=here)[1], here, count=1)
    assert directory.read().resumed == 1


def test_a_lost_evaluation(here: Path) -> None:
    code, said = _type("infer", SPEC, "--checkpoint", "model", *SETS, here=here)
    assert code == 130, said
    _all_work(said, here, count=1)
    _all_work(_type("run", "--resume", "last", here=here)[1], here, count=1)
    (directory,) = (RunDirectory(path.parent) for path in (here / "runs").glob("*/*/run.json"))
    directory.update(state="running", pid=0)
    _all_work(_type("status", here=here)[1], here, count=1)


def test_a_run_that_goes_on_already(here: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        directory = _run(here, pid=other.pid, pid_start=processes.start_time(other.pid))
        _all_work(_type("run", "--resume", "last", here=here)[1], here, count=1)
        assert other.wait(10) == -signal.SIGINT
    assert directory.read().state == "failed"


def test_a_run_that_has_succeeded(here: Path) -> None:
    _run(here).finish("succeeded", exit_code=0, cause="")
    said = _type("run", "--resume", "last", here=here)[1]
    assert all(shlex.quote(word) in said for word in (SPEC, *SETS))
    _all_work(said, here, count=1)


def test_a_training_run_is_no_evaluation(here: Path) -> None:
    _run(here)
    _all_work(_type("eval", "--resume", "last", here=here)[1], here, count=1)


def test_a_folder_that_is_no_bundle(here: Path) -> None:
    _all_work(_type("run", "model", here=here)[1], here, count=1)


def test_a_new_folder(here: Path) -> None:
    code, said = _type("init", "new one", here=here)
    assert code == 0
    _all_work(said, here, count=3)
    code, said = _type("init", "new one", here=here)
    assert code == 2 and "is there already" in said


def _closing_words(directory: RunDirectory, here: Path) -> str:
    program = (
        "import sys; from pathlib import Path; from rich.console import Console; from runtime.launch import local;"
        "from runtime.launch.rundir import RunDirectory;"
        "local.summarise(RunDirectory(Path(sys.argv[1])), console=Console())"
    )
    command = [sys.executable, "-c", program, str(directory.path)]
    return subprocess.run(command, cwd=here, env=_environment(here), stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.parametrize("spec_remains", [True, False])
def test_the_closing_words_of_a_run(here: Path, spec_remains: bool) -> None:
    directory = _run(here)
    append_row(directory.metrics, 0, {"val-core/held-out/reward/mean@1": 0.25})
    checkpoint = directory.checkpoints / "global_step_3"
    checkpoint.parent.mkdir()
    (here / "model").rename(checkpoint)
    if not spec_remains:
        (here / SPEC).unlink()
        directory.update(options=())
    _all_work(_closing_words(directory, here), here, count=3)


def test_another_folder_of_runs_is_named(here: Path) -> None:
    said = _type("runs", "--runs-dir", "other runs", here=here)[1]
    _all_work(said, here, count=1)
    assert (here / "other runs" / "quickstart").is_dir() and not (here / "runs").exists()


def test_packages_that_are_missing(here: Path) -> None:
    """The command, without its effect: pip and make are told so by their own variables."""
    from runtime import suggest

    for command in (suggest.pip("rich", "typer>=0"), suggest.install()):
        dry = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "MAKEFLAGS": "n", **os.environ}
        done = subprocess.run(["bash", "-c", command], env=dry, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


NOUN = re.compile(r"so `liverl run` refuses it|--port of liverl proxy|python -m liverl run")
"""What is no advice: names, and what a cluster runs."""


def _constants(path: Path) -> Iterator[str]:
    """The texts of a module, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


TOLD = {"UserError", "MachineError", "RunError", "Problem", "SpecError", "refuse", "ImageError", "BadRow", "echo"}
OTHERS = {"--num-gpus", "--repo-type", "--resources"}
"""Options of ray and hf."""


def test_options_that_errors_name_exist() -> None:
    known = set(re.findall(r"--[a-z][a-z0-9-]*", (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8"))) | OTHERS
    found: set[str] = set()
    for room in ("liverl", "runtime", "compiler", "targets"):
        for path in (ROOT / room).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(call.func, "id", getattr(call.func, "attr", "")) if isinstance(call, ast.Call) else ""
                for text in ast.walk(call) if name in TOLD else ():
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text.value)
                        found |= {f"{path.name}:{text.lineno}: {option}" for option in named if option not in known}
    assert found == set()


def test_no_command_is_written_by_hand() -> None:
    """A literal one would name a program that the shell may not find; ``runtime/suggest.py`` renders them."""
    commands = "compile|check|plan|explain|diff|schema|run|runs|status|logs|stop|eval|infer|tasks|doctor|init|proxy"
    literal = re.compile(rf"\bliverl (?:{commands})\b")
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for room in ("liverl", "runtime", "compiler", "targets")
        for path in sorted((ROOT / room).rglob("*.py"))
        for text in _constants(path)
        if literal.search(NOUN.sub("", text))
    }
    assert found == set()
