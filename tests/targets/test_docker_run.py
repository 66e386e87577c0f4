"""``liverl run --target docker`` on Debian's engine: two steps of training by the bundle's own Compose file, its trials
isolated inside of a container without rights.

The image is not built here (that takes minutes and 3 GB; docs/measurements.md): its place take a bare Debian and this
machine's programs and Python, mounted by an override of Compose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from compiler import compile_in_memory
from runtime.files import write_folder
from runtime.launch.rundir import RunDirectory
from runtime.telemetry.metrics import read_rows
from tests.docker_engine import BASE, Engine
from tests.liverl.test_run import SMALL
from tests.toolbox import compose_plugins, require_command

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1200)]


def test_two_steps_of_training(tmp_path: Path) -> None:
    require_command("bwrap", package="bubblewrap")
    sets = [f"{path}={value}" for path, value in SMALL.items()]
    sets += ["schedule.steps=2", "schedule.validate_every=2", "schedule.save_every=2"]
    sets += ["environment.require_isolation=true"]
    compiled = compile_in_memory(ROOT / "specs" / "quickstart.jsonnet", target="docker", sets=sets)
    bundle = tmp_path / "bundle"
    write_folder(bundle, compiled.files)
    # Not all of /usr: the engine puts its init below /usr/sbin.
    system = [f"/usr/{name}" for name in ("bin", "lib", "lib64", "local", "share")]
    places = dict.fromkeys((*system, sys.base_prefix, str(ROOT), sys.prefix))
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    kept = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    instead = {"volumes": [f"{one}:{one}:ro" for one in places], "environment": {**kept, "PATH": path}}
    (bundle / "compose.override.yaml").write_text(yaml.safe_dump({"services": {"trainer": instead}}))
    config = tmp_path / "docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(compose_plugins())]}))
    with Engine.temporary() as engine:
        # What the Dockerfile does; and where root's own folder holds the Python, an ordinary user must get through it.
        made = "echo liverl:x:10001:10001::/home/liverl:/bin/sh >> /etc/passwd; mkdir -p /runs /opt/liverl/bundle"
        made += " && chown 10001:10001 /runs && chmod 755 /root"
        engine.docker("run", "--name", "base", "--network", "none", BASE, "sh", "-c", made)
        engine.docker("commit", "base", json.loads(compiled.files["resolved.json"])["cluster"]["image"])
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        environment |= {"DOCKER_HOST": engine.url, "DOCKER_CONFIG": str(config)}
        ended = subprocess.run(
            [sys.executable, "-m", "liverl", "run", str(bundle), "--target", "docker"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-4000:]
        (record,) = (engine.root / "data/volumes/quickstart_runs/_data").glob("quickstart/*/run.json")
        run = RunDirectory(record.parent)
        assert run.read().state == "succeeded", ended.stdout[-4000:]
        assert [row.step for row in read_rows(run.metrics)] == [0, 1, 2]
        trials = [json.loads(path.read_text()) for path in run.trials.glob("*/*/trial.json")]
        assert trials and {trial["isolation"] for trial in trials} == {"bubblewrap"}
        assert {path.lstat().st_uid for path in run.path.rglob("*")} == {10001}
