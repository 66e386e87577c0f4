"""``liverl run --target``: the client's exact command, its exit code, and what is said when it is missing. The clients
are fakes on PATH that record how they were called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = str(ROOT / "specs" / "quickstart.jsonnet")
SECRET = (
    'secrets=[{"variable": "HF_TOKEN", "used_by": "policy", "kubernetes": {"name": "hugging-face", "key": "token"}}]'
)


def client(folder: Path, name: str, *, code: int = 0) -> None:
    """A program called ``name`` in ``folder`` that notes its folder and arguments."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$PWD" "$@" > {folder}/{name}.called\necho "{name} speaks"\nexit {code}\n'
    )
    (folder / name).chmod(0o755)


def liverl(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "liverl", *arguments],
        cwd=folder,
        # Only the fakes and the shell's own programs: no real client of this machine is ever called.
        env={"PYTHONPATH": str(ROOT), "PATH": f"{folder}/bin:{shell_only(folder)}", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shell_only(folder: Path) -> str:
    programs = folder / "shell"
    if not programs.exists():
        programs.mkdir()
        for name in ("bash", "dirname", "env", "git"):
            found = next((path for path in ("/bin", "/usr/bin") if os.access(f"{path}/{name}", os.X_OK)), None)
            if found:
                (programs / name).symlink_to(f"{found}/{name}")
    return str(programs)


@pytest.mark.parametrize(
    ("target", "program", "arguments"),
    [
        ("docker", "docker", ["compose", "up"]),
        ("k8s", "kubectl", ["apply", "-k", "."]),
        ("skypilot", "sky", ["jobs", "launch", "--yes", "task.sky.yaml", "--secret", "HF_TOKEN"]),
        ("ray", "ray", ["job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", "."]),
    ],
)
def test_the_client_gets_the_bundle(tmp_path: Path, target: str, program: str, arguments: list[str]) -> None:
    client(tmp_path / "bin", program)
    ended = liverl(tmp_path, "run", SPEC, "--target", target, "--set", SECRET, HF_TOKEN="hf_secretvalue")
    assert ended.returncode == 0, ended.stderr
    where, *given = (tmp_path / "bin" / f"{program}.called").read_text().split("\0")[:-1]
    assert Path(where) == tmp_path / "build" / "quickstart" / target
    assert given[: len(arguments)] == arguments
    assert f"+ cd build/quickstart/{target} && " in ended.stdout and f"{program} speaks" in ended.stdout
    assert ended.stdout.index("+ cd") < ended.stdout.index("speaks")
    assert "follow with:" in ended.stderr
    everything = ended.stdout + ended.stderr + "".join(path.read_text() for path in Path(where).iterdir())
    assert "secretvalue" not in everything


def test_a_compiled_bundle_is_launched_where_it_lies(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl")
    assert liverl(tmp_path, "compile", SPEC, "--target", "k8s", "-o", "there").returncode == 0
    assert liverl(tmp_path, "run", "there", "--target", "kubernetes").returncode == 0
    assert (tmp_path / "bin" / "kubectl.called").read_text().split("\0")[0] == str(tmp_path / "there")
    other = liverl(tmp_path, "run", "there", "--target", "ray")
    assert other.returncode == 2 and "compiled for k8s, not for ray" in other.stderr


@pytest.mark.parametrize(("target", "program"), [("docker", "docker"), ("k8s", "kubectl"), ("skypilot", "sky")])
def test_a_missing_client_is_named_with_its_cure(tmp_path: Path, target: str, program: str) -> None:
    ended = liverl(tmp_path, "run", SPEC, "--target", target)
    assert ended.returncode == 3
    assert f"the program {program} is missing" in ended.stderr and "fix: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_client_beside_this_program_need_not_be_on_the_path(tmp_path: Path) -> None:
    client(tmp_path / "environment", "ray")
    (tmp_path / "environment" / "python").symlink_to(sys.executable)
    ended = subprocess.run(
        [tmp_path / "environment" / "python", "-m", "liverl", "run", SPEC, "--target", "ray"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "PATH": shell_only(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "ray speaks" in ended.stdout and "follow with: environment/ray job list" in ended.stderr


def test_a_client_that_fails_fails_the_run(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl", code=5)
    ended = liverl(tmp_path, "run", SPEC, "--target", "k8s")
    assert ended.returncode == 4 and "kubectl ended with code 5" in ended.stderr


@pytest.mark.parametrize(("target", "program"), [("docker", "docker"), ("skypilot", "sky")])
def test_a_secret_that_the_shell_lacks_is_asked_for(tmp_path: Path, target: str, program: str) -> None:
    client(tmp_path / "bin", program)
    ended = liverl(tmp_path, "run", SPEC, "--target", target, "--set", SECRET)
    assert ended.returncode == 3 and "export HF_TOKEN=" in ended.stderr
    assert not (tmp_path / "bin" / f"{program}.called").exists()


@pytest.mark.parametrize("arguments", [["--target", "k8s"], [SPEC, "--target", "k8s", "--resume", "last"]])
def test_what_makes_no_sense_elsewhere_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    ended = liverl(tmp_path, "run", *arguments)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr


def test_resume_auto_finds_the_run_of_this_bundle(tmp_path: Path) -> None:
    """Another host's unfinished run is taken over; one of another bundle, or a finished one, is not."""
    from compiler import compile_in_memory
    from liverl.again import unfinished
    from runtime.files import write_folder
    from runtime.launch import rundir

    files = compile_in_memory(SPEC).files
    other = compile_in_memory(SPEC, sets=["seed=1"]).files
    runs = tmp_path / "runs"
    assert unfinished(files, runs_dir=runs) is None
    mine = rundir.create(runs, experiment="quickstart", target="local")
    write_folder(mine.bundle, files)
    mine.update(state="running", host="a-machine-that-is-gone", kernel="its own")
    foreign = rundir.create(runs, experiment="quickstart", target="local")
    write_folder(foreign.bundle, other)
    assert mine.alive
    found = unfinished(files, runs_dir=runs)
    assert found is not None and found.path == mine.path
    assert not mine.alive and mine.read().state == "running"
    mine.finish("failed", exit_code=4, cause="x")
    again = unfinished(files, runs_dir=runs)
    assert again is not None and again.path == mine.path
    mine.finish("succeeded", exit_code=0, cause="")
    assert unfinished(files, runs_dir=runs) is None
    assert json.loads(foreign.record_file.read_text())["state"] == "pending"
