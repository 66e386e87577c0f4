"""Agents are installed once, whole or not at all; what is missing is said with its cure."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import MachineError
from runtime.scaffolds import driver
from runtime.scaffolds import install as installer
from runtime.scaffolds.install import Package, install, installed

PACKAGE = Package("claude-code", "npm", ("@anthropic-ai/claude-code@2.1.197",))


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm that counts its calls and obeys ``mode``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "npm"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {folder}/calls
if [ -e {folder}/fail ]; then echo 'npm error 404 Not Found' >&2; exit 1; fi
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules"; sleep 0.2; echo done > "$2/node_modules/done"
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_many_processes_install_once(npm: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert installed(PACKAGE, cache=cache) is None
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: install(PACKAGE, cache=cache), range(4)))
    (folder,) = folders
    assert (folder / "node_modules" / "done").read_text() == "done\n"
    assert len((npm / "calls").read_text().splitlines()) == 1
    assert installed(PACKAGE, cache=cache) == folder
    other = install(Package("claude-code", "npm", ("@anthropic-ai/claude-code@2.1.198",)), cache=cache)
    assert other != folder


def test_a_failed_install_leaves_nothing_and_names_the_cause(npm: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (npm / "fail").touch()
    with pytest.raises(MachineError, match="404 Not Found") as caught:
        install(PACKAGE, cache=cache)
    assert "2.1.197" in caught.value.fix and installed(PACKAGE, cache=cache) is None
    assert not [path for path in cache.iterdir() if path.is_dir()]
    (npm / "fail").unlink()
    assert install(PACKAGE, cache=cache).is_dir()


def test_without_the_installer_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(MachineError, match="npm is not installed") as caught:
        install(PACKAGE, cache=tmp_path / "cache")
    assert "apt-get install" in caught.value.fix
    monkeypatch.setattr(installer.sys, "version_info", (3, 11, 0))
    with pytest.raises(MachineError, match=r"python3\.12 is not installed"):
        install(Package("agent", "pip", ("agent==1",), python=12), cache=tmp_path / "cache")


def test_what_an_agent_depends_on_can_be_pinned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python3.12"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    monkeypatch.setattr(installer, "find_python", lambda minor: installer.Python(str(program), 12, tmp_path))
    versions = tmp_path / "versions.txt"
    folders = set()
    for text in ("litellm==1\n", "litellm==2\n"):
        versions.write_text(text)
        folders.add(install(Package("agent", "pip", ("agent==1",), 12, versions), cache=tmp_path / "cache"))
    folders.add(install(Package("agent", "pip", ("agent==1",), 12), cache=tmp_path / "cache"))
    assert len(folders) == 3, "other dependencies are another installation"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [f"--constraint {versions}" in line for line in calls] == [True, True, False]


def test_the_default_versions_have_pinned_dependencies() -> None:
    library = (Path(__file__).parents[3] / "specs" / "lib" / "liverl.libsonnet").read_text()
    defaults = dict(re.findall(r"type: '([a-z0-9-]+)', version: '([0-9.]+)'", library))
    for kind, release in (("openhands-sdk", "openhands-sdk"), ("terminus-2", "harbor")):
        pins = driver.constraints(f"{release}-{defaults[kind]}")
        assert pins is not None and "litellm==" in pins.read_text()
    assert driver.constraints("harbor-99.0") is None
