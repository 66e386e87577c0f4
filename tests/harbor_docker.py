"""Trials of Harbor itself in its own Docker environment, for comparison (Python 3.12, Debian's compose)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.docker_engine import Engine
from tests.toolbox import HARBOR, compose_plugins, python_tools

# Without it Harbor waits ten seconds for a shell that ignores SIGTERM: in its favour, and so that no network is needed.
OVERLAY = "services: {main: {network_mode: none, init: true, stop_grace_period: 0s}}\n"

PROGRAM = """
import asyncio, json, sys, time
from pathlib import Path
from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig
from harbor.trial.trial import Trial

async def main(task, folder, count):
    for number in range(count):
        config = TrialConfig(
            task=TaskConfig(path=Path(task)),
            trial_name=f"trial-{number}",
            trials_dir=Path(folder) / "trials",
            agent=AgentConfig(name="nop"),
            environment=EnvironmentConfig(type="docker", extra_docker_compose=[Path(folder) / "overlay.yaml"]),
        )
        start = time.perf_counter()
        trial = await Trial.create(config)
        result = await trial.run()
        seconds = time.perf_counter() - start
        if result.exception_info is not None:
            raise SystemExit(f"{result.exception_info.exception_type}: {result.exception_info.exception_message}")
        print("LIVERL " + json.dumps([seconds, result.verifier_result.rewards["reward"]]), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def harbor_trials(engine: Engine, task: Path, folder: Path, *, count: int) -> list[tuple[float, float]]:
    """(wall seconds, reward) of ``count`` trials after a first one that builds the image."""
    tools = python_tools(HARBOR)
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "cli-plugins").symlink_to(compose_plugins())
    (folder / "overlay.yaml").write_text(OVERLAY)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    more = {"DOCKER_HOST": engine.url, "DOCKER_CONFIG": str(folder / "config"), "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [str(tools / "python"), "-W", "ignore", "-c", PROGRAM, str(task), str(folder), str(count + 1)],
        cwd=folder,
        env={**kept, **more},
        capture_output=True,
        text=True,
        timeout=60 + 40 * (count + 1),
        check=False,
    )
    lines = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("LIVERL ")]
    if done.returncode or len(lines) != count + 1:
        raise RuntimeError(f"Harbor: {(done.stderr or done.stdout).strip()[-1500:]}")
    return [(seconds, reward) for seconds, reward in lines[1:]]
