"""The trainer's command line, read by the real Hydra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.laptop.cpu_platform import CPU
from runtime.run_paths import RUN_DIR, RunPaths
from runtime.trainer.environment import ray_dir, ray_token, trainer_command, trainer_environment

MAIN = """
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(config_path=None, version_base=None)
def main(config):
    print(HydraConfig.get().run.dir, config.name, sep="\\n")

main()
"""


@pytest.mark.parametrize("folder", ["home müller", 'it\'s a "b"', "a=b,{c}[d](e)", "a$b#~\\c", "1e5"])
def test_a_run_may_lie_in_any_folder(folder: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    paths = RunPaths(tmp_path / folder / "runs" / "1")
    paths.bundle.mkdir(parents=True)
    paths.verl_yaml.write_text("name: found\ntrainer: {checkpoint_callback_class: x}\nreward: {num_workers: 1}\n")
    (tmp_path / "main.py").write_text(MAIN)
    _, _, module, *arguments = trainer_command(paths)
    assert module == "verl.trainer.main_ppo"
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), *arguments],
        env={RUN_DIR: str(paths.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(paths.state / "hydra"), "found"]


def test_ray_leaves_no_token_in_the_home_directory(tmp_path: Path) -> None:
    """Its own Ray has a token below its own folder; that of a cluster which others started is theirs."""
    paths, quickly = RunPaths(tmp_path), {"HOME": str(tmp_path)}
    own = trainer_environment(paths, platform=CPU, attempt=0, inherited=quickly)
    assert own["RAY_AUTH_TOKEN_PATH"] == str(ray_token(ray_dir(tmp_path)))
    for theirs in ("LIVERL_RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        joined = trainer_environment(paths, platform=CPU, attempt=0, inherited={**quickly, theirs: "x"})
        assert "RAY_AUTH_TOKEN_PATH" not in joined
