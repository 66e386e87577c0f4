"""Harbor itself (0.24, Python 3.12) on LiveRL's sandboxes: oracle 1, no-op 0, for our tasks and for others'."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.runtime.agent_loop.conftest import make_task
from tests.toolbox import HARBOR, python_tools

from ..conftest import needs_bubblewrap

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox, needs_bubblewrap]

ROOT = Path(__file__).parents[4]
PLUGIN = "runtime.sandboxes.harbor.plugin:LiverlEnvironment"


@pytest.fixture(scope="module")
def tools() -> Path:
    return python_tools(HARBOR)


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR") if name in os.environ}
    state = str(tmp_path / "state")
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "LIVERL_SANDBOX_STATE": state, "DO_NOT_TRACK": "1"}


def harbor_run(tools: Path, tmp_path: Path, tasks: Path, agent: str) -> dict[str, float]:
    """Task name -> reward, by ``harbor run``."""
    jobs = tmp_path / f"jobs-{agent}"
    command = [
        str(tools / "harbor"),
        "run",
        "-p",
        str(tasks),
        "-a",
        agent,
        "-e",
        PLUGIN,
        "-o",
        str(jobs),
        "-n",
        "2",
        "-q",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rewards = {}
    for path in jobs.glob("*/*/result.json"):
        result = json.loads(path.read_text())
        assert result["exception_info"] is None, result["exception_info"]
        rewards[path.parent.name.partition("__")[0]] = result["verifier_result"]["rewards"]["reward"]
    return rewards


def foreign_task(folder: Path) -> None:
    """Written by nobody of ours: loose files, a shell program, its own verifier."""
    files = {
        "task.toml": 'schema_version = "1.4"\n[task]\nname = "somebody/add"\n[environment]\nworkdir = "/app"\n',
        "instruction.md": "Make /app/add.sh add.\n",
        "environment/Dockerfile": "FROM debian:bookworm\nWORKDIR /app\nCOPY add.sh /app/add.sh\n",
        "environment/add.sh": "echo $(($1 - $2))\n",
        "solution/solve.sh": "#!/bin/bash\nsed -i 's/-/+/' /app/add.sh\n",
        "tests/test.sh": '#!/bin/bash\nr=0; [ "$(sh /app/add.sh 2 3)" = 5 ] && r=1\n'
        'echo "{\\"reward\\": $r}" > /logs/verifier/reward.json\n',
    }
    for name, text in files.items():
        path = folder / "add" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


def test_harbor_runs_on_our_sandboxes(tools: Path, tmp_path: Path) -> None:
    """Also the proof that generated tasks are Harbor's: its own loader reads them, its own verifier grades them."""
    make_task(tmp_path / "tasks")
    foreign_task(tmp_path / "tasks")
    assert harbor_run(tools, tmp_path, tmp_path / "tasks", "oracle") == {"calc": 1.0, "add": 1.0}
    assert harbor_run(tools, tmp_path, tmp_path / "tasks", "nop") == {"calc": 0.0, "add": 0.0}
    assert list((tmp_path / "state").iterdir()) == [], "a sandbox was left behind"


BACKEND = """
import asyncio, os, sys
from pathlib import Path
from runtime.config import Harbor, HarborEnvironment
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxRequest
from runtime.errors import TrialError


async def main(folder, plugin):
    (folder / "repo").mkdir()
    (folder / "repo" / "calc.py").write_text("x = 1\\n")
    settings = Harbor(harbor=HarborEnvironment(import_path=plugin, kwargs={"packages": ""}))
    provider = make_provider(settings, state=folder)
    assert provider.capabilities.isolation == "harbor"
    box = await provider.start(SandboxRequest(name="x", lower=folder / "repo"))
    done = await box.exec(["sh", "-c", "cat; cat calc.py; echo no >&2; exit 3"], stdin=b"a.b\\0", timeout_sec=60)
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"a.b\\0x = 1\\n", b"no\\n"), done
    big = os.urandom(5 << 20)
    await box.upload({"/app/big": big})
    assert (await box.download(["/app"])) == {"/app/big": big, "/app/calc.py": b"x = 1\\n"}
    try:
        await box.exec(["sleep", "60"], timeout_sec=1)
    except TimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    await provider.close()
    try:
        await provider.start(SandboxRequest(name="x", lower=folder / "repo", forward=("127.0.0.1", 1)))
    except TrialError as error:
        assert "proxy_host" in str(error)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_an_environment_of_harbors_as_our_backend(tools: Path, tmp_path: Path) -> None:
    """Harbor's factory makes the environment; here the one that needs no engine."""
    done = subprocess.run(
        [str(tools / "python"), "-W", "ignore", "-c", BACKEND, str(tmp_path), PLUGIN],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
