"""The command line as a user meets it: real processes, exit codes, and nothing written on bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from runtime.launch import rundir
from tests.command import liverl
from tests.runtime.proxy.families import FAMILIES, write_family
from tests.runtime.rows import append_row

ROOT = Path(__file__).parents[2]
STABLE = {"compile", "check", "plan", "explain", "diff", "schema", "run", "runs", "status", "logs", "stop"}
STABLE |= {"eval", "infer", "doctor", "tasks"}


def _process(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Started from nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "liverl", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _liverl(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return liverl(*arguments, cwd=cwd, env={**os.environ, "COLUMNS": "200", **variables})


def test_help_names_every_command(tmp_path: Path) -> None:
    result = _process("--help", cwd=tmp_path)
    assert result.returncode == 0
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert listed >= STABLE


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    result = _process("--version", cwd=tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (result.returncode, result.stdout) == (0, project["version"] + "\n")


def test_shells_complete_commands(tmp_path: Path) -> None:
    assert "--install-completion" in _process("--help", cwd=tmp_path).stdout
    asked = {"_LIVERL_COMPLETE": "complete_bash", "COMP_WORDS": "liverl compi", "COMP_CWORD": "1"}
    assert _process(cwd=tmp_path, **asked).stdout.split() == ["compile"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "nothing to run"),
        (["run", "missing.jsonnet"], "missing.jsonnet: no such file"),
        (["run", "typo.jsonnet"], "typo.jsonnet:2:"),
        (["run", "typo.jsonnet", "--target", "moon"], "--target moon"),
        (["run", "typo.jsonnet", "--sandbox", "jail"], "--sandbox jail"),
        (["run", "folder"], "folder: not a bundle"),
        (["run", "typo.jsonnet", "--resume", "x"], "--resume goes on with the bundle"),
        (["run", "--resume", "x"], "no runs here"),
        (["eval", "typo.jsonnet"], "--checkpoint: missing"),
        (["infer"], "nothing to score"),
        (["status", "x"], "no runs here"),
        (["logs"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["run", "--nonsense"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_exits_2_and_writes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "typo.jsonnet").write_text("{\n  nam: 'x',\n}\n")
    result = _liverl(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "typo.jsonnet"]


def test_the_ledger_on_the_command_line(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path / "runs", experiment="x", target="local")
    append_row(directory.metrics, 2, {"critic/score/mean": 0.5, "val-core/held-out/reward/mean@1": 0.25})
    (directory.logs / "trainer.log").write_text("hello\n")
    directory.finish("failed", exit_code=4, cause="the trainer ended")
    run = directory.path.name
    (listed,) = json.loads(_liverl("runs", "--json", cwd=tmp_path).stdout)
    assert (listed["run"], listed["state"], listed["exit_code"]) == (run, "failed", 4)
    assert "the trainer ended" in _liverl("runs", cwd=tmp_path).stdout
    status = json.loads(_liverl("status", "--json", cwd=tmp_path).stdout)
    assert (status["step"], status["score"], status["validation"]["held-out"]["last"]) == (2, 0.5, 0.25)
    assert "solved in training 50.0%" in _liverl("status", run, cwd=tmp_path).stdout
    assert _liverl("logs", "last", cwd=tmp_path).stdout == "hello\n"
    assert "was not running" in _liverl("stop", run, cwd=tmp_path).stdout


def test_doctor_answers_for_people_and_programs(tmp_path: Path) -> None:
    result = _liverl("doctor", "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.returncode == (0 if all(check["ok"] or not check["required"] for check in checks.values()) else 3)
    assert checks["Python"]["ok"]
    assert "Python" in _process("doctor", cwd=tmp_path).stdout


def test_doctor_asks_a_machine_for_the_gpus_of_a_spec(tmp_path: Path) -> None:
    spec = ROOT / "specs" / "one-gpu.jsonnet"
    result = _liverl("doctor", str(spec), "--json", cwd=tmp_path, PATH=str(tmp_path))
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.returncode == 3 and not checks["GPUs"]["ok"] and checks["GPUs"]["required"]
    assert "vllm" in checks["packages for GPUs"]["found"] and "install-gpu" in checks["packages for GPUs"]["fix"]
    # No run is begun there either.
    refused = _liverl("run", str(spec), "--runs-dir", "runs", cwd=tmp_path, PATH=str(tmp_path))
    assert refused.returncode == 3 and "GPUs: no NVIDIA driver" in refused.stderr, refused.stderr
    assert not (tmp_path / "runs").exists()


def test_doctor_judges_a_model(tmp_path: Path) -> None:
    family = FAMILIES["gpt-oss"]
    good = write_family(tmp_path / "good", family)
    assert "append-only, tool_parser openai" in _liverl("doctor", "--model", str(good), cwd=tmp_path).stdout
    bad = write_family(tmp_path / "bad", family, template=family.template + "{{ messages | length }}")
    result = _liverl("doctor", "--model", str(bad), "--json", cwd=tmp_path)
    (check,) = [check for check in json.loads(result.stdout) if check["name"] == f"model {bad}"]
    assert result.returncode == 3 and not check["ok"] and check["fix"]
    assert "the chat template is not append-only" in check["found"]


def test_public_names_are_there() -> None:
    import liverl as package

    assert package.compile_spec.__module__.startswith("compiler")
    assert {"Sandbox", "Scaffold", "compile_spec"} <= set(dir(package))
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.nonsense  # noqa: B018
