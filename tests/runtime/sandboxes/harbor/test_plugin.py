"""What the environment for Harbor refuses before a trial; Harbor itself is not needed for that."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, members in (("base", ("BaseEnvironment", "ExecResult")), ("capabilities", ("EnvironmentCapabilities",))):
        module = ModuleType(f"harbor.environments.{name}")
        for member in members:
            setattr(module, member, type(member, (), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "runtime.sandboxes.harbor.plugin", raising=False)
    plugin = importlib.import_module("runtime.sandboxes.harbor.plugin")
    monkeypatch.delitem(sys.modules, plugin.__name__)  # the next one gets Harbor's own classes
    return plugin.LiverlEnvironment


@pytest.mark.parametrize(
    ("files", "image", "wrong"),
    [
        ({"environment/Dockerfile": "FROM x\nRUN make\nWORKDIR /app\n"}, None, "needs the image"),
        ({"environment/Dockerfile": "FROM x\nRUN make\nCOPY repo /app\n", "environment/repo/a": ""}, None, "needs the"),
        ({"environment/repo/a": "", "task.toml": "[metadata.liverl]\n"}, "debian:12", "library/debian:12"),
        ({"environment/docker-compose.yaml": "services: {main: {image: debian}}\n"}, None, "debian:latest"),
        ({"environment/Dockerfile": "FROM x\nWORKDIR /app\nCOPY a /app/a\n", "environment/a": ""}, None, None),
        (
            {
                "environment/Dockerfile": "FROM x\nRUN make\n",
                "environment/repo/a": "",
                "task.toml": "[metadata.liverl]\n",
            },
            None,
            None,
        ),
    ],
)
def test_a_task_that_needs_an_image_is_refused(
    environment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    image: str | None,
    wrong: str | None,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    made = object.__new__(environment)
    made.environment_dir, made.environment_name = tmp_path / "environment", "task"
    made.task_env_config = SimpleNamespace(docker_image=image, workdir=None)
    if wrong is None:
        return made._validate_definition()
    with pytest.raises(ValueError, match=wrong):
        made._validate_definition()
    return None
