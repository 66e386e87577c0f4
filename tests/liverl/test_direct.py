"""``compile`` and ``check`` without the command line's library: the same commands, less to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from liverl.cli import build_app
from liverl.direct import OPTIONS, REPEATED, SWITCHES, direct

ROOT = Path(__file__).parents[2]
SPEC = str(ROOT / "specs" / "quickstart.jsonnet")
THROUGH_THE_LIBRARY = "import sys; from liverl.cli import build_app; build_app()(sys.argv[1:], prog_name='liverl')"
NOT_NEEDED = ["typer", "rich", "click", "yaml", "jinja2", "jsonschema", "asyncio", "http"]


def _python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_the_library(name: str) -> None:
    command: Any = get_command(build_app()).commands[name]  # type: ignore[attr-defined]
    options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    assert {text: param.name for param in options for text in param.opts} == OPTIONS[name]
    assert {param.name for param in options if param.multiple} == REPEATED & set(OPTIONS[name].values())
    assert {param.name for param in options if param.is_flag} == SWITCHES & set(OPTIONS[name].values())
    assert [param.name for param in command.params if param.param_type_name == "argument"] == ["spec"]


def test_what_is_plain_is_understood() -> None:
    line = ["compile", "-t", "k8s", "a.jsonnet", "--set=seed=3", "--set", "mode.type=sync", "-o", "out", "--tla", "n=1"]
    command: Any = direct(line)
    assert command.args == (Path("a.jsonnet"),)
    sets, out = ["seed=3", "mode.type=sync"], Path("out")
    assert command.keywords == {"target": "k8s", "sets": sets, "out": out, "tla": ["n=1"]}
    check: Any = direct(["check", "a.jsonnet", "--json"])
    assert check.keywords == {"json": True}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "compile",
        "compile --help",
        "compile a b",
        "compile a --nonsense",
        "compile a --json",
        "compile a --target",
        "compile a --set --tla",
        "compile a -tk8s",
        "compile -- a",
        "check a -o b",
        "check a --json=1",
        "run a",
        "--version",
    ],
)
def test_what_is_doubtful_is_left_to_the_library(line: str) -> None:
    assert direct(line.split()) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", SPEC],
        ["check", SPEC, "--json"],
        ["check", SPEC, "--set", "mode.type=synch", "--json"],
        ["check", SPEC],
    ],
    ids=" ".join,
)
def test_both_ways_say_the_same(tmp_path: Path, arguments: list[str]) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.mkdir()
    long.mkdir()
    first = _python("-m", "liverl", *arguments, cwd=short)
    second = _python("-c", THROUGH_THE_LIBRARY, *arguments, cwd=long)
    assert (first.returncode, first.stdout, first.stderr) == (second.returncode, second.stdout, second.stderr)
    files = {path.relative_to(short): path.read_bytes() for path in short.rglob("*") if path.is_file()}
    assert files == {path.relative_to(long): path.read_bytes() for path in long.rglob("*") if path.is_file()}


def test_compiling_loads_no_library_that_it_can_do_without(tmp_path: Path) -> None:
    code = (
        "import sys, json; from liverl.direct import direct\n"
        "for command in ('compile', 'check'):\n"
        "    direct([command, *sys.argv[1:3]])()\n"
        "    print(json.dumps([name for name in sys.argv[3:] if name in sys.modules]))"
    )
    done = _python("-c", code, SPEC, "--target=local", *NOT_NEEDED, cwd=tmp_path)
    assert done.stdout.splitlines().count("[]") == 2, done


def test_a_reader_that_leaves_is_no_fault(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "liverl", "compile", SPEC], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(write)
    _, shown = process.communicate(timeout=60)
    assert (process.returncode, shown) == (141, b"")
    assert (tmp_path / "build" / "quickstart" / "local" / "liverl.lock").is_file()


def test_names_that_a_terminal_cannot_show_end_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "-m", "liverl", "compile", SPEC, "-o", "é"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and r"\xe9: .map.json" in done.stdout, done.stderr


def test_wrong_arguments_come_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    command = direct(["check", SPEC, "--json", "--tla", "a b"])
    assert command is not None
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["what"] == "--tla a b"
