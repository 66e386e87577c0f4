"""The trainer's command line, read by the real Hydra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.laptop.cpu_platform import CPU
from runtime.run_paths import RUN_DIR, RunPaths
from runtime.trainer.environment import ray_dir, ray_token, trainer_command, trainer_environment

MAIN = """
import json, os, sys
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(config_path=None, version_base=None)
def main(config):
    print(HydraConfig.get().run.dir, config.name, sep="\\n")

for variables, arguments in json.loads(sys.stdin.read()):
    if os.fork() == 0:
        os.environ |= variables
        sys.argv[1:] = arguments
        main()
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_a_run_may_lie_in_any_folder(tmp_path: Path) -> None:
    """One process has imported Hydra for all."""
    pytest.importorskip("hydra")
    (tmp_path / "main.py").write_text(MAIN)
    lines, wanted = [], []
    for folder in ("home müller", 'it\'s a "b"', "a=b,{c}[d](e)", "a$b#~\\c", "1e5"):
        paths = RunPaths(tmp_path / folder / "runs" / "1")
        paths.bundle.mkdir(parents=True)
        named = "name: found\ntrainer: {checkpoint_callback_class: x}\nreward: {num_workers: 1}\n"
        paths.verl_yaml.write_text(named.replace("found", json.dumps(folder)))
        _, _, module, *arguments = trainer_command(paths)
        assert module == "verl.trainer.main_ppo"
        lines.append([{RUN_DIR: str(paths.path)}, arguments])
        wanted += [str(paths.state / "hydra"), folder]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")],
        input=json.dumps(lines),
        env={},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == wanted


def test_ray_leaves_no_token_in_the_home_directory(tmp_path: Path) -> None:
    """Its own Ray has a token below its own folder; that of a cluster which others started is theirs."""
    paths, quickly = RunPaths(tmp_path), {"HOME": str(tmp_path)}
    own = trainer_environment(paths, platform=CPU, attempt=0, inherited=quickly)
    assert own["RAY_AUTH_TOKEN_PATH"] == str(ray_token(ray_dir(tmp_path)))
    for theirs in ("LIVERL_RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        joined = trainer_environment(paths, platform=CPU, attempt=0, inherited={**quickly, theirs: "x"})
        assert "RAY_AUTH_TOKEN_PATH" not in joined
