"""The tmux of this machine, with all it needs, runs where nothing of the machine is."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import MachineError
from runtime.launch.machine import check_tmux
from runtime.scaffolds import tmux
from tests.toolbox import require_command


@pytest.fixture
def real_tmux() -> str:
    return require_command("tmux", package="tmux")


def test_it_is_copied_once_and_runs(real_tmux: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(lambda _: tmux.bundle(tmp_path), range(4)))
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    wanted = subprocess.run([real_tmux, "-V"], capture_output=True, check=True).stdout
    found = subprocess.run([str(moved / "bin" / "tmux"), "-V"], capture_output=True, env={}, check=True).stdout
    assert found == wanted
    assert check_tmux().ok


@pytest.mark.sandbox
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is missing: sudo apt-get install -y bubblewrap")
def test_it_runs_where_there_are_no_libraries(real_tmux: str, tmp_path: Path) -> None:
    folder = tmux.bundle(tmp_path)
    loader = next((folder / "lib").glob("ld-*"))
    box = ["bwrap", "--unshare-user", "--dev", "/dev", "--proc", "/proc", "--clearenv", "--setenv", "LANG", "C.UTF-8"]
    box += ["--ro-bind", str(folder), "/t", "--ro-bind", "/usr/lib/locale", "/usr/lib/locale", "--"]
    box += [f"/t/lib/{loader.name}", "--library-path", "/t/lib", "/t/lib/tmux", "-V"]
    done = subprocess.run(box, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("tmux "), done.stderr


def test_without_tmux_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="tmux is not installed") as caught:
        tmux.bundle(tmp_path)
    assert "apt-get install" in caught.value.fix
    assert not check_tmux().ok and check_tmux().fix == caught.value.fix


def test_a_program_whose_libraries_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tmux"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(MachineError, match="its libraries cannot be found"):
        tmux.bundle(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
